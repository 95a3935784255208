//! What sidecars are told.

use serde_json::json;

use crate::api::{Api, PODS, SERVICES, SLICES};
use crate::injector::Injector;
use crate::objects::{orders, plain, pod, service, slice};

const BOTH: &str = "meshed 10.1.0.1:8080 shop/orders http, 10.1.0.2:8080 shop/orders http";

#[tokio::test]
async fn a_sidecar_is_told_who_is_behind_an_address_and_every_change_of_that() {
    let api = Api::start().await;
    orders(&api);
    api.put(PODS, plain("old", "10.1.0.9"));
    let injector = Injector::start(&api).await;
    let mut client = injector.client("shop/web").await;
    assert_eq!(client.ask("10.96.0.1:80").await, BOTH);
    assert_eq!(client.ask("10.96.0.1:81").await, "unknown");
    assert_eq!(client.ask("10.1.0.1:5432").await, "meshed 10.1.0.1:5432 shop/orders tcp");
    assert_eq!(client.ask("10.1.0.1:7777").await, "meshed 10.1.0.1:7777 shop/orders ?");
    assert_eq!(client.ask("10.1.0.1:9000").await, "not meshed");
    assert_eq!(client.ask("10.1.0.1:24190").await, "not meshed");
    assert_eq!(client.ask("10.1.0.9:8080").await, "not meshed");
    assert_eq!(client.ask("10.1.0.77:8080").await, "unknown");

    // One comes.
    api.put(PODS, pod("new", "10.1.0.77", "orders"));
    client.until("10.1.0.77:8080", "meshed 10.1.0.77:8080 shop/orders http").await;
    // One goes.
    api.put(SLICES, slice("orders", &[("a", "10.1.0.1")]));
    client.until("10.96.0.1:80", "meshed 10.1.0.1:8080 shop/orders http").await;
    // One changes its policy.
    let mut changed = pod("a", "10.1.0.1", "orders");
    changed["metadata"]["annotations"]["mantlet.dev/policy"] = json!("allow shop/web to tcp on 8080");
    api.put(PODS, changed);
    client.until("10.96.0.1:80", "meshed 10.1.0.1:8080 shop/orders tcp").await;
    // All go.
    api.delete(SLICES, "shop", "orders-x");
    client.until("10.96.0.1:80", "meshed").await;
    api.delete(SERVICES, "shop", "orders");
    client.until("10.96.0.1:80", "unknown").await;
    // One that has ended does not have its address any more.
    let mut over = pod("new", "10.1.0.77", "orders");
    over["status"]["phase"] = json!("Succeeded");
    api.put(PODS, over);
    client.until("10.1.0.77:8080", "unknown").await;
}

#[tokio::test]
async fn only_what_changes_is_sent_and_only_to_who_follows_it() {
    let api = Api::start().await;
    orders(&api);
    api.put(PODS, pod("c", "10.1.0.3", "other"));
    let injector = Injector::start(&api).await;
    let mut client = injector.client("shop/web").await;
    assert_eq!(client.ask("10.96.0.1:80").await, BOTH);
    assert_eq!(client.ask("10.1.0.3:80").await, "meshed 10.1.0.3:80 shop/other ?");
    assert_eq!(client.ask("10.1.0.1:80").await, "meshed 10.1.0.1:80 shop/orders ?");
    client.forget("10.1.0.1:80").await;
    injector.metric_is("followed_addresses", &[], 2.0).await;
    // A change that changes no answer: a label, and a pod that nobody follows.
    let mut labelled = pod("a", "10.1.0.1", "orders");
    labelled["metadata"]["labels"]["version"] = json!("2");
    api.put(PODS, labelled);
    api.put(PODS, pod("d", "10.1.0.4", "orders"));
    // What was forgotten.
    let mut renamed = pod("c", "10.1.0.3", "third");
    renamed["metadata"]["uid"] = json!("new");
    api.put(PODS, renamed);
    let (address, says) = client.next().await.unwrap();
    assert_eq!(
        (address.to_string().as_str(), says.as_str()),
        ("10.1.0.3:80", "meshed 10.1.0.3:80 shop/third ?")
    );
    assert_eq!(injector.metric("answers_total", &[]).await, 4.0);
}

#[tokio::test]
async fn a_service_with_an_impostor_behind_it_shows_or_leaves_it_out() {
    let api = Api::start().await;
    api.put(PODS, pod("a", "10.1.0.1", "orders"));
    api.put(PODS, pod("thief", "10.1.0.2", "thief"));
    api.put(SERVICES, service("orders", "10.96.0.1"));
    api.put(SLICES, slice("orders", &[("a", "10.1.0.1"), ("thief", "10.1.0.2")]));
    let injector = Injector::start(&api).await;
    let mut client = injector.client("shop/web").await;
    let both = "meshed 10.1.0.1:8080 shop/orders http, 10.1.0.2:8080 shop/thief http";
    assert_eq!(client.ask("10.96.0.1:80").await, both);
    assert_eq!(injector.metric("mixed_services", &[]).await, 1.0);
    let event = api.event("SeveralServiceAccounts").await;
    assert_eq!(event["involvedObject"]["name"], "orders");
    assert!(event["message"].as_str().unwrap().contains("sa/thief"), "{event}");

    let mut named = service("orders", "10.96.0.1");
    named["metadata"]["annotations"] = json!({"mantlet.dev/served-by": "./orders"});
    api.put(SERVICES, named.clone());
    client.until("10.96.0.1:80", "meshed 10.1.0.1:8080 shop/orders http").await;
    injector.metric_is("left_out_endpoints", &[], 1.0).await;
    injector.metric_is("mixed_services", &[], 0.0).await;
    let event = api.event("EndpointsLeftOut").await;
    assert!(event["message"].as_str().unwrap().contains("sa/thief"), "{event}");

    // What cannot be read lets nobody in, and certainly nobody in the clear.
    named["metadata"]["annotations"] = json!({"mantlet.dev/served-by": "orders"});
    api.put(SERVICES, named);
    client.until("10.96.0.1:80", "meshed").await;
    injector.metric_is("left_out_endpoints", &[], 2.0).await;
    api.event("ServedByInvalid").await;
    // Said once, however often anything changes.
    let mut again = pod("a", "10.1.0.1", "orders");
    again["metadata"]["annotations"]["mantlet.dev/policy"] = json!("allow shop/web to tcp on 8080");
    api.put(PODS, again);
    client.ask("10.1.0.1:8080").await;
    client.until("10.1.0.1:8080", "meshed 10.1.0.1:8080 shop/orders tcp").await;
    let reasons: Vec<_> = api.events().iter().map(|event| event["reason"].clone()).collect();
    assert_eq!(reasons, ["SeveralServiceAccounts", "EndpointsLeftOut", "ServedByInvalid"]);
}

#[tokio::test]
async fn a_service_with_affinity_keeps_its_address() {
    let api = Api::start().await;
    orders(&api);
    let injector = Injector::start(&api).await;
    let mut client = injector.client("shop/web").await;
    assert_eq!(client.ask("10.96.0.1:80").await, BOTH);
    for (field, value) in [("sessionAffinity", "ClientIP"), ("internalTrafficPolicy", "Local")] {
        let mut kept = service("orders", "10.96.0.1");
        kept["spec"][field] = json!(value);
        api.put(SERVICES, kept);
        client.until("10.96.0.1:80", &BOTH.replace("meshed", "meshed kept")).await;
        api.put(SERVICES, service("orders", "10.96.0.1"));
        client.until("10.96.0.1:80", BOTH).await;
    }
}
