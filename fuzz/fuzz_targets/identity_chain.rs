//! Whatever is done to a chain, the leaf of one that is accepted is a leaf that was issued: signatures cannot
//! be made by chance, so everything else is a hole.
#![no_main]

use std::sync::LazyLock;
use std::time::SystemTime;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mantlet_id::TrustDomain;
use mantlet_identity::{PeerRole, TrustBundles};
use mantlet_testkit::pki::{Authority, Malformed};
use rustls_pki_types::CertificateDer;

#[derive(Arbitrary, Debug)]
struct Input {
    /// Which certificates make the chain, by number.
    certificates: Vec<u8>,
    /// What is changed: certificate, place, and what is put there.
    edits: Vec<(u8, u16, Edit)>,
    server: bool,
}

#[derive(Arbitrary, Debug)]
enum Edit {
    Byte(u8),
    Insert(u8),
    Remove,
    Truncate,
}

struct World {
    bundles: TrustBundles,
    /// Leaves that conform, and those alone.
    issued: Vec<CertificateDer<'static>>,
    /// Everything that a chain is made of.
    certificates: Vec<CertificateDer<'static>>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let (one, other, unknown) =
        (Authority::new("one.test"), Authority::new("other.test"), Authority::new("unknown.test"));
    let below = one.intermediate();
    let issued =
        [one.workload("a/x"), below.workload("a/y"), other.workload("a/z")].map(|svid| svid.leaf().clone());
    let mut certificates = issued.to_vec();
    for authority in [&one, &other, &unknown, &below] {
        certificates.push(authority.certificate().clone());
    }
    certificates.push(unknown.workload("a/x").leaf().clone());
    for clause in Malformed::ALL {
        // Nine certificates and 17 kB add nothing here but time.
        if !matches!(clause, Malformed::ChainTooLong | Malformed::LeafTooLarge) {
            certificates.extend(one.malformed(*clause, "spiffe://one.test/ns/a/sa/x").chain);
        }
    }
    let bundle = |authority: &Authority| {
        (TrustDomain::parse(authority.trust_domain()).expect("a trust domain"), authority.root().to_vec())
    };
    let bundles = [bundle(&one), bundle(&other)];
    let bundles = bundles.iter().map(|(domain, der)| (domain.clone(), der.as_slice()));
    World { bundles: TrustBundles::from_der(bundles, SystemTime::now()), issued: issued.to_vec(), certificates }
});

fuzz_target!(|input: Input| {
    let world = &*WORLD;
    let pick = |number: &u8| world.certificates[usize::from(*number) % world.certificates.len()].to_vec();
    let mut chain: Vec<Vec<u8>> = input.certificates.iter().take(10).map(pick).collect();
    for (certificate, place, edit) in input.edits.iter().take(8) {
        let count = chain.len().max(1);
        let Some(der) = chain.get_mut(usize::from(*certificate) % count) else { break };
        let place = usize::from(*place) % der.len().max(1);
        match edit {
            Edit::Byte(byte) if place < der.len() => der[place] = *byte,
            Edit::Insert(byte) => der.insert(place.min(der.len()), *byte),
            Edit::Remove if place < der.len() => drop(der.remove(place)),
            Edit::Truncate => der.truncate(place),
            _ => {}
        }
    }
    let chain: Vec<CertificateDer<'_>> = chain.iter().map(|der| der.as_slice().into()).collect();
    let role = if input.server { PeerRole::Server } else { PeerRole::Client };
    if let Ok((id, _)) = world.bundles.verify(&chain, role, SystemTime::now()) {
        assert!(world.issued.contains(&chain[0].clone().into_owned()), "accepted as {id}");
    }
});
