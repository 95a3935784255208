//! Peer certificates, each over a real handshake in both TLS roles, each negative after a
//! positive control with the same authority.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{TD, as_client, as_server, credentials, domain, id, judge, us};
use mantlet_identity::{ExpectedPeer, HandshakeReason as Why};
use mantlet_testkit::pki::{Authority, CaOptions, KeyType, Malformed, SvidOptions, TestSvid};
use mantlet_testkit::workload_api::Answer;

const PEER: &str = "spiffe://one.test/ns/a/sa/peer";

/// Both roles take the peer for who it is.
#[track_caller]
fn accepted(us: &std::sync::Arc<mantlet_identity::Credentials>, peer: &TestSvid) {
    for judged in judge(us, peer) {
        assert_eq!(judged.unwrap().id().as_str(), peer.id);
    }
}

/// Both roles refuse a certificate that breaks one clause, after a conforming one of the same authority.
#[track_caller]
fn refused(clause: Malformed, why: Why) {
    let authority = Authority::new(TD);
    let us = us(&authority);
    accepted(&us, &authority.svid(PEER));
    let peer = authority.malformed(clause, PEER);
    for judged in judge(&us, &peer) {
        assert_eq!(judged.unwrap_err(), why, "{clause:?}");
    }
}

#[test]
fn x01_a_p256_leaf_of_the_trust_domain_is_accepted() {
    let authority = Authority::new(TD);
    let us = us(&authority);
    let peer = authority.svid(PEER);
    for judged in judge(&us, &peer) {
        let judged = judged.unwrap();
        assert_eq!(judged.id(), &id(PEER));
        assert_eq!(judged.chain().as_ref(), peer.chain);
        assert_eq!(judged.not_after(), std::time::SystemTime::from(peer.not_after));
        assert!(!judged.serial().is_empty());
    }
}

#[test]
fn x02_a_leaf_that_brings_its_intermediate_is_accepted() {
    let root = Authority::new(TD);
    let below = root.intermediate();
    let us = us(&root);
    accepted(&us, &below.svid(PEER));
    accepted(&us, &below.intermediate().svid(PEER));
}

#[test]
fn x03_dns_names_beside_the_id_do_not_disturb() {
    let authority = Authority::new(TD);
    let mut options = SvidOptions::new(PEER);
    options.dns = vec!["peer.a.svc".to_owned(), "peer".to_owned()];
    accepted(&us(&authority), &authority.issue(&options));
}

#[test]
fn x04_an_empty_subject_with_a_critical_san_is_accepted() {
    let authority = Authority::new(TD);
    let options = SvidOptions { common_name: None, ..SvidOptions::new(PEER) };
    accepted(&us(&authority), &authority.issue(&options));
}

#[test]
fn x05_the_right_name_signed_by_another_key_is_refused() {
    refused(Malformed::OtherAuthority, Why::UnknownIssuer);

    // With the subject of the real authority, it is the signature that gives it away.
    let same_subject = CaOptions { common_name: Some("CA".to_owned()), ..CaOptions::default() };
    let (real, false_one) = (Authority::with(TD, &same_subject), Authority::with(TD, &same_subject));
    let us = us(&real);
    accepted(&us, &real.svid(PEER));
    for judged in judge(&us, &false_one.svid(PEER)) {
        assert_eq!(judged.unwrap_err(), Why::BadSignature);
    }
}

#[test]
fn x06_expired_and_not_yet_valid_are_refused_each_by_its_reason() {
    refused(Malformed::Expired, Why::Expired);
    refused(Malformed::NotYetValid, Why::NotValidYet);
    refused(Malformed::IntermediateExpired, Why::Expired);
}

#[test]
fn x07_a_leaf_that_is_an_authority_is_refused() {
    refused(Malformed::LeafIsCa, Why::LeafIsCa);
}

#[test]
fn x08_a_leaf_that_may_sign_is_refused() {
    refused(Malformed::KeyCertSign, Why::KeyUsage);
    refused(Malformed::CrlSign, Why::KeyUsage);
}

#[test]
fn x09_a_leaf_that_may_not_sign_a_handshake_is_refused() {
    refused(Malformed::NoKeyUsage, Why::KeyUsage);
    refused(Malformed::NoDigitalSignature, Why::KeyUsage);
    refused(Malformed::KeyUsageMalformed, Why::CertMalformed);
}

#[test]
fn x10_two_uri_sans_are_refused() {
    refused(Malformed::TwoUriSans, Why::SanNotSingleUri);
    refused(Malformed::SpiffeAndHttpsUri, Why::SanNotSingleUri);
    refused(Malformed::SecondUriUnreadable, Why::SanNotSingleUri);
}

#[test]
fn x11_no_spiffe_id_is_refused() {
    refused(Malformed::NoSan, Why::SanNotSingleUri);
    refused(Malformed::DnsOnly, Why::SanNotSingleUri);
    refused(Malformed::HttpsUriOnly, Why::BadSpiffeId);
}

#[test]
fn x12_the_id_of_a_trust_domain_is_no_workload() {
    refused(Malformed::RootPathId, Why::BadSpiffeId);
    refused(Malformed::TrailingSlashId, Why::BadSpiffeId);
}

#[test]
fn x13_a_leaf_of_an_unknown_trust_domain_is_refused_whoever_signed_it() {
    let authority = Authority::new(TD);
    let us = us(&authority);
    accepted(&us, &authority.svid(PEER));
    let expected = || ExpectedPeer::AnyIn(domain("other.test"));
    for peer in
        [authority.svid("spiffe://other.test/ns/a/sa/peer"), Authority::new("other.test").workload("a/peer")]
    {
        assert_eq!(as_client(&us, &peer).unwrap_err(), Why::NoBundle);
        assert_eq!(as_server(&us, &peer, expected()).unwrap_err(), Why::NoBundle);
    }
}

#[test]
fn x14_an_authority_cannot_vouch_for_another_trust_domain() {
    let same_subject = CaOptions { common_name: Some("CA".to_owned()), ..CaOptions::default() };
    for options in [CaOptions::default(), same_subject.clone()] {
        let (one, other) = (Authority::with(TD, &options), Authority::with("other.test", &options));
        let us = credentials(Answer::of(&one.workload("a/us")).federated(&other));
        accepted(&us, &one.svid(PEER));
        let foreign = other.workload("a/peer");
        let expected = || ExpectedPeer::AnyIn(domain("other.test"));
        assert!(as_client(&us, &foreign).is_ok());
        assert!(as_server(&us, &foreign, expected()).is_ok());

        let why = if options.common_name.is_some() { Why::BadSignature } else { Why::UnknownIssuer };
        let forged = one.svid("spiffe://other.test/ns/a/sa/peer");
        assert_eq!(as_client(&us, &forged).unwrap_err(), why);
        assert_eq!(as_server(&us, &forged, expected()).unwrap_err(), why);
    }
}

#[test]
fn x15_a_federated_peer_is_accepted_until_its_bundle_is_gone() {
    let (one, other) = (Authority::new(TD), Authority::new("other.test"));
    let own = one.workload("a/us");
    let peer = other.workload("a/peer");
    let before = credentials(Answer::of(&own).federated(&other));
    let accepted = as_client(&before, &peer).unwrap();
    assert_eq!(before.reverify(&accepted, std::time::SystemTime::now()), Ok(()));

    let gone = credentials(Answer::of(&own));
    let emptied = credentials(Answer::of(&own).federated_raw("spiffe://other.test", b""));
    for after in [gone, emptied] {
        assert_eq!(as_client(&after, &peer).unwrap_err(), Why::NoBundle);
        assert_eq!(after.reverify(&accepted, std::time::SystemTime::now()), Err(Why::NoBundle));
    }
}

#[test]
fn x16_two_roots_work_until_one_goes() {
    let (old, new) = (Authority::new(TD), Authority::new(TD));
    let own = new.workload("a/us");
    let both = credentials(Answer::of(&own).bundle([&old, &new]));
    let (peer_of_old, peer_of_new) = (old.svid(PEER), new.svid(PEER));
    accepted(&both, &peer_of_new);
    accepted(&both, &peer_of_old);
    let live = as_client(&both, &peer_of_old).unwrap();

    let one = credentials(Answer::of(&own).bundle([&new]));
    accepted(&one, &peer_of_new);
    for judged in judge(&one, &peer_of_old) {
        assert_eq!(judged.unwrap_err(), Why::UnknownIssuer);
    }
    assert_eq!(one.reverify(&live, std::time::SystemTime::now()), Err(Why::UnknownIssuer));
}

#[test]
fn x17_an_intermediate_that_may_not_sign_is_not_used() {
    refused(Malformed::IntermediateNotCa, Why::KeyUsage);
    refused(Malformed::IntermediateNoKeyCertSign, Why::KeyUsage);

    // Beside a path without it, it does no harm.
    let root = Authority::new(TD);
    let mut peer = root.svid(PEER);
    let useless = CaOptions { is_ca: false, ..CaOptions::default() };
    peer.chain.push(root.intermediate_with(&useless).certificate().clone());
    accepted(&us(&root), &peer);
}

#[test]
fn x18_extended_key_usage_without_the_role_is_refused() {
    use mantlet_identity::PeerRole::{Client, Server};
    use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

    refused(Malformed::EkuCodeSigning, Why::ExtKeyUsage);
    let authority = Authority::new(TD);
    let us = us(&authority);
    let expected = || ExpectedPeer::AnyIn(domain(TD));
    let with = |ext_key_usages| authority.issue(&SvidOptions { ext_key_usages, ..SvidOptions::new(PEER) });
    accepted(&us, &with(vec![]));
    let client = with(vec![ClientAuth]);
    assert_eq!(as_client(&us, &client).unwrap().role(), Client);
    assert_eq!(as_server(&us, &client, expected()).unwrap_err(), Why::ExtKeyUsage);
    let server = with(vec![ServerAuth]);
    assert_eq!(as_client(&us, &server).unwrap_err(), Why::ExtKeyUsage);
    assert_eq!(as_server(&us, &server, expected()).unwrap().role(), Server);
}

#[test]
fn x19_a_scheme_that_only_resembles_spiffe_is_refused() {
    refused(Malformed::WrongScheme, Why::BadSpiffeId);
    refused(Malformed::UpperCaseTrustDomain, Why::BadSpiffeId);
    refused(Malformed::NulInUri, Why::BadSpiffeId);
    refused(Malformed::OversizedId, Why::BadSpiffeId);
}

#[test]
fn x20_no_certificate_and_broken_ones_are_refused() {
    refused(Malformed::CorruptedDer, Why::BadSignature);
    refused(Malformed::TruncatedDer, Why::CertMalformed);
    refused(Malformed::TrailingBytes, Why::CertMalformed);
    refused(Malformed::UnknownCritical, Why::CertMalformed);

    let authority = Authority::new(TD);
    let us = us(&authority);
    let mut nobody = authority.svid(PEER);
    accepted(&us, &nobody);
    nobody.chain.clear();
    assert_eq!(as_client(&us, &nobody).unwrap_err(), Why::NoPeerCert);
    assert_eq!(as_server(&us, &nobody, ExpectedPeer::AnyIn(domain(TD))).unwrap_err(), Why::NoPeerCert);
}

#[test]
fn x21_rsa_and_p384_keys_are_accepted_for_leaves_and_authorities() {
    for ca in [KeyType::P256, KeyType::P384, KeyType::Rsa2048] {
        let authority = Authority::with(TD, &CaOptions::with_key(ca));
        for leaf in [KeyType::P256, KeyType::P384, KeyType::Rsa2048] {
            let own = SvidOptions::new("spiffe://one.test/us").with_key(leaf);
            let us = credentials(Answer::of(&authority.issue(&own)));
            accepted(&us, &authority.issue(&SvidOptions::new(PEER).with_key(leaf)));
        }
    }
}

#[test]
fn x22_own_material_that_does_not_fit_together_never_becomes_the_identity() {
    let authority = Authority::new(TD);
    let (a, b) = (authority.workload("x/a"), authority.workload("x/b"));
    let parse = |answer: Answer| {
        mantlet_identity::Credentials::from_update(
            &common::config(),
            answer.message(),
            std::time::SystemTime::now(),
        )
    };
    assert!(parse(Answer::of(&a)).is_ok());
    let error = parse(Answer::of(&a.clone().with_key_of(&b))).unwrap_err().to_string();
    assert!(error.contains("private key is not the certificate's"), "{error}");
    let mut renamed = a.clone();
    renamed.id = b.id.clone();
    let error = parse(Answer::of(&renamed)).unwrap_err().to_string();
    assert!(error.contains("the Workload API says"), "{error}");
    let error = parse(Answer::of(&a).bundle([&Authority::new(TD)])).unwrap_err().to_string();
    assert!(error.contains("unknown_issuer"), "{error}");
}

#[test]
fn x23_the_authority_does_not_authenticate_with_its_own_certificate() {
    refused(Malformed::AuthorityAsLeaf, Why::BadSpiffeId);

    // Nor one whose id has a path.
    let authority = Authority::with(TD, &CaOptions { id: Some(PEER.to_owned()), ..CaOptions::default() });
    let us = us(&authority);
    accepted(&us, &authority.svid(PEER));
    for judged in judge(&us, &authority.malformed(Malformed::AuthorityAsLeaf, PEER)) {
        assert_eq!(judged.unwrap_err(), Why::LeafIsCa);
    }
}
