//! The upstreams of one worker, by what must be equal for a connection to be shared.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mantlet_identity::{Credentials, ExpectedPeer};

use super::{Host, Upstream};
use crate::{detect::HttpVersion, directory::Endpoint, vouch::Vouchers};

/// A pool with fewer hosts than this is not searched for ones that nobody needs any more.
const FIRST_PRUNE: usize = 64;

/// The upstream connections of one worker.
pub struct Pool {
    hosts: Mutex<Hosts>,
    vouchers: Arc<Vouchers>,
}

struct Hosts {
    all: HashMap<Key, Arc<Host>>,
    /// So many make it worth looking for ones that nobody needs: endpoints come and go.
    prune_at: usize,
}

/// What must be equal for a connection to be shared.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Key {
    /// The own application.
    App(SocketAddr, HttpVersion),
    /// A peer of the mesh.
    Mesh {
        /// Where it listens.
        addr: SocketAddr,
        /// Who must be there.
        expected: ExpectedPeer,
        /// Generation of the own SVID.
        svid: u64,
        /// Stands for the generations of the bundles that the peer can be verified with.
        bundle: u64,
    },
}

// === impl Pool ===

impl Pool {
    /// A pool without connections, whose mesh peers stand among `vouchers`.
    #[must_use]
    pub fn new(vouchers: Arc<Vouchers>) -> Self {
        let hosts = Mutex::new(Hosts { all: HashMap::new(), prune_at: FIRST_PRUNE });
        Self { hosts, vouchers }
    }

    /// The upstream for `key`; `upstream` says how to reach it if it is new.
    pub fn host(&self, key: Key, upstream: impl FnOnce() -> Upstream) -> Arc<Host> {
        let mut hosts = self.lock();
        if let Some(host) = hosts.all.get(&key) {
            return Arc::clone(host);
        }
        if hosts.all.len() >= hosts.prune_at {
            hosts.all.retain(|_, host| Arc::strong_count(host) > 1 || host.is_live());
            hosts.prune_at = FIRST_PRUNE.max(hosts.all.len() * 2);
        }
        let host = Arc::new(Host::new(upstream(), Arc::clone(&self.vouchers)));
        hosts.all.insert(key, Arc::clone(&host));
        host
    }

    /// Lets go of the hosts of other credentials than these, and of their idle connections: whoever
    /// has looked such a host up before may hold it for as long as it sends nothing.
    pub fn retire(&self, current: &Credentials) {
        self.lock().all.retain(|key, host| {
            let stays = key.is_current(current);
            if !stays {
                host.lock().retire();
            }
            stays
        });
    }

    fn lock(&self) -> MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Key ===

impl Key {
    /// The key of a peer, under these credentials.
    #[must_use]
    pub fn mesh(credentials: &Credentials, endpoint: &Endpoint) -> Self {
        let expected = endpoint.expected.clone();
        let bundle = bundle_generation(credentials, &expected);
        Self::Mesh { addr: endpoint.addr, expected, svid: credentials.svid_generation(), bundle }
    }

    fn is_current(&self, credentials: &Credentials) -> bool {
        match self {
            Self::App(..) => true,
            Self::Mesh { expected, svid, bundle, .. } => {
                *svid == credentials.svid_generation() && *bundle == bundle_generation(credentials, expected)
            }
        }
    }
}

/// A number for the generations of all bundles that an expected peer can be verified with: another
/// one when any of them changes, comes or goes.
fn bundle_generation(credentials: &Credentials, expected: &ExpectedPeer) -> u64 {
    let generation =
        |trust_domain| credentials.bundle_generation(trust_domain).map_or(0, |number| number + 1);
    match expected {
        ExpectedPeer::AnyIn(trust_domain) => generation(trust_domain),
        ExpectedPeer::OneOf(ids) => ids.iter().fold(0, |all: u64, id| {
            // Any odd multiplier keeps permutations apart.
            all.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(generation(id.trust_domain()))
        }),
    }
}
