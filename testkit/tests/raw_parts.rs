//! The raw applications, clients and peers among themselves: a positive control for every wire test.

#![allow(clippy::unwrap_used, missing_docs)]

use mantlet_testkit::Io;
use mantlet_testkit::apps::{App, Protocol, RawApp, Reply, TcpApp};
use mantlet_testkit::client::{Http1, HttpClient, Request, TlsClient, connect, exactly};
use mantlet_testkit::peer::TlsPeer;
use mantlet_testkit::pki::{Authority, Malformed};
use rustls::NamedGroup;
use tokio::io::AsyncWriteExt;

const BOTH: [Protocol; 2] = [Protocol::Http1, Protocol::H2c];

#[tokio::test]
async fn an_app_sees_what_a_client_sends() {
    for protocol in BOTH {
        let app = App::start(protocol).await;
        let mut client = HttpClient::plain(app.addr(), protocol).await;
        let request =
            Request::new("POST", "/a/b?c=d").header("x-one", "1").body("data").trailer("x-sum", "9");
        let response = client.send(&request).await;
        assert_eq!((response.status, response.text().as_str()), (200, "hello"));
        let seen = app.only();
        assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/a/b?c=d"));
        assert_eq!(seen.authority.as_deref(), Some("app.test"));
        assert_eq!((seen.header("X-One"), seen.trailer("x-sum")), (vec!["1".into()], vec!["9".into()]));
        assert_eq!(seen.body, b"data");
        assert_eq!(client.send(&Request::get("/")).await.status, 200);
        assert_eq!(app.connections(), 1);
    }
}

#[tokio::test]
async fn trailers_and_chunks_arrive() {
    for protocol in BOTH {
        let reply = Reply::ok("body").header("x-head", "h").trailer("x-end", "t");
        let app = App::with(protocol, move |_| std::future::ready(reply.clone())).await;
        let response = HttpClient::plain(app.addr(), protocol).await.send(&Request::get("/")).await;
        assert_eq!(response.text(), "body");
        assert_eq!(response.header("x-head"), ["h"]);
        assert_eq!(response.trailer("x-end"), ["t"]);
    }
}

#[tokio::test]
async fn an_open_response_notices_that_it_is_cut() {
    for protocol in BOTH {
        let app = App::with(protocol, |_| std::future::ready(Reply::open("first"))).await;
        match HttpClient::plain(app.addr(), protocol).await {
            HttpClient::Http1(mut client) => {
                client.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
                assert_eq!(client.read_head().await.unwrap().status, 200);
                assert_eq!(client.exactly(10).await.unwrap(), b"5\r\nfirst\r\n");
            }
            HttpClient::Http2(mut client) => {
                let mut stream = client.open(&Request::get("/"), true).await.unwrap();
                assert_eq!(stream.head().await.unwrap().status, 200);
                assert_eq!(stream.data().await.unwrap().unwrap(), "first");
            }
        }
        app.wait_for_cut(1).await;
    }
}

#[tokio::test]
async fn tcp_apps_echo_and_speak_first() {
    let app = TcpApp::banner("220 hello\r\n").await;
    let mut io: Io = Box::new(connect(app.addr()).await);
    assert_eq!(exactly(&mut io, 11).await, b"220 hello\r\n");
    io.write_all(b"ping").await.unwrap();
    assert_eq!(exactly(&mut io, 4).await, b"ping");
    drop(io);
    app.wait_for_closed(1).await;
    assert_eq!((app.received(), app.connections()), (b"ping".to_vec(), 1));
}

#[tokio::test]
async fn a_raw_app_hands_its_connections_to_the_test() {
    let app = RawApp::start().await;
    let mut client = Http1::new(Box::new(connect(app.addr()).await));
    let mut io = app.accept().await;
    io.write_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n\r\nuntil the end").await.unwrap();
    drop(io);
    assert_eq!(client.read().await.unwrap().text(), "until the end");
    assert_eq!(app.connections(), 1);
}

#[tokio::test]
async fn a_peer_and_a_client_see_each_other_whatever_their_certificates_say() {
    let authority = Authority::new("td.test");
    let server = authority.malformed(Malformed::TwoUriSans, "spiffe://td.test/ns/a/sa/server");
    let client = authority.malformed(Malformed::TrailingBytes, "spiffe://td.test/ns/a/sa/client");
    let peer = TlsPeer::start(&server, &["h2", "http/1.1"]).await;
    let tls = TlsClient::new(&client).alpn(&["http/1.1", "mantlet-tcp"]);
    // A leaf that does not parse fails at the signature, so only its refusal is tested with it.
    let (accepted, _) = tokio::join!(peer.try_accept(), tls.handshake(peer.addr()));
    assert!(accepted.is_err());

    let client = authority.malformed(Malformed::Expired, "spiffe://td.test/ns/a/sa/client");
    let tls = TlsClient::new(&client).alpn(&["http/1.1", "mantlet-tcp"]);
    let (accepted, session) = tokio::join!(peer.accept(), tls.connect(peer.addr()));
    assert_eq!(accepted.offered, ["http/1.1", "mantlet-tcp"]);
    assert_eq!(accepted.alpn.as_deref(), Some("http/1.1"));
    assert_eq!(accepted.chain, client.chain);
    assert_eq!(accepted.groups[0], NamedGroup::X25519MLKEM768);
    assert_eq!(session.chain, server.chain);
    assert_eq!(session.group, Some(NamedGroup::X25519MLKEM768));
    let (mut inside, mut outside) = (accepted.into_io(), session.into_io());
    inside.write_all(b"through").await.unwrap();
    inside.flush().await.unwrap();
    assert_eq!(exactly(&mut outside, 7).await, b"through");
}

#[tokio::test]
async fn a_client_is_told_why_it_is_refused() {
    let authority = Authority::new("td.test");
    let peer = TlsPeer::start(&authority.workload("a/b"), &["h2"]).await;
    let svid = authority.workload("a/c");
    let refused = async |client: TlsClient| {
        let addr = peer.addr();
        let (accepted, alert) = tokio::join!(peer.try_accept(), client.refused(addr));
        assert!(accepted.is_err());
        alert
    };
    let alert = refused(TlsClient::new(&svid).alpn(&["nothing"])).await;
    assert_eq!(alert, rustls::AlertDescription::NoApplicationProtocol);
    let alert = refused(TlsClient::anonymous().alpn(&["h2"])).await;
    assert_eq!(alert, rustls::AlertDescription::CertificateRequired);
}
