//! Crowds at a door: handshakes that do not go on, and requests that wait for a connection. Others come in.

use mantlet_testkit::apps::{App, Protocol, RawApp};
use mantlet_testkit::client::{Http2, HttpClient, Request};
use mantlet_testkit::{descriptors, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::common::{Inbound, sidecar};

const ALLOW: &str = "allow mesh to * /**\n";
const LIMITS: &str = "mantlet_limits_reached_total";

#[tokio::test]
async fn handshakes_that_do_not_go_on_lose_their_place_to_those_that_do() {
    /// As many as may be in progress at a time, see docs/limits.md.
    const MOST: usize = 512;
    const MORE: usize = 40;
    let _ = descriptors::raise();
    let app = App::start(Protocol::Http1).await;
    let patient = |sidecar: mantlet_testkit::sidecar::SidecarBuilder| {
        sidecar.policy(ALLOW).arg("--handshake-timeout", "60s")
    };
    let inbound = Inbound::with(app.addr(), patient).await;
    let mut before = inbound.http("web/frontend", Protocol::Http1).await;
    assert_eq!(before.send(&Request::get("/")).await.status, 200);
    let mut stalled = Vec::new();
    for _ in 0..MOST + MORE {
        let mut io = TcpStream::connect(inbound.addr).await.unwrap();
        // The first byte of a record, and nothing after it.
        io.write_all(&[0x16]).await.unwrap();
        stalled.push(io);
    }
    let labels = [("limit", "handshakes")];
    inbound.sidecar.metric_reaches(LIMITS, &labels, MORE as f64).await;
    // Those who come meanwhile, and those who are in. One who is done leaves a place to the next.
    for _ in 0..3 {
        let mut during = inbound.http("web/other", Protocol::H2c).await;
        assert_eq!(during.send(&Request::get("/")).await.status, 200);
        assert_eq!(before.send(&Request::get("/")).await.status, 200);
    }
    let metrics = inbound.sidecar.metrics().await;
    assert_eq!(metrics.sum(LIMITS, &labels), (MORE + 1) as f64);
    let closed = [("direction", "inbound"), ("reason", "limit")];
    inbound.sidecar.metric_reaches("mantlet_connections_closed_total", &closed, (MORE + 1) as f64).await;
    // The oldest are those that ended.
    for io in &mut stalled[..=MORE] {
        let mut sink = [0; 1];
        let end = within("the end of a handshake", io.read(&mut sink)).await;
        assert!(!end.is_ok_and(|count| count > 0));
    }
    let io = stalled.last().unwrap();
    assert!(io.try_read(&mut [0; 1]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
}

#[tokio::test]
async fn requests_that_wait_for_one_upstream_are_limited_and_go_on_to_another() {
    /// As many as may wait, see docs/limits.md.
    const MOST: usize = 1024;
    const CONNECTIONS: usize = 11;
    const STREAMS: usize = 95;
    let app = App::start(Protocol::Http1).await;
    let inbound = Inbound::start(app.addr(), ALLOW).await;
    // Takes connections and does no handshake.
    let silent = RawApp::start().await;
    let caller = sidecar().identity(&inbound.authority.workload("web/frontend"));
    let caller = caller.arg("--handshake-timeout", "60s");
    let caller = caller.outbound(silent.addr(), "shop/orders as http");
    let caller = caller.outbound(inbound.addr, "shop/orders as http").start().await;
    let (stuck, free) = (caller.outbound(0).await, caller.outbound(1).await);
    let (mut waiting, mut clients) = (JoinSet::new(), Vec::<Http2>::new());
    for _ in 0..CONNECTIONS {
        let HttpClient::Http2(mut client) = HttpClient::plain(stuck, Protocol::H2c).await else {
            unreachable!("asked for HTTP/2")
        };
        for _ in 0..STREAMS {
            let mut stream = client.open(&Request::get("/"), true).await.unwrap();
            waiting.spawn(async move { stream.head().await.unwrap() });
        }
        clients.push(client);
    }
    let refused = CONNECTIONS * STREAMS - MOST;
    for _ in 0..refused {
        let response = within("a refusal", waiting.join_next()).await.unwrap().unwrap();
        assert_eq!((response.status, response.error().as_deref()), (503, Some("limit")));
    }
    let labels = [("limit", "pending_requests")];
    assert_eq!(caller.metrics().await.sum(LIMITS, &labels), refused as f64);
    let mut elsewhere = HttpClient::plain(free, Protocol::Http1).await;
    assert_eq!(elsewhere.send(&Request::get("/")).await.status, 200);
    assert!(waiting.try_join_next().is_none(), "the others wait");
}
