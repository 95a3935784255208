//! The webhook is away, and its certificate changes.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use mantlet_testkit::cluster::{Cluster, Installation, Pod, SYSTEM};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::stage::alone;

/// The label of namespaces and pods that ask for a sidecar.
const ASKS: (&str, &str) = ("mantlet.dev/inject", "enabled");

fn two_replicas() -> Installation {
    Installation::default().with("injector", json!({"replicas": 2}))
}

fn failed(hook: &str) -> String {
    format!("failed calling webhook \"{hook}.mantlet.dev\"")
}

/// Waits until kubectl, with this output, says what it should.
async fn says(cluster: &Cluster, namespace: &str, what: &str, path: &str, wanted: &str) {
    let output = format!("--output=jsonpath={path}");
    let args = ["get", what, "--namespace", namespace, &output];
    let looks = async || (cluster.must(&args).await == wanted).then_some(());
    cluster.until(&format!("{what} {path} to be {wanted}"), looks).await;
}

fn has_sidecar(pod: &Value) -> bool {
    let inits = pod["spec"]["initContainers"].as_array();
    inits.is_some_and(|inits| inits.iter().any(|container| container["name"] == "mantlet-proxy"))
}

/// What runs before both replicas are killed: an app with a probe, a Deployment, a Job that ends when it is told to.
async fn running(cluster: &Cluster) {
    cluster.meshed("c22", &[]).await;
    cluster.namespace("c22-plain", &[], &[]).await;
    let orders = Pod::new("orders", &["serve", "http=8080"])
        .annotate("mantlet.dev/policy", "allow mesh to GET /** on http")
        .container(
            "readinessProbe",
            json!({"exec": {"command": ["/cluster-app", "check"]}, "periodSeconds": 1, "failureThreshold": 1}),
        );
    cluster.apply("c22", &orders.pod()).await;
    cluster.apply("c22", &orders.service(false)).await;
    cluster.apply("c22", &Pod::caller("ending").pod()).await;
    cluster.apply("c22", &Pod::caller("many").deployment(3)).await;
    let ruled = Pod::caller("ruled").annotate("mantlet.dev/policy", "allow mesh to GET /** on 8080");
    cluster.apply("c22", &ruled.deployment(1)).await;
    let mut template = Pod::new("once", &["load", "http://orders:8080/", "0", "1", "100"]).pod();
    template["spec"]["restartPolicy"] = json!("Never");
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once"},
        "spec": {"template": {"metadata": template["metadata"], "spec": template["spec"]}},
    });
    cluster.apply("c22", &job).await;
    for pod in ["orders", "ending"] {
        cluster.ready("c22", pod).await;
    }
    cluster.rolled_out("c22", "deployment/many").await;
    cluster.rolled_out("c22", "deployment/ruled").await;
    says(cluster, "c22", "job/once", "{.status.ready}", "1").await;
}

/// New pods that ask for a sidecar are refused, whoever makes them, and the text names who should have answered.
async fn new_ones_are_refused(cluster: &Cluster) {
    let asks = Pod::caller("asks").label(ASKS.0, ASKS.1);
    for (namespace, pod, hook) in
        [("c22", Pod::caller("new"), "namespace.inject"), ("c22-plain", asks, "pod.inject")]
    {
        let said = cluster.try_apply(namespace, &pod.pod()).await.expect_err("nobody can inject");
        assert!(said.contains(&failed(hook)) && said.contains("mantlet-injector"), "{said}");
    }
    // What only the injector can judge waits for it as well.
    let change = ["annotate", "pod", "orders", "--namespace=c22", "--overwrite", "mantlet.dev/policy=#"];
    let said = cluster.kubectl(&change).await.expect_err("nobody can check");
    assert!(said.contains(&failed("pod.check")), "{said}");
}

/// Nobody else notices.
async fn others_come(cluster: &Cluster) {
    let out = Pod::caller("out").label(ASKS.0, "disabled");
    let plain = Pod::caller("c22-plain");
    for (namespace, name, pod) in
        [("c22-plain", "c22-plain", &plain), ("kube-system", "c22-plain", &plain), ("c22", "out", &out)]
    {
        cluster.run(namespace, pod).await;
        assert!(!has_sidecar(&cluster.get(namespace, &format!("pod/{name}")).await), "{namespace}");
        cluster.must(&["delete", "pod", name, "--namespace", namespace, "--now", "--wait=false"]).await;
    }
}

/// Nothing of ours stands between the control plane and what runs.
async fn what_runs_goes_on(cluster: &Cluster) {
    let on_app = async |args: &[&str]| {
        let mut all = vec!["exec", "--namespace=c22", "--container=app"];
        all.extend(args);
        cluster.must(&all).await;
    };
    let ready = "{.status.conditions[?(@.type==\"Ready\")].status}";
    for (word, wanted) in [("unhealthy", "False"), ("healthy", "True")] {
        on_app(&["orders", "--", "/cluster-app", word]).await;
        says(cluster, "c22", "pod/orders", ready, wanted).await;
    }
    let app = cluster.container_id("c22", "orders", "app").await;
    cluster.signal(&app, Signal::KILL);
    let restarts = "{.status.containerStatuses[0].restartCount}";
    says(cluster, "c22", "pod/orders", restarts, "1").await;
    says(cluster, "c22", "pod/orders", ready, "True").await;

    on_app(&["job/once", "--", "/cluster-app", "stop"]).await;
    cluster
        .must(&["wait", "--for=condition=Complete", "job/once", "--namespace=c22", "--timeout=120s"])
        .await;
    cluster.must(&["delete", "pod/ending", "--namespace=c22", "--timeout=120s"]).await;
    cluster.must(&["scale", "deployment/many", "--namespace=c22", "--replicas=1"]).await;
    says(cluster, "c22", "deployment/many", "{.status.replicas}", "1").await;
    for change in [["label", "example.dev/note=yes"], ["annotate", "example.dev/note=yes"]] {
        cluster.must(&[change[0], "pod/orders", "--namespace=c22", change[1]]).await;
    }
    let image = "--image=mantlet-test-app:1";
    let debug =
        ["debug", "orders", "--namespace=c22", image, "--image-pull-policy=Never", "--container=look"];
    cluster.must(&[&debug[..], &["--", "/cluster-app", "healthy"]].concat()).await;
    let ended = "{.status.ephemeralContainerStatuses[0].state.terminated.exitCode}";
    says(cluster, "c22", "pod/orders", ended, "0").await;

    let renewed = async || {
        let lease = cluster.get("kube-node-lease", "lease/n1").await;
        lease["spec"]["renewTime"].as_str().map(ToOwned::to_owned)
    };
    let before = renewed().await;
    cluster.until("the node's heartbeat", async || (renewed().await != before).then_some(())).await;
}

#[test]
fn c22_with_both_webhook_replicas_killed_only_new_labelled_pods_are_refused() {
    alone("c22", async |cluster| {
        cluster.install(&two_replicas()).await;
        running(cluster).await;
        // Killed once, both are back by themselves.
        let restarts = "--output=jsonpath={.items[*].status.containerStatuses[0].restartCount}";
        cluster.kill_injectors();
        cluster
            .until("both to be started again", async || {
                let restarts = cluster.must(&["get", "pods", "--namespace", SYSTEM, restarts]).await;
                (restarts.trim() == "1 1").then_some(())
            })
            .await;
        cluster.rolled_out(SYSTEM, "deployment/mantlet-injector").await;

        // Then they are killed before they are ready, whenever the kubelet starts them.
        let killing = async {
            loop {
                cluster.kill_injectors();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let late = Pod::caller("late").deployment(2);
        let refused = async |name: &str| {
            let these = "--field-selector=reason=FailedCreate,involvedObject.kind=ReplicaSet";
            cluster
                .until("the refusal of a ReplicaSet's pods", async || {
                    let events = cluster.must(&["get", "events", "--namespace=c22", these]).await;
                    let its = events.lines().filter(|line| line.contains(&format!("replicaset/{name}-")));
                    its.into_iter().any(|line| line.contains("failed calling webhook")).then_some(())
                })
                .await;
        };
        let away = async {
            cluster
                .until("both to be away", async || {
                    let deployment = cluster.get(SYSTEM, "deployment/mantlet-injector").await;
                    deployment["status"]["readyReplicas"].is_null().then_some(())
                })
                .await;
            tokio::join!(new_ones_are_refused(cluster), others_come(cluster), what_runs_goes_on(cluster));
            cluster.apply("c22", &late).await;
            refused("late").await;
            // A rollout has come as far as its pods, and what it is to replace goes on.
            cluster.must(&["rollout", "restart", "deployment/ruled", "--namespace=c22"]).await;
            refused("ruled").await;
            says(cluster, "c22", "deployment/ruled", "{.status.availableReplicas}", "1").await;
        };
        tokio::select! { () = killing => {} () = away => {} }

        // Two others come, for whom the kubelet waits with nothing, and nobody has to help a Deployment.
        cluster.must(&["delete", "pods", "--all", "--namespace", SYSTEM, "--now"]).await;
        cluster.rolled_out(SYSTEM, "deployment/mantlet-injector").await;
        cluster.rolled_out("c22", "deployment/late").await;
        cluster.rolled_out("c22", "deployment/ruled").await;
        let pods = cluster.get("c22", "pods").await;
        let pods = pods["items"].as_array().expect("pods");
        let late: Vec<&Value> =
            pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == "late").collect();
        assert!(late.len() == 2 && late.into_iter().all(has_sidecar), "{pods:?}");
        cluster.install(&Installation::default()).await;
    });
}

/// No replica, and nothing that one would remember of its certificate.
async fn forget_the_certificate(cluster: &Cluster) {
    cluster.must(&["scale", "deployment/mantlet-injector", "--namespace", SYSTEM, "--replicas=0"]).await;
    cluster
        .until("the injectors to be gone", async || {
            cluster.get(SYSTEM, "pods").await["items"].as_array()?.is_empty().then_some(())
        })
        .await;
    cluster.must(&[&["delete"], SECRET, &["--namespace", SYSTEM]].concat()).await;
}

/// What the API server wrote down of every attempt to create a pod in a namespace.
fn creations(cluster: &Cluster, namespace: &str) -> Vec<Value> {
    let files = std::fs::read_dir(cluster.dir()).expect("the node's folder").flatten();
    let files = files.filter(|file| {
        // A log that has grown long is put aside under a name of its own.
        let name = file.file_name().to_string_lossy().into_owned();
        name.starts_with("audit") && name.ends_with(".log")
    });
    let text = |file: std::fs::DirEntry| std::fs::read_to_string(file.path()).expect("the audit log");
    let log = files.map(text).collect::<String>();
    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let is_one = |event: &Value| {
        let object = &event["objectRef"];
        event["verb"] == "create"
            && object["resource"] == "pods"
            && object["subresource"].is_null()
            && object["namespace"] == namespace
    };
    events.filter(is_one).collect()
}

/// The injector's certificate, as all replicas share it.
const SECRET: &[&str] = &["secret", "mantlet-injector-certificate"];

/// What a template of kubectl makes of an object.
async fn told(cluster: &Cluster, what: &[&str], template: &str) -> String {
    let template = format!("--output=go-template={template}");
    cluster.must(&[&["get"], what, &["--namespace", SYSTEM, &template]].concat()).await
}

/// Creates pods, by itself and by a ReplicaSet, until the injector has had a third authority and the first one is
/// forgotten. Gives the names.
async fn create_through_rotations(cluster: &Cluster) -> BTreeSet<String> {
    let nowhere = |name: &str| Pod::caller(name).with("/spec", "nodeSelector", json!({"no": "such-node"}));
    cluster.apply("c23", &nowhere("scaled").deployment(0)).await;
    let (mut names, mut authorities, mut certificates) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
    let begun = tokio::time::Instant::now();
    for round in 0.. {
        let batch: Vec<String> = (0..3).map(|number| format!("pod-{round}-{number}")).collect();
        let items: Vec<Value> = batch.iter().map(|name| nowhere(name).pod()).collect();
        cluster.apply("c23", &json!({"apiVersion": "v1", "kind": "List", "items": items})).await;
        names.extend(batch);
        let replicas = format!("--replicas={}", round % 2 * 3);
        cluster.must(&["scale", "deployment/scaled", "--namespace=c23", &replicas]).await;

        let key = |key: &str| format!("{{{{index .data \"{key}\" | base64decode}}}}");
        let authority = told(cluster, SECRET, &key("authority.crt")).await;
        if !authorities.contains(&authority) {
            authorities.push(authority);
        }
        certificates.insert(told(cluster, SECRET, &key("tls.crt")).await);
        let configurations =
            &["mutatingwebhookconfiguration,validatingwebhookconfiguration", "mantlet-injector"];
        let bundles =
            "{{range .items}}{{range .webhooks}}{{.clientConfig.caBundle | base64decode}}{{end}}{{end}}";
        let forgotten = !told(cluster, configurations, bundles).await.contains(&authorities[0]);
        if authorities.len() >= 3 && certificates.len() >= 5 && forgotten {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(240), "{} authorities", authorities.len());
    }
    names
}

#[test]
fn c23_the_certificate_of_the_webhook_rotates_while_pods_are_created() {
    alone("c23", async |cluster| {
        forget_the_certificate(cluster).await;
        let lives = json!({"authorityLife": "45s", "life": "15s", "settle": "5s", "poll": "500ms"});
        let injector = json!({"replicas": 2, "certificate": lives});
        cluster.install(&Installation::default().with("injector", injector)).await;
        cluster.meshed("c23", &[]).await;

        let over = Cell::new(false);
        let names = async {
            let names = create_through_rotations(cluster).await;
            over.set(true);
            names
        };
        // And some that the kubelet starts.
        let started = async {
            let mut number = 0;
            while !over.get() {
                let name = format!("started-{number}");
                cluster.run("c23", &Pod::caller(&name)).await;
                cluster.must(&["delete", "pod", &name, "--namespace=c23", "--now", "--wait=false"]).await;
                number += 1;
            }
            number
        };
        let (names, started) = tokio::join!(names, started);
        assert!(started > 0);

        let pods = cluster.get("c23", "pods").await;
        let pods = pods["items"].as_array().expect("pods");
        assert!(pods.len() >= names.len() && pods.iter().all(has_sidecar));
        let created = creations(cluster, "c23");
        for event in &created {
            assert_eq!(event["responseStatus"]["code"], 201, "{event}");
            let notes = event["annotations"].as_object().expect("annotations");
            let injects = |(key, value): (&String, &Value)| {
                let value = value.as_str().unwrap_or_default();
                key.starts_with("mutation.webhook.admission.k8s.io/")
                    && value.contains("namespace.inject.mantlet.dev")
                    && value.contains("\"mutated\":true")
            };
            assert!(notes.iter().any(injects), "{event}");
        }
        let known: BTreeSet<&str> =
            created.iter().filter_map(|event| event["objectRef"]["name"].as_str()).collect();
        let lost: Vec<&String> = names.iter().filter(|name| !known.contains(name.as_str())).collect();
        assert!(lost.is_empty() && created.len() > names.len(), "{lost:?}");

        forget_the_certificate(cluster).await;
        cluster.install(&Installation::default()).await;
    });
}
