//! Ways around the sidecar that a tenant may try, and namespaces that have their own rules.

use mantlet_testkit::cluster::{Cluster, Pod};
use serde_json::{Value, json};

use crate::stage::scenario;

async fn refused(cluster: &Cluster, namespace: &str, pod: &Pod, words: &[&str]) {
    let said = cluster.try_apply(namespace, &pod.pod()).await.expect_err("a refusal");
    assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
}

fn app(name: &str) -> Pod {
    Pod::new(name, &["serve", "http=8080"])
}

#[test]
fn c24_a_namespace_whose_pod_security_forbids_the_init_container_refuses_and_says_so() {
    scenario("c24", async |cluster| {
        for level in ["baseline", "restricted"] {
            let name = format!("c24-{level}");
            let labels = [("mantlet.dev/inject", "enabled"), ("pod-security.kubernetes.io/enforce", level)];
            cluster.namespace(&name, &labels, &[]).await;
            refused(cluster, &name, &app("app"), &["needs CNI mode, not available yet"]).await;
        }
    });
}

#[test]
fn c25_quotas_limit_ranges_and_pods_that_share_with_their_node_or_among_themselves_behave_as_documented() {
    scenario("c25", async |cluster| {
        cluster.meshed("c25", &[]).await;
        let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "all"}, "spec": {"hard": {
            "requests.cpu": "2", "requests.memory": "2Gi", "limits.memory": "2Gi", "pods": "10",
        }}});
        let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "all"}, "spec": {"limits": [{
            "type": "Container", "default": {"memory": "64Mi"}, "defaultRequest": {"cpu": "10m", "memory": "32Mi"},
        }]}});
        cluster.apply("c25", &range).await;
        cluster.apply("c25", &quota).await;
        // The sidecar brings requests and limits of its own; the application gets those of the range.
        cluster.run("c25", &app("within")).await;
        let shared = app("shared").with("/spec", "shareProcessNamespace", json!(true));
        cluster.run("c25", &shared).await;
        let spec = cluster.get("c25", "pod/within").await["spec"].clone();
        assert_eq!(spec["containers"][0]["resources"]["limits"]["memory"], "64Mi");
        for container in spec["initContainers"].as_array().unwrap() {
            assert_ne!(container["resources"]["limits"]["memory"], "64Mi", "{container}");
        }

        // On the node's network there is nothing to intercept: left alone, unless it asks.
        let host = app("host").with("/spec", "hostNetwork", json!(true));
        let said = cluster.must(&["get", "pods", "--namespace=c25", "--output=name"]).await;
        assert!(!said.contains("pod/host"));
        cluster.apply("c25", &host.pod()).await;
        let spec = cluster.get("c25", "pod/host").await["spec"].clone();
        assert!(spec["initContainers"].is_null(), "{spec}");
        let asking =
            app("asking").with("/spec", "hostNetwork", json!(true)).label("mantlet.dev/inject", "enabled");
        refused(cluster, "c25", &asking, &["mantlet", "network"]).await;
    });
}

#[test]
fn c25_a_pod_with_users_of_its_own_is_injected_like_any_other_and_fares_on_its_node_as_it_would_without_a_sidecar()
 {
    scenario("c25u", async |cluster| {
        cluster.meshed("c25u", &[]).await;
        cluster.namespace("c25u-plain", &[], &[]).await;
        let users = app("users").with("/spec", "hostUsers", json!(false));
        for namespace in ["c25u-plain", "c25u"] {
            cluster.apply(namespace, &users.pod()).await;
        }
        let pod = cluster.get("c25u", "pod/users").await;
        assert_eq!(pod["metadata"]["labels"]["mantlet.dev/injected"], "true");
        assert_eq!(pod["spec"]["hostUsers"], false, "{pod}");
        let [init, proxy] = [0, 1].map(|place: usize| &pod["spec"]["initContainers"][place]);
        assert_eq!((&init["name"], &proxy["name"]), (&json!("mantlet-init"), &json!("mantlet-proxy")));
        let capabilities = json!({"add": ["NET_ADMIN"], "drop": ["ALL"]});
        assert_eq!(init["securityContext"]["capabilities"], capabilities, "of the pod's own users: {init}");
        assert_eq!(proxy["restartPolicy"], "Always", "{proxy}");

        // A container runtime that cannot do it says so, and nothing of ours is asked.
        let fate = async |namespace: &str| {
            cluster
                .until("the node's word", async || {
                    let pod = cluster.get(namespace, "pod/users").await;
                    let mut conditions = pod["status"]["conditions"].as_array()?.iter();
                    if conditions.any(|is| is["type"] == "Ready" && is["status"] == "True") {
                        return Some("ready".to_owned());
                    }
                    let failed = "--field-selector=reason=FailedCreatePodSandBox";
                    let args = ["get", "events", "--namespace", namespace, failed, "--output=json"];
                    let events: Value = serde_json::from_str(&cluster.must(&args).await).ok()?;
                    Some(events["items"].as_array()?.first()?["message"].as_str()?.to_owned())
                })
                .await
        };
        let (without, with) = (fate("c25u-plain").await, fate("c25u").await);
        assert_eq!(with, without);
        assert!(with == "ready" || with.contains("does not support user namespaces"), "{with}");
    });
}

#[test]
fn c30_an_app_with_the_sidecar_s_user_or_raw_sockets_or_our_name_and_a_debugging_container_are_refused() {
    scenario("c30", async |cluster| {
        cluster.meshed("c30", &[]).await;
        let user = app("user").container("securityContext", json!({"runAsUser": 14021}));
        refused(cluster, "c30", &user, &["14021"]).await;
        let raw = app("raw").container("securityContext", json!({"capabilities": {"add": ["NET_RAW"]}}));
        refused(cluster, "c30", &raw, &["NET_RAW"]).await;
        let named = app("named").container("name", json!("mantlet-proxy"));
        refused(cluster, "c30", &named, &["mantlet-proxy"]).await;
        let socket =
            app("socket").container("volumeMounts", json!([{"name": "agent", "mountPath": "/agent"}])).with(
                "/spec",
                "volumes",
                json!([{"name": "agent", "hostPath": {"path": "/run/spire/agent-sockets"}}]),
            );
        refused(cluster, "c30", &socket, &["mantlet"]).await;

        cluster.run("c30", &app("good")).await;
        let debug = |more: serde_json::Value| {
            let mut container = json!({"name": "debug", "image": "mantlet-test-app:1", "args": ["serve"]});
            for (key, value) in more.as_object().unwrap() {
                container[key] = value.clone();
            }
            json!({"spec": {"ephemeralContainers": [container]}}).to_string()
        };
        for (more, word) in [
            (json!({"securityContext": {"runAsUser": 14021}}), "14021"),
            (json!({"securityContext": {"capabilities": {"add": ["NET_RAW"]}}}), "NET_RAW"),
            (json!({"name": "mantlet-proxy-2", "securityContext": {"privileged": true}}), "privileged"),
        ] {
            let patch = debug(more);
            let args = [
                "patch",
                "pod",
                "good",
                "--namespace=c30",
                "--subresource=ephemeralcontainers",
                "--patch",
                &patch,
            ];
            let said = cluster.kubectl(&args).await.expect_err("a refusal");
            assert!(said.contains("mantlet") && said.contains(word), "{said}");
        }
    });
}

#[test]
fn c31_an_annotation_changed_through_the_status_subresource_is_refused() {
    scenario("c31", async |cluster| {
        cluster.meshed("c31", &[]).await;
        cluster.run("c31", &app("app")).await;
        let patch =
            json!({"metadata": {"annotations": {"mantlet.dev/policy": "allow mesh to * /** on http"}}})
                .to_string();
        let args = ["patch", "pod", "app", "--namespace=c31", "--subresource=status", "--patch", &patch];
        let said = cluster.kubectl(&args).await.expect_err("a refusal");
        assert!(
            said.contains("an update of a pod's status may not change mantlet.dev annotations"),
            "{said}"
        );
        let annotations = cluster.get("c31", "pod/app").await["metadata"]["annotations"].clone();
        assert!(annotations["mantlet.dev/policy"].is_null(), "{annotations}");
    });
}

#[test]
fn c32_in_a_namespace_that_asks_a_pod_without_a_word_gets_a_sidecar_and_one_that_declines_none() {
    scenario("c32", async |cluster| {
        cluster.meshed("c32", &[]).await;
        cluster.apply("c32", &app("silent").pod()).await;
        cluster.apply("c32", &app("declines").label("mantlet.dev/inject", "disabled").pod()).await;
        let silent = cluster.get("c32", "pod/silent").await;
        assert_eq!(silent["metadata"]["labels"]["mantlet.dev/injected"], "true");
        let declines = cluster.get("c32", "pod/declines").await;
        assert!(declines["spec"]["initContainers"].is_null(), "{declines}");
        cluster.ready("c32", "silent").await;
        cluster.ready("c32", "declines").await;
    });
}
