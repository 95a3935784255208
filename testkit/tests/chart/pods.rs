//! Pods as the tests send them to the API server.

use serde_json::{Value, json};

/// A pod with an app and no sidecar.
pub(crate) fn plain(namespace: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "api", "namespace": namespace, "labels": {"app": "api"}},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    })
}

/// The same pod as it is with a sidecar.
pub(crate) fn injected(namespace: &str) -> Value {
    let mut pod = plain(namespace);
    pod["metadata"]["labels"]["mantlet.dev/injected"] = json!("true");
    pod["spec"]["initContainers"] = json!([
        {
            "name": "mantlet-init",
            "image": "mantlet-init:0.1.0",
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
            },
        },
        {
            "name": "mantlet-proxy",
            "image": "mantlet-proxy:0.1.0",
            "restartPolicy": "Always",
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 14021, "runAsGroup": 14021, "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [{"name": "mantlet-workload-api", "mountPath": "/run/mantlet/workload-api"}],
        },
    ]);
    pod["spec"]["volumes"] =
        json!([{"name": "mantlet-workload-api", "csi": {"driver": "csi.spiffe.io", "readOnly": true}}]);
    pod
}

/// With this in the place of what is there.
pub(crate) fn with(mut pod: Value, changes: &[(&str, Value)]) -> Value {
    for (path, value) in changes {
        let mut at = &mut pod;
        for step in path.split('.') {
            // A key with dots in it is written with slashes: mantlet/dev~inject.
            let step =
                step.replace("mantlet/dev~", "mantlet.dev/").replace("kubernetes/io~", "kubernetes.io/");
            at = match step.parse::<usize>() {
                Ok(index) => {
                    let items = at.as_array_mut().expect("a list");
                    if index == items.len() {
                        items.push(Value::Null);
                    }
                    &mut items[index]
                }
                Err(_) => &mut at[step],
            };
        }
        *at = value.clone();
    }
    pod
}
