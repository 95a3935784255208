//! Numbers that an operator reads: each is what happened, once.

use std::time::Duration;

use mantlet_testkit::apps::{App, Protocol, Reply, TcpApp};
use mantlet_testkit::client::{Request, exactly, until_end};
use tokio::io::AsyncWriteExt as _;

use crate::common::Inbound;

#[tokio::test]
async fn grpc_calls_are_counted_by_the_status_in_their_trailers() {
    let app = App::with(Protocol::H2c, async |seen| {
        let status = if seen.target.ends_with("/Get") { "5" } else { "77" };
        Reply::ok([0, 0, 0, 0, 0]).header("content-type", "application/grpc").trailer("grpc-status", status)
    })
    .await;
    let inbound = Inbound::start(app.addr(), "allow web/bff to grpc shop.v1.Orders/* as orders\n").await;
    let mut client = inbound.http("web/bff", Protocol::H2c).await;
    for target in ["/shop.v1.Orders/Get", "/shop.v1.Orders/Put", "/shop.v1.Other/Get"] {
        client.send(&Request::new("POST", target).header("content-type", "application/grpc")).await;
    }
    inbound.sidecar.metric_reaches("mantlet_grpc_responses_total", &[], 3.0).await;
    let metrics = inbound.sidecar.metrics().await;
    let peer = ("peer", "spiffe://td.test/ns/web/sa/bff");
    for (status, route) in [("5", "/shop.v1.Orders/*"), ("_OTHER", "/shop.v1.Orders/*"), ("7", "-")] {
        let labels = [peer, ("direction", "inbound"), ("grpc_status", status), ("route", route)];
        assert_eq!(metrics.sum("mantlet_grpc_responses_total", &labels), 1.0, "{labels:?} in {metrics:#?}");
    }
}

#[tokio::test]
async fn the_bytes_of_an_opaque_connection_are_counted_to_the_last_one() {
    let app = TcpApp::banner("welcome").await;
    let inbound =
        Inbound::start(app.addr(), &format!("allow web/bff to tcp on {} as bytes\n", app.addr().port()))
            .await;
    let mut io = inbound.peer("web/bff").alpn(&["mantlet-tcp"]).connect(inbound.addr).await.into_io();
    exactly(&mut io, 7).await;
    io.write_all(&[7; 100_000]).await.unwrap();
    exactly(&mut io, 100_000).await;
    io.shutdown().await.unwrap();
    until_end(&mut io).await;
    let bytes = "mantlet_connection_bytes_total";
    inbound.sidecar.metric_reaches(bytes, &[("io", "write")], 100_007.0).await;
    let metrics = inbound.sidecar.metrics().await;
    assert_eq!(metrics.sum(bytes, &[("direction", "inbound"), ("io", "read")]), 100_000.0);
    assert_eq!(metrics.sum(bytes, &[("direction", "inbound"), ("io", "write")]), 100_007.0);
}

#[tokio::test]
async fn the_overhead_of_a_request_leaves_out_the_time_that_the_app_took() {
    let slow = Duration::from_millis(300);
    let app = App::with(Protocol::Http1, move |_| async move {
        tokio::time::sleep(slow).await;
        Reply::ok("slow")
    })
    .await;
    let inbound = Inbound::start(app.addr(), "allow web/bff to GET /** as read\n").await;
    let mut client = inbound.http("web/bff", Protocol::Http1).await;
    assert_eq!(client.send(&Request::get("/orders/1")).await.status, 200);
    let inbound_only = [("direction", "inbound")];
    inbound.sidecar.metric_reaches("mantlet_http_request_duration_seconds_count", &inbound_only, 1.0).await;
    let metrics = inbound.sidecar.metrics().await;
    assert_eq!(metrics.sum("mantlet_http_proxy_overhead_seconds_count", &inbound_only), 1.0);
    let whole = metrics.sum("mantlet_http_request_duration_seconds_sum", &inbound_only);
    let own = metrics.sum("mantlet_http_proxy_overhead_seconds_sum", &inbound_only);
    assert!(whole - own >= slow.as_secs_f64(), "{own} of {whole}");
}

#[tokio::test]
async fn a_rule_that_nobody_uses_shows_as_zero_and_goes_with_the_policy() {
    let app = App::start(Protocol::Http1).await;
    let policy = "allow web/bff to GET /orders/** as read\nallow web/bff to POST /orders as write\n";
    let inbound = Inbound::start(app.addr(), policy).await;
    let mut client = inbound.http("web/bff", Protocol::Http1).await;
    client.send(&Request::get("/orders/1")).await;
    let hits = "mantlet_policy_rule_hits_total";
    let metrics = inbound.sidecar.metrics().await;
    assert_eq!(metrics.sum(hits, &[("rule", "read")]), 1.0);
    assert_eq!(metrics.count(hits, &[("rule", "write")]), 1);
    assert_eq!(metrics.sum(hits, &[("rule", "write")]), 0.0);
    assert_eq!(metrics.sum("mantlet_policy_reloads_total", &[("result", "accepted")]), 1.0);
    inbound.sidecar.set_policy("allow web/bff to GET /orders/** as read\n");
    inbound.sidecar.metric_reaches("mantlet_policy_reloads_total", &[("result", "accepted")], 2.0).await;
    let metrics = inbound.sidecar.metrics().await;
    assert_eq!(metrics.sum(hits, &[("rule", "read")]), 1.0);
    assert_eq!(metrics.count(hits, &[("rule", "write")]), 0);
}

#[tokio::test]
async fn a_connection_says_what_keeps_it_secret_and_an_idle_pool_shows() {
    let app = App::start(Protocol::Http1).await;
    let inbound = Inbound::with(app.addr(), |sidecar| {
        sidecar.policy("allow web/bff to GET /** as read\n").arg("--metrics-level", "full")
    })
    .await;
    let mut client = inbound.http("web/bff", Protocol::Http1).await;
    assert_eq!(client.send(&Request::get("/")).await.status, 200);
    let metrics = inbound.sidecar.metrics().await;
    let session = [("direction", "inbound"), ("version", "1.3"), ("group", "X25519MLKEM768")];
    assert_eq!(metrics.sum("mantlet_tls_sessions_total", &session), 1.0);
    inbound.sidecar.metric_reaches("mantlet_upstream_pool_connections", &[("state", "idle")], 1.0).await;
    let metrics = inbound.sidecar.metrics().await;
    assert_eq!(metrics.sum("mantlet_upstream_pool_connections", &[("state", "busy")]), 0.0);
    assert_eq!(metrics.sum("mantlet_tls_provider_info", &[("provider", "aws_lc_rs")]), 1.0);
}

#[tokio::test]
async fn bundles_show_who_vouches_and_until_when() {
    let app = App::start(Protocol::Http1).await;
    let inbound = Inbound::start(app.addr(), "allow web/bff to GET /** as read\n").await;
    let metrics = inbound.sidecar.metrics().await;
    let domain = [("trust_domain", "td.test")];
    assert_eq!(metrics.sum("mantlet_identity_bundle_authorities", &domain), 1.0);
    let bundle = metrics.sum("mantlet_identity_bundle_not_after_timestamp_seconds", &domain);
    assert!(bundle > metrics.sum("mantlet_identity_not_before_timestamp_seconds", &[]));
    assert!(metrics.sum("mantlet_identity_refreshes_total", &[("result", "updated")]) >= 1.0);
}
