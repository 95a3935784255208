//! Two of them side by side, and one that comes back.

use tonic::Code;

use crate::api::{Api, PODS, SLICES};
use crate::client::Client;
use crate::injector::Injector;
use crate::objects::{orders, pod, slice};

const BOTH: &str = "meshed 10.1.0.1:8080 shop/orders http, 10.1.0.2:8080 shop/orders http";
const ONE: &str = "meshed 10.1.0.1:8080 shop/orders http";

#[tokio::test]
async fn replicas_say_the_same_and_a_stream_that_breaks_goes_on_with_the_other() {
    let api = Api::start().await;
    orders(&api);
    let (mut first, second) = (Injector::start(&api).await, Injector::start(&api).await);
    let (mut here, mut there) = (first.client("shop/web").await, second.client("shop/web").await);
    for client in [&mut here, &mut there] {
        assert_eq!(client.ask("10.96.0.1:80").await, BOTH);
    }
    api.put(SLICES, slice("orders", &[("a", "10.1.0.1")]));
    for client in [&mut here, &mut there] {
        client.until("10.96.0.1:80", ONE).await;
    }
    // One is killed: whoever was with it asks the other, and hears every change from there.
    first.child.start_kill().unwrap();
    first.exited().await;
    assert_ne!(here.ended().await.code(), Code::Ok);
    let mut here = second.client("shop/web").await;
    assert_eq!(here.ask("10.96.0.1:80").await, ONE);
    api.put(SLICES, slice("orders", &[("a", "10.1.0.1"), ("b", "10.1.0.2")]));
    for client in [&mut here, &mut there] {
        client.until("10.96.0.1:80", BOTH).await;
    }
}

#[tokio::test]
async fn a_replica_that_comes_back_answers_only_from_the_whole_and_names_nobody_who_left() {
    let api = Api::start().await;
    orders(&api);
    // More than a page of pods: those of the Service stand in the first one.
    api.put_all(PODS, (0..300).map(|n| pod(&format!("more-{n}"), &format!("10.2.1.{}", n % 250), "orders")));
    let mut injector = Injector::start(&api).await;
    assert_eq!(injector.client("shop/web").await.ask("10.96.0.1:80").await, BOTH);
    injector.terminate();
    injector.exited().await;
    // While it is away one leaves, and then the API server gives half of everything.
    api.put(SLICES, slice("orders", &[("a", "10.1.0.1")]));
    api.delete(PODS, "shop", "b");
    api.break_pages(true);
    let injector = Injector::spawn(api.kubeconfig(), &[]).await;
    injector.metric_reaches("relists_total", &[("kind", "endpointslices")], 1.0).await;
    injector.metric_reaches("watch_errors_total", &[("kind", "pods")], 1.0).await;
    injector.metric_reaches("cert_not_after_timestamp_seconds", &[], 1.0).await;
    let io = injector.connect(&injector.authority.workload("shop/web")).await;
    assert_eq!(Client::over(io).await.err().unwrap().code(), Code::Unavailable);
    assert_eq!(injector.metric("answers_total", &[]).await, 0.0);
    api.break_pages(false);
    injector.event("directory_ready").await;
    let mut client = injector.client("shop/web").await;
    assert_eq!(client.ask("10.96.0.1:80").await, ONE);
    assert_eq!(client.ask("10.1.0.2:8080").await, "unknown");
}
