//! What of one update is taken: every entry is judged by itself, and the whole is all or nothing.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::time::SystemTime;

use common::supervised::Supervised;
use common::{TD, config, domain, id};
use mantlet_identity::{Credentials, HandshakeReason, IdentityErrorKind, SourceConfig, UpdateError};
use mantlet_testkit::pki::{Authority, CaOptions, Malformed};
use mantlet_testkit::workload_api::{Answer, WorkloadApi};

const A: &str = "spiffe://one.test/ns/x/sa/a";
const B: &str = "spiffe://one.test/ns/x/sa/b";

fn take(config: &SourceConfig, answer: Answer) -> Result<Arc<Credentials>, UpdateError> {
    Credentials::from_update(config, answer.message(), SystemTime::now())
}

fn serial(us: &Supervised) -> Option<String> {
    us.handle.credentials().map(|credentials| credentials.serial().to_owned())
}

#[test]
fn one_spoilt_svid_does_not_spoil_the_others() {
    let authority = Authority::new(TD);
    let good = authority.svid(B);
    for clause in Malformed::ALL {
        let bad = authority.malformed(*clause, A);
        let bad = Answer::of(&bad).bundle([&authority]);
        let taken = take(&config(), bad.clone().and(&good)).unwrap();
        assert_eq!(taken.id().as_str(), B, "{clause:?}");
        assert!(matches!(take(&config(), bad), Err(UpdateError::NoneUsable(_))), "{clause:?}");
    }
}

#[test]
fn the_expected_id_is_taken_wherever_it_is_and_never_replaced_while_it_is_spoilt() {
    let authority = Authority::new(TD);
    let (a, b) = (authority.svid(A), authority.svid(B));
    let config = SourceConfig { expected_id: Some(id(B)), ..config() };
    assert_eq!(take(&config, Answer::of(&a).and(&b)).unwrap().id().as_str(), B);
    // Not there at all: the first, or who has the hint.
    assert_eq!(take(&config, Answer::of(&a)).unwrap().id().as_str(), A);
    // There and spoilt: nobody, rather than somebody else.
    let spoilt = b.with_key_of(&a);
    let error = take(&config, Answer::of(&a).and(&spoilt)).unwrap_err();
    assert!(matches!(&error, UpdateError::NoneUsable(why) if why.contains(B)), "{error}");
}

#[test]
fn a_hint_that_nobody_has_is_no_identity() {
    let authority = Authority::new(TD);
    let (a, b) = (authority.svid(A), authority.svid(B));
    let answer = Answer::of(&a).hint("external").and(&b).hint("internal");
    let with = |hint: &str| SourceConfig { hint: Some(hint.to_owned()), ..config() };
    assert_eq!(take(&with("internal"), answer.clone()).unwrap().id().as_str(), B);
    assert_eq!(take(&config(), answer.clone()).unwrap().id().as_str(), A);
    assert_eq!(take(&with("other"), answer).unwrap_err(), UpdateError::NoHint("other".to_owned()));
}

#[test]
fn an_svid_of_another_trust_domain_is_left_out_and_said() {
    let (one, other) = (Authority::new(TD), Authority::new("other.test"));
    let foreign = other.workload("x/a");
    let own = SourceConfig { trust_domain: Some(domain(TD)), ..config() };
    assert_eq!(take(&own, Answer::of(&foreign).and(&one.svid(A))).unwrap().id().as_str(), A);
    let error = take(&own, Answer::of(&foreign)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "agent's SVIDs are of trust domain other.test, this workload's is one.test"
    );
}

#[tokio::test]
async fn the_trust_domain_never_changes_at_run_time() {
    let api = WorkloadApi::scripted();
    let us = Supervised::start(&api);
    let call = api.next_call().await;
    call.send(Answer::of(&Authority::new(TD).svid(A)));
    let before = us.ready().await;
    call.send(Answer::of(&Authority::new("other.test").workload("x/a")));
    us.until("the refusal", |h| h.status().counts().rejected == 1).await;
    assert_eq!(serial(&us).unwrap(), before.serial());
    assert!(us.handle.status().cause().unwrap().contains("other.test"));
}

#[test]
fn t7_a_key_of_the_bundle_map_is_the_id_of_a_trust_domain_or_is_dropped_alone() {
    let (one, other) = (Authority::new(TD), Authority::new("other.test"));
    let der = other.root().to_vec();
    let mut answer = Answer::of(&one.svid(A)).federated(&other);
    for key in [
        "",
        "other2.test",
        "spiffe://",
        "spiffe://third.test/",
        "spiffe://third.test/path",
        "spiffe://THIRD.test",
        "SPIFFE://third.test",
        "spiffe://third.test:80",
        "https://third.test",
    ] {
        answer = answer.federated_raw(key, &der);
    }
    let taken = take(&config(), answer).unwrap();
    let known: Vec<_> = taken.bundles().iter().map(|(domain, _)| domain.as_str()).collect();
    assert_eq!(known, [TD, "other.test"]);
}

#[test]
fn the_bundle_that_comes_with_the_svid_beats_a_federated_one_of_the_same_domain() {
    let (real, planted) = (Authority::new(TD), Authority::new(TD));
    let taken = take(&config(), Answer::of(&real.svid(A)).federated(&planted)).unwrap();
    assert!(common::judge(&taken, &real.svid(B)).iter().all(Result::is_ok));
    for judged in common::judge(&taken, &planted.svid(B)) {
        assert_eq!(judged.unwrap_err(), HandshakeReason::UnknownIssuer);
    }
}

#[test]
fn one_bad_authority_does_not_discard_the_others_and_an_unreadable_bundle_trusts_nobody() {
    let (one, other) = (Authority::new(TD), Authority::new("other.test"));
    let not_ca = Authority::with("other.test", &CaOptions { is_ca: false, ..CaOptions::default() });
    let leaf = other.workload("a/leaf").leaf().to_vec();
    // A certificate that is framed well and means nothing.
    let nonsense = [0x30, 3, 2, 1, 5];
    let expired = Authority::with("other.test", &CaOptions::expired());
    let mut mixed = Vec::new();
    for der in [&nonsense[..], not_ca.root(), &leaf, expired.root(), other.root(), &[0x30, 0x82]] {
        mixed.extend_from_slice(der);
    }
    let answer = Answer::of(&one.svid(A))
        .federated_raw("spiffe://other.test", &mixed)
        .federated_raw("spiffe://third.test", b"garbage");
    let taken = take(&config(), answer).unwrap();
    let bundle = taken.bundles().get(&domain("other.test")).unwrap();
    assert_eq!((bundle.authorities().len(), bundle.rejected()), (1, 5));
    assert_eq!(bundle.authorities()[0].der(), other.root());
    assert!(common::as_client(&taken, &other.workload("a/peer")).is_ok());
    let third = Authority::new("third.test").workload("a/peer");
    assert_eq!(common::as_client(&taken, &third).unwrap_err(), HandshakeReason::NoBundle);
    assert_eq!(taken.bundles().get(&domain("third.test")).unwrap().authorities().len(), 0);
}

#[test]
fn counts_are_limited() {
    let authority = Authority::new(TD);
    let svid = authority.svid(A);
    let many = (0..101).fold(Answer::default(), |answer, _| answer.and(&svid));
    assert_eq!(take(&config(), many).unwrap_err(), UpdateError::TooManySvids(101));
    let most = (0..100).fold(Answer::default(), |answer, _| answer.and(&svid));
    assert!(take(&config(), most).is_ok());

    let with = |count: usize| {
        (0..count)
            .fold(Answer::of(&svid), |answer, n| answer.federated_raw(&format!("spiffe://d{n}.test"), b""))
    };
    assert_eq!(take(&config(), with(201)).unwrap_err(), UpdateError::TooManyTrustDomains(201));
    assert_eq!(take(&config(), with(200)).unwrap().bundles().len(), 201);
}

#[tokio::test]
async fn a_message_beyond_16_mib_is_not_taken_and_costs_nothing_else() {
    let authority = Authority::new(TD);
    let api = WorkloadApi::scripted();
    let us = Supervised::start(&api);
    let call = api.next_call().await;
    call.send(Answer::of(&authority.svid(A)).federated_raw("spiffe://big.test", &vec![0; 5 << 20]));
    let before = us.ready().await;
    call.send(Answer::of(&authority.svid(A)).federated_raw("spiffe://big.test", &vec![0; 17 << 20]));
    us.until("the refusal", |h| h.status().counts().errors(IdentityErrorKind::Update) > 0).await;
    assert_eq!(serial(&us).unwrap(), before.serial());
    assert!(us.handle.status().cause().unwrap().contains("more than we take"));
}

#[tokio::test]
async fn generations_move_with_what_has_changed_and_with_nothing_else() {
    let (one, other) = (Authority::new(TD), Authority::new("other.test"));
    let (own, foreign) = (domain(TD), domain("other.test"));
    let svid = one.svid(A);
    let api = WorkloadApi::scripted();
    let us = Supervised::start(&api);
    let call = api.next_call().await;
    call.send(Answer::of(&svid).federated(&other));
    let first = us.ready().await;

    call.send(Answer::of(&svid).federated(&other).federated(&Authority::new("other.test")));
    let second = us.rotated_from(&first).await;
    assert_eq!(second.svid_generation(), first.svid_generation());
    assert_eq!(second.bundle_generation(&own), first.bundle_generation(&own));
    assert!(second.bundle_generation(&foreign) > first.bundle_generation(&foreign));

    call.send(Answer::of(&svid));
    let third = us.rotated_from(&second).await;
    assert_eq!(third.bundle_generation(&foreign), None);

    call.send(Answer::of(&svid).federated(&other));
    let fourth = us.rotated_from(&third).await;
    assert!(fourth.bundle_generation(&foreign) > second.bundle_generation(&foreign), "never the same twice");
    assert_eq!(fourth.bundle_generation(&own), first.bundle_generation(&own));
}
