//! How often the agent is asked and how long an identity lives.
//!
//! Tests of times run over a script in memory with the clock stopped; the others over a real socket.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod common;

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use common::TD;
use common::supervised::{Playwright, Supervised, script};
use mantlet_identity::{ApiError, IdentityErrorKind, IdentityState};
use mantlet_testkit::pki::{Authority, SvidOptions};
use mantlet_testkit::workload_api::{Answer, WorkloadApi};
use tokio::time::Instant;

const A: &str = "spiffe://one.test/ns/x/sa/a";

fn denied() -> ApiError {
    ApiError::PermissionDenied("no identity issued".to_owned())
}

fn unavailable() -> ApiError {
    ApiError::Unavailable("not now".to_owned())
}

fn unreachable() -> ApiError {
    ApiError::Unreachable { address: "unix:///a".to_owned(), cause: "No such file or directory".to_owned() }
}

// --- how often the agent is asked

/// Every attempt is shown, so the last look before the minute is over has seen every call in it.
async fn calls_in_a_minute(us: &Supervised, agent: &Playwright, started: Instant) -> usize {
    let calls = Cell::new(0);
    us.until("a minute", |_| {
        let over = started.elapsed() >= Duration::from_secs(60);
        if !over {
            calls.set(agent.calls());
        }
        over
    })
    .await;
    calls.get()
}

#[tokio::test(start_paused = true)]
async fn nobody_is_called_more_than_20_times_in_a_minute() {
    for error in [unreachable(), denied(), unavailable()] {
        let (agent, script) = script();
        let started = Instant::now();
        let us = Supervised::scripted(script, |_| ());
        for _ in 0..40 {
            agent.fail(error.clone());
        }
        let calls = calls_in_a_minute(&us, &agent, started).await;
        assert!((10..=20).contains(&calls), "{error}: {calls}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_answers_and_hangs_up_is_not_called_in_a_loop() {
    let svid = Authority::new(TD).svid(A);
    let (agent, script) = script();
    let started = Instant::now();
    let us = Supervised::scripted(script, |_| ());
    for _ in 0..40 {
        agent.open().send(Answer::of(&svid));
    }
    let calls = calls_in_a_minute(&us, &agent, started).await;
    assert!((10..=20).contains(&calls), "{calls}");
    assert!(us.handle.status().is_usable());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_lived_is_reopened_at_once() {
    let svid = Authority::new(TD).svid(A);
    let (agent, script) = script();
    let us = Supervised::scripted(script, |_| ());
    let stream = agent.open();
    stream.send(Answer::of(&svid));
    us.ready().await;
    tokio::time::advance(Duration::from_secs(6)).await;
    let ended = Instant::now();
    drop(stream);
    let _next = agent.open();
    us.until("the next stream", |h| h.status().stream_connected() && agent.calls() == 2).await;
    assert_eq!(ended.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_is_retried_slowly_and_the_state_is_kept() {
    let svid = Authority::new(TD).svid(A);
    for error in [ApiError::InvalidArgument("no".to_owned()), ApiError::Unimplemented("no".to_owned())] {
        let (agent, script) = script();
        let us = Supervised::scripted(script, |_| ());
        let stream = agent.open();
        stream.send(Answer::of(&svid));
        us.ready().await;
        let started = Instant::now();
        stream.fail(error.clone());
        for _ in 0..20 {
            agent.fail(error.clone());
        }
        us.until("12 s", |_| started.elapsed() > Duration::from_secs(12)).await;
        assert!(agent.calls() - 1 <= 6, "{}", agent.calls());
        us.until("two minutes", |_| started.elapsed() > Duration::from_secs(120)).await;
        assert!(agent.calls() - 1 <= 9, "{}", agent.calls());
        assert!(us.handle.status().is_usable() && us.handle.credentials().is_some(), "{error}");
        assert!(us.handle.status().cause().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_silent_past_the_renewal_is_opened_anew_once() {
    let svid = Authority::new(TD).svid(A);
    let (agent, script) = script();
    let started = Instant::now();
    let us = Supervised::scripted(script, |_| ());
    let silent = agent.open();
    silent.send(Answer::of(&svid));
    us.ready().await;
    let repeated = agent.open();
    repeated.send(Answer::of(&svid));
    us.until("the second stream", |_| agent.calls() == 2).await;
    let minutes = started.elapsed().as_secs() / 60;
    assert!((45..=51).contains(&minutes), "{minutes}");
    us.until("the repeated SVID", |h| h.status().counts().unchanged == 1).await;
    tokio::time::advance(Duration::from_secs(3000)).await;
    assert_eq!(agent.calls(), 2);
    assert!(us.handle.status().is_usable());
}

// --- how long an identity lives

#[tokio::test(start_paused = true)]
async fn a_denial_after_a_reconnect_is_borne_for_the_grace_and_no_longer() {
    let svid = Authority::new(TD).svid(A);
    let (agent, script) = script();
    let us = Supervised::scripted(script, |config| config.grace = Duration::from_secs(30));
    let stream = agent.open();
    stream.send(Answer::of(&svid));
    us.ready().await;
    stream.fail(unavailable());
    let denied_at = Instant::now();
    // Denials, silence and streams without a message in turn: the grace runs once.
    for _ in 0..30 {
        agent.fail(denied());
        agent.fail(unavailable());
        drop(agent.open());
    }
    us.until("the grace", |h| h.status().grace_until().is_some()).await;
    assert!(us.handle.status().is_usable());
    us.state(IdentityState::Withdrawn).await;
    let lived = denied_at.elapsed();
    assert!((Duration::from_secs(30)..Duration::from_secs(32)).contains(&lived), "{lived:?}");
    assert!(us.handle.credentials().is_none());
    assert_eq!(us.handle.status().grace_until(), None);
}

#[tokio::test(start_paused = true)]
async fn a_valid_message_ends_the_grace_and_a_later_denial_starts_a_new_one() {
    let svid = Authority::new(TD).svid(A);
    let (agent, script) = script();
    let us = Supervised::scripted(script, |config| config.grace = Duration::from_secs(10));
    for _ in 0..3 {
        let stream = agent.open();
        stream.send(Answer::of(&svid));
        us.until("an identity", |h| h.status().stream_connected() && h.status().cause().is_none()).await;
        drop(stream);
        agent.fail(denied());
        us.until("the grace", |h| h.status().grace_until().is_some()).await;
        assert!(us.handle.status().is_usable());
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_grace_the_first_denial_withdraws() {
    let svid = Authority::new(TD).svid(A);
    let (agent, script) = script();
    let us = Supervised::scripted(script, |config| config.grace = Duration::ZERO);
    let stream = agent.open();
    stream.send(Answer::of(&svid));
    us.ready().await;
    drop(stream);
    agent.fail(denied());
    us.state(IdentityState::Withdrawn).await;
    assert!(us.handle.credentials().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_no_valid_message_is_not_established() {
    let authority = Authority::new(TD);
    let (agent, script) = script();
    let us = Supervised::scripted(script, |_| ());
    let stream = agent.open();
    stream.send(Answer::of(&authority.svid(A)));
    us.ready().await;
    drop(stream);
    let stream = agent.open();
    stream.send(Answer::default());
    us.until("the empty message", |h| h.status().counts().rejected == 1).await;
    stream.fail(denied());
    us.until("the grace", |h| h.status().grace_until().is_some()).await;
    assert!(us.handle.status().is_usable());
}

#[tokio::test]
async fn past_its_not_after_our_own_svid_is_not_presented_and_recovers_by_itself() {
    let authority = Authority::new(TD);
    let api = WorkloadApi::scripted();
    let us = Supervised::start(&api);
    let call = api.next_call().await;
    let short = authority.issue(&SvidOptions::new(A).expires_in(Duration::from_secs(2)));
    call.send(Answer::of(&short));
    let credentials = us.ready().await;
    assert_eq!(credentials.not_after(), SystemTime::from(short.not_after));
    us.state(IdentityState::Expired).await;
    assert!(us.handle.credentials().is_none());
    assert!(SystemTime::now() > credentials.not_after());
    let text = us.handle.status().text(SystemTime::now());
    assert!(text.contains("has expired and the agent sent no new one"), "{text}");
    // The agent that repeats it does not bring it back.
    call.send(Answer::of(&short));
    us.until("the refusal", |h| h.status().counts().rejected == 1).await;
    assert!(us.handle.credentials().is_none());
    call.send(Answer::of(&authority.svid(A)));
    us.ready().await;
    assert_eq!(us.handle.status().state(), IdentityState::Ready);
}

#[tokio::test]
async fn an_identity_that_expired_while_the_agent_is_away_is_said_to_have_however_often_the_agent_is_tried() {
    let api = WorkloadApi::scripted();
    let us = Supervised::start(&api);
    let short = SvidOptions::new(A).expires_in(Duration::from_secs(2));
    api.next_call().await.send(Answer::of(&Authority::new(TD).issue(&short)));
    us.ready().await;
    api.stop();
    us.state(IdentityState::Expired).await;
    let attempts = us.handle.status().attempt();
    us.until("another attempt", |h| h.status().attempt() > attempts + 1).await;
    let status = us.handle.status();
    let said = status.cause().unwrap();
    assert!(said.contains("has expired and the agent sent no new one: cannot reach the agent"), "{said}");
    assert_eq!(said.matches("has expired").count(), 1, "{said}");
    assert!(status.since() > SystemTime::now() - Duration::from_secs(60), "since it expired");
}

#[tokio::test]
async fn an_agent_that_is_killed_and_restarted_is_found_again() {
    let authority = Authority::new(TD);
    let api = WorkloadApi::serving(Answer::of(&authority.svid(A)));
    let us = Supervised::start(&api);
    let before = us.ready().await;
    api.stop();
    us.until("the loss", |h| h.status().counts().errors(IdentityErrorKind::Unreachable) > 0).await;
    assert!(us.handle.status().is_usable(), "the last good identity serves on");
    api.serve(Answer::of(&authority.svid(A)));
    api.start();
    let after = us.rotated_from(&before).await;
    assert_ne!(after.serial(), before.serial());
}

/// A laptop that sleeps stops timers, and not the time.
#[tokio::test(start_paused = true)]
async fn an_expired_svid_is_not_given_out_even_while_the_supervisor_sleeps() {
    let (agent, script) = script();
    let us = Supervised::scripted(script, |_| ());
    let stream = agent.open();
    let ttl = Duration::from_secs(2);
    stream.send(Answer::of(&Authority::new(TD).issue(&SvidOptions::new(A).expires_in(ttl))));
    let credentials = us.ready().await;
    // Nothing is awaited here, so the supervisor does not run: what is waited for is the end of the SVID.
    while let Ok(left) = credentials.not_after().duration_since(SystemTime::now()) {
        std::thread::sleep(left + Duration::from_millis(1));
    }
    assert!(us.handle.credentials().is_none());
    assert_eq!(us.handle.status().state(), IdentityState::Expired);
    assert!(us.handle.status().cause().unwrap().contains("has expired"));
}
