//! Objects as the API server has them.

use serde_json::{Value, json};

use crate::api::{Api, PODS, SERVICES, SLICES};

/// A running pod with a sidecar, in the namespace `shop`.
pub(crate) fn pod(name: &str, ip: &str, account: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "shop", "uid": format!("uid-{name}"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": "orders", "mantlet.dev/injected": "true"},
            "annotations": {
                "mantlet.dev/policy": "allow shop/web to GET /** on 8080\nallow shop/web to tcp on 5432",
                "mantlet.dev/skip-inbound-ports": "9000",
                "kubectl.kubernetes.io/last-applied-configuration": "{\"much\": [\"text\"]}",
            },
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
        },
        "spec": {
            "serviceAccountName": account,
            "nodeName": "node-1",
            "containers": [{"name": "app", "image": "app:1", "ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 5432}]}],
        },
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": "192.0.2.9"},
    })
}

/// The same without a sidecar.
pub(crate) fn plain(name: &str, ip: &str) -> Value {
    let mut pod = pod(name, ip, "default");
    pod["metadata"]["labels"] = json!({"app": "orders"});
    pod["metadata"]["annotations"] = json!({});
    pod
}

/// A Service with port 80 to 8080.
pub(crate) fn service(name: &str, ip: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}")},
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "selector": {"app": name},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
            "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
        },
    })
}

/// The slice of a Service with these pods, ready: name and address.
pub(crate) fn slice(service: &str, pods: &[(&str, &str)]) -> Value {
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|(name, ip)| {
            json!({
                "addresses": [ip], "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "name": name, "namespace": "shop", "uid": format!("uid-{name}")},
            })
        })
        .collect();
    json!({
        "metadata": {
            "name": format!("{service}-x"), "namespace": "shop", "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}

/// Pods `a` and `b` of `shop/orders` behind 10.96.0.1:80.
pub(crate) fn orders(api: &Api) {
    api.put(PODS, pod("a", "10.1.0.1", "orders"));
    api.put(PODS, pod("b", "10.1.0.2", "orders"));
    api.put(SERVICES, service("orders", "10.96.0.1"));
    api.put(SLICES, slice("orders", &[("a", "10.1.0.1"), ("b", "10.1.0.2")]));
}
