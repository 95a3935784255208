//! The kubelet has no identity, and its probes work all the same.

use std::time::{Duration, Instant};

use mantlet_testkit::cluster::{Cluster, Pod};
use serde_json::{Value, json};

use crate::stage::scenario;
use crate::stream::Running;

async fn events(cluster: &Cluster, namespace: &str, pod: &str) -> String {
    let field = format!("involvedObject.name={pod}");
    let columns = "--output=custom-columns=REASON:.reason,MESSAGE:.message";
    cluster.must(&["get", "events", "--namespace", namespace, "--field-selector", &field, columns]).await
}

async fn readiness(cluster: &Cluster, namespace: &str, pod: &str, wanted: &str) {
    cluster
        .until("the pod's readiness", async || {
            let object = cluster.get(namespace, &format!("pod/{pod}")).await;
            let conditions = object["status"]["conditions"].as_array()?;
            let ready = conditions.iter().find(|condition| condition["type"] == "Ready")?;
            (ready["status"] == wanted).then_some(())
        })
        .await;
}

fn probed(name: &str, readiness: &Value) -> Pod {
    let mut probe = readiness.clone();
    probe["periodSeconds"] = json!(1);
    probe["failureThreshold"] = json!(1);
    // No policy at all: nobody may call it, and the kubelet need not.
    Pod::new(name, &["serve", "http=8080", "grpc=9090", "tcp=9000", "door=9002"])
        .container("readinessProbe", probe)
}

#[test]
fn c15_probes_of_every_kind_work_and_a_failing_app_fails_by_its_own_reason() {
    scenario("c15", async |cluster| {
        cluster.meshed("c15", &[]).await;
        let kinds = [
            ("http", json!({"httpGet": {"path": "/healthz", "port": "http"}}), "statuscode: 503"),
            ("grpc", json!({"grpc": {"port": 9090}}), "statuscode: 503"),
            // Nobody listens there any more. That somebody else does, the sidecar, is no success.
            ("tcp", json!({"tcpSocket": {"port": "door"}}), "statuscode: 502"),
            ("exec", json!({"exec": {"command": ["/cluster-app", "check"]}}), ""),
        ];
        for (name, probe, _) in &kinds {
            let pod = probed(name, probe)
                .container("startupProbe", json!({"grpc": {"port": 9090}, "periodSeconds": 1}))
                .container("livenessProbe", json!({"tcpSocket": {"port": "tcp"}, "periodSeconds": 1}));
            cluster.apply("c15", &pod.pod()).await;
        }
        for (name, _, reason) in &kinds {
            cluster.ready("c15", name).await;
            cluster.must(&["exec", "--namespace=c15", name, "--", "/cluster-app", "unhealthy"]).await;
            readiness(cluster, "c15", name, "False").await;
            cluster
                .until(&format!("the event of {name}: {reason}"), async || {
                    let said = events(cluster, "c15", name).await;
                    let failed =
                        |line: &str| line.contains("Readiness probe failed") && line.contains(reason);
                    said.lines().any(failed).then_some(())
                })
                .await;
            if *name == "tcp" {
                let log = cluster.logs("c15", name, "mantlet-proxy").await;
                let failing = |line: &&str| line.contains("probe_failing") && line.contains("refused");
                assert!(log.lines().any(|line| failing(&line)), "{log}");
            }
            cluster.must(&["exec", "--namespace=c15", name, "--", "/cluster-app", "healthy"]).await;
            readiness(cluster, "c15", name, "True").await;
        }
    });
}

#[test]
fn c16_idle_connections_from_another_pod_fail_no_probe() {
    scenario("c16", async |cluster| {
        cluster.meshed("c16", &[]).await;
        cluster.namespace("c16-plain", &[], &[]).await;
        let pod = probed("app", &json!({"httpGet": {"path": "/healthz", "port": "http"}}));
        cluster.run("c16", &pod).await;
        cluster.run("c16-plain", &Pod::caller("idler")).await;
        let address = cluster.pod_address("c16", "app").await;
        let before = events(cluster, "c16", "app").await.matches("Readiness probe failed").count();
        for port in [24190, 8080] {
            let to = format!("{address}:{port}");
            let mut idler = Running::start(cluster, "c16-plain", "idler", &["idle", &to, "200", "6"]);
            idler.line().await;
            let begun = Instant::now();
            idler.line().await;
            assert!(begun.elapsed() > Duration::from_secs(4), "held over several probes");
        }
        let said = events(cluster, "c16", "app").await;
        assert_eq!(said.matches("Readiness probe failed").count(), before, "{said}");
        readiness(cluster, "c16", "app", "True").await;
    });
}
