//! The Workload API stream, over a real Unix socket. What a test waits for is a state.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::TD;
use common::supervised::Supervised;
use mantlet_identity::{IdentityErrorKind, IdentityState};
use mantlet_testkit::pki::Authority;
use mantlet_testkit::within;
use mantlet_testkit::workload_api::{Answer, WorkloadApi, X509svidResponse};
use tonic::Status;

const A: &str = "spiffe://one.test/ns/x/sa/a";
const B: &str = "spiffe://one.test/ns/x/sa/b";

fn unavailable() -> Status {
    Status::unavailable("not now")
}

fn denied() -> Status {
    Status::permission_denied("no identity issued")
}

#[tokio::test]
async fn w01_every_call_carries_the_security_header() {
    let api = WorkloadApi::scripted();
    let us = Supervised::start(&api);
    api.next_call().await.fail(unavailable());
    let call = api.next_call().await;
    call.send(Answer::of(&Authority::new(TD).svid(A)));
    us.ready().await;
    assert!(api.calls().len() >= 2);
    for call in api.calls() {
        assert_eq!(call.header, ["true"]);
    }
}

/// Three answers of this kind, then an identity: it is taken, and not by calling in a loop.
async fn three_times(status: fn() -> Status, kind: IdentityErrorKind) {
    let api = WorkloadApi::scripted();
    let us = Supervised::start(&api);
    let started = std::time::Instant::now();
    for _ in 0..3 {
        api.next_call().await.fail(status());
    }
    us.until("three failures", |h| h.status().attempt() == 3).await;
    assert_eq!(us.handle.status().state(), IdentityState::Waiting);
    assert!(us.handle.credentials().is_none());
    let call = api.next_call().await;
    call.send(Answer::of(&Authority::new(TD).svid(A)));
    us.ready().await;
    assert_eq!(us.handle.status().counts().errors(kind), 3);
    assert_eq!((us.handle.status().attempt(), us.handle.status().cause()), (0, None));
    // 0.2 s, 0.4 s and 0.8 s between four calls.
    assert!(started.elapsed() >= Duration::from_millis(1400));
}

#[tokio::test]
async fn w02_unavailable_answers_delay_readiness_without_a_hot_loop() {
    three_times(unavailable, IdentityErrorKind::Unavailable).await;
}

#[tokio::test]
async fn w03_denials_at_the_start_delay_readiness_without_a_hot_loop() {
    three_times(denied, IdentityErrorKind::NoIdentity).await;
}

#[tokio::test]
async fn w04_a_server_that_rejects_the_call_is_asked_seldom() {
    let api = WorkloadApi::scripted();
    let us = Supervised::start(&api);
    for _ in 0..2 {
        api.next_call().await.fail(Status::invalid_argument("security header missing from request"));
    }
    let calls = api.calls();
    assert!(calls[1].at - calls[0].at >= Duration::from_millis(2900));
    us.until("two refusals", |h| h.status().counts().errors(IdentityErrorKind::Refused) == 2).await;
    let status = us.handle.status();
    assert!(!status.is_usable());
    assert!(status.next_step().unwrap().contains("is a SPIFFE Workload API"), "{status:?}");
}

#[tokio::test]
async fn w05_a_socket_that_appears_late_is_found() {
    let authority = Authority::new(TD);
    let api = WorkloadApi::absent();
    api.serve(Answer::of(&authority.svid(A)));
    let us = Supervised::start(&api);
    us.until("an attempt", |h| h.status().counts().errors(IdentityErrorKind::Unreachable) >= 2).await;
    let text = us.handle.status().text(std::time::SystemTime::now());
    assert!(text.contains("cannot reach the agent") && text.contains("is mounted"), "{text}");
    api.start();
    assert_eq!(us.ready().await.id().as_str(), A);
}

#[tokio::test]
async fn w06_after_a_broken_stream_the_identity_of_the_next_one_is_used() {
    let authority = Authority::new(TD);
    let (a, b) = (authority.svid(A), authority.svid(A));
    let api = WorkloadApi::scripted();
    let us = Supervised::start(&api);
    let call = api.next_call().await;
    call.send(Answer::of(&a));
    let first = us.ready().await;
    call.fail(unavailable());
    us.until("the broken stream", |h| !h.status().stream_connected()).await;
    assert!(us.handle.status().is_usable(), "the last good identity serves on");
    assert_eq!(us.handle.credentials().unwrap().serial(), first.serial());
    let call = api.next_call().await;
    call.send(Answer::of(&b));
    us.until("B", |h| h.credentials().is_some_and(|c| c.serial() != first.serial())).await;
    assert_eq!(us.handle.status().cause(), None);
}

#[tokio::test]
async fn w07_an_update_with_a_mandatory_field_empty_changes_nothing() {
    let authority = Authority::new(TD);
    let other = Authority::new("other.test");
    let good = Answer::of(&authority.svid(A)).federated(&other);
    let spoil: [fn(&mut X509svidResponse); 5] = [
        |m| m.svids.clear(),
        |m| m.svids[0].spiffe_id.clear(),
        |m| m.svids[0].x509_svid.clear(),
        |m| m.svids[0].x509_svid_key.clear(),
        |m| m.svids[0].bundle.clear(),
    ];
    for spoil in spoil {
        let api = WorkloadApi::scripted();
        let us = Supervised::start(&api);
        let call = api.next_call().await;
        call.send(good.clone());
        let before = us.ready().await;
        let mut bad = Answer::of(&authority.svid(B)).message();
        spoil(&mut bad);
        call.send(bad);
        us.until("the bad update", |h| h.status().counts().rejected == 1).await;
        let now = us.handle.credentials().unwrap();
        assert!(Arc::ptr_eq(&before, &now), "nothing of the bad update is taken, its missing bundle neither");
        assert!(us.handle.status().is_usable() && us.handle.status().cause().is_some());
        call.send(Answer::of(&authority.svid(B)));
        us.until("the barrier", |h| h.credentials().is_some_and(|c| c.id().as_str() == B)).await;
        assert_eq!(us.handle.status().cause(), None);
    }
}

#[tokio::test]
async fn w08_of_several_svids_the_first_is_used() {
    let authority = Authority::new(TD);
    let (a, b) = (authority.svid(A), authority.svid(B));
    for (first, second) in [(&a, &b), (&b, &a)] {
        let api = WorkloadApi::serving(Answer::of(first).and(second));
        let us = Supervised::start(&api);
        assert_eq!(us.ready().await.id().as_str(), first.id);
    }
}

#[tokio::test]
async fn w09_a_denial_on_an_established_stream_withdraws_the_identity() {
    let api = WorkloadApi::scripted();
    let us = Supervised::start(&api);
    let authority = Authority::new(TD);
    let call = api.next_call().await;
    call.send(Answer::of(&authority.svid(A)));
    us.ready().await;
    let at = std::time::Instant::now();
    call.fail(denied());
    us.state(IdentityState::Withdrawn).await;
    assert!(at.elapsed() < Duration::from_secs(5));
    assert!(us.handle.credentials().is_none());
    let text = us.handle.status().text(std::time::SystemTime::now());
    assert!(text.starts_with("agent says no identity issued (attempt 1, "), "{text}");
    // Whichever agent it is.
    assert!(text.contains("spire-server entry show") && text.contains("mantlet dev-agent"), "{text}");

    // It comes back by itself, the same SVID too.
    api.next_call().await.fail(denied());
    let call = api.next_call().await;
    call.send(Answer::of(&authority.svid(A)));
    us.ready().await;
    assert!(us.handle.status().is_usable());
}

#[tokio::test]
async fn w10_a_rotation_serves_new_connections_and_leaves_old_ones_alone() {
    use common::{as_client, judge};

    let authority = Authority::new(TD);
    let api = WorkloadApi::scripted();
    let us = Supervised::start(&api);
    let call = api.next_call().await;
    call.send(Answer::of(&authority.svid(A)));
    let before = us.ready().await;
    let live = as_client(&before, &authority.svid(B)).unwrap();
    let (pending, handshake) = before.server_handshake(&[]);

    let rotated = authority.svid(A);
    call.send(Answer::of(&rotated));
    let after = us.rotated_from(&before).await;
    assert_eq!(after.chain(), rotated.chain);
    assert!(after.svid_generation() > before.svid_generation());
    let trust_domain = common::domain(TD);
    assert_eq!(after.bundle_generation(&trust_domain), before.bundle_generation(&trust_domain));
    assert!(judge(&after, &authority.svid(B)).iter().all(Result::is_ok));
    assert_eq!(after.reverify(&live, std::time::SystemTime::now()), Ok(()));
    // A handshake that had begun ends with what it began with.
    let server = rustls::ServerConnection::new(pending).unwrap();
    let client = common::client(common::raw_client(&authority.svid(B)));
    let Ok(common::Connected::Server(server)) = common::run(client, server, common::Side::Server).0 else {
        panic!("the handshake that had begun fails");
    };
    assert_eq!(handshake.verified(&server).unwrap().id().as_str(), B);
}

#[tokio::test]
async fn w11_a_federated_bundle_missing_from_an_update_is_forgotten() {
    let (authority, other) = (Authority::new(TD), Authority::new("other.test"));
    let own = authority.svid(A);
    let peer = other.workload("a/peer");
    let api = WorkloadApi::scripted();
    let us = Supervised::start(&api);
    let call = api.next_call().await;
    call.send(Answer::of(&own).federated(&other));
    let before = us.ready().await;
    let live = common::as_client(&before, &peer).unwrap();
    assert_eq!(before.reverify(&live, std::time::SystemTime::now()), Ok(()));
    call.send(Answer::of(&own));
    let after = us.rotated_from(&before).await;
    let why = mantlet_identity::HandshakeReason::NoBundle;
    assert_eq!(common::as_client(&after, &peer).unwrap_err(), why);
    assert_eq!(after.reverify(&live, std::time::SystemTime::now()), Err(why));
    assert_eq!(after.svid_generation(), before.svid_generation(), "our own SVID is the same");
    assert_eq!(after.bundle_generation(&common::domain("other.test")), None);
}

#[tokio::test]
async fn w12_of_two_svids_with_one_hint_the_first_is_used() {
    let authority = Authority::new(TD);
    let answer = Answer::of(&authority.workload("x/default"))
        .and(&authority.svid(A))
        .hint("internal")
        .and(&authority.svid(B))
        .hint("internal");
    let api = WorkloadApi::serving(answer);
    let us = Supervised::with(&api, |config| config.hint = Some("internal".to_owned()));
    let credentials = us.ready().await;
    assert_eq!((credentials.id().as_str(), credentials.hint()), (A, Some("internal")));
}

#[tokio::test]
async fn w13_an_identical_update_swaps_nothing() {
    let (authority, other) = (Authority::new(TD), Authority::new("other.test"));
    let answer = Answer::of(&authority.svid(A)).federated(&other).federated(&Authority::new("third.test"));
    let api = WorkloadApi::scripted();
    let us = Supervised::start(&api);
    let call = api.next_call().await;
    call.send(answer.clone());
    let before = us.ready().await;
    let version = us.handle.subscribe();
    for _ in 0..100 {
        call.send(answer.clone());
    }
    within("100 updates", async {
        while us.handle.status().counts().unchanged < 100 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(Arc::ptr_eq(&before, &us.handle.credentials().unwrap()));
    assert!(!version.has_changed().unwrap(), "nobody is woken");
    assert_eq!(us.handle.status().counts().updated, 1);
}

#[tokio::test]
async fn w14_without_an_svid_the_process_lives_and_is_not_ready() {
    let api = WorkloadApi::scripted();
    let us = Supervised::start(&api);
    for attempt in 1..=4 {
        api.next_call().await.fail(denied());
        us.until("the denial", |h| h.status().attempt() == attempt).await;
        let status = us.handle.status();
        assert!(!status.is_usable() && us.handle.credentials().is_none());
        let text = status.text(std::time::SystemTime::now());
        assert!(text.starts_with(&format!("agent says no identity issued (attempt {attempt}, ")), "{text}");
    }
    assert!(!us.task.is_finished());
}
