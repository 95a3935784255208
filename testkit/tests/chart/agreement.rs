//! What `mantlet inject` refuses, and what the API server refuses by the rules of the chart with no injector to ask:
//! the same pods.

use mantlet_injector::inject::{Config, Input, Namespace, Scope, Token, Verdict, inject};
use mantlet_testkit::real_peers::RealPeers;
use serde_json::{Value, json};

use crate::helm::{Helm, LEAST, config};
use crate::pods::{injected_by, plain, with};
use crate::policy::start;

/// A pod that is odd in these places.
type Odd = (&'static str, Vec<(&'static str, Value)>);

fn odd_pods() -> Vec<Odd> {
    let app = "spec.containers.0.securityContext";
    let pod = "spec.securityContext";
    let mount =
        |volume: &str| ("spec.containers.0.volumeMounts", json!([{"name": volume, "mountPath": "/mounted"}]));
    let volume = |value: Value| ("spec.volumes", json!([value]));
    let csi = |driver: &str| volume(json!({"name": "own", "csi": {"driver": driver, "readOnly": true}}));
    let folder = |path: &str| volume(json!({"name": "own", "hostPath": {"path": path}}));
    let adds = |name: &str| (app, json!({"capabilities": {"add": [name]}}));
    let first = |value: Value| {
        let mut container = json!({"name": "first", "image": "first:1"});
        container.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        ("spec.initContainers", json!([container]))
    };
    vec![
        ("nothing odd", vec![]),
        ("a user of its own", vec![(app, json!({"runAsUser": 1000, "runAsGroup": 1000}))]),
        ("the sidecar's user", vec![(app, json!({"runAsUser": 14021}))]),
        ("the sidecar's group", vec![(app, json!({"runAsGroup": 14021}))]),
        ("the sidecar's user, for the pod", vec![(pod, json!({"runAsUser": 14021}))]),
        ("the sidecar's group, for the pod", vec![(pod, json!({"runAsGroup": 14021}))]),
        ("the sidecar's group, for files", vec![(pod, json!({"fsGroup": 14021}))]),
        ("the sidecar's group, among others", vec![(pod, json!({"supplementalGroups": [5, 14021]}))]),
        (
            "the sidecar's user in an init container",
            vec![first(json!({"securityContext": {"runAsUser": 14021}}))],
        ),
        ("root", vec![(app, json!({"runAsUser": 0}))]),
        ("privileged", vec![(app, json!({"privileged": true}))]),
        ("privileged, in an init container", vec![first(json!({"securityContext": {"privileged": true}}))]),
        ("NET_ADMIN", vec![adds("NET_ADMIN")]),
        ("NET_ADMIN, spelled otherwise", vec![adds("cap_net_admin")]),
        ("NET_RAW", vec![adds("NET_RAW")]),
        ("SYS_ADMIN", vec![adds("SYS_ADMIN")]),
        ("all capabilities", vec![adds("ALL")]),
        ("a harmless capability", vec![adds("NET_BIND_SERVICE")]),
        ("SETUID, which root has anyway", vec![adds("SETUID")]),
        ("the node's processes", vec![("spec.hostPID", json!(true))]),
        ("the node's shared memory", vec![("spec.hostIPC", json!(true))]),
        ("processes that see each other", vec![("spec.shareProcessNamespace", json!(true))]),
        ("a user namespace", vec![("spec.hostUsers", json!(false))]),
        ("the agent's driver, mounted", vec![csi("csi.spiffe.io"), mount("own")]),
        ("the agent's driver, for the sidecar alone", vec![csi("csi.spiffe.io")]),
        ("another driver", vec![csi("secrets-store.csi.k8s.io"), mount("own")]),
        ("the agent's folder, mounted", vec![folder("/run/spire/agent-sockets"), mount("own")]),
        ("the agent's folder, mounted by nobody", vec![folder("/run/spire/agent-sockets")]),
        ("the agent's folder by its old name", vec![folder("/var/run/spire/agent-sockets/"), mount("own")]),
        ("the agent's folder, spelled otherwise", vec![folder("//run/./spire//agent-sockets"), mount("own")]),
        ("a folder above the agent's", vec![folder("/run"), mount("own")]),
        ("the whole node", vec![folder("/"), mount("own")]),
        (
            "the agent's socket itself",
            vec![folder("/run/spire/agent-sockets/spire-agent.sock"), mount("own")],
        ),
        ("a folder that begins alike", vec![folder("/run/spire/agent-sockets-old"), mount("own")]),
        ("a folder of logs", vec![folder("/var/log"), mount("own")]),
        ("the sidecar's socket of the agent", vec![mount("mantlet-workload-api")]),
        ("the sidecar's own socket", vec![mount("mantlet-admin")]),
        ("the sidecar's annotations", vec![mount("mantlet-annotations")]),
        ("the sidecar's empty folder", vec![mount("mantlet-no-token")]),
        ("a container with the sidecar's name", vec![("spec.containers.0.name", json!("mantlet-proxy"))]),
    ]
}

/// Whether the injector refuses `object`, and its words.
fn refused_by_injector(config: &Config, object: &Value) -> Option<String> {
    let outcome = inject(&Input {
        object,
        namespace: &Namespace { name: "shop".to_owned(), ..Namespace::default() },
        config,
        token: &Token::new([7; 16]),
        now: std::time::SystemTime::now(),
        scope: Scope::Asked,
    });
    (outcome.verdict() == Verdict::Denied).then(|| outcome.message())
}

/// As it would be if nobody had looked: the odd pod with the sidecar in it.
fn unseen(config: &Config, changes: &[(&str, Value)]) -> Value {
    let mut pod = injected_by(config, "shop");
    for (path, value) in changes {
        match *path {
            // Behind ours, where the injector would have left them.
            "spec.initContainers" | "spec.volumes" => {
                let list = path.trim_start_matches("spec.");
                let more = value.as_array().unwrap().iter().cloned();
                pod["spec"][list].as_array_mut().unwrap().extend(more);
            }
            path => pod = with(pod, &[(path, value.clone())]),
        }
    }
    pod
}

#[tokio::test]
async fn the_injector_and_the_api_server_refuse_the_same_pods() {
    let Some(peers) = RealPeers::find("the_injector_and_the_api_server_refuse_the_same_pods") else { return };
    for (values, refusals) in
        [(LEAST, 28), ("trustDomain: prod.test\nallowPrivileged: true\nworkloadApi: {mode: hostPath}", 20)]
    {
        let server = start(&peers, values).await;
        let config = config(&Helm::new(&peers).objects(values).await);
        let (mut disagreements, mut refused) = (Vec::new(), 0);
        for (name, changes) in odd_pods() {
            let by_injector = refused_by_injector(&config, &with(plain("shop"), &changes));
            let by_server = server.try_create(&unseen(&config, &changes)).await.err();
            if let Some(error) = by_server.as_ref().filter(|error| !error.contains("mantlet: ")) {
                // Two of one name are none of ours to refuse.
                assert!(name == "a container with the sidecar's name", "{name}: {error}");
            }
            refused += usize::from(by_injector.is_some());
            if by_injector.is_some() != by_server.is_some() {
                disagreements.push(format!("{name}: injector {by_injector:?}, API server {by_server:?}"));
            }
        }
        assert!(disagreements.is_empty(), "{values}:\n{}", disagreements.join("\n"));
        assert_eq!(refused, refusals, "{values}");
    }
}
