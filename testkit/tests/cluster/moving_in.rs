//! Installing Mantlet beside workloads that know nothing of it, and then for good.

use mantlet_testkit::cluster::{Cluster, Installation, Pod};
use serde_json::json;

use crate::capture::Capture;
use crate::stage::{alone, scenario};

/// Two workloads without a word of Mantlet in them.
async fn untouched(cluster: &Cluster, namespace: &str) -> String {
    cluster.meshed(namespace, &["orders", "web"]).await;
    let orders = Pod::new("orders", &["serve", "http=8080"]).account("orders");
    let said = cluster.apply(namespace, &orders.deployment(2)).await;
    cluster.apply(namespace, &orders.service(false)).await;
    cluster.apply(namespace, &Pod::caller("web").account("web").pod()).await;
    cluster.ready(namespace, "web").await;
    cluster.rolled_out(namespace, "deployment/orders").await;
    said
}

/// A metric's value, added up over the pods of an app and the lines that have all of these words.
async fn metric(cluster: &Cluster, namespace: &str, app: &str, words: &[&str]) -> u64 {
    let args =
        ["get", "pods", "--namespace", namespace, "--selector", &format!("app={app}"), "--output=name"];
    let mut sum = 0;
    for pod in cluster.must(&args).await.lines() {
        let text = cluster.metrics(namespace, pod.trim_start_matches("pod/")).await;
        let lines = text.lines().filter(|line| words.iter().all(|word| line.contains(word)));
        sum += lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>();
    }
    sum
}

#[test]
fn c01_installed_for_audit_untouched_workloads_have_identities_and_mutual_tls_and_count_what_would_be_denied()
{
    alone("c01", async |cluster| {
        cluster.install(&Installation::default().with("unconfigured", json!("audit"))).await;
        untouched(cluster, "c01").await;
        // The same without sidecars, to know that the capture sees what there is to see.
        cluster.namespace("c01-plain", &[], &[]).await;
        let plain = Pod::new("plain", &["serve", "http=8080"]);
        cluster.run("c01-plain", &plain).await;
        cluster.run("c01-plain", &Pod::caller("caller")).await;
        let address = cluster.pod_address("c01-plain", "plain").await;

        let capture = Capture::start(cluster, "c01").await;
        let open = format!("http://{address}:8080/seen-by-everybody");
        assert_eq!(cluster.call("c01-plain", "caller", &["get", &open]).await["status"], 200);
        cluster.until("the capture", async || capture.has("seen-by-everybody").then_some(())).await;
        for _ in 0..5 {
            let answer = cluster.call("c01", "web", &["get", "http://orders:8080/seen-by-nobody"]).await;
            assert_eq!(answer["status"], 200, "{answer}");
            let by =
                answer["seen"]["headers"]["x-forwarded-client-cert"].as_str().unwrap_or_default().to_owned();
            assert!(by.contains("URI=spiffe://cluster.test/ns/c01/sa/web;"), "{answer}");
        }
        assert_eq!(
            cluster.call("c01-plain", "caller", &["get", &format!("{open}-again")]).await["status"],
            200
        );
        cluster.until("the capture", async || capture.has("seen-by-everybody-again").then_some(())).await;
        assert!(!capture.has("seen-by-nobody"), "plaintext between pods");
        capture.stop().await;

        let would = [
            "mantlet_authz_decisions_total",
            "decision=\"would_deny\"",
            "spiffe://cluster.test/ns/c01/sa/web",
        ];
        assert_eq!(metric(cluster, "c01", "orders", &would).await, 5);
        cluster.install(&Installation::default()).await;
    });
}

#[test]
fn c02_installed_by_default_untouched_workloads_deny_and_applying_them_warns() {
    scenario("c02", async |cluster| {
        let said = untouched(cluster, "c02").await;
        assert!(said.contains("Warning: W210"), "{said}");
        let answer = cluster.call("c02", "web", &["get", "http://orders:8080/"]).await;
        assert_eq!(answer["status"], 403, "{answer}");
        let why = answer["headers"]["x-mantlet-denied"].as_str().unwrap_or_default();
        assert!(why.starts_with("no_policy;"), "{answer}");
    });
}

#[test]
fn c03_with_a_policy_calls_are_allowed_and_say_who_calls() {
    scenario("c03", async |cluster| {
        cluster.meshed("c03", &["orders", "web"]).await;
        let orders = Pod::new("orders", &["serve", "http=8080"])
            .account("orders")
            .annotate("mantlet.dev/policy", "allow ./web to GET /orders/** on http as read");
        let said = cluster.apply("c03", &orders.deployment(1)).await;
        assert!(!said.contains("Warning"), "{said}");
        cluster.apply("c03", &orders.service(false)).await;
        cluster.run("c03", &Pod::caller("web").account("web")).await;
        cluster.run("c03", &Pod::caller("stranger")).await;
        cluster.rolled_out("c03", "deployment/orders").await;

        let answer = cluster.call("c03", "web", &["get", "http://orders:8080/orders/7"]).await;
        assert_eq!(answer["status"], 200, "{answer}");
        let by = answer["seen"]["headers"]["x-forwarded-client-cert"].as_str().unwrap_or_default();
        assert!(by.contains("URI=spiffe://cluster.test/ns/c03/sa/web;"), "{answer}");
        for (pod, args) in [
            ("web", ["get", "http://orders:8080/orders/7", "DELETE"]),
            ("web", ["get", "http://orders:8080/admin", "GET"]),
            ("stranger", ["get", "http://orders:8080/orders/7", "GET"]),
        ] {
            let answer = cluster.call("c03", pod, &args).await;
            assert_eq!(answer["status"], 403, "{pod} {args:?}: {answer}");
            let why = answer["headers"]["x-mantlet-denied"].as_str().unwrap_or_default();
            assert!(why.starts_with("default;"), "{answer}");
        }
    });
}
