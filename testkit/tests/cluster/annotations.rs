//! The policy of a running pod, changed by whoever owns it.

use std::time::{Duration, Instant};

use mantlet_testkit::cluster::{Cluster, Pod};
use serde_json::json;

use crate::stage::scenario;
use crate::stream::Running;

async fn two(cluster: &Cluster, namespace: &str) {
    cluster.meshed(namespace, &["orders", "web"]).await;
    let orders = Pod::new("orders", &["serve", "http=8080"])
        .account("orders")
        .annotate("mantlet.dev/policy", "allow ./web to GET /** on http");
    cluster.apply(namespace, &orders.pod()).await;
    cluster.apply(namespace, &orders.service(false)).await;
    cluster.run(namespace, &Pod::caller("web").account("web")).await;
    cluster.ready(namespace, "orders").await;
    cluster
        .until("the service to be served", async || {
            let answer = cluster.call(namespace, "web", &["get", "http://orders:8080/"]).await;
            (answer["status"] == 200).then_some(())
        })
        .await;
}

#[test]
fn c12_an_annotation_edited_on_a_pod_takes_effect_and_ends_a_stream_that_it_no_longer_allows() {
    scenario("c12", async |cluster| {
        two(cluster, "c12").await;
        let mut stream = Running::start(cluster, "c12", "web", &["hold", "http://orders:8080/stream"]);
        assert_eq!(stream.line().await["status"], 200);
        let begun = Instant::now();
        let policy = "mantlet.dev/policy=allow ./web to GET /orders/** on http";
        cluster.must(&["annotate", "pod", "orders", "--namespace=c12", "--overwrite", policy]).await;
        let ended = stream.line().await;
        let took = begun.elapsed();
        eprintln!("kubectl annotate to the end of a stream: {} ms", took.as_millis());
        assert!(ended["ended"].is_string() && ended["ended"] != "end", "{ended}");
        let answer = cluster.call("c12", "web", &["get", "http://orders:8080/stream"]).await;
        assert_eq!(answer["status"], 403, "{answer}");
        let answer = cluster.call("c12", "web", &["get", "http://orders:8080/orders/7"]).await;
        assert_eq!(answer["status"], 200, "{answer}");
        // Seconds, as promised: the kubelet's part and the sidecar's together.
        assert!(took < Duration::from_secs(30), "{took:?}");
    });
}

#[test]
fn c13_deleting_the_policy_annotation_of_a_running_pod_denies() {
    scenario("c13", async |cluster| {
        two(cluster, "c13").await;
        cluster.must(&["annotate", "pod", "orders", "--namespace=c13", "mantlet.dev/policy-"]).await;
        let answer = cluster
            .until("a refusal", async || {
                let answer = cluster.call("c13", "web", &["get", "http://orders:8080/"]).await;
                (answer["status"] == 403).then_some(answer)
            })
            .await;
        let why = answer["headers"]["x-mantlet-denied"].as_str().unwrap_or_default();
        assert!(why.starts_with("no_policy;"), "{answer}");
    });
}

#[test]
fn c14_the_api_server_refuses_a_bad_annotation_on_a_pod_and_on_a_deployment_with_our_text() {
    scenario("c14", async |cluster| {
        cluster.meshed("c14", &[]).await;
        let good = Pod::new("orders", &["serve", "http=8080"]);
        let bad = good.clone().annotate("mantlet.dev/policy", "allow ./web to GET orders on http");
        let misspelt = good.clone().annotate("mantlet.dev/polcy", "allow ./web to GET /** on http");
        for object in [bad.pod(), bad.deployment(1), bad.stateful_set(1, "orders")] {
            let said = cluster.try_apply("c14", &object).await.expect_err("a refusal");
            assert!(said.contains("mantlet.dev/policy:1:20: P020"), "{said}");
        }
        for object in [misspelt.pod(), misspelt.deployment(1)] {
            let said = cluster.try_apply("c14", &object).await.expect_err("a refusal");
            assert!(said.contains("P080") && said.contains("did you mean mantlet.dev/policy?"), "{said}");
        }
        // And on what runs already.
        cluster.run("c14", &good).await;
        let patch = json!({"metadata": {"annotations": {"mantlet.dev/policy": "allow"}}}).to_string();
        let said = cluster.kubectl(&["patch", "pod", "orders", "--namespace=c14", "--patch", &patch]).await;
        let said = said.expect_err("a refusal");
        assert!(said.contains("mantlet.dev/policy"), "{said}");
    });
}
