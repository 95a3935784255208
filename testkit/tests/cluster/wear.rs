//! What happens to pods over time: jobs end, versions roll out, processes die, the injector is away.

use std::cell::Cell;

use mantlet_testkit::cluster::{Cluster, Installation, Pod, SYSTEM};
use rustix::process::Signal;
use serde_json::json;

use crate::stage::{alone, scenario};

fn orders() -> Pod {
    Pod::new("orders", &["serve", "http=8080"])
        .account("orders")
        .annotate("mantlet.dev/policy", "allow mesh to GET /** on http")
}

async fn status(cluster: &Cluster, namespace: &str, url: &str) -> u64 {
    cluster.call(namespace, "caller", &["get", url]).await["status"].as_u64().unwrap_or(0)
}

async fn served(cluster: &Cluster, namespace: &str, url: &str) {
    cluster.until(url, async || (status(cluster, namespace, url).await == 200).then_some(())).await;
}

/// An app behind a Service, and somebody who has called it.
async fn pair(cluster: &Cluster, namespace: &str) {
    cluster.meshed(namespace, &["orders"]).await;
    cluster.apply(namespace, &orders().pod()).await;
    cluster.apply(namespace, &orders().service(false)).await;
    cluster.run(namespace, &Pod::caller("caller")).await;
    cluster.ready(namespace, "orders").await;
    served(cluster, namespace, "http://orders:8080/").await;
}

async fn injectors(cluster: &Cluster, replicas: &str) {
    let replicas = format!("--replicas={replicas}");
    cluster.must(&["scale", "deployment/mantlet-injector", "--namespace", SYSTEM, &replicas]).await;
}

#[test]
fn c17_a_job_completes_and_an_init_container_of_the_app_has_mutual_tls() {
    scenario("c17", async |cluster| {
        pair(cluster, "c17").await;
        let once =
            |path: &str| ["expect".into(), "200".into(), "get".into(), format!("http://orders:8080{path}")];
        let mut template = Pod::new("once", &[]).container("args", json!(once("/job"))).pod();
        template["spec"]["restartPolicy"] = json!("Never");
        let mut init = template["spec"]["containers"][0].clone();
        (init["name"], init["args"]) = (json!("first"), json!(once("/init")));
        template["spec"]["initContainers"] = json!([init]);
        let job = json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once"},
            "spec": {"backoffLimit": 0, "template": {"metadata": template["metadata"], "spec": template["spec"]}},
        });
        cluster.apply("c17", &job).await;
        let wait = ["wait", "--for=condition=Complete", "job/once", "--namespace=c17", "--timeout=120s"];
        cluster.must(&wait).await;
        let log = cluster.logs("c17", "orders", "app").await;
        for path in ["/init", "/job"] {
            let line = log.lines().find(|line| line.contains(&format!("\"{path}\""))).unwrap_or_default();
            assert!(line.contains("URI=spiffe://cluster.test/ns/c17/sa/default;"), "{path}: {log}");
        }
    });
}

#[test]
fn c18_a_rolling_update_scaling_and_deletion_under_load_lose_no_request() {
    scenario("c18", async |cluster| {
        cluster.meshed("c18", &["orders"]).await;
        let orders = Pod::new("orders", &["serve", "http=8080", "linger=5"])
            .account("orders")
            .annotate("mantlet.dev/policy", "allow mesh to GET /** on http")
            .with("/spec", "terminationGracePeriodSeconds", json!(30))
            .container(
                "readinessProbe",
                json!({"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 1}),
            );
        cluster.apply("c18", &orders.deployment(2)).await;
        cluster.apply("c18", &orders.service(false)).await;
        cluster.run("c18", &Pod::caller("caller")).await;
        cluster.rolled_out("c18", "deployment/orders").await;
        served(cluster, "c18", "http://orders:8080/").await;

        let (url, over) = ("http://orders:8080/x", Cell::new(false));
        let load = async {
            let done = cluster.call("c18", "caller", &["load", url, "20000", "25", "60"]).await;
            over.set(true);
            done
        };
        let changes = async {
            let scale = async |replicas: &str| {
                let replicas = format!("--replicas={replicas}");
                cluster.must(&["scale", "deployment/orders", "--namespace=c18", &replicas]).await;
                cluster.rolled_out("c18", "deployment/orders").await;
            };
            while !over.get() {
                cluster.must(&["rollout", "restart", "deployment/orders", "--namespace=c18"]).await;
                cluster.rolled_out("c18", "deployment/orders").await;
                scale("4").await;
                scale("2").await;
                let pods = cluster.get("c18", "pods").await;
                let mut pods = pods["items"].as_array().expect("pods").iter().map(|pod| &pod["metadata"]);
                // Not one that is going anyway.
                let stays = |pod: &&serde_json::Value| {
                    pod["labels"]["app"] == "orders" && pod["deletionTimestamp"].is_null()
                };
                let name = pods.find(stays).and_then(|pod| pod["name"].as_str()).expect("a pod");
                cluster.must(&["delete", "pod", name, "--namespace=c18", "--wait"]).await;
                cluster.rolled_out("c18", "deployment/orders").await;
            }
        };
        let (done, ()) = tokio::join!(load, changes);
        assert_eq!(done["failed"], 0, "{done}");
        assert_eq!(done["ok"], 20_000, "{done}");
    });
}

#[test]
fn c19_a_killed_sidecar_means_refused_connections_until_it_is_back() {
    scenario("c19", async |cluster| {
        pair(cluster, "c19").await;
        let address = cluster.pod_address("c19", "orders").await;
        let sidecar = cluster.container_id("c19", "orders", "mantlet-proxy").await;
        cluster.signal(&sidecar, Signal::KILL);
        // From the node, in plaintext: whatever answers, it is not the app.
        let url = format!("http://{address}:8080/plain");
        let mut refused = 0;
        cluster
            .until("the sidecar to be back", async || {
                let mut curl = tokio::process::Command::new("curl");
                curl.args([
                    "--silent",
                    "--max-time",
                    "2",
                    "--output",
                    "/dev/null",
                    "--write-out",
                    "%{http_code}",
                    &url,
                ]);
                let output = curl.output().await.expect("curl");
                assert_ne!(String::from_utf8_lossy(&output.stdout), "200", "in plaintext");
                refused += usize::from(output.status.code() == Some(7));
                (status(cluster, "c19", "http://orders:8080/").await == 200).then_some(())
            })
            .await;
        let now = cluster.container_id("c19", "orders", "mantlet-proxy").await;
        assert_ne!(now, sidecar, "another one");
        let log = cluster.logs("c19", "orders", "app").await;
        assert!(!log.contains("/plain"), "{log}");
    });
}

#[test]
fn c20_with_the_injector_down_existing_pods_and_known_destinations_go_on() {
    alone("c20", async |cluster| {
        pair(cluster, "c20").await;
        injectors(cluster, "0").await;
        cluster
            .until("the injector to be gone", async || {
                let pods = cluster.get(SYSTEM, "pods").await;
                pods["items"].as_array()?.is_empty().then_some(())
            })
            .await;
        for _ in 0..20 {
            assert_eq!(status(cluster, "c20", "http://orders:8080/").await, 200);
        }
        for pod in ["orders", "caller"] {
            cluster.ready("c20", pod).await;
        }
        // New ones that ask for a sidecar wait for it; all others come.
        let late = orders().with("/metadata", "name", json!("late"));
        let said = cluster.try_apply("c20", &late.pod()).await.expect_err("nobody can inject");
        assert!(said.contains("mantlet"), "{said}");
        cluster.namespace("c20-plain", &[], &[]).await;
        cluster.run("c20-plain", &Pod::caller("plain")).await;
        cluster.must(&["delete", "pod/plain", "--namespace=c20-plain", "--wait"]).await;

        cluster.install(&Installation::default()).await;
        cluster.apply("c20", &late.pod()).await;
        cluster.ready("c20", "late").await;
        let late = cluster.pod_address("c20", "late").await;
        served(cluster, "c20", &format!("http://{late}:8080/")).await;
    });
}

#[test]
fn c21_with_one_webhook_replica_killed_new_pods_are_still_admitted() {
    alone("c21", async |cluster| {
        cluster.meshed("c21", &[]).await;
        injectors(cluster, "2").await;
        cluster.rolled_out(SYSTEM, "deployment/mantlet-injector").await;
        let pods = cluster.get(SYSTEM, "pods").await;
        let first = pods["items"][0]["metadata"]["name"].as_str().expect("a name").to_owned();
        cluster.must(&["delete", "pod", &first, "--namespace", SYSTEM, "--wait=false"]).await;
        for number in 0..20 {
            cluster.apply("c21", &Pod::caller(&format!("new-{number}")).pod()).await;
            let made = cluster.get("c21", &format!("pod/new-{number}")).await;
            assert!(made["spec"]["initContainers"].is_array(), "{made}");
            cluster
                .must(&[
                    "delete",
                    "pod",
                    &format!("new-{number}"),
                    "--namespace=c21",
                    "--wait=false",
                    "--now",
                ])
                .await;
        }
        cluster.install(&Installation::default()).await;
    });
}
