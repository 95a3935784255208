//! What one handshake costs, part by part: `cargo bench -p mantlet-identity`.
//!
//! Each figure is the median of 31 rounds; a round lasts at least 20 ms.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime};

use common::{Connected, Side, TD, client, credentials, domain, id, us};
use mantlet_identity::{ExpectedPeer, PeerRole};
use mantlet_testkit::pki::{Authority, CaOptions, KeyType, Malformed, SvidOptions};
use mantlet_testkit::workload_api::Answer;
use rustls::ServerConnection;

const PEER: &str = "spiffe://one.test/ns/a/sa/peer";
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

fn main() {
    // As part of a test run this only has to work.
    let (rounds, round) = match std::env::args().any(|arg| arg == "--bench") {
        true => (31, Duration::from_millis(20)),
        false => (1, Duration::ZERO),
    };
    let bench = |name: &str, work: &mut dyn FnMut()| {
        let mut each: Vec<f64> = (0..rounds).map(|_| once(round, work)).collect();
        each.sort_by(f64::total_cmp);
        println!("{name:<52} {:>9.2} us", each[each.len() / 2]);
    };

    let authority = Authority::new(TD);
    let us = us(&authority);
    let expected = ExpectedPeer::one(id(PEER));
    bench("configuration of one inbound connection", &mut || {
        black_box(us.server_handshake(ALPN));
    });
    bench("configuration of one outbound connection", &mut || {
        black_box(us.client_handshake(expected.clone(), ALPN));
    });

    let now = SystemTime::now();
    let verify = |us: &mantlet_identity::Credentials, chain: &[_]| {
        let _ = black_box(us.bundles().verify(chain, PeerRole::Client, now));
    };
    let leaf = authority.svid(PEER);
    bench("verify a chain: leaf", &mut || verify(&us, &leaf.chain));
    let below = authority.intermediate().svid(PEER);
    bench("verify a chain: leaf, intermediate", &mut || verify(&us, &below.chain));
    let p384 = Authority::with(TD, &CaOptions::with_key(KeyType::P384));
    let under_p384 = common::us(&p384);
    let leaf_p384 = p384.issue(&SvidOptions::new(PEER).with_key(KeyType::P384));
    bench("verify a chain: leaf, P-384", &mut || verify(&under_p384, &leaf_p384.chain));
    let rsa = Authority::with(TD, &CaOptions::with_key(KeyType::Rsa2048));
    let under_rsa = common::us(&rsa);
    let leaf_rsa = rsa.issue(&SvidOptions::new(PEER).with_key(KeyType::Rsa2048));
    bench("verify a chain: leaf, RSA-2048", &mut || verify(&under_rsa, &leaf_rsa.chain));
    let same = CaOptions { common_name: Some("CA".to_owned()), ..CaOptions::default() };
    let roots: Vec<_> = (0..50).map(|_| Authority::with(TD, &same)).collect();
    let last = roots[49].svid(PEER);
    let many = credentials(Answer::of(&roots[0].workload("a/us")).bundle(&roots));
    bench("verify a chain: leaf, 50 roots of one subject", &mut || verify(&many, &last.chain));

    for clause in [
        Malformed::TwoUriSans,
        Malformed::NoKeyUsage,
        Malformed::ChainTooLong,
        Malformed::LeafTooLarge,
        Malformed::OtherAuthority,
        Malformed::CorruptedDer,
    ] {
        let chain = authority.malformed(clause, PEER).chain;
        bench(&format!("refuse a chain: {clause:?}"), &mut || verify(&us, &chain));
    }

    // The worst that fits into the caps: every certificate could be the issuer of every other.
    let us_same = common::us(&roots[0]);
    let mut worst = roots[1].svid(PEER);
    worst.chain.extend(roots.iter().skip(2).take(7).map(|root| root.certificate().clone()));
    bench("refuse a chain: 8 that could issue each other", &mut || verify(&us_same, &worst.chain));

    let peer = credentials(Answer::of(&leaf));
    bench("whole handshake, both ends", &mut || {
        let (server, server_handshake) = peer.server_handshake(ALPN);
        let (config, client_handshake) = us.client_handshake(expected.clone(), ALPN);
        let server = ServerConnection::new(server).unwrap();
        let (ours, theirs) = common::run(client(config), server, Side::Client);
        let (Ok(Connected::Client(client)), Ok(Connected::Server(server))) = (ours, theirs) else {
            unreachable!("the handshake fails");
        };
        assert!(client_handshake.verified(&client).is_some());
        assert!(server_handshake.verified(&server).is_some());
    });

    let judged = common::as_client(&us, &leaf).unwrap();
    bench("judge a live peer again", &mut || us.reverify(&judged, now).unwrap());
    let trust_domain = domain(TD);
    bench("bundle generation", &mut || {
        black_box(us.bundle_generation(&trust_domain));
    });
}

/// Microseconds per call over one round.
fn once(round: Duration, work: &mut dyn FnMut()) -> f64 {
    let started = Instant::now();
    let mut calls = 0u32;
    while calls == 0 || started.elapsed() < round {
        work();
        calls += 1;
    }
    started.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
}
