//! Source 2: the lines of the upstreams language, live.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use mantlet_id::SpiffeId;
use mantlet_identity::ExpectedPeer;
use mantlet_policy::upstreams::{By, Lookup, Upstream, UpstreamProtocol, Upstreams};

use super::{Answer, Destination, Endpoint, EndpointProtocol, Endpoints, Fleet, Found, Source};
use crate::{
    addr::OrigDst,
    dns::{Names, Want},
};

/// A destination that no line names may be the new address of a name: so long is that asked for.
const NEW_ADDRESS: Duration = Duration::from_millis(500);
/// Fewer destinations than this are not searched for ones that nobody uses any more.
const FIRST_PRUNE: usize = 256;

/// The lines in force. Cheap to clone.
#[derive(Clone)]
pub struct Lines {
    shared: Arc<Shared>,
}

struct Shared {
    /// `None` until the first text was understood: then nothing is known, and nothing goes anywhere.
    upstreams: ArcSwapOption<Upstreams>,
    names: Names,
    fleet: Fleet,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Keeps the names of the lines known.
    want: Option<Want>,
    known: HashMap<OrigDst, Known>,
    prune_at: usize,
}

/// A destination that connections have gone to.
struct Known {
    meant: Meant,
    endpoints: Endpoints,
}

/// What the lines mean by a destination.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Meant {
    ids: Arc<BTreeSet<SpiffeId>>,
    protocol: Option<UpstreamProtocol>,
    by: By,
}

// === impl Lines ===

impl Lines {
    /// No lines yet.
    #[must_use]
    pub fn new(names: &Names, fleet: &Fleet) -> Self {
        let shared = Shared {
            upstreams: ArcSwapOption::empty(),
            names: names.clone(),
            fleet: fleet.clone(),
            state: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Puts these lines in force. What no longer goes where it went ends; all else goes on.
    pub fn replace(&self, upstreams: Upstreams) {
        let shared = &self.shared;
        // The new names are wanted before the old ones are not, so that what is in both stays known.
        let want = shared.names.want(upstreams.names().map(str::to_owned).collect());
        let mut state = shared.lock();
        let old = state.want.replace(want);
        state.known.retain(|wanted, known| {
            // A name that had the address when the connection was made still has it for the connection.
            let is_named = |name: &str, ip: IpAddr| known.meant.is_named(name) || shared.names.has(name, ip);
            let stays = match upstreams.lookup(wanted.0.ip(), wanted.0.port(), is_named) {
                Lookup::Found { upstream: Upstream::Mesh { ids, protocol }, by, .. } => {
                    Meant { ids, protocol, by } == known.meant
                }
                _ => false,
            };
            if !stays {
                known.endpoints.end();
            }
            stays
        });
        shared.upstreams.store(Some(Arc::new(upstreams)));
        drop((state, old));
    }

    /// Whether there are lines in force, if only none.
    #[must_use]
    pub fn are_in_force(&self) -> bool {
        self.shared.upstreams.load().is_some()
    }

    /// Keeps the endpoints of destinations in use what their names say. Never returns.
    pub async fn follow(self) {
        let mut changes = self.shared.names.subscribe();
        while changes.changed().await.is_ok() {
            for (wanted, known) in &self.shared.lock().known {
                let endpoints = self.shared.endpoints(*wanted, &known.meant);
                // A destination whose name is gone keeps what it has: whoever answers there is asked
                // for its identity.
                if !endpoints.is_empty() {
                    known.endpoints.replace(endpoints);
                }
            }
        }
    }

    async fn find(&self, wanted: OrigDst) -> Answer {
        let shared = &self.shared;
        let Some(upstreams) = shared.upstreams.load_full() else { return Answer::Goes(Destination::Refuse) };
        let (ip, port) = (wanted.0.ip(), wanted.0.port());
        let lookup = || upstreams.lookup(ip, port, |name, ip| shared.names.has(name, ip));
        let found = match lookup() {
            Lookup::None | Lookup::Found { by: By::Default, .. } => {
                shared.names.refresh(upstreams.names_of_port(port), NEW_ADDRESS).await;
                lookup()
            }
            found => found,
        };
        match found {
            Lookup::Found { upstream: Upstream::Mesh { ids, protocol }, by, .. } => {
                Answer::Goes(Destination::Mesh(shared.mesh(wanted, Meant { ids, protocol, by })))
            }
            Lookup::Found { upstream: Upstream::Passthrough { http }, .. } => {
                Answer::Goes(Destination::Passthrough { addr: wanted.0, http })
            }
            Lookup::Found { upstream: Upstream::Refuse, .. } | Lookup::Conflict { .. } => {
                Answer::Goes(Destination::Refuse)
            }
            Lookup::None => Answer::Silent,
        }
    }
}

impl Source for Lines {
    fn find(&self, wanted: OrigDst) -> Found<'_> {
        Box::pin(Lines::find(self, wanted))
    }
}

// === impl Shared ===

impl Shared {
    /// The endpoints of a destination; all connections to it share them.
    fn mesh(&self, wanted: OrigDst, meant: Meant) -> Endpoints {
        let mut state = self.lock();
        if let Some(known) = state.known.get(&wanted)
            && known.meant == meant
        {
            return known.endpoints.clone();
        }
        if state.known.len() >= state.prune_at {
            state.known.retain(|_, known| known.endpoints.is_in_use());
            state.prune_at = FIRST_PRUNE.max(state.known.len().saturating_mul(2));
        }
        let endpoints = Endpoints::new(self.endpoints(wanted, &meant), meant.protocol());
        let known = Known { meant, endpoints: endpoints.clone() };
        if let Some(before) = state.known.insert(wanted, known) {
            before.endpoints.end();
        }
        endpoints
    }

    /// Every address of the names that mean a destination, or the destination itself.
    fn endpoints(&self, OrigDst(wanted): OrigDst, meant: &Meant) -> Vec<Endpoint> {
        let addresses: BTreeSet<SocketAddr> = match &meant.by {
            By::Names(names) => names
                .iter()
                .flat_map(|name| self.names.addresses(name).to_vec())
                .map(|ip| SocketAddr::new(ip, wanted.port()))
                .collect(),
            By::Address | By::Default => BTreeSet::from([wanted]),
        };
        let endpoint = |addr| Endpoint {
            addr,
            expected: ExpectedPeer::OneOf(Arc::clone(&meant.ids)),
            protocol: meant.protocol(),
            health: self.fleet.health(addr),
        };
        addresses.into_iter().map(endpoint).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Meant ===

impl Meant {
    fn protocol(&self) -> EndpointProtocol {
        match self.protocol {
            Some(UpstreamProtocol::Http) => EndpointProtocol::Http,
            Some(UpstreamProtocol::Opaque) => EndpointProtocol::Opaque,
            None => EndpointProtocol::AskPeer,
        }
    }

    fn is_named(&self, name: &str) -> bool {
        matches!(&self.by, By::Names(names) if names.iter().any(|known| known == name))
    }
}
