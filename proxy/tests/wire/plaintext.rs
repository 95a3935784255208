//! Callers without identity, where a rule names their address.

use mantlet_testkit::Io;
use mantlet_testkit::apps::{App, Protocol, TcpApp};
use mantlet_testkit::client::{Http1, HttpClient, Request, TlsClient, connect, exactly, until_end};
use tokio::io::AsyncWriteExt;

use crate::common::{BOTH, Inbound, app_and_inbound, assert_handshakes};

const POLICY: &str = "allow plaintext(127.0.0.0/8) to GET /healthz as health\n\
                      allow web/frontend to GET /orders/** as read\n";

#[tokio::test]
async fn a_plaintext_caller_gets_what_a_rule_gives_it_and_a_bare_refusal_otherwise() {
    for protocol in BOTH {
        let (app, inbound) = app_and_inbound(Protocol::Http1, POLICY).await;
        let mut client = HttpClient::plain(inbound.addr, protocol).await;
        assert_eq!(client.send(&Request::get("/healthz")).await.status, 200);
        let seen = app.only();
        assert_eq!(seen.header("x-forwarded-client-cert"), Vec::<String>::new());
        let refused = client.send(&Request::get("/orders/1")).await;
        assert_eq!((refused.status, refused.text().as_str()), (403, ""));
        assert_eq!(refused.header("x-mantlet-denied"), Vec::<String>::new());
        assert_eq!(app.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_plaintext_caller_cannot_claim_an_identity() {
    let (app, inbound) = app_and_inbound(Protocol::Http1, POLICY).await;
    let mut client = HttpClient::plain(inbound.addr, Protocol::Http1).await;
    let forged = "By=a;URI=spiffe://td.test/ns/web/sa/frontend;Hash=0";
    let claim = |target: &str| {
        Request::get(target)
            .header("x-forwarded-client-cert", forged)
            .header("x-forwarded-for", "127.0.0.1")
            .header("x-mantlet-proto", "1.1")
    };
    assert_eq!(client.send(&claim("/orders/1")).await.status, 403);
    assert_eq!(client.send(&claim("/healthz")).await.status, 200);
    let names = app.only().names();
    assert!(!names.iter().any(|name| name == "x-forwarded-client-cert" || name.starts_with("x-mantlet-")));
}

#[tokio::test]
async fn the_first_byte_tells_tls_from_plaintext_and_tls_needs_a_certificate() {
    let (app, inbound) = app_and_inbound(Protocol::Http1, POLICY).await;
    let mut client = inbound.http("web/frontend", Protocol::H2c).await;
    assert_eq!(client.send(&Request::get("/orders/1")).await.status, 200);
    TlsClient::anonymous().alpn(&["http/1.1"]).refused(inbound.addr).await;
    assert_handshakes(&inbound.sidecar, "inbound", "no_peer_cert", 1.0).await;
    assert_eq!(app.seen().len(), 1);
}

#[tokio::test]
async fn an_address_that_no_rule_names_is_refused() {
    let app = App::start(Protocol::Http1).await;
    let inbound = Inbound::start(app.addr(), "allow plaintext(10.0.0.0/8) to GET /healthz\n").await;
    let mut client = HttpClient::plain(inbound.addr, Protocol::Http1).await;
    assert_eq!(client.send(&Request::get("/healthz")).await.status, 403);
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn bytes_of_a_plaintext_caller_are_relayed_where_a_rule_says_so() {
    let app = TcpApp::echo().await;
    let policy = format!("allow plaintext(127.0.0.1/32) to tcp on {}\n", app.port());
    let inbound = Inbound::start(app.addr(), &policy).await;
    let mut io: Io = Box::new(connect(inbound.addr).await);
    io.write_all(b"ping").await.unwrap();
    assert_eq!(exactly(&mut io, 4).await, b"ping");
}

#[tokio::test]
async fn a_silent_plaintext_caller_is_closed() {
    let (_app, inbound) = app_and_inbound(Protocol::Http1, POLICY).await;
    let mut io: Io = Box::new(connect(inbound.addr).await);
    assert_eq!(until_end(&mut io).await, b"");
    let timeout = [("direction", "inbound"), ("reason", "timeout")];
    inbound.sidecar.metric_reaches("mantlet_connections_closed_total", &timeout, 1.0).await;
}

#[tokio::test]
async fn a_port_whose_plaintext_rule_is_gone_takes_no_plaintext() {
    let (_app, inbound) = app_and_inbound(Protocol::Http1, POLICY).await;
    inbound.sidecar.set_policy("allow web/frontend to GET /orders/**\n");
    mantlet_testkit::eventually("plaintext to be refused", async || {
        let mut client = Http1::new(Box::new(connect(inbound.addr).await));
        client.raw("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.is_err().then_some(())
    })
    .await;
}
