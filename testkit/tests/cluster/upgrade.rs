//! The chart is upgraded and uninstalled, and pods that have a sidecar go on.

use std::cell::Cell;
use std::time::Duration;

use mantlet_testkit::cluster::{Cluster, Installation, Pod, SYSTEM};
use serde_json::{Value, json};

use crate::stage::alone;

const ORDERS: &str = "http://orders:8080/";

/// Other values of every kind: what the injector is, whom the API server asks how, and what pods get.
fn changed() -> Installation {
    Installation::default()
        .with("unconfigured", json!("audit"))
        .with("injector", json!({"replicas": 2, "log": "debug", "timeoutSeconds": 7}))
        .with("excludedNamespaces", json!(["kube-system"]))
        .with("spire", json!({"clusterSPIFFEID": {"enabled": true}}))
        .with(
            "proxy",
            json!({
                "log": "warn",
                "image": {"tag": "next"},
                "resources": {"requests": {"cpu": "6m", "memory": "41Mi"}, "limits": {"memory": "250Mi"}},
            }),
        )
}

async fn status(cluster: &Cluster, url: &str) -> Value {
    cluster.call("c33", "caller", &["get", url]).await
}

async fn at(cluster: &Cluster, pod: &str) -> String {
    format!("http://{}:8080/", cluster.pod_address("c33", pod).await)
}

fn sidecar(pod: &Value) -> Option<&Value> {
    let inits = pod["spec"]["initContainers"].as_array()?;
    inits.iter().find(|container| container["name"] == "mantlet-proxy")
}

fn variable<'v>(sidecar: &'v Value, name: &str) -> &'v Value {
    let all = sidecar["env"].as_array().expect("variables");
    &all.iter().find(|variable| variable["name"] == name).unwrap_or_else(|| panic!("{name}: {sidecar}"))["value"]
}

/// Calls to `orders` until this says that it is enough.
async fn under_load<T>(cluster: &Cluster, meanwhile: impl Future<Output = T>) -> T {
    let load = cluster.call("c33", "caller", &["load", ORDERS, "0", "10", "40"]);
    let meanwhile = async {
        let done = meanwhile.await;
        let stop = ["exec", "--namespace=c33", "--container=app", "caller", "--", "/cluster-app", "stop"];
        cluster.must(&stop).await;
        done
    };
    let (load, done) = tokio::join!(load, meanwhile);
    assert_eq!(load["failed"], 0, "{load}");
    assert!(load["ok"].as_u64().is_some_and(|count| count > 100), "{load}");
    done
}

/// Creates pods that ask for a sidecar while something else is done: none is refused, none goes without.
async fn while_creating<T>(cluster: &Cluster, work: impl Future<Output = T>) -> T {
    let over = Cell::new(false);
    let work = async {
        let done = work.await;
        over.set(true);
        done
    };
    let create = async {
        let mut number = 0;
        while !over.get() {
            let pod = Pod::caller(&format!("new-{number}"));
            let nowhere = pod.with("/spec", "nodeSelector", json!({"no": "such-node"}));
            cluster.apply("c33", &nowhere.pod()).await;
            let pod = cluster.get("c33", &format!("pod/new-{number}")).await;
            assert!(sidecar(&pod).is_some(), "{pod}");
            number += 1;
        }
    };
    let (done, ()) = tokio::join!(work, create);
    cluster
        .must(&[
            "delete",
            "pods",
            "--namespace=c33",
            "--field-selector=spec.nodeName=",
            "--now",
            "--wait=false",
        ])
        .await;
    done
}

/// Names of all objects of these types that are ours, or in our namespace.
async fn left(cluster: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    for scope in ["--namespaced=true", "--namespaced=false"] {
        let types = cluster.must(&["api-resources", "--verbs=list", "--output=name", scope]).await;
        // What is said about others, and what others measure.
        let types = types.lines().filter(|name| !name.starts_with("events") && !name.contains("metrics"));
        let types = types.collect::<Vec<_>>().join(",");
        let all = cluster.must(&["get", &types, "--namespace", SYSTEM, "--output=name"]).await;
        let everywhere = scope.ends_with("false");
        found.extend(
            all.lines().filter(|name| !everywhere || name.contains("mantlet")).map(ToOwned::to_owned),
        );
    }
    found.sort();
    found
}

/// The kind by which SPIRE's controller manager is asked for identities. Here the entries are made by hand.
fn cluster_spiffe_id() -> Value {
    let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "clusterspiffeids.spire.spiffe.io"},
        "spec": {
            "group": "spire.spiffe.io", "scope": "Cluster",
            "names": {"kind": "ClusterSPIFFEID", "plural": "clusterspiffeids", "singular": "clusterspiffeid"},
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true, "schema": {"openAPIV3Schema": anything},
            }],
        },
    })
}

async fn uninstalled(cluster: &Cluster) {
    let args = ["uninstall", "mantlet", "--namespace", SYSTEM, "--wait", "--timeout", "120s"];
    cluster.helm(&args).await.unwrap_or_else(|error| panic!("{error}"));
    // The identities of what still runs, and a key that nobody trusts any more.
    let wanted = [
        "clusterspiffeid.spire.spiffe.io/mantlet",
        "configmap/kube-root-ca.crt",
        "namespace/mantlet-system",
        "secret/mantlet-injector-certificate",
        "serviceaccount/default",
    ];
    let mut last = Vec::new();
    let gone = cluster.until("nothing else to be left", async || {
        last = left(cluster).await;
        (last == wanted).then_some(())
    });
    if tokio::time::timeout(Duration::from_secs(60), gone).await.is_err() {
        panic!("left: {last:?}");
    }
}

#[test]
fn c33_an_upgrade_under_load_loses_nothing_and_an_uninstall_leaves_pods_running_and_nothing_locked() {
    alone("c33", async |cluster| {
        cluster.meshed("c33", &["orders"]).await;
        let without_policy = |name: &str| Pod::new(name, &["serve", "http=8080"]);
        let orders = Pod::new("orders", &["serve", "http=8080"])
            .account("orders")
            .annotate("mantlet.dev/policy", "allow mesh to GET /** on http");
        cluster.apply("c33", &orders.deployment(2)).await;
        cluster.apply("c33", &orders.service(false)).await;
        cluster.apply("c33", &without_policy("untold").pod()).await;
        cluster.run("c33", &Pod::caller("caller")).await;
        cluster.ready("c33", "untold").await;
        cluster.rolled_out("c33", "deployment/orders").await;
        let ok = async || (status(cluster, ORDERS).await["status"] == 200).then_some(());
        cluster.until(ORDERS, ok).await;
        let before = cluster.get("c33", "pod/untold").await;
        cluster.apply("default", &cluster_spiffe_id()).await;
        let kind = "crd/clusterspiffeids.spire.spiffe.io";
        cluster.must(&["wait", "--for=condition=Established", kind, "--timeout=60s"]).await;
        // The version that the upgrade brings.
        let mut ctr = cluster.inside("ctr".as_ref());
        ctr.arg("--address").arg(cluster.dir().join("containerd.sock")).args([
            "--namespace",
            "k8s.io",
            "images",
        ]);
        let image = |tag: &str| format!("docker.io/library/mantlet-proxy:{tag}");
        ctr.args(["tag", &image(env!("CARGO_PKG_VERSION")), &image("next")]);
        assert!(ctr.output().expect("ctr runs").status.success());

        under_load(cluster, async {
            while_creating(cluster, cluster.install(&changed())).await;
            cluster.run("c33", &without_policy("told")).await;
            // New pods have what is new, old ones what they had.
            let (old, new) = (cluster.get("c33", "pod/untold").await, cluster.get("c33", "pod/told").await);
            assert_eq!(old["spec"], before["spec"]);
            let (old, new) = (sidecar(&old).expect("a sidecar"), sidecar(&new).expect("a sidecar"));
            assert_eq!(new["image"], "mantlet-proxy:next");
            assert_eq!(new["resources"]["limits"]["memory"], "250Mi");
            for (name, was, is) in
                [("MANTLET_UNCONFIGURED", "deny", "audit"), ("MANTLET_LOG", "info", "warn")]
            {
                assert_eq!((variable(old, name), variable(new, name)), (&json!(was), &json!(is)), "{name}");
            }
            let answer = status(cluster, &at(cluster, "untold").await).await;
            assert_eq!(answer["status"], 403, "{answer}");
            let answer = status(cluster, &at(cluster, "told").await).await;
            assert_eq!(answer["status"], 200, "{answer}");
        })
        .await;
        under_load(cluster, uninstalled(cluster)).await;

        // What runs serves as before, with identities, and its policy is still its annotations.
        let answer = status(cluster, ORDERS).await;
        let by = answer["seen"]["headers"]["x-forwarded-client-cert"].as_str().unwrap_or_default();
        assert!(by.contains("URI=spiffe://cluster.test/ns/c33/sa/default;"), "{answer}");
        let pods = cluster.get("c33", "pods").await;
        for pod in pods["items"].as_array().expect("pods") {
            assert!(pod["metadata"]["finalizers"].is_null(), "{pod}");
            let states = ["initContainerStatuses", "containerStatuses"].map(|list| &pod["status"][list]);
            for state in states.iter().filter_map(|list| list.as_array()).flatten() {
                assert_eq!(state["restartCount"], 0, "{state}");
            }
        }
        let allow = "mantlet.dev/policy=allow mesh to GET /** on http";
        cluster.must(&["annotate", "pod", "untold", "--namespace=c33", allow]).await;
        let url = at(cluster, "untold").await;
        let ok = async || (status(cluster, &url).await["status"] == 200).then_some(());
        cluster.until("the new policy", ok).await;

        // Nobody stands in the way of anything, whatever labels are left.
        let bare = Pod::caller("bare").label("mantlet.dev/inject", "enabled");
        cluster.run("c33", &bare).await;
        assert!(sidecar(&cluster.get("c33", "pod/bare").await).is_none());
        cluster.must(&["annotate", "pod", "bare", "--namespace=c33", "mantlet.dev/polcy=?"]).await;
        cluster.must(&["scale", "deployment/orders", "--namespace=c33", "--replicas=3"]).await;
        cluster.rolled_out("c33", "deployment/orders").await;
        cluster.must(&["delete", "pod", "told", "--namespace=c33", "--timeout=60s"]).await;
        cluster.must(&["delete", "namespace", SYSTEM, "--timeout=120s"]).await;

        // Installed again it takes up those that have gone on.
        cluster.install(&changed()).await;
        cluster.install(&Installation::default()).await;
        cluster.must(&["delete", kind, "--timeout=60s"]).await;
        cluster
            .until("the directory to be asked again", async || {
                let metrics = cluster.metrics("c33", "caller").await;
                metrics.contains("mantlet_directory_stream{state=\"connected\"} 1").then_some(())
            })
            .await;
        cluster.run("c33", &without_policy("again")).await;
        let answer = status(cluster, &at(cluster, "again").await).await;
        assert_eq!(answer["status"], 403, "{answer}");
        cluster.must(&["delete", "namespace", "c33", "--timeout=120s"]).await;
    });
}
