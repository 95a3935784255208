//! What the outbound side offers, whom it believes, and how it learns the protocol.

use mantlet_testkit::Io;
use mantlet_testkit::apps::{App, Protocol, TcpApp};
use mantlet_testkit::client::{Http1, HttpClient, Request, connect, exactly, until_end};
use mantlet_testkit::peer::TlsPeer;
use mantlet_testkit::pki::{Authority, Malformed};
use mantlet_testkit::sidecar::Sidecar;
use rustls::NamedGroup;
use tokio::io::AsyncWriteExt;

use crate::common::{BOTH, Inbound, ORDERS, assert_handshakes, sidecar};

struct Caller {
    authority: Authority,
    sidecar: Sidecar,
    addr: std::net::SocketAddr,
}

/// A sidecar of `web/frontend` whose outbound listener leads to this peer, which is to be `shop/orders`.
async fn caller(authority: &Authority, peer: &TlsPeer, rest: &str) -> Caller {
    let sidecar = sidecar().identity(&authority.workload("web/frontend"));
    let sidecar = sidecar.outbound(peer.addr(), &format!("shop/orders{rest}")).start().await;
    let addr = sidecar.outbound(0).await;
    Caller { authority: authority.clone(), sidecar, addr }
}

#[tokio::test]
async fn the_protocol_of_a_line_decides_what_is_offered_and_post_quantum_comes_first() {
    let authority = Authority::new("td.test");
    for (rest, offered) in [
        (" as http", &["h2", "http/1.1"][..]),
        (" as tcp", &["mantlet-tcp"]),
        (" as postgres", &["mantlet-tcp"]),
        ("", &["h2", "http/1.1", "mantlet-tcp"]),
    ] {
        let peer = TlsPeer::start(&authority.svid(ORDERS), &["mantlet-tcp", "h2"]).await;
        let caller = caller(&authority, &peer, rest).await;
        let mut app = Http1::new(Box::new(connect(caller.addr).await));
        app.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let accepted = peer.accept().await;
        assert_eq!(accepted.offered, offered, "{rest:?}");
        assert_eq!(accepted.groups[0], NamedGroup::X25519MLKEM768);
        assert_eq!(accepted.group, Some(NamedGroup::X25519MLKEM768));
        let own = mantlet_testkit::pki::Authority::trust_domain(&caller.authority).to_owned();
        assert_eq!((own.as_str(), accepted.chain.len()), ("td.test", 1));
    }
}

#[tokio::test]
async fn a_peer_that_is_not_the_expected_one_gets_nothing() {
    let authority = Authority::new("td.test");
    let foreign = Authority::new("td.test");
    for (svid, reason) in [
        (authority.workload("shop/other"), "peer_not_expected"),
        (foreign.svid(ORDERS), "unknown_issuer"),
        (Authority::new("other.test").workload("shop/orders"), "no_bundle"),
        (authority.malformed(Malformed::TwoUriSans, ORDERS), "san_not_single_uri"),
        (authority.malformed(Malformed::Expired, ORDERS), "expired"),
        (authority.malformed(Malformed::LeafIsCa, ORDERS), "leaf_is_ca"),
    ] {
        let peer = TlsPeer::start(&svid, &["h2", "http/1.1"]).await;
        let caller = caller(&authority, &peer, " as http").await;
        let mut app = HttpClient::plain(caller.addr, Protocol::Http1).await;
        let request = Request::get("/secret");
        let (accepted, response) = tokio::join!(peer.try_accept(), app.send(&request));
        assert!(accepted.is_err(), "{reason}: the peer must not complete the handshake");
        assert_eq!((response.status, response.error().as_deref()), (502, Some("tls")), "{reason}");
        assert_handshakes(&caller.sidecar, "outbound", reason, 1.0).await;
    }
}

#[tokio::test]
async fn a_peer_that_refuses_the_protocol_is_an_error_and_no_plaintext() {
    let authority = Authority::new("td.test");
    let peer = TlsPeer::start(&authority.svid(ORDERS), &["h3"]).await;
    let caller = caller(&authority, &peer, " as http").await;
    let mut app = HttpClient::plain(caller.addr, Protocol::H2c).await;
    let request = Request::get("/");
    let (accepted, response) = tokio::join!(peer.try_accept(), app.send(&request));
    assert!(accepted.is_err());
    assert_eq!((response.status, response.error().as_deref()), (502, Some("tls")));
    assert_handshakes(&caller.sidecar, "outbound", "alpn", 1.0).await;
}

#[tokio::test]
async fn a_peer_that_is_down_is_a_connect_error() {
    let authority = Authority::new("td.test");
    let peer = TlsPeer::start(&authority.svid(ORDERS), &["h2"]).await;
    let caller = caller(&authority, &peer, " as http").await;
    drop(peer);
    for protocol in BOTH {
        let response = HttpClient::plain(caller.addr, protocol).await.send(&Request::get("/")).await;
        assert_eq!((response.status, response.error().as_deref()), (502, Some("connect")));
    }
    let mut grpc = HttpClient::plain(caller.addr, Protocol::H2c).await;
    let call = Request::new("POST", "/a.B/C").header("content-type", "application/grpc");
    let response = grpc.send(&call).await;
    assert_eq!((response.status, response.header("grpc-status")), (200, vec!["14".to_owned()]));
}

#[tokio::test]
async fn an_http_1_peer_of_another_make_is_served() {
    let authority = Authority::new("td.test");
    for alpn in [&["http/1.1"][..], &[]] {
        let peer = TlsPeer::start(&authority.svid(ORDERS), alpn).await;
        let caller = caller(&authority, &peer, " as http").await;
        let mut app = Http1::new(Box::new(connect(caller.addr).await));
        app.write("GET /orders/1 HTTP/1.1\r\nHost: orders.shop\r\n\r\n").await.unwrap();
        let mut io = peer.accept().await.into_io();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(exactly(&mut io, 1).await);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("get /orders/1 http/1.1\r\n"), "origin-form: {head}");
        assert!(head.contains("\r\nhost: orders.shop\r\n"), "{head}");
        assert!(head.contains("\r\nx-mantlet-proto: 1.1\r\n"), "{head}");
        io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
        io.flush().await.unwrap();
        assert_eq!(app.read().await.unwrap().text(), "hi");
    }
}

#[tokio::test]
async fn a_peer_is_asked_for_its_protocol_and_http_is_http() {
    for protocol in BOTH {
        let app = App::start(protocol).await;
        let inbound = Inbound::start(app.addr(), "allow web/frontend to GET /orders/**\n").await;
        let (_caller, addr) = inbound.caller("web/frontend", "").await;
        let mut client = HttpClient::plain(addr, protocol).await;
        assert_eq!(client.send(&Request::get("/orders/1")).await.status, 200);
        let denied = client.send(&Request::get("/other")).await;
        assert_eq!((denied.status, denied.denied().as_deref()), (403, Some("default")));
        // Remembered: the next connection of the app needs no question.
        let mut again = HttpClient::plain(addr, protocol).await;
        assert_eq!(again.send(&Request::get("/orders/2")).await.status, 200);
        assert_eq!(app.seen().len(), 2);
    }
}

#[tokio::test]
async fn a_peer_is_asked_for_its_protocol_and_bytes_are_bytes() {
    for banner in ["", "220 ready\r\n"] {
        let app = TcpApp::banner(banner).await;
        let policy = format!("allow web/frontend to tcp on {}\n", app.port());
        let inbound = Inbound::start(app.addr(), &policy).await;
        let (_caller, addr) = inbound.caller("web/frontend", "").await;
        for _ in 0..2 {
            let mut io: Io = Box::new(connect(addr).await);
            assert_eq!(exactly(&mut io, banner.len()).await, banner.as_bytes());
            io.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            assert_eq!(exactly(&mut io, 18).await, b"GET / HTTP/1.1\r\n\r\n");
        }
        assert_eq!(app.connections(), 2);
    }
}

#[tokio::test]
async fn an_opaque_connection_to_an_unexpected_peer_is_closed_with_nothing_sent() {
    let authority = Authority::new("td.test");
    for rest in [" as tcp", ""] {
        let peer = TlsPeer::start(&authority.workload("shop/other"), &["mantlet-tcp"]).await;
        let caller = caller(&authority, &peer, rest).await;
        let mut io: Io = Box::new(connect(caller.addr).await);
        let _ = io.write_all(b"password").await;
        let (accepted, said) = tokio::join!(peer.try_accept(), until_end(&mut io));
        assert!(accepted.is_err() && said.is_empty());
        let tls = [("direction", "outbound"), ("reason", "tls")];
        caller.sidecar.metric_reaches("mantlet_connections_closed_total", &tls, 1.0).await;
    }
}
