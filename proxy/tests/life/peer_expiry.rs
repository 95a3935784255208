//! The peer's SVID expires under an open connection: no new request, and what is open goes on for as
//! long as the operator allows, in both directions.

use std::task::Poll;
use std::time::Duration;

use mantlet_testkit::apps::Protocol;
use mantlet_testkit::client::{Http1, Http2, Http2Stream, HttpClient, Request, TlsClient, until_end};
use mantlet_testkit::pki::{Authority, SvidOptions, TestSvid};
use mantlet_testkit::sidecar::SidecarBuilder;
use mantlet_testkit::workload_api::Answer;
use mantlet_testkit::{eventually, within};
use time::OffsetDateTime;

use crate::common::{ORDERS, assert_handshakes, sidecar};
use crate::mesh::{
    Apps, Doors, FRONTEND, Mesh, Open, closed_only_for, closes, echo, get2, give, handshakes, is_open,
    open_stream,
};

/// Set by flag; twelve hours otherwise.
const MAX_STALE: Duration = Duration::from_secs(3);

/// Long enough to open everything under it.
fn short_lived(authority: &Authority, id: &str) -> TestSvid {
    authority.issue(&SvidOptions::new(id).expires_in(Duration::from_secs(5)))
}

/// What an unanswered request has beyond the end of its peer's SVID.
const ANSWER_GRACE: Duration = Duration::from_secs(60);

/// It has ended now: after the end of the SVID and of what may follow, and not long after.
fn assert_on_time(svid: &TestSvid, after: Duration) {
    let (due, now) = (svid.not_after + after, OffsetDateTime::now_utc());
    assert!(now >= due && now < due + Duration::from_secs(2), "ended at {now}, due at {due}");
}

/// The clock that counts is the wall clock.
async fn until(moment: OffsetDateTime) {
    while let Ok(left) = Duration::try_from(moment - OffsetDateTime::now_utc()) {
        tokio::time::sleep(left.max(Duration::from_millis(1))).await;
    }
}

#[tokio::test]
async fn d55_a_caller_whose_svid_expires_is_told_to_go_sends_nothing_new_and_what_is_open_ends_in_time() {
    let authority = Authority::new("td.test");
    let apps = Apps::start().await;
    let own = authority.svid(ORDERS);
    let callee = sidecar().identity(&own).policy(apps.allow("mesh")).arg("--max-stale-identity", "3s");
    let callee = apps.behind(callee).start().await;
    let doors = Doors::inbound(&callee).await;
    let mut lasting = Open::as_peer(&authority.svid(FRONTEND), doors).await;
    let svid = short_lived(&authority, FRONTEND);
    let mut open = Open::as_peer(&svid, doors).await;
    let peer = TlsClient::new(&svid);
    let HttpClient::Http1(mut busy) = peer.http(doors.h1, Protocol::Http1).await else { unreachable!() };
    busy.write("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut held = open.h2.open(&get2("/held"), true).await.unwrap();
    apps.h1.wait_for_requests(3).await;

    // HTTP/1 without a request: closed. HTTP/2: GOAWAY, and no new stream.
    assert_eq!(open.h1.closed().await, b"");
    assert_on_time(&svid, Duration::ZERO);
    eventually("GOAWAY", async || open.h2.open(&get2("/"), true).await.is_err().then_some(())).await;
    // Requests that had begun are answered, and told that they were the last.
    apps.release(2);
    let answer = busy.read().await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, vec!["close".to_owned()]));
    assert_eq!(busy.closed().await, b"");
    assert_eq!(held.head().await.unwrap().status, 200);
    // Open streams and bytes go on for as long as is allowed.
    assert!(is_open(&mut open.stream).await);
    echo(&mut open.tcp).await;
    // The last second of an SVID belongs to it.
    let past = svid.not_after + Duration::from_secs(1);
    eventually("the last second", async || (OffsetDateTime::now_utc() > past).then_some(())).await;
    peer.alpn(&["h2"]).refused(doors.h2).await;
    assert_handshakes(&callee, "inbound", "expired", 1.0).await;

    assert_eq!(until_end(&mut open.tcp).await, b"");
    assert_on_time(&svid, MAX_STALE);
    assert!(within("the end of the open response", open.stream.data()).await.is_err(), "cut, not ended");
    assert_on_time(&svid, MAX_STALE);
    closes(&callee, "inbound", "peer_expired", 2.0).await;
    lasting.goes_on().await;
    closed_only_for(&callee, &["eof", "peer_expired", "tls"]).await;
}

#[tokio::test]
async fn a_callee_whose_svid_expires_gets_new_requests_on_new_connections_and_what_is_open_ends_in_time() {
    let authority = Authority::new("td.test");
    let (orders, frontend) = (authority.svid(ORDERS), authority.svid(FRONTEND));
    let flags = |caller: SidecarBuilder| caller.arg("--max-stale-identity", "3s");
    let mesh = Mesh::of(authority, (&orders, &frontend), flags).await;
    let svid = short_lived(&mesh.authority, ORDERS);
    mesh.hold(ORDERS, &svid).await;
    let mut open = Open::through(mesh.outer).await;
    // The callee is renewed in time: it has no reason to close what was opened under the old SVID.
    give(&mesh.callee, Answer::of(&mesh.authority.svid(ORDERS))).await;
    let before = handshakes(&mesh.caller, "outbound").await;
    open.goes_on().await;
    assert_eq!(handshakes(&mesh.caller, "outbound").await, before, "still on the old connections");
    eventually("the old SVID to expire", async || {
        (OffsetDateTime::now_utc() > svid.not_after + Duration::from_secs(1)).then_some(())
    })
    .await;
    open.goes_on().await;
    assert_eq!(handshakes(&mesh.caller, "outbound").await, before + 2.0, "one for h1, one for h2");

    assert_eq!(until_end(&mut open.tcp).await, b"");
    assert_on_time(&svid, MAX_STALE);
    assert!(within("the end of the open response", open.stream.data()).await.is_err(), "cut, not ended");
    assert_on_time(&svid, MAX_STALE);
    closes(&mesh.caller, "outbound", "peer_expired", 1.0).await;
    assert_eq!(open.h1.send(&Request::get("/")).await.unwrap().status, 200);
    assert_eq!(open.h2.send(&get2("/")).await.unwrap().status, 200);
    let mut again = open_stream(&mut open.h2, &get2("/open")).await;
    assert!(is_open(&mut again).await);
}

/// Requests that nobody answers, on connections of their own.
struct Unanswered {
    h1: Http1,
    _h2: Http2,
    stream: Http2Stream,
}

// === impl Unanswered ===

impl Unanswered {
    async fn over(h1: HttpClient, h2: HttpClient, apps: &Apps) -> Self {
        let (HttpClient::Http1(mut h1), HttpClient::Http2(mut h2)) = (h1, h2) else { unreachable!() };
        h1.write("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let stream = h2.open(&get2("/held"), true).await.unwrap();
        apps.h1.wait_for_requests(2).await;
        apps.h2.wait_for_requests(2).await;
        Self { h1, _h2: h2, stream }
    }

    /// Each waits until a minute after the end of `svid` and is told then.
    async fn end_a_minute_after(mut self, svid: &TestSvid) {
        until(svid.not_after + ANSWER_GRACE - Duration::from_secs(5)).await;
        let mut head = Box::pin(self.stream.head());
        let early = std::future::poll_fn(|cx| Poll::Ready(head.as_mut().poll(cx).is_ready())).await;
        assert!(!early, "a request may be answered for a minute");
        let (h1, h2) = tokio::join!(self.h1.read(), head);
        assert_on_time(svid, ANSWER_GRACE);
        for answer in [h1.unwrap(), h2.unwrap()] {
            assert_eq!((answer.status, answer.error().as_deref()), (503, Some("peer_expired")));
        }
    }
}

async fn a_caller_that_has_expired_waits_a_minute_for_its_answers() {
    let authority = Authority::new("td.test");
    let apps = Apps::start().await;
    let callee = apps.behind(sidecar().identity(&authority.svid(ORDERS)).policy(apps.allow("mesh")));
    let callee = callee.start().await;
    let doors = Doors::inbound(&callee).await;
    let svid = short_lived(&authority, FRONTEND);
    let mut open = Open::as_peer(&svid, doors).await;
    let peer = TlsClient::new(&svid);
    let h1 = peer.http(doors.h1, Protocol::Http1).await;
    let h2 = peer.http(doors.h2, Protocol::H2c).await;
    Unanswered::over(h1, h2, &apps).await.end_a_minute_after(&svid).await;
    assert!(is_open(&mut open.stream).await);
    echo(&mut open.tcp).await;
    closed_only_for(&callee, &["eof", "peer_expired"]).await;
}

async fn a_callee_that_has_expired_has_a_minute_for_its_answers() {
    let (authority, frontend) = (Authority::new("td.test"), FRONTEND);
    // Long enough to start both as well.
    let svid = authority.issue(&SvidOptions::new(ORDERS).expires_in(Duration::from_secs(8)));
    let frontend = authority.svid(frontend);
    let mesh = Mesh::of(authority, (&svid, &frontend), |caller| caller).await;
    let mut open = Open::through(mesh.outer).await;
    let h1 = HttpClient::plain(mesh.outer.h1, Protocol::Http1).await;
    let h2 = HttpClient::plain(mesh.outer.h2, Protocol::H2c).await;
    let unanswered = Unanswered::over(h1, h2, &mesh.apps).await;
    // The callee is renewed in time: what ends, the caller ends.
    give(&mesh.callee, Answer::of(&mesh.authority.svid(ORDERS))).await;
    unanswered.end_a_minute_after(&svid).await;
    assert!(is_open(&mut open.stream).await);
    echo(&mut open.tcp).await;
    closed_only_for(&mesh.caller, &["eof"]).await;
}

// The minute of each passes at the same time.
#[tokio::test]
async fn a_request_without_an_answer_ends_a_minute_after_its_peers_svid_and_streams_and_bytes_go_on() {
    tokio::join!(
        a_caller_that_has_expired_waits_a_minute_for_its_answers(),
        a_callee_that_has_expired_has_a_minute_for_its_answers()
    );
}
