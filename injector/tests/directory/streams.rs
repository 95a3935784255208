//! What one stream may cost, and what it costs the others.

use std::time::Instant;

use mantlet_proto::directory::{Address, question::Kind};
use serde_json::json;
use tonic::Code;

use crate::api::{Api, PODS};
use crate::injector::Injector;
use crate::objects::{orders, pod};

#[tokio::test]
async fn a_stream_that_wants_too_much_or_asks_nonsense_ends_with_the_reason() {
    let api = Api::start().await;
    orders(&api);
    let injector = Injector::start(&api).await;
    for (ip, port) in [(vec![1, 2, 3], 80), (vec![10, 0, 0, 1], 0), (vec![10, 0, 0, 1], 65_536), (vec![], 1)]
    {
        let mut client = injector.client("shop/web").await;
        client.send(Kind::Follow(Address { ip, port })).await;
        assert_eq!(client.ended().await.code(), Code::InvalidArgument);
    }
    // One family in the clothes of the other.
    let mut client = injector.client("shop/web").await;
    client.follow("[::ffff:10.1.0.1]:80").await;
    assert_eq!(client.ended().await.code(), Code::InvalidArgument);
    let mut client = injector.client("shop/web").await;
    client.send(Kind::Follow(Address { ip: vec![0; 4096], port: 80 })).await;
    assert_ne!(client.ended().await.code(), Code::Ok);

    let mut client = injector.client("shop/web").await;
    for n in 0..4096 {
        client.follow(&format!("10.9.{}.{}:80", n / 256, n % 256)).await;
    }
    for _ in 0..4096 {
        assert_eq!(client.next().await.unwrap().1, "unknown");
    }
    // The same again is no further one.
    client.ask("10.9.0.0:80").await;
    client.forget("10.9.0.0:80").await;
    client.ask("10.96.0.1:80").await;
    client.follow("10.9.0.0:80").await;
    assert_eq!(client.ended().await.code(), Code::ResourceExhausted);
    drop(client);
    injector.metric_is("followed_addresses", &[], 0.0).await;
    injector.metric_is("subscribers", &[], 0.0).await;
    assert_eq!(injector.metric("stream_ends_total", &[("reason", "limit")]).await, 1.0);
}

#[tokio::test]
async fn a_reader_that_stands_still_delays_nobody_and_finds_the_last_state() {
    let api = Api::start().await;
    orders(&api);
    let many: Vec<(String, String)> =
        (0..200).map(|n| (format!("many-{n}"), format!("10.3.0.{n}"))).collect();
    let version = |n: u32| {
        let pods = many.iter().map(move |(name, ip)| pod(name, ip, &format!("v{n}")));
        pods.collect::<Vec<_>>()
    };
    api.put_all(PODS, version(0));
    let injector = Injector::start(&api).await;
    let (mut slow, mut quick) = (injector.client("shop/slow").await, injector.client("shop/quick").await);
    for (_, ip) in &many {
        slow.ask(&format!("{ip}:80")).await;
    }
    quick.ask("10.3.0.199:80").await;
    // Far more than any window or buffer on the way holds.
    for n in 1..=40 {
        api.put_all(PODS, version(n));
        quick.until("10.3.0.199:80", &format!("meshed 10.3.0.199:80 shop/v{n} ?")).await;
    }
    // It missed most of what was said, and nothing of what holds.
    let last = |ip: &str| format!("meshed {ip}:80 shop/v40 ?");
    for (_, ip) in &many {
        slow.until(&format!("{ip}:80"), &last(ip)).await;
    }
    let answers = injector.metric("answers_total", &[]).await;
    assert!(answers < 3_000.0, "{answers} of 8 000");
}

#[tokio::test]
async fn changes_in_quick_succession_are_told_as_few() {
    let api = Api::start().await;
    orders(&api);
    let injector = Injector::start(&api).await;
    let mut client = injector.client("shop/web").await;
    client.ask("10.1.0.1:80").await;
    let changes = (1..=500).map(|n| pod("a", "10.1.0.1", &format!("v{n}")));
    let begun = Instant::now();
    api.put_all(PODS, changes);
    client.until("10.1.0.1:80", "meshed 10.1.0.1:80 shop/v500 ?").await;
    let answers = injector.metric("answers_total", &[]).await;
    // The first, one at once, and then one for each 50 ms, however long a busy machine takes over the changes.
    let most = 2.0 + begun.elapsed().as_secs_f64() / 0.05;
    assert!(answers <= most, "{answers} of {most}");
}

#[tokio::test]
async fn a_process_that_stops_tells_its_streams_to_go_elsewhere() {
    let api = Api::start().await;
    orders(&api);
    let mut injector = Injector::start(&api).await;
    let mut client = injector.client("shop/web").await;
    client.ask("10.96.0.1:80").await;
    injector.terminate();
    let status = client.ended().await;
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "connect again: drain"));
    assert!(injector.exited().await.success());
}

#[tokio::test]
async fn an_object_with_everything_that_may_be_missing_in_it_stops_nothing() {
    let api = Api::start().await;
    orders(&api);
    let injector = Injector::start(&api).await;
    let mut client = injector.client("shop/web").await;
    for path in [PODS, crate::api::SERVICES, crate::api::SLICES] {
        api.put(path, json!({"metadata": {"name": "bare", "namespace": "shop"}}));
        api.put(
            path,
            json!({
                "metadata": {"name": "null", "namespace": "shop", "labels": null, "annotations": null},
                "spec": {"containers": null, "ports": null, "clusterIPs": null}, "status": {"podIPs": null},
                "endpoints": null, "ports": null,
            }),
        );
    }
    api.put(PODS, pod("new", "10.1.0.77", "orders"));
    client.follow("10.1.0.77:80").await;
    client.until("10.1.0.77:80", "meshed 10.1.0.77:80 shop/orders ?").await;
    assert_eq!(injector.metric("watch_errors_total", &[]).await, 0.0);
}
