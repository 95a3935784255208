//! What takes too long ends, with a reason and a clear answer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mantlet_testkit::Io;
use mantlet_testkit::apps::{App, Protocol, RawApp, Reply};
use mantlet_testkit::client::{HttpClient, Request, connect, until_end};
use mantlet_testkit::pki::Authority;
use mantlet_testkit::sidecar::{Sidecar, SidecarBuilder};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::common::{BOTH, Inbound, sidecar};

async fn never(protocol: Protocol) -> App {
    App::with(protocol, |_| std::future::pending::<Reply>()).await
}

async fn answer(sidecar: &Sidecar, protocol: Protocol) -> (u16, Option<String>) {
    let mut client = HttpClient::plain(sidecar.outbound(0).await, protocol).await;
    let response = client.send(&Request::get("/")).await;
    (response.status, response.error())
}

#[tokio::test]
async fn an_app_that_does_not_answer_in_time_is_a_504_on_either_side() {
    for protocol in BOTH {
        let app = never(protocol).await;
        let policy = "allow mesh to * /**\n";
        let limited = |sidecar: SidecarBuilder| sidecar.policy(policy).arg("--response-timeout", "300ms");
        let inbound = Inbound::with(app.addr(), limited).await;
        let (caller, _) = inbound.caller("web/frontend", " as http").await;
        assert_eq!(answer(&caller, protocol).await, (504, Some("timeout".to_owned())), "{protocol:?}");
        let patient = Inbound::start(app.addr(), policy).await;
        let caller = sidecar().identity(&patient.authority.workload("web/frontend"));
        let caller = caller.arg("--response-timeout", "300ms").outbound(patient.addr, "shop/orders as http");
        let caller = caller.start().await;
        assert_eq!(answer(&caller, protocol).await, (504, Some("timeout".to_owned())), "{protocol:?}");
        let mut call = HttpClient::plain(caller.outbound(0).await, Protocol::H2c).await;
        let grpc = Request::new("POST", "/a.B/C").header("content-type", "application/grpc");
        let response = call.send(&grpc).await;
        assert_eq!((response.status, response.header("grpc-status")), (200, vec!["4".to_owned()]));
    }
}

#[tokio::test]
async fn a_peer_that_accepts_and_says_nothing_is_a_503_and_bytes_are_closed() {
    for rest in ["", " as http", " as tcp"] {
        let authority = Authority::new("td.test");
        let silent = RawApp::start().await;
        let caller = sidecar().identity(&authority.workload("web/frontend"));
        let caller = caller.arg("--handshake-timeout", "300ms");
        let caller = caller.outbound(silent.addr(), &format!("shop/orders{rest}")).start().await;
        if rest == " as http" {
            assert_eq!(answer(&caller, Protocol::Http1).await, (503, Some("timeout".to_owned())));
        } else {
            let mut io: Io = Box::new(connect(caller.outbound(0).await).await);
            let _ = io.write_all(b"hello").await;
            assert!(until_end(&mut io).await.is_empty());
            let labels = [("direction", "outbound"), ("reason", "timeout")];
            caller.metric_reaches("mantlet_connections_closed_total", &labels, 1.0).await;
        }
        caller.metric_reaches("mantlet_upstream_connects_total", &[("result", "timeout")], 1.0).await;
    }
}

/// A listener whose queue is full: whoever connects gets no answer. It lives as long as what is returned.
async fn full() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    // What is answered at all on loopback is answered at once. A machine that stands still fills the queue later.
    while let Ok(connected) = tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(addr)).await
    {
        queue.push(connected.unwrap());
    }
    (addr, listener, queue)
}

#[tokio::test]
async fn an_upstream_whose_queue_is_full_is_a_503_within_the_connect_timeout_and_bytes_are_closed() {
    let (addr, _listener, _queue) = full().await;
    let policy = "allow mesh to * /**\n";
    let impatient = |sidecar: SidecarBuilder| sidecar.arg("--connect-timeout", "300ms");
    let timeout = (503, Some("timeout".to_owned()));
    // The kernel would try for two minutes.
    let soon = Duration::from_secs(10);

    let inbound = Inbound::with(addr, |sidecar| impatient(sidecar.policy(policy))).await;
    let begun = Instant::now();
    let response = inbound.http("web/frontend", Protocol::Http1).await.send(&Request::get("/")).await;
    assert_eq!((response.status, response.error()), timeout);
    assert!(begun.elapsed() < soon, "{:?}", begun.elapsed());
    inbound.sidecar.metric_reaches("mantlet_upstream_connects_total", &[("result", "timeout")], 1.0).await;

    for rest in [" as http", " as tcp", ""] {
        let authority = Authority::new("td.test");
        let caller = impatient(sidecar()).identity(&authority.workload("web/frontend"));
        let caller = caller.outbound(addr, &format!("shop/orders{rest}")).start().await;
        let begun = Instant::now();
        if rest == " as http" {
            assert_eq!(answer(&caller, Protocol::Http1).await, timeout);
        } else {
            let mut io: Io = Box::new(connect(caller.outbound(0).await).await);
            assert!(until_end(&mut io).await.is_empty());
            let labels = [("direction", "outbound"), ("reason", "timeout")];
            caller.metric_reaches("mantlet_connections_closed_total", &labels, 1.0).await;
        }
        assert!(begun.elapsed() < soon, "{rest}: {:?}", begun.elapsed());
        assert_eq!(
            caller.metrics().await.sum("mantlet_upstream_connects_total", &[("result", "timeout")]),
            1.0
        );
    }
}
