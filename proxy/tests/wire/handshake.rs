//! TLS 1.3 alone, a client certificate always, and nobody who cannot prove one good identity.

use std::collections::BTreeMap;

use mantlet_testkit::Io;
use mantlet_testkit::apps::Protocol;
use mantlet_testkit::client::{Http1, Request, TlsClient, client_hello_of_tls12, connect, exchange};
use mantlet_testkit::pki::{Authority, KeyType, LeafConstraints, Malformed, SvidOptions};
use rustls::{AlertDescription, NamedGroup};

use crate::common::{app_and_inbound, assert_handshakes};

const ALLOW: &str = "allow mesh to * /**\n";
const PEER: &str = "spiffe://td.test/ns/web/sa/frontend";

#[tokio::test]
async fn a_caller_without_a_certificate_is_refused_in_the_handshake() {
    let (app, inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
    let alert = TlsClient::anonymous().alpn(&["http/1.1"]).refused(inbound.addr).await;
    assert_eq!(alert, AlertDescription::CertificateRequired);
    assert_handshakes(&inbound.sidecar, "inbound", "no_peer_cert", 1.0).await;
    assert_eq!(app.connections(), 0);
}

/// X5-X12, X17-X20 and X23 over a real socket, each counted under its reason.
#[tokio::test]
async fn x05_x06_x07_x08_x09_x10_x11_x12_x17_x18_x19_x20_x23_malformed_certificates_are_refused_and_counted()
{
    let (app, inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
    let mut expected = BTreeMap::new();
    for clause in Malformed::ALL {
        let client = TlsClient::new(&inbound.authority.malformed(*clause, PEER)).alpn(&["http/1.1"]);
        client.refused(inbound.addr).await;
        let count = expected.entry(clause.reason()).or_insert(0.0);
        *count += 1.0;
        assert_handshakes(&inbound.sidecar, "inbound", clause.reason(), *count).await;
    }
    let mut client = inbound.http("web/frontend", Protocol::Http1).await;
    assert_eq!(client.send(&Request::get("/")).await.status, 200, "a conforming peer is let in");
    assert_eq!(app.seen().len(), 1, "and no other request arrived");
}

#[tokio::test]
async fn x20_an_empty_chain_is_no_certificate() {
    let (_app, inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
    let mut svid = inbound.authority.svid(PEER);
    svid.chain.clear();
    let alert = TlsClient::new(&svid).alpn(&["h2"]).refused(inbound.addr).await;
    assert_eq!(alert, AlertDescription::CertificateRequired);
}

#[tokio::test]
async fn x13_x14_an_identity_of_a_trust_domain_without_a_bundle_is_refused() {
    let (_app, inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
    let foreign = Authority::new("other.test").svid("spiffe://other.test/ns/web/sa/frontend");
    TlsClient::new(&foreign).alpn(&["h2"]).refused(inbound.addr).await;
    let signed_here = inbound.authority.svid("spiffe://other.test/ns/web/sa/frontend");
    TlsClient::new(&signed_here).alpn(&["h2"]).refused(inbound.addr).await;
    assert_handshakes(&inbound.sidecar, "inbound", "no_bundle", 2.0).await;
}

#[tokio::test]
async fn x01_x02_x03_x04_x21_every_conforming_identity_is_let_in() {
    let (app, inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
    let authority = &inbound.authority;
    let options = SvidOptions::new(PEER);
    let peers = [
        ("a P-256 leaf below the root", authority.svid(PEER)),
        ("an intermediate", authority.intermediate().svid(PEER)),
        ("two intermediates", authority.intermediate().intermediate().svid(PEER)),
        ("a DNS SAN", authority.issue(&SvidOptions { dns: vec!["web.test".into()], ..options.clone() })),
        ("an empty subject", authority.issue(&SvidOptions { common_name: None, ..options.clone() })),
        (
            "no extended key usage",
            authority.issue(&SvidOptions { ext_key_usages: vec![], ..options.clone() }),
        ),
        (
            "no basic constraints",
            authority.issue(&SvidOptions { constraints: LeafConstraints::Absent, ..options.clone() }),
        ),
        ("a P-384 leaf", authority.issue(&options.clone().with_key(KeyType::P384))),
        ("an RSA leaf", authority.issue(&options.with_key(KeyType::Rsa2048))),
    ];
    for (count, (what, svid)) in peers.into_iter().enumerate() {
        let mut client = TlsClient::new(&svid).http(inbound.addr, Protocol::Http1).await;
        let response = client.try_send(&Request::get("/")).await;
        assert_eq!(response.map(|response| response.status).ok(), Some(200), "{what}");
        assert_eq!(app.seen().len(), count + 1);
    }
}

#[tokio::test]
async fn tls_1_2_is_refused_with_protocol_version() {
    let (app, inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
    let mut io: Io = Box::new(connect(inbound.addr).await);
    let said = exchange(&mut io, &client_hello_of_tls12()).await;
    assert_eq!(said, [21, 3, 3, 0, 2, 2, 70], "one alert record: fatal, protocol_version");
    assert_handshakes(&inbound.sidecar, "inbound", "protocol", 1.0).await;
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn plain_http_on_a_mesh_port_is_closed_unanswered() {
    let (app, inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
    let mut client = Http1::new(Box::new(connect(inbound.addr).await));
    client.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let said = client.closed().await;
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn post_quantum_key_exchange_is_preferred_and_classical_is_accepted() {
    let (_app, inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
    let peer = inbound.peer("web/frontend").alpn(&["h2"]);
    let session = peer.connect(inbound.addr).await;
    assert_eq!((session.group, session.retried), (Some(NamedGroup::X25519MLKEM768), false));
    let classical = peer.clone().groups(&[NamedGroup::X25519]).connect(inbound.addr).await;
    assert_eq!((classical.group, classical.retried), (Some(NamedGroup::X25519), false));
}

#[tokio::test]
async fn no_ticket_is_ever_sent() {
    let (_app, inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
    let session = inbound.peer("web/frontend").alpn(&["http/1.1"]).connect(inbound.addr).await;
    let (io, tickets) = session.into_io_and_tickets();
    let mut client = Http1::new(io);
    // Tickets would follow the client's Finished and stand before the first response.
    for _ in 0..3 {
        assert_eq!(client.send(&Request::get("/")).await.unwrap().status, 200);
    }
    assert_eq!(tickets(), 0);
}

#[tokio::test]
async fn the_sidecar_presents_its_own_chain() {
    let (_app, inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
    let session = inbound.peer("web/frontend").alpn(&["h2"]).connect(inbound.addr).await;
    assert_eq!(session.chain, inbound.svid.chain);
}
