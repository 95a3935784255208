//! A bundle changes: what it no longer vouches for ends within a second, in both directions and
//! however idle, and nothing else does.

use mantlet_testkit::apps::RawApp;
use mantlet_testkit::client::{Http1, Request, connect, exactly, until_end};
use mantlet_testkit::pki::Authority;
use mantlet_testkit::workload_api::Answer;
use mantlet_testkit::{Io, eventually};
use tokio::io::AsyncWriteExt;

use crate::common::{ORDERS, sidecar};
use crate::mesh::{
    Apps, Doors, FRONTEND, Open, closed, closed_only_for, closes, give, handshakes, serving, soon,
};

const SHIP: &str = "spiffe://partner.test/ns/ful/sa/ship";

#[tokio::test]
async fn callers_of_a_domain_that_is_trusted_no_more_are_closed_and_the_others_untouched() {
    let (authority, partner) = (Authority::new("td.test"), Authority::new("partner.test"));
    let apps = Apps::start().await;
    let own = authority.svid(ORDERS);
    let api = serving(Answer::of(&own).federated(&partner));
    let policy = apps.allow("mesh") + &apps.allow(SHIP);
    let callee = sidecar().workload_api(&api).expect_id(ORDERS).policy(policy);
    let callee = apps.behind(callee).start().await;
    let doors = Doors::inbound(&callee).await;
    let mut ours = Open::as_peer(&authority.svid(FRONTEND), doors).await;
    let mut theirs = Open::as_peer(&partner.svid(SHIP), doors).await;

    // The same SVID as before: the bundle alone changes.
    api.serve(Answer::of(&own));
    soon("the end of all three", async {
        tokio::join!(theirs.h1.closed(), until_end(&mut theirs.tcp), theirs.h2.ended());
    })
    .await;
    assert!(theirs.stream.data().await.is_err(), "cut, not ended");
    closes(&callee, "inbound", "bundle", 3.0).await;
    ours.goes_on().await;
    closed_only_for(&callee, &["bundle"]).await;

    // A domain that comes back is believed again.
    give(&callee, Answer::of(&own).federated(&partner)).await;
    Open::as_peer(&partner.svid(SHIP), doors).await.goes_on().await;
    ours.goes_on().await;
}

#[tokio::test]
async fn a_new_authority_beside_the_old_one_closes_nothing_and_the_old_one_may_then_go() {
    let (old, new) = (Authority::new("td.test"), Authority::new("td.test"));
    let apps = Apps::start().await;
    let own = old.svid(ORDERS);
    let api = serving(Answer::of(&own));
    let callee = apps.behind(sidecar().workload_api(&api).expect_id(ORDERS).policy(apps.allow("mesh")));
    let callee = callee.start().await;
    let doors = Doors::inbound(&callee).await;
    let mut under_old = Open::as_peer(&old.svid(FRONTEND), doors).await;
    give(&callee, Answer::of(&own).bundle([&old, &new])).await;
    let mut under_new = Open::as_peer(&new.svid(FRONTEND), doors).await;
    under_old.goes_on().await;
    closed_only_for(&callee, &[]).await;

    api.serve(Answer::of(&new.svid(ORDERS)).bundle([&new]));
    soon("the end of what the old authority vouched for", async {
        tokio::join!(under_old.h1.closed(), until_end(&mut under_old.tcp), under_old.h2.ended());
    })
    .await;
    under_new.goes_on().await;
    assert_eq!(closed(&callee, "inbound", "bundle").await, 3.0);
}

/// Two callees of different trust domains behind one caller.
struct TwoDomains {
    authority: Authority,
    ours: (Apps, mantlet_testkit::sidecar::Sidecar),
    theirs: (Apps, mantlet_testkit::sidecar::Sidecar),
    caller: mantlet_testkit::sidecar::Sidecar,
}

// === impl TwoDomains ===

impl TwoDomains {
    async fn start() -> Self {
        let (authority, partner) = (Authority::new("td.test"), Authority::new("partner.test"));
        let ours = callee(&authority, ORDERS, &authority).await;
        let theirs = callee(&partner, SHIP, &authority).await;
        let own = Answer::of(&authority.svid(FRONTEND)).federated(&partner);
        let caller = sidecar().workload_api(&serving(own)).expect_id(FRONTEND);
        let caller = Doors::inbound(&ours.1).await.before(caller, ORDERS);
        let caller = Doors::inbound(&theirs.1).await.before(caller, SHIP).start().await;
        Self { authority, ours, theirs, caller }
    }
}

async fn callee(
    authority: &Authority,
    id: &str,
    callers: &Authority,
) -> (Apps, mantlet_testkit::sidecar::Sidecar) {
    let apps = Apps::start().await;
    let mut answer = Answer::of(&authority.svid(id));
    if callers.trust_domain() != authority.trust_domain() {
        answer = answer.federated(callers);
    }
    let sidecar = sidecar().workload_api(&serving(answer)).expect_id(id).policy(apps.allow(FRONTEND));
    let sidecar = apps.behind(sidecar).start().await;
    (apps, sidecar)
}

#[tokio::test]
async fn connections_to_a_domain_that_is_trusted_no_more_are_closed_idle_ones_too() {
    let two = TwoDomains::start().await;
    let mut ours = Open::through(Doors::outbound(&two.caller, 0).await).await;
    let mut theirs = Open::through(Doors::outbound(&two.caller, 3).await).await;
    let (_apps, partner) = &two.theirs;

    two.caller.workload_api().serve(Answer::of(&two.authority.svid(FRONTEND)));
    soon("the end of bytes and of the open response", async {
        let (_, data) = tokio::join!(until_end(&mut theirs.tcp), theirs.stream.data());
        assert!(data.is_err(), "cut, not ended");
    })
    .await;
    closes(&two.caller, "outbound", "bundle", 1.0).await;
    // The idle pooled one as well: the partner's sidecar sees all three end.
    eventually("the partner's side to be empty", async || {
        let metrics = partner.metrics().await;
        (metrics.sum("mantlet_connections_active", &[("direction", "inbound")]) == 0.0).then_some(())
    })
    .await;
    let refused = theirs.h1.send(&Request::get("/")).await.unwrap();
    assert_eq!((refused.status, refused.error().as_deref()), (502, Some("tls")));
    ours.goes_on().await;
    closed_only_for(&two.caller, &["bundle"]).await;
    assert!(handshakes(&two.ours.1, "inbound").await >= 3.0);
}

#[tokio::test]
async fn a_websocket_to_a_peer_that_is_trusted_no_more_is_closed() {
    let (authority, partner) = (Authority::new("td.test"), Authority::new("partner.test"));
    let app = RawApp::start().await;
    let theirs = Answer::of(&partner.svid(SHIP)).federated(&authority);
    let callee = sidecar().workload_api(&serving(theirs)).expect_id(SHIP).inbound(app.addr());
    let callee = callee.policy(format!("allow {FRONTEND} to WEBSOCKET /live\n")).start().await;
    let own = authority.svid(FRONTEND);
    let caller = sidecar().workload_api(&serving(Answer::of(&own).federated(&partner))).expect_id(FRONTEND);
    let caller = caller.outbound(callee.inbound(0).await, &format!("{SHIP} as http")).start().await;

    let mut client = Http1::new(Box::new(connect(caller.outbound(0).await).await));
    let ask = "GET /live HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
               Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write(ask).await.unwrap();
    let mut io: Io = Box::new(app.accept().await);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(exactly(&mut io, 1).await);
    }
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello";
    io.write_all(switch.as_bytes()).await.unwrap();
    assert_eq!(client.read_head().await.unwrap().status, 101);
    assert_eq!(client.exactly(5).await.unwrap(), b"hello");

    caller.workload_api().serve(Answer::of(&own));
    soon("the end on both sides", async { tokio::join!(client.closed(), until_end(&mut io)) }).await;
    closes(&caller, "outbound", "bundle", 1.0).await;
}
