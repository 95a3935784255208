//! Identities that are late, withdrawn or over, on a real node with the real SPIRE.

use std::time::Duration;

use mantlet_testkit::cluster::{Cluster, Pod};

use crate::stage::{alone, scenario};

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

        cluster.ask("stop spire-agent");
        unready(cluster, "c29", "orders").await;
        let said = page(cluster, "c29", "orders", "/readyz").await.unwrap();
        assert!(said.contains("cannot reach the agent"), "{said}");
        let address = cluster.pod_address("c29", "orders").await;
        let answer = cluster.call("c29", "caller", &["get", &format!("http://{address}:8080/")]).await;
        assert_ne!(answer["status"], 200, "{answer}");
        cluster.ask("start spire-agent");
        cluster.ready("c29", "orders").await;
        answers(cluster, "c29", 200).await;
    });
}
