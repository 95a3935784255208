//! The API server away, back, and forgetful.

use tonic::Code;

use crate::api::{Api, PODS, SERVICES, SLICES};
use crate::client::Client;
use crate::injector::Injector;
use crate::objects::{orders, pod, slice};

const BOTH: &str = "meshed 10.1.0.1:8080 shop/orders http, 10.1.0.2:8080 shop/orders http";
const ONE: &str = "meshed 10.1.0.1:8080 shop/orders http";

#[tokio::test]
async fn before_the_whole_cluster_is_known_nobody_is_answered() {
    let api = Api::start().await;
    orders(&api);
    // More than a page, and the second one never comes.
    api.put_all(PODS, (0..300).map(|n| pod(&format!("more-{n}"), &format!("10.2.1.{}", n % 250), "orders")));
    api.break_pages(true);
    let injector = Injector::spawn(api.kubeconfig(), &[]).await;
    injector.metric_reaches("relists_total", &[("kind", "services")], 1.0).await;
    injector.metric_reaches("watch_errors_total", &[("kind", "pods")], 2.0).await;
    injector.metric_reaches("cert_not_after_timestamp_seconds", &[], 1.0).await;
    let io = injector.connect(&injector.authority.workload("shop/web")).await;
    assert_eq!(Client::over(io).await.err().unwrap().code(), Code::Unavailable);
    assert_eq!(injector.metric("stream_ends_total", &[("reason", "not_ready")]).await, 1.0);
    assert_eq!(injector.metric("objects", &[("kind", "pods")]).await, 0.0);
    let told = async || {
        let text = injector.get("/readyz").await.text();
        text.contains("directory: pods are not known yet\n").then_some(())
    };
    mantlet_testkit::eventually("what is missing", told).await;
    api.break_pages(false);
    injector.event("directory_ready").await;
    assert_eq!(injector.client("shop/web").await.ask("10.96.0.1:80").await, BOTH);
}

#[tokio::test]
async fn a_stream_lives_through_an_outage_and_hears_what_it_missed() {
    let api = Api::start().await;
    orders(&api);
    let injector = Injector::start(&api).await;
    let mut client = injector.client("shop/web").await;
    assert_eq!(client.ask("10.96.0.1:80").await, BOTH);
    api.set_down(true);
    injector.metric_reaches("watch_errors_total", &[("kind", "endpointslices")], 1.0).await;
    // What was known holds, for new streams too.
    assert_eq!(injector.client("shop/api").await.ask("10.96.0.1:80").await, BOTH);
    api.put(SLICES, slice("orders", &[("a", "10.1.0.1")]));
    api.set_down(false);
    client.until("10.96.0.1:80", ONE).await;
    // From where it was: nothing was listed again.
    assert_eq!(api.lists(SLICES), 1);
}

#[tokio::test]
async fn what_the_api_server_has_forgotten_is_listed_again_and_only_the_difference_is_told() {
    let api = Api::start().await;
    orders(&api);
    let injector = Injector::start(&api).await;
    let mut client = injector.client("shop/web").await;
    assert_eq!(client.ask("10.96.0.1:80").await, BOTH);
    assert_eq!(client.ask("10.1.0.2:80").await, "meshed 10.1.0.2:80 shop/orders ?");
    // What happens meanwhile is in no watch's history.
    api.set_down(true);
    injector.metric_reaches("watch_errors_total", &[("kind", "pods")], 1.0).await;
    api.put(SLICES, slice("orders", &[("a", "10.1.0.1")]));
    api.delete(PODS, "shop", "b");
    api.forget();
    api.set_down(false);
    client.until("10.96.0.1:80", ONE).await;
    client.until("10.1.0.2:80", "unknown").await;
    for path in [PODS, SERVICES, SLICES] {
        mantlet_testkit::eventually("a second list", async || (api.lists(path) == 2).then_some(())).await;
    }
    injector.metric_reaches("relists_total", &[], 6.0).await;
    // Nothing else was said: neither an answer from half a list nor one that is as it was.
    client.ask("10.1.0.1:80").await;
    assert_eq!(injector.metric("answers_total", &[]).await, 5.0);
}

#[tokio::test]
async fn a_watch_that_ends_goes_on_from_where_it_was() {
    let api = Api::start().await;
    orders(&api);
    let injector = Injector::start(&api).await;
    let mut client = injector.client("shop/web").await;
    assert_eq!(client.ask("10.96.0.1:80").await, BOTH);
    for round in 1..=3 {
        let before = api.watches(SLICES);
        api.cut();
        mantlet_testkit::eventually("a new watch", async || (api.watches(SLICES) > before).then_some(()))
            .await;
        let pods: &[_] =
            if round % 2 == 1 { &[("a", "10.1.0.1")] } else { &[("a", "10.1.0.1"), ("b", "10.1.0.2")] };
        api.put(SLICES, slice("orders", pods));
        client.until("10.96.0.1:80", if round % 2 == 1 { ONE } else { BOTH }).await;
    }
    assert_eq!((api.lists(SLICES), injector.metric("watch_errors_total", &[]).await), (1, 0.0));
}
