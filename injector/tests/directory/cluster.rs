//! With the real API server: its lists, watches and objects, and the role that the chart gives.

use mantlet_testkit::kubernetes::ApiServer;
use mantlet_testkit::real_peers::RealPeers;
use serde_json::{Value, json};

use crate::injector::Injector;
use crate::objects;

/// An object as the API server takes it.
fn whole(mut object: Value, version: &str, kind: &str) -> Value {
    object["apiVersion"] = json!(version);
    object["kind"] = json!(kind);
    // Its own to write.
    if let Some(metadata) = object["metadata"].as_object_mut() {
        ["managedFields", "creationTimestamp", "uid"].iter().for_each(|field| drop(metadata.remove(*field)));
    }
    object
}

/// Creates a pod and says what kubelet would.
async fn pod(server: &ApiServer, name: &str, ip: &str, account: &str) {
    let mut object = whole(objects::pod(name, ip, account), "v1", "Pod");
    object.as_object_mut().unwrap().remove("status");
    object["spec"].as_object_mut().unwrap().remove("nodeName");
    object["spec"]["automountServiceAccountToken"] = json!(false);
    server.create(&object).await.unwrap();
    let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
    patch(server, "pod", name, &status, true).await;
}

async fn patch(server: &ApiServer, kind: &str, name: &str, patch: &Value, status: bool) {
    let text = patch.to_string();
    let mut args = vec!["-n", "shop", "patch", kind, name, "--type=merge", "-p", &text];
    if status {
        args.push("--subresource=status");
    }
    server.kubectl(&args).await.unwrap();
}

#[tokio::test]
async fn the_real_api_server_is_followed() {
    let Some(peers) = RealPeers::find("the_real_api_server_is_followed") else { return };
    let server = ApiServer::start(&peers).await;
    server.namespace("shop", &[]).await;
    for account in ["orders", "thief"] {
        server.kubectl(&["-n", "shop", "create", "serviceaccount", account]).await.unwrap();
    }
    pod(&server, "a", "10.1.0.1", "orders").await;
    let service = whole(objects::service("orders", "10.0.0.77"), "v1", "Service");
    server.create(&service).await.unwrap();
    let slice = |pods: &[(&str, &str)]| {
        let mut slice = whole(objects::slice("orders", pods), "discovery.k8s.io/v1", "EndpointSlice");
        for endpoint in slice["endpoints"].as_array_mut().unwrap() {
            endpoint["targetRef"].as_object_mut().unwrap().remove("uid");
        }
        slice
    };
    server.create(&slice(&[("a", "10.1.0.1")])).await.unwrap();

    let injector = Injector::spawn(server.kubeconfig_path(), &[]).await;
    injector.event("directory_ready").await;
    let mut client = injector.client("shop/web").await;
    let one = "meshed 10.1.0.1:8080 shop/orders http";
    assert_eq!(client.ask("10.0.0.77:80").await, one);

    pod(&server, "b", "10.1.0.2", "thief").await;
    let endpoints = json!({"endpoints": slice(&[("a", "10.1.0.1"), ("b", "10.1.0.2")])["endpoints"]});
    patch(&server, "endpointslice", "orders-x", &endpoints, false).await;
    let both = "meshed 10.1.0.1:8080 shop/orders http, 10.1.0.2:8080 shop/thief http";
    client.until("10.0.0.77:80", both).await;
    let events = ["-n", "shop", "get", "events", "-o", "json"];
    let said = async || {
        let all: Value = serde_json::from_str(&server.kubectl(&events).await.unwrap()).unwrap();
        let mut all = all["items"].as_array().unwrap().clone().into_iter();
        all.find(|event| event["reason"] == "SeveralServiceAccounts")
    };
    let event = mantlet_testkit::eventually("an Event", said).await;
    assert_eq!((&event["involvedObject"]["name"], &event["type"]), (&json!("orders"), &json!("Warning")));

    let served_by = json!({"metadata": {"annotations": {"mantlet.dev/served-by": "./orders"}}});
    patch(&server, "service", "orders", &served_by, false).await;
    client.until("10.0.0.77:80", one).await;
    let changed =
        json!({"metadata": {"annotations": {"mantlet.dev/policy": "allow shop/web to tcp on 8080"}}});
    patch(&server, "pod", "a", &changed, false).await;
    client.until("10.0.0.77:80", "meshed 10.1.0.1:8080 shop/orders tcp").await;
    server.kubectl(&["-n", "shop", "delete", "endpointslice", "orders-x"]).await.unwrap();
    client.until("10.0.0.77:80", "meshed").await;
    assert_eq!(injector.metric("watch_errors_total", &[]).await, 0.0);
    let bookmarked = injector.metric("last_sync_timestamp_seconds", &[("kind", "services")]).await;
    assert!(bookmarked > 0.0);
}
