//! D26-D29: every change of protocol is its own permission.

use mantlet_testkit::Io;
use mantlet_testkit::apps::{Protocol, RawApp};
use mantlet_testkit::client::{Http1, HttpClient, Request, exactly};
use tokio::io::AsyncWriteExt;

use crate::common::Inbound;
use crate::fixture::{Fixture, denied, verdict};

const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test]
async fn d26_an_h2c_upgrade_is_served_as_http_1() {
    let f = Fixture::start().await;
    let request = "GET /orders/1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n\
                   Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    assert_eq!(f.raw("web/bff", request).await.status, 200);
    let seen = f.app.only();
    assert_eq!(seen.version, "HTTP/1.1");
    let names = seen.names();
    assert!(!names.iter().any(|name| name == "upgrade" || name == "http2-settings"), "{names:?}");
    assert!(!seen.header("connection").iter().any(|value| value.to_ascii_lowercase().contains("upgrade")));
}

#[tokio::test]
async fn d27_a_grant_of_get_is_no_grant_of_websocket() {
    let f = Fixture::start().await;
    let response = f.raw("web/bff", format!("GET /orders/ws HTTP/1.1\r\nHost: a\r\n{WEBSOCKET}\r\n")).await;
    assert_eq!(verdict(&response), denied("default"));
    f.assert_untouched();
}

async fn websocket() -> (RawApp, Inbound, Http1) {
    let app = RawApp::start().await;
    let inbound = Inbound::start(app.addr(), "allow web/live to WEBSOCKET /orders/stream\n").await;
    let HttpClient::Http1(client) = inbound.http("web/live", Protocol::Http1).await else { unreachable!() };
    (app, inbound, client)
}

/// The head of the request that the app is sent.
async fn head(io: &mut Io) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(exactly(io, 1).await);
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

#[tokio::test]
async fn d28_a_refusal_of_the_app_is_relayed() {
    let (app, _inbound, mut client) = websocket().await;
    client.write(format!("GET /orders/stream HTTP/1.1\r\nHost: a\r\n{WEBSOCKET}\r\n")).await.unwrap();
    let mut io: Io = Box::new(app.accept().await);
    head(&mut io).await;
    io.write_all(b"HTTP/1.1 426 Upgrade Required\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
    let response = client.read().await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (426, "no"));
}

#[tokio::test]
async fn d29_connect_is_never_a_tunnel() {
    let f = Fixture::start().await;
    let response = f.raw("ops/dev", "CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n").await;
    assert_eq!(response.status, 405, "{response:?}");
    let connect = Request::new("CONNECT", "/");
    if let Ok(response) = f.h2("ops/dev").await.send(&connect).await {
        assert!([400, 405].contains(&response.status), "{response:?}");
    }
    f.assert_untouched();
}

#[tokio::test]
async fn d29_authority_form_and_asterisk_form_match_no_rule() {
    let f = Fixture::start().await;
    for (line, statuses) in [
        ("GET orders.shop", &[400, 405][..]),
        ("GET *", &[400]),
        ("OPTIONS *", &[403]),
        ("OPTIONS http://a", &[403]),
    ] {
        let response = f.raw("ops/dev", format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert!(statuses.contains(&response.status), "{line}: {response:?}");
    }
    f.assert_untouched();
}

#[tokio::test]
async fn d28_a_granted_websocket_relays_after_101() {
    let (app, _inbound, mut client) = websocket().await;
    client.write(format!("GET /orders/stream HTTP/1.1\r\nHost: a\r\n{WEBSOCKET}\r\n")).await.unwrap();
    let mut io: Io = Box::new(app.accept().await);
    let head = head(&mut io).await;
    assert!(head.contains("upgrade: websocket\r\n") && head.contains("sec-websocket-key: "), "{head}");
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nfirst";
    io.write_all(switch.as_bytes()).await.unwrap();
    let response = client.read().await.unwrap();
    assert_eq!((response.status, response.header("upgrade")), (101, vec!["websocket".to_owned()]));
    assert_eq!(client.exactly(5).await.unwrap(), b"first");
    client.write(b"ping").await.unwrap();
    assert_eq!(exactly(&mut io, 4).await, b"ping");
    io.write_all(b"pong").await.unwrap();
    assert_eq!(client.exactly(4).await.unwrap(), b"pong");
}

#[tokio::test]
async fn d28_an_answer_of_200_is_no_upgrade_and_early_bytes_are_not_relayed() {
    let (app, _inbound, mut client) = websocket().await;
    let early = [b'x'; 1024];
    let head_bytes = format!("GET /orders/stream HTTP/1.1\r\nHost: a\r\n{WEBSOCKET}\r\n");
    client.write([head_bytes.as_bytes(), &early].concat()).await.unwrap();
    let mut io: Io = Box::new(app.accept().await);
    head(&mut io).await;
    io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
    let response = client.read().await.unwrap();
    assert_eq!(response.status, 502, "a WEBSOCKET grant is no GET grant: {response:?}");
    // The connection to the app ends, and none of the early bytes came on it.
    assert_eq!(mantlet_testkit::client::until_end(&mut io).await, b"");
    assert_eq!(app.connections(), 1);
}
