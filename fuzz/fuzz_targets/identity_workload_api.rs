//! Whatever is done to a message of the Workload API, the identity taken from it is one that was issued, and
//! the authorities taken from it are ones that it holds.
#![no_main]

use std::sync::LazyLock;
use std::time::SystemTime;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mantlet_identity::{Credentials, Endpoint, SourceConfig};
use mantlet_proto::workload::X509svidResponse;
use mantlet_testkit::pki::{Authority, TestSvid};
use mantlet_testkit::workload_api::Answer;
use prost::Message as _;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// Bytes as they come.
    Raw(&'a [u8]),
    /// A good message with bytes of it changed.
    Edited { hint: bool, edits: Vec<(u16, u8)>, cut: Option<u16> },
    /// A good message put together otherwise.
    Shuffled { svids: Vec<(u8, u8, u8, u8)>, bundles: Vec<(String, u8)> },
}

struct World {
    svids: Vec<TestSvid>,
    roots: Vec<Vec<u8>>,
    message: Vec<u8>,
    config: SourceConfig,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let (one, other) = (Authority::new("one.test"), Authority::new("other.test"));
    let svids = vec![one.workload("a/x"), one.intermediate().workload("a/y"), other.workload("a/z")];
    let message = Answer::of(&svids[0]).hint("internal").and(&svids[1]).federated(&other).message();
    World {
        roots: vec![one.root().to_vec(), other.root().to_vec()],
        svids,
        message: message.encode_to_vec(),
        config: SourceConfig::new(Endpoint::parse("unix:///a").expect("an address")),
    }
});

fuzz_target!(|input: Input<'_>| {
    let world = &*WORLD;
    let mut config = world.config.clone();
    let message = match input {
        Input::Raw(bytes) => X509svidResponse::decode(bytes),
        Input::Edited { hint, edits, cut } => {
            config.hint = hint.then(|| "internal".to_owned());
            let mut bytes = world.message.clone();
            for (place, byte) in edits.iter().take(8) {
                let place = usize::from(*place) % bytes.len();
                bytes[place] = *byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(usize::from(cut));
            }
            X509svidResponse::decode(bytes.as_slice())
        }
        Input::Shuffled { svids, bundles } => Ok(shuffled(world, &svids, bundles)),
    };
    let Ok(message) = message else { return };
    let bundles: Vec<Vec<u8>> = message
        .svids
        .iter()
        .map(|svid| svid.bundle.clone())
        .chain(message.federated_bundles.values().cloned())
        .collect();
    let Ok(credentials) = Credentials::from_update(&config, message, SystemTime::now()) else { return };
    assert!(
        world.svids.iter().any(|svid| svid.id == credentials.id().as_str()
            && Some(svid.leaf()) == credentials.chain().first()),
        "{credentials:?}"
    );
    for (_, bundle) in credentials.bundles().iter() {
        for authority in bundle.authorities() {
            let der = authority.der().as_ref();
            assert!(bundles.iter().any(|bundle| bundle.windows(der.len()).any(|window| window == der)));
        }
    }
});

fn shuffled(world: &World, svids: &[(u8, u8, u8, u8)], bundles: Vec<(String, u8)>) -> X509svidResponse {
    let svid = |number: &u8| &world.svids[usize::from(*number) % world.svids.len()];
    let root = |number: u8| world.roots[usize::from(number) % world.roots.len()].clone();
    let mut message = X509svidResponse::default();
    for (id, chain, key, bundle) in svids.iter().take(4) {
        message.svids.push(mantlet_proto::workload::X509svid {
            spiffe_id: svid(id).id.clone(),
            x509_svid: svid(chain).chain_der(),
            x509_svid_key: svid(key).key_der(),
            bundle: root(*bundle),
            hint: String::new(),
        });
    }
    message.federated_bundles = bundles.into_iter().map(|(key, number)| (key, root(number))).collect();
    message
}
