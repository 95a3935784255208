//! The rules that the API server itself holds, with the injector away and its webhooks deleted.

use std::sync::Arc;

use mantlet_testkit::eventually;
use mantlet_testkit::kubernetes::ApiServer;
use mantlet_testkit::real_peers::RealPeers;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::helm::{Helm, LEAST, NAMESPACE, config};
use crate::pods::{injected, injected_by, plain, with};

/// The chart without its webhooks, its rules in force. Namespace `shop` asks for sidecars, `bazaar` does not.
pub(crate) async fn start(peers: &RealPeers, values: &str) -> Arc<ApiServer> {
    let server = ApiServer::start(peers).await;
    server.namespace(NAMESPACE, &[]).await;
    server.namespace("shop", &[("mantlet.dev/inject", "enabled")]).await;
    server.namespace("bazaar", &[]).await;
    for object in Helm::new(peers).objects(values).await {
        let kind = object["kind"].as_str().unwrap();
        if kind.starts_with("ValidatingAdmissionPolicy") {
            server.create(&object).await.unwrap_or_else(|error| panic!("{error}"));
        }
    }
    eventually("the rules to hold", async || server.try_create(&plain("shop")).await.err()).await;
    let bad = binding("bazaar", Some("mantlet.dev/policy"));
    eventually("the last of them too", async || {
        server.try_create(&bad).await.err().filter(|e| e.contains("mantlet:"))
    })
    .await;
    Arc::new(server)
}

/// What a pod is refused with; nothing, when it is let in.
type Refusal = Option<&'static str>;

/// Asks for each pod whether it may be created, a few at a time, and tells every surprise.
async fn judge(server: &Arc<ApiServer>, cases: Vec<(&'static str, Value, Refusal)>) {
    let slots = Arc::new(Semaphore::new(4));
    let mut asked = JoinSet::new();
    for (name, pod, refusal) in cases {
        let (server, slots) = (server.clone(), slots.clone());
        asked.spawn(async move {
            let _slot = slots.acquire_owned().await.unwrap();
            match (server.try_create(&pod).await, refusal) {
                (Ok(_), None) => None,
                (Ok(_), Some(_)) => Some(format!("{name}: let in")),
                (Err(error), None) => Some(format!("{name}: {error}")),
                (Err(error), Some(words)) => {
                    let told =
                        error.contains("mantlet: ") && error.contains(words) && error.contains("(Forbidden)");
                    (!told).then(|| format!("{name}: {error}"))
                }
            }
        });
    }
    let surprises: Vec<String> = asked.join_all().await.into_iter().flatten().collect();
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}

#[tokio::test]
async fn without_a_webhook_no_pod_goes_around_its_sidecar() {
    let Some(peers) = RealPeers::find("without_a_webhook_no_pod_goes_around_its_sidecar") else { return };
    let server = start(&peers, LEAST).await;
    let ours = |changes: &[(&str, Value)]| with(injected("shop"), changes);
    let app = "spec.containers.0.securityContext";
    let says = |word: &str, pod: Value| with(pod, &[("metadata.labels.mantlet/dev~inject", json!(word))]);
    let on_the_node = || with(plain("shop"), &[("spec.hostNetwork", json!(true))]);
    let windows = || with(plain("shop"), &[("spec.os", json!({"name": "windows"}))]);
    let host_path = |path: &str| {
        ours(&[
            ("spec.volumes.+", json!({"name": "agent", "hostPath": {"path": path}})),
            ("spec.containers.0.volumeMounts", json!([{"name": "agent", "mountPath": "/agent"}])),
        ])
    };
    let capability = |name: &str| ours(&[(app, json!({"capabilities": {"add": [name]}}))]);

    let mut late = injected("shop");
    late["spec"]["initContainers"]
        .as_array_mut()
        .unwrap()
        .insert(0, json!({"name": "migrate", "image": "m:1"}));

    judge(
        &server,
        vec![
            // Who is meant.
            ("with its sidecar", ours(&[]), None),
            ("without", plain("shop"), Some("is to have a sidecar and has none")),
            ("without, and says so", says("disabled", plain("shop")), None),
            ("in a namespace that does not ask", plain("bazaar"), None),
            ("there, but it asks", says("enabled", plain("bazaar")), Some("has none")),
            ("there, and has it", says("enabled", injected("bazaar")), None),
            (
                "anything there",
                with(plain("bazaar"), &[(app, json!({"runAsUser": 14021, "privileged": true}))]),
                None,
            ),
            ("of the installation itself", plain(NAMESPACE), None),
            ("there, but it asks", says("enabled", plain(NAMESPACE)), Some("has none")),
            ("on the node's network", on_the_node(), None),
            ("there, but it asks", says("enabled", on_the_node()), Some("hostNetwork")),
            ("for Windows", windows(), None),
            ("there, but it asks", says("enabled", windows()), Some("has none")),
            (
                "for Windows by its nodes",
                with(plain("shop"), &[("spec.nodeSelector.kubernetes/io~os", json!("windows"))]),
                None,
            ),
            // A sidecar that is not ours.
            (
                "another image",
                ours(&[("spec.initContainers.1.image", json!("mantlet-proxy-not:0.1.0"))]),
                Some("has none, or"),
            ),
            (
                "another init image",
                ours(&[("spec.initContainers.0.image", json!("busybox:1"))]),
                Some("has none, or"),
            ),
            ("another version", ours(&[("spec.initContainers.1.image", json!("mantlet-proxy:0.0.9"))]), None),
            (
                "a pinned image",
                ours(&[(
                    "spec.initContainers.1.image",
                    json!(format!("mantlet-proxy@sha256:{}", "0".repeat(64))),
                )]),
                None,
            ),
            (
                "another program in it",
                ours(&[("spec.initContainers.1.command", json!(["/mantlet-proxy", "drain"]))]),
                Some("was changed"),
            ),
            (
                "with arguments",
                ours(&[("spec.initContainers.1.args", json!(["--intercept=false"]))]),
                Some("was changed"),
            ),
            (
                "rules that are only printed",
                ours(&[("spec.initContainers.0.args.+", json!("--print"))]),
                Some("was changed"),
            ),
            (
                "rules for another user",
                ours(&[("spec.initContainers.0.args.0", json!("--uid=1000"))]),
                Some("was changed"),
            ),
            (
                "as another user",
                ours(&[("spec.initContainers.1.securityContext.runAsUser", json!(1000))]),
                Some("was changed"),
            ),
            (
                "without restart",
                ours(&[
                    ("spec.initContainers.1.restartPolicy", Value::Null),
                    ("spec.initContainers.1.lifecycle", Value::Null),
                    ("spec.initContainers.1.readinessProbe", Value::Null),
                    ("spec.initContainers.1.startupProbe", Value::Null),
                    ("spec.initContainers.1.securityContext", json!({})),
                ]),
                Some("was changed"),
            ),
            (
                "as an ordinary container",
                ours(&[
                    ("spec.containers.+", json!({"name": "mantlet-init-x", "image": "x"})),
                    ("spec.containers.0.name", json!("mantlet-app")),
                ]),
                None,
            ),
            ("too late", late.clone(), Some("run before interception: migrate")),
            (
                "too late, and says so",
                with(late, &[("metadata.annotations.mantlet/dev~init-after", json!("vault, migrate"))]),
                None,
            ),
            // The sidecar's user and group.
            (
                "its user",
                ours(&[(app, json!({"runAsUser": 14021}))]),
                Some("app would run as user or group 14021:14021"),
            ),
            ("its group", ours(&[(app, json!({"runAsGroup": 14021}))]), Some("app would run as")),
            (
                "its user, in an init container",
                ours(&[(
                    "spec.initContainers.+",
                    json!({"name": "migrate", "image": "m:1", "securityContext": {"runAsUser": 14021}}),
                )]),
                Some("migrate would run as"),
            ),
            (
                "its user, for the pod",
                ours(&[("spec.securityContext", json!({"runAsUser": 14021}))]),
                Some("spec.securityContext"),
            ),
            (
                "its group, for the pod",
                ours(&[("spec.securityContext", json!({"runAsGroup": 14021}))]),
                Some("spec.securityContext"),
            ),
            (
                "its group, for files",
                ours(&[("spec.securityContext", json!({"fsGroup": 14021}))]),
                Some("spec.securityContext"),
            ),
            (
                "its group, among others",
                ours(&[("spec.securityContext", json!({"supplementalGroups": [5, 14021]}))]),
                Some("spec.securityContext"),
            ),
            (
                "other users",
                ours(&[
                    ("spec.securityContext", json!({"runAsUser": 1000, "supplementalGroups": [5]})),
                    (app, json!({"runAsUser": 14022})),
                ]),
                None,
            ),
            // What could undo interception.
            ("NET_ADMIN", capability("NET_ADMIN"), Some("app could undo interception")),
            ("in another spelling", capability("cap_net_admin"), Some("app could undo")),
            ("NET_RAW", capability("NET_RAW"), Some("app could undo")),
            ("SYS_ADMIN", capability("SYS_ADMIN"), Some("app could undo")),
            ("all", capability("ALL"), Some("app could undo")),
            ("a harmless one", capability("NET_BIND_SERVICE"), None),
            ("privileged", ours(&[(app, json!({"privileged": true}))]), Some("app could undo")),
            ("with the node's processes", ours(&[("spec.hostPID", json!(true))]), Some("hostPID")),
            // The agent's socket.
            (
                "by the sidecar's own volume",
                ours(&[(
                    "spec.containers.0.volumeMounts",
                    json!([{"name": "mantlet-workload-api", "mountPath": "/a"}]),
                )]),
                Some("app mounts the socket"),
            ),
            (
                "by a volume of its own",
                ours(&[
                    (
                        "spec.volumes.+",
                        json!({"name": "mine", "csi": {"driver": "csi.spiffe.io", "readOnly": true}}),
                    ),
                    ("spec.containers.0.volumeMounts", json!([{"name": "mine", "mountPath": "/a"}])),
                ]),
                Some("app mounts the socket"),
            ),
            ("by its folder", host_path("/run/spire/agent-sockets"), Some("app mounts the socket")),
            ("in another spelling", host_path("//run/./spire/agent-sockets/"), Some("app mounts the socket")),
            ("by the old name", host_path("/var/run/spire/agent-sockets"), Some("app mounts the socket")),
            (
                "by the socket itself",
                host_path("/run/spire/agent-sockets/spire-agent.sock"),
                Some("app mounts the socket"),
            ),
            ("by a folder above", host_path("/run"), Some("app mounts the socket")),
            ("by the root", host_path("/"), Some("app mounts the socket")),
            ("another folder", host_path("/run/spire/agent-sockets-of-others"), None),
            ("a log folder", host_path("/var/log"), None),
        ],
    )
    .await;
}

#[tokio::test]
async fn rules_go_by_the_values() {
    let Some(peers) = RealPeers::find("rules_go_by_the_values") else { return };
    let values = "trustDomain: prod.test
global: {imageRegistry: registry.test/m}
excludedNamespaces: []
agentDirectories: [/opt/agent, /var/run/other/]
workloadApi: {driver: csi.other.test}
allowPrivileged: true
proxy: {user: 20001, group: 20002}";
    let server = start(&peers, values).await;
    let config = config(&Helm::new(&peers).objects(values).await);
    let ours = |changes: &[(&str, Value)]| with(injected_by(&config, "shop"), changes);
    let app = "spec.containers.0.securityContext";
    let mount = ("spec.containers.0.volumeMounts", json!([{"name": "agent", "mountPath": "/agent"}]));
    let host_path = |path: &str| {
        ours(&[mount.clone(), ("spec.volumes.+", json!({"name": "agent", "hostPath": {"path": path}}))])
    };
    judge(
        &server,
        vec![
            ("with its sidecar", ours(&[]), None),
            (
                "of another registry",
                ours(&[("spec.initContainers.1.image", json!("mantlet-proxy:0.1.0"))]),
                Some("has none, or"),
            ),
            ("its user", ours(&[(app, json!({"runAsUser": 20001}))]), Some("user or group 20001:20002")),
            ("its group", ours(&[(app, json!({"runAsGroup": 20002}))]), Some("user or group 20001:20002")),
            (
                "a user that is none of its",
                ours(&[(app, json!({"runAsUser": 14021, "runAsGroup": 20001}))]),
                None,
            ),
            ("privileged", ours(&[(app, json!({"privileged": true}))]), None),
            ("an agent's folder", host_path("/opt/agent"), Some("app mounts")),
            ("another agent's folder", host_path("/run/other"), Some("app mounts")),
            ("a folder of no agent", host_path("/run/spire/agent-sockets"), None),
            (
                "the other driver",
                ours(&[(
                    "spec.containers.0.volumeMounts",
                    json!([{"name": "mantlet-workload-api", "mountPath": "/a"}]),
                )]),
                Some("app mounts"),
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_running_pod_gets_no_debugger_that_goes_around_its_sidecar() {
    let Some(peers) = RealPeers::find("a_running_pod_gets_no_debugger") else { return };
    let server = start(&peers, LEAST).await;
    server.create(&injected("shop")).await.unwrap();
    // As it may have been before there were rules: they do not ask again what it is made of.
    let before = with(
        plain("shop"),
        &[("metadata.name", json!("before")), ("metadata.labels.mantlet/dev~inject", json!("disabled"))],
    );
    server.create(&before).await.unwrap();
    server.kubectl(&["-n", "shop", "label", "pod", "before", "mantlet.dev/inject-"]).await.unwrap();

    for pod in ["api", "before"] {
        for (debugger, refusal) in [
            (json!({"securityContext": {"runAsUser": 14021}}), Some("debugger would run as")),
            (
                json!({"securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}),
                Some("debugger could undo"),
            ),
            (json!({"securityContext": {"privileged": true}}), Some("debugger could undo")),
            (json!({"name": "mantlet-init"}), Some("is kept for the sidecar").filter(|_| pod == "before")),
            (
                json!({"volumeMounts": [{"name": "mantlet-workload-api", "mountPath": "/a"}]}),
                Some("mounts the socket").filter(|_| pod == "api"),
            ),
            (json!({"securityContext": {"runAsUser": 1000}}), None),
        ] {
            let mut container = json!({"name": "debugger", "image": "debug:1", "terminationMessagePolicy": "File", "imagePullPolicy": "IfNotPresent"});
            container.as_object_mut().unwrap().extend(debugger.as_object().unwrap().clone());
            let path = format!("/api/v1/namespaces/shop/pods/{pod}/ephemeralcontainers");
            let answer = attach(&server, pod, &path, &container).await;
            match (answer, refusal) {
                (Ok(_), None) => {}
                (Err(error), Some(words)) if error.contains(words) => {}
                // Names and volumes that the pod has or has not: the API server's own rules.
                (Err(error), None) if !error.contains("mantlet: ") && error.contains("is invalid") => {}
                (answer, _) => panic!("{pod} {container}: {answer:?}"),
            }
        }
    }
}

async fn attach(server: &ApiServer, pod: &str, path: &str, container: &Value) -> Result<String, String> {
    let mut object = server.get(&format!("/api/v1/namespaces/shop/pods/{pod}")).await;
    object["spec"]["ephemeralContainers"] = json!([container]);
    let file = server.dir().file("debugger.json", object.to_string());
    server.kubectl(&["replace", "--raw", path, "--filename", file.to_str().unwrap()]).await
}

#[tokio::test]
async fn neither_a_status_nor_a_binding_edits_policy() {
    let Some(peers) = RealPeers::find("neither_a_status_nor_a_binding_edits_policy") else { return };
    let server = start(&peers, LEAST).await;
    let pod = with(
        injected("shop"),
        &[("metadata.annotations.mantlet/dev~policy", json!("allow a/b to tcp on 1"))],
    );
    server.create(&pod).await.unwrap();
    let status = async |patch: &str| {
        let args =
            ["-n", "shop", "patch", "pod", "api", "--subresource=status", "--type=merge", "--patch", patch];
        server.kubectl(&args).await
    };
    for edit in [
        r#"{"metadata": {"annotations": {"mantlet.dev/policy": "allow mesh to tcp on 1"}}}"#,
        r#"{"metadata": {"annotations": {"mantlet.dev/policy": null}}}"#,
        r#"{"metadata": {"annotations": {"mantlet.dev/mode": "audit until 2030-01-01"}}}"#,
        r#"{"metadata": {"labels": {"mantlet.dev/injected": null}}}"#,
        r#"{"metadata": {"labels": {"mantlet.dev/inject": "disabled"}}}"#,
    ] {
        let refusal = status(edit).await.unwrap_err();
        assert!(refusal.contains("mantlet: an update of a pod's status"), "{edit}: {refusal}");
    }
    for ordinary in [
        r#"{"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}"#,
        r#"{"metadata": {"annotations": {"other.test/note": "x"}}}"#,
        r#"{"status": {"phase": "Succeeded"}}"#,
    ] {
        status(ordinary).await.unwrap();
    }

    for key in ["mantlet.dev/policy", "mantlet.dev/mode"] {
        let refusal = server.try_create(&binding("shop", Some(key))).await.unwrap_err();
        assert!(refusal.contains("mantlet: binding a pod"), "{refusal}");
    }
    server.create(&binding("shop", None)).await.unwrap();
    assert_eq!(server.get("/api/v1/namespaces/shop/pods/api").await["spec"]["nodeName"], "n1");
}

fn binding(namespace: &str, annotation: Option<&str>) -> Value {
    let mut binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": "api", "namespace": namespace},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "n1"},
    });
    if let Some(key) = annotation {
        binding["metadata"]["annotations"][key] = json!("allow mesh to tcp on 1");
    }
    binding
}
