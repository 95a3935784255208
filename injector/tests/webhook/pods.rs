//! Objects and requests.

use serde_json::{Value, json};

/// A pod as a ReplicaSet makes it: no name, no namespace.
pub(crate) fn pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "web-5d4-",
            "labels": {"app": "web"},
            "annotations": {"mantlet.dev/policy": "allow shop/frontend to GET /orders on http"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4", "uid": "7f9d", "controller": true,
            }],
        },
        "spec": {
            "containers": [{
                "name": "app",
                "image": "web:1",
                "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
            }],
        },
    })
}

/// A Deployment of that pod.
pub(crate) fn deployment() -> Value {
    let pod = pod();
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "replicas": 1,
            "template": {
                "metadata": {"labels": pod["metadata"]["labels"], "annotations": pod["metadata"]["annotations"]},
                "spec": pod["spec"],
            },
        },
    })
}

/// The creation of `object` in the namespace `shop`.
pub(crate) fn create(object: &Value) -> Value {
    request("CREATE", object)
}

/// The change of `old` to `object`.
pub(crate) fn update(old: &Value, object: &Value) -> Value {
    let mut request = request("UPDATE", object);
    request["oldObject"] = old.clone();
    request
}

pub(crate) fn request(operation: &str, object: &Value) -> Value {
    let kind = object["kind"].as_str().unwrap();
    let group = object["apiVersion"].as_str().unwrap().split_once('/').map_or("", |(group, _)| group);
    json!({
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": group, "version": "v1", "kind": kind},
        "resource": {"group": group, "version": "v1", "resource": format!("{}s", kind.to_lowercase())},
        "requestKind": {"group": group, "version": "v1", "kind": kind},
        "requestResource": {"group": group, "version": "v1", "resource": format!("{}s", kind.to_lowercase())},
        "name": "",
        "namespace": "shop",
        "operation": operation,
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
        "object": object,
        "oldObject": null,
        "dryRun": false,
        "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
    })
}
