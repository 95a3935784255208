//! Moving in: a workload without a policy, where the installation says to count and not to refuse.

use mantlet_testkit::Io;
use mantlet_testkit::apps::{App, Protocol, TcpApp};
use mantlet_testkit::client::{HttpClient, Request, connect, exactly};
use mantlet_testkit::wait::eventually;
use tokio::io::AsyncWriteExt;

use crate::common::{BOTH, Inbound};

async fn unconfigured(app: std::net::SocketAddr, mode: &str) -> Inbound {
    Inbound::with(app, |sidecar| sidecar.arg("--unconfigured", mode)).await
}

async fn would_deny(inbound: &Inbound, layer: &str) {
    let labels = [("layer", layer), ("decision", "would_deny"), ("reason", "no_policy")];
    inbound.sidecar.metric_reaches("mantlet_authz_decisions_total", &labels, 1.0).await;
}

#[tokio::test]
async fn in_audit_http_without_a_rule_passes_and_is_counted() {
    for protocol in BOTH {
        let app = App::start(protocol).await;
        let inbound = unconfigured(app.addr(), "audit").await;
        // The caller's sidecar does not know what is spoken there either.
        let (_caller, addr) = inbound.caller("web/frontend", "").await;
        let response = HttpClient::plain(addr, protocol).await.send(&Request::get("/anything")).await;
        assert_eq!(response.status, 200, "{protocol:?}");
        would_deny(&inbound, "http").await;
    }
}

#[tokio::test]
async fn in_audit_a_server_that_speaks_first_is_heard_without_delay() {
    let app = TcpApp::banner("220 ready\r\n").await;
    let inbound = unconfigured(app.addr(), "audit").await;
    let (_caller, addr) = inbound.caller("web/frontend", "").await;
    let mut io: Io = Box::new(connect(addr).await);
    assert_eq!(exactly(&mut io, 11).await, b"220 ready\r\n");
    would_deny(&inbound, "tcp").await;
}

/// The frame that servers of HTTP/2 may send at once, before the client's preface.
const SETTINGS: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];
/// `GET / HTTP/2` on stream 1, with the indexed fields of RFC 7541, appendix A, and the authority `a`.
const GET: &[u8] = &[0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x84, 0x86, 0x41, 1, b'a'];

#[tokio::test]
async fn in_audit_an_http_2_server_that_greets_at_once_is_not_taken_for_opaque_bytes() {
    let app = TcpApp::banner(SETTINGS).await;
    let inbound = unconfigured(app.addr(), "audit").await;
    let (_caller, addr) = inbound.caller("web/frontend", "").await;
    let mut io = connect(addr).await;
    eventually("the application has greeted", async || (app.connections() == 1).then_some(())).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    io.write_all(&[preface, GET].concat()).await.unwrap();
    would_deny(&inbound, "http").await;
}

#[tokio::test]
async fn in_audit_a_client_that_speaks_no_http_first_is_relayed() {
    let app = TcpApp::echo().await;
    let inbound = unconfigured(app.addr(), "audit").await;
    let (_caller, addr) = inbound.caller("web/frontend", "").await;
    let mut io: Io = Box::new(connect(addr).await);
    // Begins like a method, and is none.
    for piece in ["P", "O", "NG"] {
        io.write_all(piece.as_bytes()).await.unwrap();
    }
    assert_eq!(exactly(&mut io, 4).await, b"PONG");
}

#[tokio::test]
async fn in_audit_a_caller_without_identity_is_still_refused() {
    let app = App::start(Protocol::Http1).await;
    let inbound = unconfigured(app.addr(), "audit").await;
    let mut client = HttpClient::plain(inbound.addr, Protocol::Http1).await;
    assert!(client.try_send(&Request::get("/")).await.is_err());
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn permissive_lets_callers_without_identity_in_and_counts_them() {
    let app = App::start(Protocol::Http1).await;
    let inbound = unconfigured(app.addr(), "permissive").await;
    let response = HttpClient::plain(inbound.addr, Protocol::Http1).await.send(&Request::get("/")).await;
    assert_eq!(response.status, 200);
    would_deny(&inbound, "http").await;
    let plaintext = [("direction", "inbound"), ("transport", "plaintext")];
    inbound.sidecar.metric_reaches("mantlet_connections_opened_total", &plaintext, 1.0).await;
    let mesh = inbound.http("web/frontend", Protocol::Http1).await.send(&Request::get("/")).await;
    assert_eq!(mesh.status, 200, "the mesh goes on beside it");
}

#[tokio::test]
async fn permissive_passes_tls_that_an_application_does_itself() {
    let app = TcpApp::echo().await;
    let inbound = unconfigured(app.addr(), "permissive").await;
    let mut io: Io = Box::new(connect(inbound.addr).await);
    // A record of type handshake whose hello offers none of our protocols: not for us.
    let hello = [0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0];
    io.write_all(&hello).await.unwrap();
    assert_eq!(exactly(&mut io, hello.len()).await, hello);
}
