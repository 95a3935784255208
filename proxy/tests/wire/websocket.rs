//! WebSocket through two sidecars.

use mantlet_testkit::apps::RawApp;
use mantlet_testkit::client::{Http1, connect, exactly, until_end};
use mantlet_testkit::{Io, TempDir};
use tokio::io::AsyncWriteExt;

use crate::common::Inbound;

const ASK: &str = "GET /orders/stream HTTP/1.1\r\nHost: orders.shop\r\nConnection: keep-alive, Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                        Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const GRANT: &str = "allow web/live to WEBSOCKET /orders/stream as live\n";

/// A WebSocket from the app's client to the app, open.
async fn open(rest: &str) -> (Inbound, mantlet_testkit::sidecar::Sidecar, Http1, Io) {
    let app = RawApp::start().await;
    let inbound = Inbound::start(app.addr(), GRANT).await;
    let (caller, addr) = inbound.caller("web/live", rest).await;
    let mut client = Http1::new(Box::new(connect(addr).await));
    client.write(ASK).await.unwrap();
    let mut io: Io = Box::new(app.accept().await);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(exactly(&mut io, 1).await);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("get /orders/stream http/1.1\r\n"), "{head}");
    for line in
        ["connection: upgrade\r\n", "upgrade: websocket\r\n", "sec-websocket-key: ", "host: orders.shop\r\n"]
    {
        assert!(head.contains(line), "{line}: {head}");
    }
    assert!(head.contains("uri=spiffe://td.test/ns/web/sa/live;"), "{head}");
    io.write_all(SWITCH).await.unwrap();
    let response = client.read().await.unwrap();
    assert_eq!((response.status, response.header("upgrade")), (101, vec!["websocket".to_owned()]));
    assert_eq!(response.header("sec-websocket-protocol"), ["chat"]);
    (inbound, caller, client, io)
}

#[tokio::test]
async fn a_websocket_crosses_two_sidecars_in_both_directions() {
    for rest in [" as http", ""] {
        let (_inbound, _caller, mut client, mut io) = open(rest).await;
        io.write_all(b"from the app").await.unwrap();
        assert_eq!(client.exactly(12).await.unwrap(), b"from the app");
        client.write(b"from the client").await.unwrap();
        assert_eq!(exactly(&mut io, 15).await, b"from the client");
        drop(client);
        assert_eq!(until_end(&mut io).await, b"");
    }
}

/// In front of a raw app, with this policy in audit mode.
async fn audited(policy: &str) -> (RawApp, Inbound, TempDir) {
    let (app, dir) = (RawApp::start().await, TempDir::new());
    let text = format!("mantlet.dev/policy={policy:?}\nmantlet.dev/mode=\"audit until 2099-01-01T00:00Z\"\n");
    let file = dir.file("annotations", text);
    let inbound =
        Inbound::with(app.addr(), |sidecar| sidecar.arg("--annotations", file.display().to_string())).await;
    (app, inbound, dir)
}

/// What the app is asked, in lower case.
async fn head_of(io: &mut Io) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(exactly(io, 1).await);
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

#[tokio::test]
async fn in_audit_a_websocket_whose_path_has_no_single_meaning_goes_on_as_one_and_is_counted() {
    for (target, reason) in [("/orders//stream;v=1", "malformed"), ("/orders/stream", "default")] {
        let (app, inbound, _dir) = audited("allow web/other to GET /\n").await;
        let (_caller, addr) = inbound.caller("web/live", " as http").await;
        let mut client = Http1::new(Box::new(connect(addr).await));
        client.write(ASK.replace("/orders/stream", target)).await.unwrap();
        let mut io: Io = Box::new(app.accept().await);
        let head = head_of(&mut io).await;
        assert!(head.starts_with(&format!("get {target} http/1.1\r\n")), "{head}");
        assert!(
            head.contains("connection: upgrade\r\n") && head.contains("upgrade: websocket\r\n"),
            "{head}"
        );
        io.write_all(SWITCH).await.unwrap();
        assert_eq!(client.read().await.unwrap().status, 101, "{target}");
        client.write(b"from the client").await.unwrap();
        assert_eq!(exactly(&mut io, 15).await, b"from the client");
        io.write_all(b"from the app").await.unwrap();
        assert_eq!(client.exactly(12).await.unwrap(), b"from the app");
        let labels = [("layer", "http"), ("decision", "would_deny"), ("reason", reason)];
        inbound.sidecar.metric_reaches("mantlet_authz_decisions_total", &labels, 1.0).await;
    }
}

#[tokio::test]
async fn in_audit_an_app_that_answers_a_websocket_as_an_ordinary_request_is_heard() {
    let (app, inbound, _dir) = audited("allow web/live to WEBSOCKET /orders/stream\n").await;
    let (_caller, addr) = inbound.caller("web/live", " as http").await;
    let mut client = Http1::new(Box::new(connect(addr).await));
    client.write(ASK).await.unwrap();
    let mut io: Io = Box::new(app.accept().await);
    head_of(&mut io).await;
    io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await.unwrap();
    let response = client.read().await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    // What might have been sent behind the question is read by nobody.
    client.closed().await;
}

#[tokio::test]
async fn an_open_websocket_ends_when_its_grant_goes() {
    let (inbound, _caller, mut client, mut io) = open(" as http").await;
    inbound.sidecar.set_policy("allow web/live to GET /orders/stream\n");
    assert_eq!(client.closed().await, b"");
    assert_eq!(until_end(&mut io).await, b"");
    let policy = [("direction", "inbound"), ("reason", "policy")];
    inbound.sidecar.metric_reaches("mantlet_connections_closed_total", &policy, 1.0).await;
}

#[tokio::test]
async fn a_websocket_without_a_grant_is_refused_through_two_sidecars() {
    let app = RawApp::start().await;
    let inbound = Inbound::start(app.addr(), "allow web/live to GET /orders/stream\n").await;
    let (_caller, addr) = inbound.caller("web/live", " as http").await;
    let mut client = Http1::new(Box::new(connect(addr).await));
    let response = client.raw(ASK).await.unwrap();
    assert_eq!((response.status, response.denied().as_deref()), (403, Some("default")));
    client.closed().await;
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn a_switch_to_anything_else_is_no_answer() {
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\nhidden",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tls\r\n\r\nhidden",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nUpgrade: tls\r\nConnection: Upgrade\r\n\r\nhidden",
    ] {
        let app = RawApp::start().await;
        let inbound = Inbound::start(app.addr(), GRANT).await;
        let mut client =
            Http1::new(inbound.peer("web/live").alpn(&["http/1.1"]).connect(inbound.addr).await.into_io());
        client.write(ASK).await.unwrap();
        let mut io: Io = Box::new(app.accept().await);
        io.write_all(answer.as_bytes()).await.unwrap();
        assert_eq!(client.read().await.unwrap().status, 502, "{answer}");
        assert_eq!(client.closed().await, b"");
    }
}

#[tokio::test]
async fn bytes_behind_a_refused_websocket_are_not_read_as_a_request() {
    let app = RawApp::start().await;
    let inbound = Inbound::start(app.addr(), "allow web/live to GET /secret\n").await;
    let mut client =
        Http1::new(inbound.peer("web/live").alpn(&["http/1.1"]).connect(inbound.addr).await.into_io());
    client.write(format!("{ASK}GET /secret HTTP/1.1\r\nHost: a\r\n\r\n")).await.unwrap();
    assert_eq!(client.read().await.unwrap().status, 403);
    assert_eq!(client.closed().await, b"");
    assert_eq!(app.connections(), 0);
}
