//! The wall clock is set, forwards past the end of SVIDs and backwards before their beginning, while the sidecar
//! runs: it fails closed with the right reason, comes back with the clock, and no timer goes wrong.

use std::time::{Duration, Instant};

use mantlet_testkit::apps::Protocol;
use mantlet_testkit::client::{HttpClient, Request, TlsClient};
use mantlet_testkit::clock::Clock;
use mantlet_testkit::eventually;
use mantlet_testkit::pki::{Authority, SvidOptions, TestSvid};
use mantlet_testkit::sidecar::Sidecar;
use mantlet_testkit::workload_api::Answer;

use crate::common::{ORDERS, assert_handshakes, sidecar};
use crate::mesh::{Apps, Doors, FRONTEND, Open, certs, closes, get2, give, readiness};

const HOUR: i64 = 3600;

/// Valid for the last two hours, and so many from now.
fn lasting(authority: &Authority, id: &str, hours: u64) -> TestSvid {
    let mut options = SvidOptions::new(id).expires_in(Duration::from_secs(hours * 3600));
    options.not_before -= Duration::from_secs(2 * 3600);
    authority.issue(&options)
}

fn assert_calm(sidecar: &Sidecar) {
    let said = sidecar.stderr();
    assert!(!said.iter().any(|line| line.contains("panicked")), "{said:?}");
}

/// A request over a new connection of this peer.
async fn served(svid: &TestSvid, doors: Doors) -> bool {
    let Ok(session) = TlsClient::new(svid).alpn(&["h2"]).handshake(doors.h2).await else { return false };
    let Ok(client) = mantlet_testkit::client::Http2::new(session.into_io()).await else { return false };
    HttpClient::Http2(client).try_send(&get2("/")).await.is_ok_and(|response| response.status == 200)
}

#[tokio::test]
async fn a_clock_that_jumps_past_the_end_of_our_svid_fails_closed_and_comes_back_with_the_clock() {
    let Some(clock) = Clock::start("clocks") else { return };
    let authority = Authority::new("td.test");
    let apps = Apps::start().await;
    let callee = sidecar().under(&clock.under()).identity(&lasting(&authority, ORDERS, 1));
    let callee = apps.behind(callee.policy(apps.allow("mesh"))).start().await;
    let doors = Doors::inbound(&callee).await;
    let peer = lasting(&authority, FRONTEND, 8);
    Open::as_peer(&peer, doors).await.goes_on().await;

    clock.ahead(2 * HOUR);
    assert!(!served(&peer, doors).await, "at once, whatever the timers do");
    assert!(readiness(&callee, 503).await.contains("has expired"));
    assert_eq!(certs(&callee).await["state"], "expired");
    closes(&callee, "inbound", "withdrawn", 1.0).await;

    // The agent has nothing new to say: it is the clock that was wrong.
    clock.ahead(0);
    readiness(&callee, 200).await;
    eventually("the peer to be served", async || served(&peer, doors).await.then_some(())).await;

    // It was right, and the agent renews.
    clock.ahead(2 * HOUR);
    readiness(&callee, 503).await;
    callee.workload_api().serve(Answer::of(&lasting(&authority, ORDERS, 4)));
    readiness(&callee, 200).await;
    eventually("the peer to be served", async || served(&peer, doors).await.then_some(())).await;
    assert_calm(&callee);
}

#[tokio::test]
async fn a_clock_that_jumps_past_the_end_of_a_peers_svid_refuses_it_as_expired_until_it_is_set_back() {
    let Some(clock) = Clock::start("clocks") else { return };
    let authority = Authority::new("td.test");
    let apps = Apps::start().await;
    let own = lasting(&authority, ORDERS, 8);
    let callee = sidecar().under(&clock.under()).identity(&own).policy(apps.allow("mesh"));
    let callee = apps.behind(callee).start().await;
    let doors = Doors::inbound(&callee).await;
    let (short, long) = (lasting(&authority, FRONTEND, 1), lasting(&authority, FRONTEND, 8));
    assert!(served(&short, doors).await);
    let mut open = Open::as_peer(&long, doors).await;

    // The same from the other side, with a request that takes its time.
    let ledger = sidecar().identity(&lasting(&authority, ORDERS, 1)).inbound(apps.h1.addr());
    let ledger = ledger.policy("allow mesh to * /**\n").start().await;
    let caller = sidecar().under(&clock.under()).identity(&lasting(&authority, FRONTEND, 8));
    let caller = caller.arg("--response-timeout", "2s");
    let caller = caller.outbound(ledger.inbound(0).await, "shop/orders as http").start().await;
    let mut client = HttpClient::plain(caller.outbound(0).await, Protocol::Http1).await;
    assert_eq!(client.send(&Request::get("/")).await.status, 200);
    let mut slow = HttpClient::plain(caller.outbound(0).await, Protocol::Http1).await;
    let slow = tokio::spawn(async move {
        let begun = Instant::now();
        let response = slow.send(&Request::new("POST", "/held")).await;
        (response.status, response.error(), begun.elapsed())
    });
    apps.h1.wait_for_requests(apps.h1.seen().len() + 1).await;

    clock.ahead(2 * HOUR);
    TlsClient::new(&short).alpn(&["h2"]).refused(doors.h2).await;
    assert_handshakes(&callee, "inbound", "expired", 1.0).await;
    assert!(served(&long, doors).await);
    open.goes_on().await;
    let refused = client.send(&Request::get("/")).await;
    assert_eq!((refused.status, refused.error().as_deref()), (502, Some("tls")));
    assert_handshakes(&caller, "outbound", "expired", 1.0).await;
    // What waits by the monotonic clock waits as long as it was told to, or ends with its peer's SVID.
    let (status, error, took) = slow.await.unwrap();
    match error.as_deref() {
        Some("timeout") => assert!(status == 504 && took >= Duration::from_secs(2), "{status} {took:?}"),
        other => assert_eq!((status, other), (503, Some("peer_expired")), "{took:?}"),
    }

    clock.ahead(0);
    assert!(served(&short, doors).await);
    open.goes_on().await;
    eventually("the peer to be reached again", async || {
        (client.send(&Request::get("/")).await.status == 200).then_some(())
    })
    .await;
    assert_calm(&callee);
    assert_calm(&caller);
}

#[tokio::test]
async fn a_clock_that_is_set_back_by_an_hour_breaks_nothing_that_is_open_and_no_renewal() {
    let Some(clock) = Clock::start("clocks") else { return };
    let authority = Authority::new("td.test");
    let apps = Apps::start().await;
    let callee = sidecar().under(&clock.under()).identity(&authority.svid(ORDERS));
    let callee = apps.behind(callee.policy(apps.allow("mesh")).arg("--response-timeout", "2s")).start().await;
    let doors = Doors::inbound(&callee).await;
    let (fresh, older) = (authority.svid(FRONTEND), lasting(&authority, FRONTEND, 2));
    let mut open = Open::as_peer(&fresh, doors).await;

    let mut waiting = TlsClient::new(&fresh).http(doors.h1, Protocol::Http1).await;
    let begun = Instant::now();
    let waiting = tokio::spawn(async move { waiting.send(&Request::get("/held")).await });
    apps.h1.wait_for_requests(apps.h1.seen().len() + 1).await;
    clock.ahead(-HOUR);
    let response = waiting.await.unwrap();
    assert_eq!((response.status, response.error().as_deref()), (504, Some("timeout")));
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(20), "{took:?}");

    open.goes_on().await;
    readiness(&callee, 200).await;
    // Who is new has an SVID that begins in an hour, by this clock.
    TlsClient::new(&fresh).alpn(&["h2"]).refused(doors.h2).await;
    assert_handshakes(&callee, "inbound", "not_yet_valid", 1.0).await;
    assert!(served(&older, doors).await);
    // A renewal that has begun by this clock is taken, and a bundle that changes with it ends nobody whom it vouches for.
    let second = Authority::new("td.test");
    let renewed = lasting(&authority, ORDERS, 2);
    give(&callee, Answer::of(&renewed).bundle([&authority, &second])).await;
    let other = lasting(&authority, ORDERS, 3);
    give(&callee, Answer::of(&other).bundle([&authority])).await;
    open.goes_on().await;
    assert!(served(&older, doors).await);

    clock.ahead(0);
    assert!(served(&fresh, doors).await);
    open.goes_on().await;
    readiness(&callee, 200).await;
    assert_calm(&callee);
}
