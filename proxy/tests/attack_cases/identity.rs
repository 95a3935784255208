//! D42-D47, D55, D75: who a peer is, and for how long.

use std::time::Duration;

use mantlet_testkit::apps::{App, Protocol};
use mantlet_testkit::client::{HttpClient, Request, TlsClient, exactly, until_end};
use mantlet_testkit::eventually;
use mantlet_testkit::pki::{Malformed, SvidOptions};
use mantlet_testkit::workload_api::Answer;

use crate::common::{Inbound, ORDERS, assert_handshakes};
use crate::fixture::{Fixture, denied, verdict};

const PEER: &str = "spiffe://td.test/ns/ops/sa/oncall";

#[tokio::test]
async fn d42_two_identities_in_one_certificate_are_refused() {
    let f = Fixture::start().await;
    for clause in [Malformed::TwoUriSans, Malformed::SpiffeAndHttpsUri, Malformed::SecondUriUnreadable] {
        TlsClient::new(&f.authority.malformed(clause, PEER)).alpn(&["h2"]).refused(f.http_addr).await;
    }
    assert_handshakes(&f.sidecar, "inbound", "san_not_single_uri", 3.0).await;
    f.assert_untouched();
}

#[tokio::test]
async fn d43_a_federated_authority_cannot_speak_for_our_trust_domain() {
    let f = Fixture::start().await;
    let partner = f.partner.svid("spiffe://partner.test/ns/ful/sa/ship");
    let mut client = TlsClient::new(&partner).http(f.http_addr, Protocol::Http1).await;
    assert_eq!(client.send(&Request::get("/orders/1")).await.status, 200, "the federation works");
    TlsClient::new(&f.partner.svid(PEER)).alpn(&["h2"]).refused(f.http_addr).await;
    let ours = f.authority.svid("spiffe://partner.test/ns/ful/sa/ship");
    TlsClient::new(&ours).alpn(&["h2"]).refused(f.http_addr).await;
    assert_eq!(f.app.seen().len(), 1);
}

#[tokio::test]
async fn d44_a_star_ends_at_its_segment() {
    let app = App::start(Protocol::Http1).await;
    let inbound = Inbound::start(app.addr(), "allow pay/* to GET /\nallow shop-*/gw to GET /\n").await;
    for (peer, status) in [
        ("pay/ledger", 200),
        ("pay-evil/ledger", 403),
        ("pay/ledger/extra", 403),
        ("shop-1/gw", 200),
        ("shop/gw", 403),
    ] {
        let (ns, sa) = peer.split_once('/').unwrap();
        let svid = inbound.authority.svid(&format!("spiffe://td.test/ns/{ns}/sa/{sa}"));
        let mut client = TlsClient::new(&svid).http(inbound.addr, Protocol::Http1).await;
        assert_eq!(client.send(&Request::get("/")).await.status, status, "{peer}");
    }
}

#[tokio::test]
async fn d45_a_dot_is_a_dot() {
    let app = App::start(Protocol::Http1).await;
    let inbound = Inbound::start(app.addr(), "allow cert/cert-manager.io to GET /\n").await;
    for (peer, status) in [("cert/cert-manager.io", 200), ("cert/cert-manager-io", 403)] {
        let mut client = inbound.http(peer, Protocol::Http1).await;
        assert_eq!(client.send(&Request::get("/")).await.status, status, "{peer}");
    }
}

#[tokio::test]
async fn d46_authorities_roots_and_dns_names_are_no_workloads() {
    let f = Fixture::start().await;
    for clause in [Malformed::LeafIsCa, Malformed::AuthorityAsLeaf, Malformed::RootPathId, Malformed::DnsOnly]
    {
        TlsClient::new(&f.authority.malformed(clause, PEER)).alpn(&["h2"]).refused(f.http_addr).await;
    }
    f.assert_untouched();
}

#[tokio::test]
async fn d47_no_ticket_outlives_a_trust_bundle() {
    let f = Fixture::start().await;
    let partner = TlsClient::new(&f.partner.svid("spiffe://partner.test/ns/ful/sa/ship")).alpn(&["h2"]);
    let (io, tickets) = partner.connect(f.http_addr).await.into_io_and_tickets();
    let mut client = HttpClient::over(io, Protocol::H2c).await;
    assert_eq!(client.send(&Request::get("/orders/1")).await.status, 200);
    assert_eq!(tickets(), 0);
    f.sidecar.workload_api().serve(Answer::of(&f.authority.svid(ORDERS)));
    // The open connection ends too: its chain verifies no more.
    let HttpClient::Http2(mut open) = client else { unreachable!() };
    open.ended().await;
    partner.refused(f.http_addr).await;
    assert_handshakes(&f.sidecar, "inbound", "no_bundle", 1.0).await;
    let closed = [("direction", "inbound"), ("reason", "bundle")];
    f.sidecar.metric_reaches("mantlet_connections_closed_total", &closed, 1.0).await;
    assert_eq!(f.app.seen().len(), 1);
}

#[tokio::test]
async fn d75_a_rotation_moves_the_next_outbound_request_to_a_new_connection() {
    let app = App::start(Protocol::Http1).await;
    let inbound = Inbound::start(app.addr(), "allow web/bff to * /**\n").await;
    let (caller, addr) = inbound.caller("web/bff", " as http").await;
    let mut client = HttpClient::plain(addr, Protocol::Http1).await;
    for _ in 0..3 {
        assert_eq!(client.send(&Request::get("/")).await.status, 200);
    }
    assert_handshakes(&inbound.sidecar, "inbound", "ok", 1.0).await;
    let before = app.seen()[0].header("x-forwarded-client-cert");
    let rotated = inbound.authority.workload("web/bff");
    caller.workload_api().serve(Answer::of(&rotated));
    eventually("a request under the new SVID", async || {
        assert_eq!(client.send(&Request::get("/")).await.status, 200);
        let seen = app.seen().pop()?.header("x-forwarded-client-cert");
        (seen != before).then_some(())
    })
    .await;
    let seen = app.seen().pop().unwrap().header("x-forwarded-client-cert");
    assert!(seen[0].ends_with(&format!("Hash={}", rotated.sha256_hex())), "{seen:?}");
    assert_handshakes(&inbound.sidecar, "inbound", "ok", 2.0).await;
}

#[tokio::test]
async fn a_peer_of_another_path_shape_has_no_short_form() {
    let f = Fixture::start().await;
    let svid = f.authority.svid("spiffe://td.test/ops/dev");
    let mut client = TlsClient::new(&svid).http(f.http_addr, Protocol::Http1).await;
    assert_eq!(verdict(&client.send(&Request::get("/orders/1")).await), denied("default"));
}

#[tokio::test]
async fn d55_an_expired_peer_is_told_to_go() {
    let f = Fixture::start().await;
    let options = SvidOptions::new("spiffe://td.test/ns/web/sa/bff").expires_in(Duration::from_secs(4));
    let client = TlsClient::new(&f.authority.issue(&options));
    let HttpClient::Http2(mut h2) = client.http(f.http_addr, Protocol::H2c).await else { unreachable!() };
    assert_eq!(h2.send(&Request::get("/orders/1")).await.unwrap().status, 200);
    // GOAWAY, and with nothing in flight the end.
    h2.ended().await;
    assert!(time::OffsetDateTime::now_utc() >= options.not_after, "not before notAfter");
    // A certificate is good to the end of its last second.
    while time::OffsetDateTime::now_utc() < options.not_after + Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.alpn(&["h2"]).refused(f.http_addr).await;
    assert_handshakes(&f.sidecar, "inbound", "expired", 1.0).await;
}

#[tokio::test]
async fn d55_a_stream_may_outlive_its_peer_s_certificate_for_as_long_as_is_configured() {
    let f = Fixture::with("", |sidecar| sidecar.arg("--max-stale-identity", "2s")).await;
    let options = SvidOptions::new("spiffe://td.test/ns/data/sa/etl").expires_in(Duration::from_secs(3));
    let client = TlsClient::new(&f.authority.issue(&options)).alpn(&["mantlet-tcp"]);
    let mut io = client.connect(f.pg_addr).await.into_io();
    assert_eq!(exactly(&mut io, 8).await, b"220 pg\r\n");
    assert_eq!(until_end(&mut io).await, b"");
    let now = time::OffsetDateTime::now_utc();
    let end = options.not_after + Duration::from_secs(2);
    assert!(now >= end && now < end + Duration::from_secs(2), "closed at {now}, due at {end}");
    let closed = [("direction", "inbound"), ("reason", "peer_expired")];
    f.sidecar.metric_reaches("mantlet_connections_closed_total", &closed, 1.0).await;
}
