//! What a pod with a sidecar must not have, and who is injected at all.

use mantlet_injector::inject::{Decision, Reason, Scope, WorkloadApi, refuse_ephemeral};
use serde_json::{Value, json};

use crate::support::{Surroundings, pod};

fn reasons(here: &Surroundings, pod: &Value) -> Vec<Reason> {
    match here.inject(pod).decision {
        Decision::Denied(problems) => problems.iter().map(|problem| problem.reason).collect(),
        Decision::Skipped(reason) | Decision::Injected { reason, .. } => vec![reason],
    }
}

#[test]
fn labels_of_pod_and_namespace_say_who_is_injected() {
    let mut here = Surroundings::default();
    let mut labelled = |namespace: Option<&str>, label: Option<&str>, scope: Scope| {
        here.scope = scope;
        here.namespace.labels.clear();
        here.namespace
            .labels
            .extend(namespace.map(|value| ("mantlet.dev/inject".to_owned(), value.to_owned())));
        let mut pod = pod(json!({}));
        if let Some(label) = label {
            pod["metadata"]["labels"] = json!({ "mantlet.dev/inject": label });
        }
        here.inject(&pod).reason()
    };
    for (namespace, label, expected) in [
        (None, None, Reason::NotEnabled),
        (Some("disabled"), None, Reason::NotEnabled),
        (Some("true"), None, Reason::NotEnabled),
        (Some("enabled"), None, Reason::Injected),
        (Some("enabled"), Some("disabled"), Reason::OptOut),
        (None, Some("enabled"), Reason::Injected),
        (Some("disabled"), Some("enabled"), Reason::Injected),
        (Some("enabled"), Some("true"), Reason::BadLabel),
    ] {
        assert_eq!(labelled(namespace, label, Scope::Labels), expected, "{namespace:?} {label:?}");
    }
    assert_eq!(labelled(None, None, Scope::Asked), Reason::Injected);
    assert_eq!(labelled(None, Some("disabled"), Scope::Asked), Reason::OptOut);
}

#[test]
fn a_label_that_is_mistyped_is_refused_with_the_one_that_was_meant() {
    let mut pod = pod(json!({}));
    pod["metadata"]["labels"] = json!({"mantlet.dev/injct": "disabled", "mantlet.dev/mode": "x"});
    let outcome = Surroundings::default().inject(&pod);
    assert_eq!(outcome.reason(), Reason::BadLabel);
    let message = outcome.message();
    assert!(message.contains("did you mean mantlet.dev/inject?"), "{message}");
    assert!(message.contains("move it to metadata.annotations"), "{message}");
}

#[test]
fn a_policy_that_nobody_would_enforce_is_refused_on_the_host_network() {
    let here = Surroundings::default();
    let mut host = pod(json!({"hostNetwork": true}));
    assert_eq!(reasons(&here, &host), [Reason::HostNetwork]);
    host["metadata"]["annotations"] = json!({"mantlet.dev/policy": "allow shop/a to GET /"});
    let outcome = here.inject(&host);
    assert_eq!(outcome.reason(), Reason::PolicyInvalid);
    assert!(outcome.message().contains("P090"), "{}", outcome.message());
}

#[test]
fn every_mistake_in_annotations_is_told_at_once_with_place_code_and_fix() {
    let mut wrong = pod(json!({}));
    wrong["metadata"]["annotations"] = json!({
        "mantlet.dev/polcy": "",
        "mantlet.dev/policy": "alow shop/a to GET /",
        "mantlet.dev/upstreams": "db is shop/db",
        "mantlet.dev/skip-inbound-ports": "80,x",
        "mantlet.dev/start-hold": "never",
    });
    let here = Surroundings::with(|document| document.guardrails = vec!["forbid plaintext".to_owned()]);
    let outcome = here.inject(&wrong);
    assert_eq!(outcome.reason(), Reason::PolicyInvalid);
    let message = outcome.message();
    for part in [
        "P080 unknown annotation mantlet.dev/polcy\n  did you mean mantlet.dev/policy?",
        "mantlet.dev/policy:1:1: P001",
        "mantlet.dev/upstreams:1:1: U001",
        "mantlet.dev/skip-inbound-ports:1:4: P081",
        "mantlet.dev/start-hold: P081",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    wrong["metadata"]["annotations"] = json!({"mantlet.dev/policy": "allow plaintext(any) to GET / on 8080"});
    assert!(here.inject(&wrong).message().contains("P070"), "the guardrails of the installation hold");
}

#[test]
fn d56_a_container_that_would_run_as_the_sidecar_is_refused() {
    let here = Surroundings::default();
    let app = |context: Value| json!([{"name": "app", "securityContext": context}]);
    for spec in [
        json!({"containers": app(json!({"runAsUser": 14021}))}),
        json!({"containers": app(json!({"runAsGroup": 14021}))}),
        json!({"initContainers": [{"name": "first", "securityContext": {"runAsUser": 14021}}]}),
        json!({"securityContext": {"runAsUser": 14021}}),
        json!({"securityContext": {"runAsGroup": 14021}}),
        json!({"securityContext": {"fsGroup": 14021}}),
        json!({"securityContext": {"supplementalGroups": [1, 14021]}}),
    ] {
        assert_eq!(reasons(&here, &pod(spec.clone())), [Reason::ProxyUser], "{spec}");
    }
    let other =
        pod(json!({"securityContext": {"runAsUser": 1000, "fsGroup": 1000, "supplementalGroups": [1]}}));
    assert_eq!(reasons(&here, &other), [Reason::Injected]);
}

#[test]
fn d57_a_container_that_could_undo_interception_is_refused_unless_the_installation_lets_it() {
    let here = Surroundings::default();
    let lax = Surroundings::with(|document| document.allow_privileged = true);
    for context in [
        json!({"privileged": true}),
        json!({"capabilities": {"add": ["NET_ADMIN"]}}),
        json!({"capabilities": {"add": ["CAP_NET_RAW"], "drop": ["ALL"]}}),
        json!({"capabilities": {"add": ["sys_admin"]}}),
        json!({"capabilities": {"add": ["ALL"]}}),
    ] {
        for list in ["containers", "initContainers"] {
            let mut pod = pod(json!({}));
            pod["spec"][list] = json!([{"name": "x", "securityContext": context}]);
            assert_eq!(reasons(&here, &pod), [Reason::Privileged], "{pod}");
            let outcome = lax.inject(&pod);
            assert_eq!(outcome.reason(), Reason::Injected);
            assert!(outcome.warnings.iter().any(|warning| warning.contains("could undo")), "{outcome:?}");
        }
    }
    let harmless = json!([{"name": "x", "securityContext": {"capabilities": {"add": ["IPC_LOCK", "NET_BIND_SERVICE"]}}}]);
    assert_eq!(reasons(&here, &pod(json!({"containers": harmless}))), [Reason::Injected]);
}

#[test]
fn d58_an_ephemeral_container_is_held_to_the_same() {
    let here = Surroundings::default();
    let with = |context: Value| {
        let mut pod = here.injected(&pod(json!({})));
        pod["spec"]["ephemeralContainers"] = json!([{"name": "debug", "securityContext": context}]);
        refuse_ephemeral(&pod, &here.config).iter().map(|problem| problem.reason).collect::<Vec<_>>()
    };
    assert_eq!(with(json!({"runAsUser": 14021})), [Reason::ProxyUser]);
    assert_eq!(with(json!({"runAsGroup": 14021})), [Reason::ProxyUser]);
    assert_eq!(with(json!({"capabilities": {"add": ["NET_ADMIN"]}})), [Reason::Privileged]);
    assert_eq!(with(json!({"privileged": true})), [Reason::Privileged]);
    assert_eq!(with(json!({"runAsUser": 0})), []);
    assert_eq!(with(json!(null)), []);
    let mounts = |volume: &str| {
        let mut pod = here.injected(&pod(json!({})));
        let mounts = json!([{"name": volume, "mountPath": "/x"}]);
        pod["spec"]["ephemeralContainers"] = json!([{"name": "debug", "volumeMounts": mounts}]);
        refuse_ephemeral(&pod, &here.config).iter().map(|problem| problem.reason).collect::<Vec<_>>()
    };
    assert_eq!(mounts("mantlet-workload-api"), [Reason::AgentSocket]);
    assert_eq!(mounts("mantlet-admin"), [], "it may look into the sidecar");
}

#[test]
fn the_agent_s_socket_reaches_the_sidecar_alone() {
    let here = Surroundings::default();
    for (path, refused) in [
        ("/run/spire/agent-sockets", true),
        ("/var/run/spire/agent-sockets/", true),
        ("/run/spire/agent-sockets/spire-agent.sock", true),
        ("/run/./spire/../spire", true),
        ("/run", true),
        ("/", true),
        ("/var/log", false),
        ("/run/spire/agent-sockets-old", false),
    ] {
        let spec = json!({"volumes": [{"name": "v", "hostPath": {"path": path}}]});
        let expected = if refused { Reason::AgentSocket } else { Reason::Injected };
        assert_eq!(reasons(&here, &pod(spec)), [expected], "{path}");
    }
    // By folder of the node, ours is the folder that was configured.
    let by_path = Surroundings::with(|document| {
        document.workload_api =
            WorkloadApi::HostPath { directory: "/srv/agent".to_owned(), socket: "api.sock".to_owned() };
    });
    let spec = json!({"volumes": [{"name": "v", "hostPath": {"path": "/srv/agent"}}]});
    assert_eq!(reasons(&by_path, &pod(spec)), [Reason::AgentSocket]);
    let injected = by_path.injected(&pod(json!({})));
    let volume =
        injected["spec"]["volumes"].as_array().unwrap().iter().find(|v| v["name"] == "mantlet-workload-api");
    assert_eq!(volume.unwrap()["hostPath"], json!({"path": "/srv/agent", "type": "Directory"}));
    assert!(
        injected["spec"]["initContainers"][1]["env"]
            .to_string()
            .contains("unix:///run/mantlet/workload-api/api.sock")
    );
}

#[test]
fn a_container_that_mounts_what_is_the_sidecar_s_alone_is_refused() {
    let here = Surroundings::default();
    let own = |driver: &str| json!([{"name": "own", "csi": {"driver": driver, "readOnly": true}}]);
    let mounts =
        |volume: &str| json!([{"name": "app", "volumeMounts": [{"name": volume, "mountPath": "/x"}]}]);
    for list in ["containers", "initContainers"] {
        let refused = |here: &Surroundings, driver: &str, volume: &str| {
            let mut pod = pod(json!({"volumes": own(driver)}));
            if list == "initContainers" {
                pod["spec"]["containers"][0]["name"] = json!("other");
            }
            pod["spec"][list] = mounts(volume);
            reasons(here, &pod)
        };
        assert_eq!(refused(&here, "csi.spiffe.io", "own"), [Reason::AgentSocket], "by hand");
        assert_eq!(refused(&here, "csi.other.test", "own"), [Reason::Injected]);
        assert_eq!(refused(&here, "csi.other.test", "mantlet-workload-api"), [Reason::AgentSocket]);
        for ours in ["mantlet-admin", "mantlet-annotations", "mantlet-no-token"] {
            assert_eq!(refused(&here, "csi.other.test", ours), [Reason::NameCollision], "{ours}");
        }
        let another = Surroundings::with(|document| {
            document.workload_api =
                WorkloadApi::Csi { driver: "csi.other.test".to_owned(), socket: "api.sock".to_owned() };
        });
        assert_eq!(refused(&another, "csi.other.test", "own"), [Reason::AgentSocket]);
        // Where the sidecar has a folder of the node, the driver may be there all the same.
        let by_path = Surroundings::with(|document| {
            document.workload_api =
                WorkloadApi::HostPath { directory: "/srv/agent".to_owned(), socket: "api.sock".to_owned() };
            document.agent_drivers = vec!["csi.third.test".to_owned()];
        });
        assert_eq!(refused(&by_path, "csi.third.test", "own"), [Reason::AgentSocket]);
        assert_eq!(refused(&by_path, "csi.spiffe.io", "own"), [Reason::Injected]);
    }
}

#[test]
fn the_node_s_processes_are_refused_and_those_of_the_pod_are_warned_of() {
    let node = pod(json!({"hostPID": true}));
    assert_eq!(reasons(&Surroundings::default(), &node), [Reason::Privileged]);
    let lax = Surroundings::with(|document| document.allow_privileged = true).inject(&node);
    assert_eq!(lax.reason(), Reason::Injected);
    assert!(lax.warnings.iter().any(|warning| warning.contains("hostPID")), "{lax:?}");
    let shared = Surroundings::default().inject(&pod(json!({"shareProcessNamespace": true})));
    assert_eq!(shared.reason(), Reason::Injected);
    assert!(shared.warnings.iter().any(|warning| warning.contains("shareProcessNamespace")), "{shared:?}");
}

#[test]
fn capabilities_that_root_has_by_default_and_that_lead_past_the_sidecar_are_warned_of() {
    let of = |whole: Value, own: Value| {
        let mut pod = pod(json!({"securityContext": whole}));
        pod["spec"]["containers"][0]["securityContext"] = own;
        let outcome = Surroundings::default().inject(&pod);
        assert_eq!(outcome.reason(), Reason::Injected, "{}", outcome.message());
        let found: Vec<String> =
            outcome.warnings.into_iter().filter(|warning| warning.starts_with("W212")).collect();
        assert!(found.len() <= 1, "{found:?}");
        found.into_iter().next()
    };
    let all = "NET_RAW, SETGID, SETUID";
    for (whole, own, kept) in [
        (json!({}), json!({}), all),
        (json!({"runAsUser": 0}), json!({}), all),
        (json!({"runAsUser": 1000}), json!({"runAsUser": 0}), all),
        (json!({"runAsNonRoot": true}), json!({"runAsNonRoot": false}), all),
        (json!({}), json!({"capabilities": {"drop": ["NET_RAW"]}}), "SETGID, SETUID"),
        (json!({}), json!({"capabilities": {"drop": ["SETUID", "cap_setgid"]}}), "NET_RAW"),
        (json!({}), json!({"capabilities": {"drop": ["ALL"], "add": ["SETGID"]}}), "SETGID"),
    ] {
        let warning = of(whole.clone(), own.clone()).unwrap_or_else(|| panic!("{whole} {own}"));
        let expected = format!("W212 container \"app\" may be root with {kept}: ");
        assert!(warning.starts_with(&expected) && warning.len() <= 120, "{warning}");
    }
    for (whole, own) in [
        (json!({"runAsUser": 1000}), json!({})),
        (json!({"runAsNonRoot": true}), json!({})),
        (json!({"runAsUser": 0}), json!({"runAsUser": 5})),
        (json!({}), json!({"capabilities": {"drop": ["all"]}})),
        (json!({}), json!({"capabilities": {"drop": ["SETUID", "SETGID", "NET_RAW"]}})),
    ] {
        assert_eq!(of(whole.clone(), own.clone()), None, "{whole} {own}");
    }
}

#[test]
fn a_volume_of_the_same_driver_is_used_and_not_doubled() {
    let here = Surroundings::default();
    let own = json!({"name": "spiffe", "csi": {"driver": "csi.spiffe.io", "readOnly": true}});
    let injected = here.injected(&pod(json!({"volumes": [own]})));
    let names: Vec<&Value> =
        injected["spec"]["volumes"].as_array().unwrap().iter().map(|v| &v["name"]).collect();
    assert_eq!(names, ["spiffe", "mantlet-annotations", "mantlet-admin", "mantlet-no-token"]);
    let mounts = injected["spec"]["initContainers"][1]["volumeMounts"].to_string();
    assert!(mounts.contains(r#""mountPath":"/run/mantlet/workload-api","name":"spiffe""#), "{mounts}");
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let spec = json!({
        "runtimeClassName": "gvisor",
        "securityContext": {"fsGroup": 14021},
        "containers": [{
            "name": "app",
            "ports": [{"containerPort": 24190}],
            "securityContext": {"privileged": true},
            "livenessProbe": {"httpGet": {"port": "web"}},
        }],
        "volumes": [{"name": "mantlet-admin"}, {"name": "v", "hostPath": {"path": "/"}}],
    });
    let mut expected = vec![
        Reason::Sandbox,
        Reason::ProxyUser,
        Reason::Privileged,
        Reason::PortCollision,
        Reason::NameCollision,
        Reason::AgentSocket,
        Reason::ProbePort,
    ];
    let mut found = reasons(&Surroundings::default(), &pod(spec));
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn a_pod_that_would_need_more_room_than_there_is_is_refused() {
    let header = json!({"name": "x", "value": "y".repeat(70_000)});
    let probe = json!({"httpGet": {"port": 80, "httpHeaders": [header]}});
    let spec = json!({"containers": [{"name": "app", "livenessProbe": probe}]});
    assert_eq!(reasons(&Surroundings::default(), &pod(spec)), [Reason::TooLarge]);
}
