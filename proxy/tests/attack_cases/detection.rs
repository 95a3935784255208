//! D38-D41: silence and packet boundaries choose nothing.

use std::time::Duration;

use mantlet_testkit::Io;
use mantlet_testkit::client::{Http1, exactly, exchange};
use tokio::io::AsyncWriteExt;

use crate::common::{ORDERS, identified, sidecar};
use crate::fixture::{Fixture, denied, verdict};

#[tokio::test]
async fn d38_silence_on_an_http_port_is_never_turned_into_a_relay() {
    let f = Fixture::start().await;
    for alpn in [&["http/1.1"][..], &[]] {
        let mut io: Io = f.peer("ops/dev").alpn(alpn).connect(f.http_addr).await.into_io();
        // The silence is the attack: a detection timer would give up and relay.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let said = exchange(&mut io, b"\x00\x00\x00\x08\x04\xd2\x16\x2f raw bytes\n\r\n\r\n").await;
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&said));
    }
    f.assert_untouched();
}

#[tokio::test]
async fn d39_packet_boundaries_do_not_change_a_verdict() {
    let f = Fixture::start().await;
    for (target, expected) in
        [("/admin/x", denied("deny_rule")), ("/orders/../admin", (400, "malformed(dot-segment)".to_owned()))]
    {
        let mut io = f.peer("ops/dev").alpn(&["http/1.1"]).connect(f.http_addr).await.into_io();
        for byte in format!("GET {target} HTTP/1.1\r\nHost: orders.shop\r\nx-check: ok\r\n\r\n").bytes() {
            io.write_all(&[byte]).await.unwrap();
            io.flush().await.unwrap();
        }
        let response = Http1::new(io).read().await.unwrap();
        assert_eq!(verdict(&response), expected);
    }
    f.assert_untouched();
}

#[tokio::test]
async fn d40_a_banner_of_the_database_arrives_at_once() {
    let f = Fixture::start().await;
    let mut io = f.peer("data/etl").alpn(&["mantlet-tcp"]).connect(f.pg_addr).await.into_io();
    assert_eq!(exactly(&mut io, 8).await, b"220 pg\r\n");
    let mut io = f.peer("web/bff").alpn(&["mantlet-tcp"]).connect(f.pg_addr).await.into_io();
    assert_eq!(exchange(&mut io, b"").await, b"", "a denied peer sees no banner");
    assert_eq!(f.pg.connections(), 1);
}

#[tokio::test]
async fn d41_a_port_is_http_or_bytes_and_never_both() {
    let f = Fixture::start().await;
    let port = f.app.port();
    let svid = f.authority.svid(ORDERS);
    let policy = format!("allow data/etl to tcp on {port}\nallow web/bff to GET / on {port}\n");
    let refused = sidecar().identity(&svid).inbound(f.app.addr()).policy(policy).spawn();
    let addr = refused.inbound(0).await;
    identified(&refused).await;
    let mut client = f.peer("web/bff").alpn(&["http/1.1"]).connect(addr).await.into_io();
    let said = exchange(&mut client, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.starts_with("HTTP/1.1 403 ") && said.contains("policy_invalid"), "{said}");
    let readiness = refused.get("/readyz").await;
    assert_eq!(readiness.status, 503);
    assert!(readiness.text().contains("P031"), "{}", readiness.text());
    f.assert_untouched();
}
