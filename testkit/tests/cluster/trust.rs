//! Identities that are late, withdrawn or over, on a real node with the real SPIRE.

use std::time::Duration;

use mantlet_testkit::cluster::{Cluster, Pod};
use mantlet_testkit::sidecar::Metrics;
use serde_json::Value;

use crate::stage::{alone, scenario};
use crate::stream::Running;

/// The node's view of a sidecar's own page.
async fn page(cluster: &Cluster, namespace: &str, pod: &str, path: &str) -> Option<String> {
    let object = cluster.get(namespace, &format!("pod/{pod}")).await;
    let address = object["status"]["podIP"].as_str()?.to_owned();
    let mut curl = tokio::process::Command::new("curl");
    curl.args(["--silent", "--max-time", "5", &format!("http://{address}:24190{path}")]);
    mantlet_testkit::real_peers::run(&mut curl).await.ok()
}

/// An app that everybody with an identity may call, and somebody who does.
async fn pair(cluster: &Cluster, namespace: &str) {
    let orders = Pod::new("orders", &["serve", "http=8080"])
        .account("orders")
        .annotate("mantlet.dev/policy", "allow mesh to GET /** on http");
    cluster.apply(namespace, &orders.pod()).await;
    cluster.apply(namespace, &orders.service(false)).await;
    cluster.run(namespace, &Pod::caller("caller")).await;
    cluster.ready(namespace, "orders").await;
    answers(cluster, namespace, 200).await;
}

async fn answers(cluster: &Cluster, namespace: &str, wanted: u64) {
    let url = "http://orders:8080/";
    let ask =
        async || (cluster.call(namespace, "caller", &["get", url]).await["status"] == wanted).then_some(());
    cluster.until(&format!("status {wanted}"), ask).await;
}

async fn unready(cluster: &Cluster, namespace: &str, pod: &str) {
    let object = format!("pod/{pod}");
    let args = ["wait", "--for=condition=Ready=false", &object, "--namespace", namespace, "--timeout=120s"];
    cluster.must(&args).await;
}

#[test]
fn c27_a_missing_registration_entry_is_named_until_it_appears() {
    scenario("c27", async |cluster| {
        cluster.namespace("c27", &[("mantlet.dev/inject", "enabled")], &["late"]).await;
        cluster.apply("c27", &Pod::new("late", &["serve", "http=8080"]).account("late").pod()).await;
        let said = cluster
            .until("the reason in the startup probe", async || {
                let said = page(cluster, "c27", "late", "/startupz").await?;
                said.contains("no identity issued").then_some(said)
            })
            .await;
        let expected = "spiffe://cluster.test/ns/c27/sa/late";
        assert!(
            said.starts_with("not ready: identity: waiting: agent says no identity issued (attempt "),
            "{said}"
        );
        assert!(said.contains(expected) && said.contains("ClusterSPIFFEID"), "{said}");
        cluster
            .until("a second without identity in the metric", async || {
                let metrics = Metrics::parse(&cluster.metrics("c27", "late").await);
                (metrics.sum("mantlet_identity_wait_seconds", &[]) >= 1.0).then_some(())
            })
            .await;

        // As the kubelet ends it, when it has waited for two minutes.
        let id = cluster.container_id("c27", "late", "mantlet-proxy").await;
        cluster.signal(&id, rustix::process::Signal::TERM);
        let message = cluster
            .until("the termination message", async || {
                let object = cluster.get("c27", "pod/late").await;
                let mut statuses = object["status"]["initContainerStatuses"].as_array()?.iter();
                let proxy = statuses.find(|status| status["name"] == "mantlet-proxy")?;
                let ended = ["lastState", "state"].map(|state| &proxy[state]["terminated"]["message"]);
                Some(ended.into_iter().find_map(|message| message.as_str())?.to_owned())
            })
            .await;
        assert!(
            message.starts_with("ended by SIGTERM before it was ready\nidentity: waiting: agent says"),
            "{message}"
        );
        assert!(message.contains("no identity issued") && message.contains(expected), "{message}");

        cluster.register("c27", "late", &[]).await;
        cluster.ready("c27", "late").await;
        let metrics = Metrics::parse(&cluster.metrics("c27", "late").await);
        assert_eq!(metrics.sum("mantlet_identity_wait_seconds", &[]), 0.0);
    });
}

#[test]
fn c28_a_removed_registration_entry_withdraws_the_identity() {
    scenario("c28", async |cluster| {
        cluster.namespace("c28", &[("mantlet.dev/inject", "enabled")], &["orders"]).await;
        cluster.register("c28", "default", &[]).await;
        let entry = cluster.register("c28", "orders", &[]).await;
        pair(cluster, "c28").await;
        cluster.spire(&["entry", "delete", "-entryID", &entry]).await;
        unready(cluster, "c28", "orders").await;
        let address = cluster.pod_address("c28", "orders").await;
        let url = format!("http://{address}:8080/");
        let answer = cluster.call("c28", "caller", &["get", &url]).await;
        assert_ne!(answer["status"], 200, "{answer}");
        let said = page(cluster, "c28", "orders", "/readyz").await.unwrap();
        assert!(said.contains("withdrawn") || said.contains("no identity issued"), "{said}");
        cluster.register("c28", "orders", &[]).await;
        cluster.ready("c28", "orders").await;
        answers(cluster, "c28", 200).await;
    });
}

#[test]
fn c29_a_restarted_agent_costs_nothing_and_one_stopped_past_expiry_fails_closed_and_recovers() {
    alone("c29", async |cluster| {
        cluster.namespace("c29", &[("mantlet.dev/inject", "enabled")], &["orders"]).await;
        cluster.register("c29", "default", &[]).await;
        cluster.register("c29", "orders", &["-x509SVIDTTL", "30"]).await;
        pair(cluster, "c29").await;
        let load = cluster.call("c29", "caller", &["load", "http://orders:8080/", "200", "2", "20"]);
        let restart = async {
            cluster.ask("stop spire-agent");
            tokio::time::sleep(Duration::from_millis(500)).await;
            cluster.ask("start spire-agent");
        };
        let (load, ()) = tokio::join!(load, restart);
        assert_eq!(load["failed"], 0, "{load}");

        // Of those who call it and those whom it calls; they have identities for an hour.
        let front = Pod::new("front", &["serve", "http=8080"])
            .annotate("mantlet.dev/policy", "allow mesh to GET /** on http");
        cluster.run("c29", &front).await;
        let front = format!("http://{}:8080/", cluster.pod_address("c29", "front").await);
        let orders = format!("http://{}:8080/", cluster.pod_address("c29", "orders").await);
        let call = async |pod: &str, url: &str| cluster.call("c29", pod, &["get", url]).await;
        assert_eq!(call("orders", &front).await["status"], 200);
        assert_eq!(call("caller", &orders).await["status"], 200);
        let mut stream = Running::start(cluster, "c29", "caller", &["hold", &format!("{orders}stream")]);
        assert_eq!(stream.line().await["status"], 200);

        cluster.ask("stop spire-agent");
        unready(cluster, "c29", "orders").await;
        let said = page(cluster, "c29", "orders", "/readyz").await.unwrap();
        assert!(said.contains("has expired") && said.contains("cannot reach the agent"), "{said}");
        // Its own application is told that there is no identity, and a caller that nobody is there to be called.
        let error = |answer: &Value| answer["headers"]["x-mantlet-error"].as_str().map(ToOwned::to_owned);
        let answer = call("orders", &front).await;
        assert_eq!(answer["status"], 502, "{answer}");
        assert!(error(&answer).is_some_and(|said| said.starts_with("withdrawn;")), "{answer}");
        let answer = call("caller", &orders).await;
        assert!(answer["status"] == 502 && error(&answer).is_some(), "{answer}");
        cluster
            .until("the Service to have nobody", async || {
                let answer = call("caller", "http://orders:8080/").await;
                assert_eq!(answer["status"], 502, "{answer}");
                error(&answer).filter(|said| said.starts_with("connect;")).map(drop)
            })
            .await;
        // What was open has ended, and says by what.
        let ended = stream.line().await;
        assert!(ended["ended"].is_string() && ended["ended"] != "end", "{ended}");
        let metrics = cluster.metrics("c29", "orders").await;
        for series in [
            r#"mantlet_connections_closed_total{direction="inbound",reason="withdrawn"}"#,
            r#"mantlet_identity_errors_total{kind="unreachable"}"#,
        ] {
            let value =
                metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse::<u64>().ok());
            assert!(value.is_some_and(|value| value > 0), "{series}: {value:?}");
        }
        assert!(metrics.lines().any(|line| line == "mantlet_identity_usable 0"), "{metrics}");
        // Those with an identity for longer go on without the agent.
        cluster.ready("c29", "front").await;
        cluster.ask("start spire-agent");
        cluster.ready("c29", "orders").await;
        answers(cluster, "c29", 200).await;
        assert_eq!(call("orders", &front).await["status"], 200);
    });
}
