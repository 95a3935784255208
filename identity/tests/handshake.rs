//! What a handshake promises beyond the certificate: whom it may be, what work it costs, what stays behind.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::{Connected, Side, TD, as_client, as_server, client, credentials, domain, id, judge, us};
use mantlet_identity::{ExpectedPeer, HandshakeReason as Why, LeafConstraints, SourceConfig};
use mantlet_testkit::pki::{Authority, CaOptions, Malformed, SvidOptions};
use mantlet_testkit::workload_api::Answer;
use rcgen::KeyUsagePurpose;
use rustls::{HandshakeKind, ProtocolVersion, ServerConnection};

const PEER: &str = "spiffe://one.test/ns/a/sa/peer";

#[test]
fn every_malformed_certificate_is_refused_in_both_roles() {
    let authority = Authority::new(TD);
    let us = us(&authority);
    for clause in Malformed::ALL {
        for judged in judge(&us, &authority.malformed(*clause, PEER)) {
            assert!(judged.is_err(), "{clause:?}");
        }
    }
}

#[test]
fn sizes_and_counts_are_limits() {
    let authority = Authority::new(TD);
    let us = us(&authority);
    for clause in [Malformed::LeafTooLarge, Malformed::ChainTooLong, Malformed::TooManySans] {
        for judged in judge(&us, &authority.malformed(clause, PEER)) {
            assert_eq!(judged.unwrap_err(), Why::CertLimits, "{clause:?}");
        }
    }
    let deepest = (0..5).fold(authority.clone(), |above, _| above.intermediate());
    assert!(judge(&us, &deepest.svid(PEER)).iter().all(Result::is_ok));
}

#[test]
fn uri_name_constraints_fail_closed() {
    let authority = Authority::new(TD);
    for judged in judge(&us(&authority), &authority.malformed(Malformed::IntermediateUriConstraint, PEER)) {
        assert_eq!(judged.unwrap_err(), Why::NameConstraints);
    }
}

#[test]
fn p1_an_exact_id_admits_that_workload_and_no_other() {
    let authority = Authority::new(TD);
    let us = us(&authority);
    let peer = authority.svid(PEER);
    let expect = |expected| as_server(&us, &peer, expected);
    assert!(expect(ExpectedPeer::one(id(PEER))).is_ok());
    assert!(expect(ExpectedPeer::one_of([id("spiffe://one.test/x"), id(PEER)])).is_ok());
    for other in
        ["spiffe://one.test/ns/a/sa/peer2", "spiffe://one.test/ns/a/sa", "spiffe://two.test/ns/a/sa/peer"]
    {
        assert_eq!(expect(ExpectedPeer::one(id(other))).unwrap_err(), Why::PeerNotExpected, "{other}");
    }
}

#[test]
fn p3_an_empty_set_admits_nobody() {
    let authority = Authority::new(TD);
    let peer = authority.svid(PEER);
    assert_eq!(
        as_server(&us(&authority), &peer, ExpectedPeer::one_of([])).unwrap_err(),
        Why::PeerNotExpected
    );
}

#[test]
fn p4_membership_of_one_trust_domain_admits_nobody_of_another() {
    let (one, other) = (Authority::new(TD), Authority::new("other.test"));
    let us = credentials(Answer::of(&one.workload("a/us")).federated(&other));
    let peer = other.workload("a/peer");
    assert!(as_server(&us, &peer, ExpectedPeer::AnyIn(domain("other.test"))).is_ok());
    assert_eq!(as_server(&us, &peer, ExpectedPeer::AnyIn(domain(TD))).unwrap_err(), Why::TrustDomain);
}

#[test]
fn of_several_defects_the_one_that_is_looked_for_first_is_named() {
    let authority = Authority::new(TD);
    let us = us(&authority);
    let foreign = "spiffe://other.test/ns/a/sa/peer";

    // Sizes before anything is parsed,
    let mut large = SvidOptions::new(PEER);
    large.uris.push(foreign.to_owned());
    large.dns = vec!["a".repeat(300); 60];
    // then the names, before what the leaf may be used for,
    let mut two_names = SvidOptions::new(PEER);
    two_names.uris.push(foreign.to_owned());
    two_names.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    for (options, why) in [(large, Why::CertLimits), (two_names, Why::SanNotSingleUri)] {
        for judged in judge(&us, &authority.issue(&options)) {
            assert_eq!(judged.unwrap_err(), why);
        }
    }
    // then that, before the bundle of the leaf's trust domain,
    for (clause, why) in [
        (Malformed::LeafIsCa, Why::LeafIsCa),
        (Malformed::KeyCertSign, Why::KeyUsage),
        // then the bundle, before the path with its times and extended usages,
        (Malformed::Expired, Why::NoBundle),
        (Malformed::OtherAuthority, Why::NoBundle),
        (Malformed::EkuCodeSigning, Why::NoBundle),
        (Malformed::IntermediateNotCa, Why::NoBundle),
    ] {
        for judged in judge(&us, &authority.malformed(clause, foreign)) {
            assert_eq!(judged.unwrap_err(), why, "{clause:?}");
        }
    }
    // and last, whether it is who was expected.
    for clause in [Malformed::Expired, Malformed::EkuCodeSigning] {
        let expected = ExpectedPeer::one(id("spiffe://one.test/x"));
        let judged = as_server(&us, &authority.malformed(clause, PEER), expected);
        assert_ne!(judged.unwrap_err(), Why::PeerNotExpected, "{clause:?}");
    }
}

#[test]
fn a_peer_that_is_not_expected_is_named_only_after_its_chain_was_verified() {
    let authority = Authority::new(TD);
    let forged = authority.malformed(Malformed::OtherAuthority, PEER);
    let judged = as_server(&us(&authority), &forged, ExpectedPeer::one(id("spiffe://one.test/x")));
    assert_eq!(judged.unwrap_err(), Why::UnknownIssuer);
}

#[test]
fn a_chain_without_the_key_authenticates_nobody() {
    let authority = Authority::new(TD);
    let us = us(&authority);
    let stolen = authority.svid(PEER).with_key_of(&authority.workload("a/thief"));
    assert!(judge(&us, &authority.svid(PEER)).iter().all(Result::is_ok));
    for judged in judge(&us, &stolen) {
        assert_eq!(judged.unwrap_err(), Why::BadSignature);
    }
}

#[test]
fn not_after_is_the_earliest_of_the_path() {
    let soon = mantlet_testkit::pki::now() + Duration::from_secs(600);
    let root = Authority::new(TD);
    let below = root.intermediate_with(&CaOptions { not_after: soon, ..CaOptions::default() });
    let peer = as_client(&us(&root), &below.svid(PEER)).unwrap();
    assert_eq!(peer.not_after(), SystemTime::from(soon));

    let short_root = Authority::with(TD, &CaOptions { not_after: soon, ..CaOptions::default() });
    let peer = as_client(&us(&short_root), &short_root.svid(PEER)).unwrap();
    assert_eq!(peer.not_after(), SystemTime::from(soon));
}

#[test]
fn a_live_peer_is_judged_again_no_later_than_its_own_end() {
    let authority = Authority::new(TD);
    let us = us(&authority);
    let peer = as_client(&us, &authority.svid(PEER)).unwrap();
    let long_after = peer.not_after() + Duration::from_secs(7 * 24 * 3600);
    assert_eq!(us.reverify(&peer, long_after), Ok(()));
    let other = common::us(&Authority::new(TD));
    assert_eq!(other.reverify(&peer, SystemTime::now()), Err(Why::UnknownIssuer));
}

#[test]
fn an_absent_basic_constraints_extension_is_a_leaf_unless_required() {
    let authority = Authority::new(TD);
    let mut options = SvidOptions::new(PEER);
    options.constraints = mantlet_testkit::pki::LeafConstraints::Absent;
    let peer = authority.issue(&options);
    assert!(judge(&us(&authority), &peer).iter().all(Result::is_ok));

    let config = SourceConfig { leaf_constraints: LeafConstraints::Required, ..common::config() };
    let answer = Answer::of(&authority.workload("a/us")).message();
    let strict = mantlet_identity::Credentials::from_update(&config, answer, SystemTime::now()).unwrap();
    assert!(judge(&strict, &authority.svid(PEER)).iter().all(Result::is_ok));
    for judged in judge(&strict, &peer) {
        assert_eq!(judged.unwrap_err(), Why::LeafIsCa);
    }
}

#[test]
fn a_hundred_and_twenty_roots_of_one_subject_do_not_exhaust_the_verifier() {
    let same = CaOptions { common_name: Some("CA".to_owned()), ..CaOptions::default() };
    let roots: Vec<_> = (0..120).map(|_| Authority::with(TD, &same)).collect();
    let last = roots.last().unwrap();
    let us = credentials(Answer::of(&last.workload("a/us")).bundle(&roots));
    assert!(judge(&us, &last.svid(PEER)).iter().all(Result::is_ok));
    assert!(judge(&us, &last.intermediate().svid(PEER)).iter().all(Result::is_ok));
}

#[test]
fn decoys_with_the_name_of_an_issuer_neither_help_nor_disturb() {
    let same = CaOptions { common_name: Some("CA".to_owned()), ..CaOptions::default() };
    let root = Authority::with(TD, &same);
    let us = us(&root);
    let decoys: Vec<_> = (0..6).map(|_| Authority::with(TD, &same)).collect();
    let surround = |mut peer: mantlet_testkit::pki::TestSvid, before: usize| {
        let all = decoys.iter().map(|decoy| decoy.certificate().clone());
        let missing = 8 - peer.chain.len();
        for (n, decoy) in all.take(missing).enumerate() {
            let at = if n < before { 1 } else { peer.chain.len() };
            peer.chain.insert(at, decoy);
        }
        peer
    };
    let genuine = root.intermediate_with(&same);
    for before in [0, 3, 6] {
        assert!(judge(&us, &surround(root.svid(PEER), before)).iter().all(Result::is_ok));
        assert!(judge(&us, &surround(genuine.svid(PEER), before)).iter().all(Result::is_ok));
        let deeper = genuine.intermediate_with(&same);
        assert!(judge(&us, &surround(deeper.svid(PEER), before)).iter().all(Result::is_ok));
        for judged in judge(&us, &surround(decoys[0].svid(PEER), before)) {
            assert_eq!(judged.unwrap_err(), Why::BadSignature);
        }
    }
    for (ca, leaf) in [(mantlet_testkit::pki::KeyType::P384, 0), (mantlet_testkit::pki::KeyType::Rsa2048, 3)]
    {
        let root = Authority::with(TD, &CaOptions { key: ca, ..same.clone() });
        let below = root.intermediate_with(&CaOptions { key: ca, ..same.clone() });
        assert!(judge(&common::us(&root), &surround(below.svid(PEER), leaf)).iter().all(Result::is_ok));
    }
}

#[test]
fn an_expired_root_beside_the_valid_one_of_the_same_key_name_is_no_obstacle() {
    let same = |options| CaOptions { common_name: Some("CA".to_owned()), ..options };
    let expired = Authority::with(TD, &same(CaOptions::expired()));
    let valid = Authority::with(TD, &same(CaOptions::default()));
    let us = credentials(Answer::of(&valid.workload("a/us")).bundle([&expired, &valid]));
    assert!(judge(&us, &valid.svid(PEER)).iter().all(Result::is_ok));
    for judged in judge(&us, &expired.svid(PEER)) {
        assert!(judged.is_err());
    }
    let bundle = us.bundles().get(&domain(TD)).unwrap();
    assert_eq!((bundle.authorities().len(), bundle.rejected()), (1, 1));
}

/// Two of ours, as a sidecar meets a sidecar.
fn meet(alpn: &[&[u8]]) -> (Connected, Connected) {
    let authority = Authority::new(TD);
    let (a, b) = (us(&authority), credentials(Answer::of(&authority.svid(PEER))));
    let (server, server_handshake) = b.server_handshake(alpn);
    let (config, client_handshake) = a.client_handshake(ExpectedPeer::one(id(PEER)), alpn);
    let server = ServerConnection::new(server).unwrap();
    let (client, server) = common::run(client(config), server, Side::Client);
    let (Ok(Connected::Client(client)), Ok(Connected::Server(server))) = (client, server) else {
        panic!("the handshake fails");
    };
    assert_eq!(client_handshake.verified(&client).unwrap().id().as_str(), PEER);
    assert_eq!(server_handshake.verified(&server).unwrap().id(), a.id());
    (Connected::Client(client), Connected::Server(server))
}

#[test]
fn two_sidecars_speak_tls13_with_the_hybrid_group_and_no_tickets() {
    let (Connected::Client(client), Connected::Server(server)) = meet(&[b"h2"]) else { panic!() };
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), rustls::NamedGroup::X25519MLKEM768);
    assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(client.tls13_tickets_received(), 0);
    assert_eq!(server.server_name(), None, "no SNI is sent");
    assert!(rustls::crypto::CryptoProvider::get_default().is_none(), "the process default is left alone");
}

#[test]
fn no_session_is_resumed_in_either_role() {
    let authority = Authority::new(TD);
    let us = us(&authority);
    let peer = authority.svid(PEER);

    // A server that hands out tickets, met twice with one configuration.
    let server = Arc::new(common::raw_server(&peer));
    let (config, _handshake) = us.client_handshake(ExpectedPeer::one(id(PEER)), &[]);
    for _ in 0..2 {
        // One configuration serves one connection: the second fails rather than reuse the slot.
        let server = ServerConnection::new(server.clone()).unwrap();
        match common::run(client(config.clone()), server, Side::Client).0 {
            Ok(Connected::Client(client)) => assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full)),
            Ok(Connected::Server(_)) => panic!(),
            Err(why) => assert_eq!(why, Why::Protocol),
        }
    }
    // A client that would resume, at our server.
    let raw = common::raw_client(&peer);
    for _ in 0..2 {
        let (config, handshake) = us.server_handshake(&[]);
        let server = ServerConnection::new(config).unwrap();
        let Ok(Connected::Server(server)) = common::run(client(raw.clone()), server, Side::Server).0 else {
            panic!("the handshake fails");
        };
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
        assert!(handshake.verified(&server).is_some());
    }
}

#[test]
fn no_protocol_in_common_ends_the_handshake_with_that_reason() {
    let authority = Authority::new(TD);
    let us = us(&authority);
    let (server, _) = us.server_handshake(&[b"mantlet-tcp"]);
    let (config, _) = us.client_handshake(ExpectedPeer::AnyIn(domain(TD)), &[b"h2"]);
    let (client, server) = common::run(client(config), ServerConnection::new(server).unwrap(), Side::Client);
    assert_eq!(server.err(), Some(Why::Alpn));
    assert_eq!(client.err(), Some(Why::Alpn));
}

#[test]
fn the_side_that_is_refused_sees_an_alert() {
    let authority = Authority::new(TD);
    let us = us(&authority);
    let (config, _) = us.server_handshake(&[]);
    let peer = common::raw_client(&authority.malformed(Malformed::Expired, PEER));
    let server = ServerConnection::new(config).unwrap();
    let (client, server) = common::run(client(peer), server, Side::Client);
    assert_eq!(server.err(), Some(Why::Expired));
    assert_eq!(client.err(), Some(Why::PeerAlert));
}

#[test]
fn there_is_no_peer_before_the_handshake_is_complete() {
    let authority = Authority::new(TD);
    let us = us(&authority);
    let (config, handshake) = us.server_handshake(&[]);
    let server = ServerConnection::new(config).unwrap();
    assert!(handshake.verified(&server).is_none());

    // Nor from the handshake of another connection.
    let (config, _) = us.server_handshake(&[]);
    let (_, other) = us.server_handshake(&[]);
    let server = ServerConnection::new(config).unwrap();
    let raw = common::raw_client(&authority.svid(PEER));
    let Ok(Connected::Server(server)) = common::run(client(raw), server, Side::Server).0 else { panic!() };
    assert!(other.verified(&server).is_none());
}

#[test]
fn credentials_never_print_a_key() {
    let authority = Authority::new(TD);
    let svid = authority.workload("a/us");
    let us = credentials(Answer::of(&svid));
    let text = format!("{us:?} {:?}", us.bundles());
    assert!(text.contains("spiffe://one.test/ns/a/sa/us") && text.contains("<redacted>"), "{text}");
    let update: mantlet_identity::X509Update = Answer::of(&svid).message().into();
    // Wiped when dropped, by its type.
    let wiped: &zeroize::Zeroizing<Vec<u8>> = &update.svids[0].key;
    assert!(!format!("{:?}", update.svids[0]).contains(&format!("{:?}", &wiped[..8])));
    let shown = format!("{update:?}");
    assert!(shown.contains("<redacted>"), "{shown}");
    for window in svid.key_der().windows(8) {
        let list = format!("{window:?}");
        let list = list.trim_matches(['[', ']']);
        assert!(!text.contains(list) && !shown.contains(list));
    }
}
