//! What holds for every pod, whatever it is.

use mantlet_injector::inject::{Reason, Verdict, apply, uninject};
use mantlet_policy::probes::Probes;
use serde_json::{Value, json};

use crate::support::{Surroundings, patched};

const OURS: [&str; 2] = ["mantlet-init", "mantlet-proxy"];

/// Checks all of it.
pub(crate) fn hold(here: &Surroundings, pod: &Value) {
    let outcome = here.inject(pod);
    if outcome.verdict() != Verdict::Injected {
        assert!(outcome.operations().is_empty());
        assert!(!outcome.message().is_empty());
        return;
    }
    let injected = patched(pod, &outcome);
    // Our own implementation of JSON Patch makes the same of it.
    let mut ours = pod.clone();
    apply(&mut ours, outcome.operations()).expect("the patch applies");
    assert_eq!(ours, injected);
    let size = |pod: &Value| pod.to_string().len();
    assert!(size(&injected) < size(pod) + 64 * 1024, "{} bytes added", size(&injected) - size(pod));
    // Injected twice is injected once.
    assert_eq!(here.inject(&injected).reason(), Reason::AlreadyInjected);
    // Taken out again, it is what it was.
    let mut removed = injected.clone();
    let operations = uninject(&injected).expect("an injected pod");
    apply(&mut removed, &operations).expect("the patch applies");
    assert_eq!(removed, without_empty(pod));
    assert_eq!(uninject(&removed).expect("a pod"), []);
    only_handlers_change(pod, &injected);
    names_are_unique(&injected);
    probes_resolve(&injected);
    for container in containers(&injected).filter(|c| OURS.contains(&c["name"].as_str().unwrap_or_default()))
    {
        restricted(container);
    }
}

/// What null, empty and absent come to.
fn without_empty(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    };
    for (parent, names) in [
        ("/metadata", &["labels", "annotations"][..]),
        ("/spec", &["initContainers", "volumes"]),
        ("", &["metadata"]),
    ] {
        if let Some(parent) = pod.pointer_mut(parent).and_then(Value::as_object_mut) {
            for name in names {
                if parent.get(*name).is_some_and(is_empty) {
                    parent.remove(*name);
                }
            }
        }
    }
    pod
}

fn list<'v>(pod: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    pod["spec"][name].as_array().into_iter().flatten()
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list(pod, "initContainers").chain(list(pod, "containers"))
}

/// Everything that was there is there, in its order, but for the handlers of probes and hooks.
fn only_handlers_change(before: &Value, after: &Value) {
    let plain = |container: &Value| {
        let mut container = container.clone();
        for at in [
            "/startupProbe",
            "/readinessProbe",
            "/livenessProbe",
            "/lifecycle/postStart",
            "/lifecycle/preStop",
        ] {
            if let Some(members) = container.pointer_mut(at).and_then(Value::as_object_mut) {
                for handler in ["httpGet", "tcpSocket", "grpc"] {
                    members.remove(handler);
                }
            }
        }
        container
    };
    for name in ["initContainers", "containers"] {
        let theirs = list(after, name).filter(|c| !OURS.contains(&c["name"].as_str().unwrap_or_default()));
        let theirs: Vec<Value> = theirs.map(plain).collect();
        assert_eq!(theirs, list(before, name).map(plain).collect::<Vec<_>>());
    }
    let is_ours = |volume: &&Value| volume["name"].as_str().is_some_and(|name| name.starts_with("mantlet-"));
    let volumes: Vec<&Value> = list(after, "volumes").filter(|volume| !is_ours(volume)).collect();
    assert_eq!(volumes, list(before, "volumes").collect::<Vec<_>>());
    let rest = |pod: &Value| {
        let mut spec = pod["spec"].as_object().cloned().unwrap_or_default();
        for name in ["initContainers", "containers", "volumes"] {
            spec.remove(name);
        }
        spec
    };
    assert_eq!(rest(after), rest(before));
}

fn names_are_unique(pod: &Value) {
    let unique = |mut names: Vec<&Value>| {
        let count = names.len();
        names.sort_unstable_by_key(|name| name.to_string());
        names.dedup();
        assert_eq!(names.len(), count, "{names:?}");
    };
    unique(containers(pod).map(|container| &container["name"]).collect());
    unique(list(pod, "volumes").map(|volume| &volume["name"]).collect());
    for container in containers(pod) {
        let mounts = container["volumeMounts"].as_array().into_iter().flatten();
        unique(mounts.clone().map(|mount| &mount["mountPath"]).collect());
        if OURS.contains(&container["name"].as_str().unwrap_or_default()) {
            for mount in mounts {
                assert!(list(pod, "volumes").any(|volume| volume["name"] == mount["name"]), "{mount}");
            }
        }
    }
}

/// Whatever the kubelet asks for at the sidecar, the sidecar was told.
fn probes_resolve(pod: &Value) {
    let proxy = containers(pod).find(|container| container["name"] == "mantlet-proxy").expect("the sidecar");
    let value = proxy["env"].as_array().expect("variables").iter().find(|v| v["name"] == "MANTLET_PROBES");
    let probes = value.map(|value| {
        let text = value["value"].as_str().expect("text").replace("$$", "$");
        serde_json::from_str::<Probes>(&text).expect("probes")
    });
    let mut asked = 0;
    for container in containers(pod).filter(|c| !OURS.contains(&c["name"].as_str().unwrap_or_default())) {
        for at in [
            "/startupProbe",
            "/readinessProbe",
            "/livenessProbe",
            "/lifecycle/postStart",
            "/lifecycle/preStop",
        ] {
            let get = container.pointer(at).map(|handler| &handler["httpGet"]);
            let Some(path) =
                get.and_then(|get| get["path"].as_str()).filter(|p| p.starts_with("/app-health/"))
            else {
                continue;
            };
            let probe = probes.as_ref().and_then(|probes| probes.find(path)).expect("a probe at that path");
            assert_eq!(
                (probe.container.as_str(), get.expect("it")["port"].as_u64()),
                (container["name"].as_str().unwrap(), Some(24190))
            );
            assert!(probe.port > 0);
            asked += 1;
        }
    }
    assert_eq!(asked, probes.map_or(0, |probes| probes.probes.len()));
}

/// PodSecurity `restricted`, as its documentation has it; the init container has NET_ADMIN besides.
fn restricted(container: &Value) {
    let context = &container["securityContext"];
    assert_eq!(context["privileged"], false);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["runAsNonRoot"], true);
    assert_ne!(context["runAsUser"], 0);
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
    let added = match container["name"].as_str() {
        Some("mantlet-init") => json!(["NET_ADMIN"]),
        _ => json!(null),
    };
    assert_eq!(context["capabilities"]["add"], added);
    assert!(list_of(container, "ports").all(|port| port.get("hostPort").is_none()));
}

fn list_of<'v>(value: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    value[name].as_array().into_iter().flatten()
}
