//! Bytes between two apps through two sidecars.

use mantlet_testkit::apps::TcpApp;
use mantlet_testkit::client::{connect, exactly, exchange, until_end};
use mantlet_testkit::{Io, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::Inbound;

async fn inbound(app: &TcpApp, peers: &str) -> Inbound {
    Inbound::start(app.addr(), &format!("allow {peers} to tcp on {} as pg\n", app.port())).await
}

#[tokio::test]
async fn bytes_cross_two_sidecars_in_both_directions() {
    let app = TcpApp::echo().await;
    let inbound = inbound(&app, "data/etl").await;
    let (_caller, addr) = inbound.caller("data/etl", " as tcp").await;
    let sent: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 253) as u8).collect();
    let (mut read, mut write) = connect(addr).await.into_split();
    let writing = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut echoed = Vec::new();
    let reading = async { read.read_to_end(&mut echoed).await.unwrap() };
    within("the echo", async { tokio::join!(writing, reading) }).await;
    assert!(echoed == sent, "{} of {} bytes came back", echoed.len(), sent.len());
    assert!(app.received() == sent);
    let eof = [("direction", "inbound"), ("reason", "eof")];
    inbound.sidecar.metric_reaches("mantlet_connections_closed_total", &eof, 1.0).await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_at_once() {
    let app = TcpApp::banner("220 ready\r\n").await;
    let inbound = inbound(&app, "data/etl").await;
    let (_caller, addr) = inbound.caller("data/etl", " as tcp").await;
    let mut io: Io = Box::new(connect(addr).await);
    assert_eq!(exactly(&mut io, 11).await, b"220 ready\r\n");
    io.write_all(b"HELO\r\n").await.unwrap();
    assert_eq!(exactly(&mut io, 6).await, b"HELO\r\n");
}

#[tokio::test]
async fn half_a_connection_can_be_closed() {
    let app = TcpApp::echo().await;
    let inbound = inbound(&app, "data/etl").await;
    let (_caller, addr) = inbound.caller("data/etl", " as tcp").await;
    let mut socket = connect(addr).await;
    socket.write_all(b"last words").await.unwrap();
    socket.shutdown().await.unwrap();
    let mut io: Io = Box::new(socket);
    assert_eq!(until_end(&mut io).await, b"last words");
    app.wait_for_closed(1).await;
}

#[tokio::test]
async fn a_denied_peer_is_closed_before_the_app_is_reached() {
    for banner in ["", "220 ready\r\n"] {
        let app = TcpApp::banner(banner).await;
        let inbound = inbound(&app, "data/etl").await;
        let (_caller, addr) = inbound.caller("web/frontend", " as tcp").await;
        let mut io: Io = Box::new(connect(addr).await);
        assert_eq!(exchange(&mut io, b"hello?").await, b"");
        assert_eq!(app.connections(), 0);
        let denied = [("direction", "inbound"), ("reason", "denied")];
        inbound.sidecar.metric_reaches("mantlet_connections_closed_total", &denied, 1.0).await;
        let decision = [("layer", "tcp"), ("decision", "deny"), ("reason", "default")];
        let metrics = inbound.sidecar.metrics().await;
        assert_eq!(metrics.sum("mantlet_authz_decisions_total", &decision), 1.0);
    }
}

#[tokio::test]
async fn an_app_that_is_down_closes_the_connection_and_is_counted() {
    let app = TcpApp::echo().await;
    let inbound = inbound(&app, "data/etl").await;
    drop(app);
    let mut io = inbound.peer("data/etl").alpn(&["mantlet-tcp"]).connect(inbound.addr).await.into_io();
    assert_eq!(exchange(&mut io, b"hello?").await, b"");
    let connect = [("direction", "inbound"), ("reason", "connect")];
    inbound.sidecar.metric_reaches("mantlet_connections_closed_total", &connect, 1.0).await;
}
