//! The port's policy decides what is spoken; a peer's ALPN chooses only between HTTP versions.

use mantlet_testkit::apps::{App, Protocol, TcpApp};
use mantlet_testkit::client::{Http1, HttpClient, Request, exactly};
use rustls::AlertDescription;
use tokio::io::AsyncWriteExt;

use crate::common::{Inbound, app_and_inbound, assert_handshakes};

const HTTP: &str = "allow mesh to * /**\n";

async fn opaque() -> (TcpApp, Inbound) {
    let app = TcpApp::echo().await;
    let policy = format!("allow mesh to tcp on {}\n", app.port());
    let inbound = Inbound::start(app.addr(), &policy).await;
    (app, inbound)
}

#[tokio::test]
async fn an_http_port_chooses_among_the_http_versions_that_a_peer_offers() {
    let (_app, inbound) = app_and_inbound(Protocol::Http1, HTTP).await;
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], "h2"),
        (&["http/1.1", "h2"], "h2"),
        (&["http/1.1"], "http/1.1"),
        (&["mantlet-tcp", "http/1.1"], "http/1.1"),
        (&["mantlet-tcp", "h2", "http/1.1"], "h2"),
    ] {
        let session = inbound.peer("web/frontend").alpn(offered).connect(inbound.addr).await;
        assert_eq!(session.alpn.as_deref(), Some(chosen), "{offered:?}");
    }
}

#[tokio::test]
async fn a_peer_without_alpn_speaks_http_1_on_an_http_port() {
    let (app, inbound) = app_and_inbound(Protocol::Http1, HTTP).await;
    let session = inbound.peer("web/frontend").connect(inbound.addr).await;
    assert_eq!(session.alpn, None);
    let mut client = session.http(Protocol::Http1).await;
    assert_eq!(client.send(&Request::get("/one")).await.status, 200);
    assert_eq!(client.send(&Request::get("/two")).await.status, 200);
    assert_eq!(app.seen().len(), 2);
}

#[tokio::test]
async fn a_peer_without_alpn_speaks_http_2_on_an_http_port_by_its_preface() {
    let (app, inbound) = app_and_inbound(Protocol::Http1, HTTP).await;
    let session = inbound.peer("web/frontend").connect(inbound.addr).await;
    let mut client = session.http(Protocol::H2c).await;
    assert_eq!(client.send(&Request::get("/one")).await.status, 200);
    assert_eq!(app.only().target, "/one");
}

#[tokio::test]
async fn a_preface_in_single_bytes_is_still_http_2() {
    let (app, inbound) = app_and_inbound(Protocol::Http1, HTTP).await;
    let mut io = inbound.peer("web/frontend").connect(inbound.addr).await.into_io();
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
        io.write_all(&[*byte]).await.unwrap();
        io.flush().await.unwrap();
    }
    // An empty SETTINGS frame; the answer of an HTTP/2 server begins with its own.
    io.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    io.flush().await.unwrap();
    assert_eq!(exactly(&mut io, 9).await[3], 4, "a SETTINGS frame");
    assert_eq!(app.seen(), []);
}

#[tokio::test]
async fn a_protocol_that_the_port_does_not_speak_is_refused_in_the_handshake() {
    let (app, inbound) = app_and_inbound(Protocol::Http1, HTTP).await;
    for wrong in ["mantlet-tcp", "h3", "spdy/3", "HTTP/1.1"] {
        let alert = inbound.peer("web/frontend").alpn(&[wrong]).refused(inbound.addr).await;
        assert_eq!(alert, AlertDescription::NoApplicationProtocol, "{wrong}");
    }
    assert_handshakes(&inbound.sidecar, "inbound", "alpn", 4.0).await;
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn an_opaque_port_speaks_no_http() {
    let (app, inbound) = opaque().await;
    for wrong in [&["h2"][..], &["http/1.1"], &["h2", "http/1.1"]] {
        let alert = inbound.peer("web/frontend").alpn(wrong).refused(inbound.addr).await;
        assert_eq!(alert, AlertDescription::NoApplicationProtocol, "{wrong:?}");
    }
    let all = ["h2", "http/1.1", "mantlet-tcp"];
    let session = inbound.peer("web/frontend").alpn(&all).connect(inbound.addr).await;
    assert_eq!(session.alpn.as_deref(), Some("mantlet-tcp"));
    assert_handshakes(&inbound.sidecar, "inbound", "alpn", 3.0).await;
    drop(app);
}

#[tokio::test]
async fn a_peer_without_alpn_relays_bytes_on_an_opaque_port() {
    let (app, inbound) = opaque().await;
    let mut io = inbound.peer("web/frontend").connect(inbound.addr).await.into_io();
    // Bytes that look like HTTP are bytes.
    io.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    io.flush().await.unwrap();
    assert_eq!(exactly(&mut io, 18).await, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(app.received(), b"GET / HTTP/1.1\r\n\r\n");
}

#[tokio::test]
async fn a_port_without_rules_denies_in_whatever_is_spoken() {
    let app = App::start(Protocol::Http1).await;
    let inbound = Inbound::start(app.addr(), "allow web/frontend to GET / on 1\n").await;
    for (offered, chosen) in [
        (&["h2", "http/1.1", "mantlet-tcp"][..], "h2"),
        (&["mantlet-tcp", "http/1.1"], "http/1.1"),
        (&["mantlet-tcp"], "mantlet-tcp"),
    ] {
        let session = inbound.peer("web/frontend").alpn(offered).connect(inbound.addr).await;
        assert_eq!(session.alpn.as_deref(), Some(chosen), "{offered:?}");
        match chosen {
            "h2" => {
                let response = session.http(Protocol::H2c).await.send(&Request::get("/")).await;
                assert_eq!((response.status, response.denied().as_deref()), (403, Some("default")));
            }
            "http/1.1" => {
                let response = session.http(Protocol::Http1).await.send(&Request::get("/")).await;
                assert_eq!((response.status, response.denied().as_deref()), (403, Some("default")));
            }
            _ => {
                let mut client = Http1::new(session.into_io());
                assert_eq!(client.closed().await, b"");
            }
        }
    }
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn bytes_that_are_no_http_end_an_http_connection() {
    let (app, inbound) = app_and_inbound(Protocol::Http1, HTTP).await;
    let HttpClient::Http1(mut client) = inbound.http("web/frontend", Protocol::Http1).await else {
        unreachable!()
    };
    client.write(b"\x00\x01\x02 not http at all\r\n\r\n").await.unwrap();
    let said = String::from_utf8_lossy(&client.closed().await).into_owned();
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 400 "), "{said}");
    assert_eq!(app.connections(), 0);
    let closed = [("direction", "inbound"), ("reason", "protocol")];
    inbound.sidecar.metric_reaches("mantlet_connections_closed_total", &closed, 1.0).await;
}
