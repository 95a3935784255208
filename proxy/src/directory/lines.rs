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

use super::{Answer, Destination, Endpoint, EndpointProtocol, Endpoints, Fleet, Found, Source, Standing};
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
    /// A destination can mean several things at a time: its name has come to mean another while connections
    /// go on under what it meant before.
    known: HashMap<OrigDst, Vec<Known>>,
    prune_at: usize,
}

/// What was said of a destination that connections have gone to.
enum Known {
    /// It is in the mesh.
    Mesh { meant: Meant, endpoints: Endpoints },
    /// It is passed through, by a line with one of these names, or by one without a name.
    Passed { names: BTreeSet<String>, standing: Standing },
    /// Nothing. `passes`: so it is passed through.
    Nothing { passes: bool, standing: Standing },
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
        state.known.retain(|wanted, all| {
            all.retain_mut(|known| {
                // A name that had the address when the connection was made still has it for the connection.
                let is_named = |name: &str, ip: IpAddr| known.is_named(name) || shared.names.has(name, ip);
                let said = upstreams.lookup(wanted.0.ip(), wanted.0.port(), is_named);
                let stays = known.goes_on(said);
                match known {
                    Known::Mesh { meant, endpoints } if stays => shared.update(*wanted, meant, endpoints),
                    _ if stays => {}
                    _ => known.standing().end(),
                }
                stays
            });
            !all.is_empty()
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
            for (wanted, all) in &self.shared.lock().known {
                for known in all {
                    if let Known::Mesh { meant, endpoints } = known {
                        self.shared.update(*wanted, meant, endpoints);
                    }
                }
            }
        }
    }

    async fn find(&self, wanted: OrigDst) -> Answer {
        loop {
            let Some(upstreams) = self.shared.upstreams.load_full() else {
                return Answer::Goes(Destination::Refuse);
            };
            if let Some(answer) = self.ask(&upstreams, wanted).await {
                return answer;
            }
        }
    }

    /// What these lines say; `None` if they are not in force any more.
    async fn ask(&self, upstreams: &Arc<Upstreams>, wanted: OrigDst) -> Option<Answer> {
        let shared = &self.shared;
        let lookup = || shared.lookup(upstreams, wanted);
        let found = match lookup() {
            Lookup::None | Lookup::Found { by: By::Default, .. } => {
                let names = upstreams.names_of_port(wanted.0.port());
                shared.names.refresh(names, NEW_ADDRESS).await;
                lookup()
            }
            found => found,
        };
        Some(match found {
            Lookup::Found { upstream: Upstream::Mesh { ids, protocol }, by, .. } => {
                let endpoints = shared.mesh(upstreams, wanted, Meant { ids, protocol, by })?;
                Answer::Goes(Destination::Mesh(endpoints))
            }
            Lookup::Found { upstream: Upstream::Passthrough { http }, by, .. } => {
                let standing = shared.passed(upstreams, wanted, by)?;
                Answer::Goes(Destination::Passthrough { addr: wanted.0, http, standing })
            }
            Lookup::Found { upstream: Upstream::Refuse, .. } | Lookup::Conflict { .. } => {
                Answer::Goes(Destination::Refuse)
            }
            Lookup::None => Answer::Silent,
        })
    }
}

impl Source for Lines {
    fn find(&self, wanted: OrigDst) -> Found<'_> {
        Box::pin(Lines::find(self, wanted))
    }

    fn silence(&self, wanted: OrigDst, passes: bool) -> Option<Standing> {
        Some(self.shared.nothing(wanted, passes))
    }
}

// === impl Shared ===

impl Shared {
    fn lookup(&self, upstreams: &Upstreams, wanted: OrigDst) -> Lookup {
        upstreams.lookup(wanted.0.ip(), wanted.0.port(), |name, ip| self.names.has(name, ip))
    }

    /// The state, while these lines are in force: what is entered then ends with them.
    fn under(&self, upstreams: &Arc<Upstreams>) -> Option<MutexGuard<'_, State>> {
        let state = self.lock();
        let in_force = self.upstreams.load();
        in_force.as_ref().is_some_and(|in_force| Arc::ptr_eq(in_force, upstreams)).then_some(state)
    }

    /// The endpoints of a destination; all connections to it share them.
    fn mesh(&self, upstreams: &Arc<Upstreams>, wanted: OrigDst, meant: Meant) -> Option<Endpoints> {
        let mut state = self.under(upstreams)?;
        let known = state.of(wanted).iter().find_map(|known| match known {
            Known::Mesh { meant: known, endpoints } if *known == meant => Some(endpoints.clone()),
            _ => None,
        });
        Some(known.unwrap_or_else(|| {
            let current = self.endpoints(wanted, &meant);
            let endpoints = Endpoints::new(current, meant.protocol(), Standing::default());
            state.enter(wanted, Known::Mesh { meant, endpoints: endpoints.clone() });
            endpoints
        }))
    }

    /// A destination is passed through for so long; one word for all connections to it.
    fn passed(&self, upstreams: &Arc<Upstreams>, wanted: OrigDst, by: By) -> Option<Standing> {
        let names = match by {
            By::Names(names) => names.into_iter().collect(),
            By::Address | By::Default => BTreeSet::new(),
        };
        let mut state = self.under(upstreams)?;
        let known = state.of(wanted).iter().find_map(|known| match known {
            Known::Passed { names: known, standing } if *known == names => Some(standing.clone()),
            _ => None,
        });
        Some(known.unwrap_or_else(|| {
            let standing = Standing::default();
            state.enter(wanted, Known::Passed { names, standing: standing.clone() });
            standing
        }))
    }

    /// The lines say nothing of a destination, for so long.
    fn nothing(&self, wanted: OrigDst, passes: bool) -> Standing {
        let (mut state, standing) = (self.lock(), Standing::default());
        let in_force = self.upstreams.load();
        if !in_force.as_ref().is_some_and(|lines| self.lookup(lines, wanted) == Lookup::None) {
            // By now they do.
            standing.end();
            return standing;
        }
        let known = state.of(wanted).iter().find_map(|known| match known {
            Known::Nothing { passes: known, standing } if *known == passes => Some(standing.clone()),
            _ => None,
        });
        known.unwrap_or_else(|| {
            state.enter(wanted, Known::Nothing { passes, standing: standing.clone() });
            standing
        })
    }

    /// A destination whose name is gone keeps what it has: whoever answers there is asked for its identity.
    fn update(&self, wanted: OrigDst, meant: &Meant, endpoints: &Endpoints) {
        let current = self.endpoints(wanted, meant);
        if !current.is_empty() {
            endpoints.replace(current);
        }
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

// === impl State ===

impl State {
    fn of(&self, wanted: OrigDst) -> &[Known] {
        self.known.get(&wanted).map_or(&[], Vec::as_slice)
    }

    fn enter(&mut self, wanted: OrigDst, known: Known) {
        if self.known.len() >= self.prune_at {
            self.known.retain(|_, all| {
                all.retain(Known::is_in_use);
                !all.is_empty()
            });
            self.prune_at = FIRST_PRUNE.max(self.known.len().saturating_mul(2));
        }
        let all = self.known.entry(wanted).or_default();
        all.retain(Known::is_in_use);
        all.push(known);
    }
}

// === impl Known ===

impl Known {
    fn standing(&self) -> &Standing {
        match self {
            Self::Mesh { endpoints, .. } => endpoints.standing(),
            Self::Passed { standing, .. } | Self::Nothing { standing, .. } => standing,
        }
    }

    /// Whether a connection goes by it.
    fn is_in_use(&self) -> bool {
        match self {
            Self::Mesh { endpoints, .. } => endpoints.is_in_use(),
            Self::Passed { standing, .. } | Self::Nothing { standing, .. } => standing.is_in_use(),
        }
    }

    fn is_named(&self, name: &str) -> bool {
        match self {
            Self::Mesh { meant: Meant { by: By::Names(names), .. }, .. } => {
                names.iter().any(|known| known == name)
            }
            Self::Passed { names, .. } => names.contains(name),
            Self::Mesh { .. } | Self::Nothing { .. } => false,
        }
    }

    /// Whether connections go on under other lines, which say this of the destination.
    fn goes_on(&mut self, said: Lookup) -> bool {
        match (self, said) {
            (Self::Nothing { .. }, Lookup::None) => true,
            (
                Self::Mesh { meant, .. },
                Lookup::Found { upstream: Upstream::Mesh { ids, protocol }, by, .. },
            ) => {
                let same = (&ids, protocol) == (&meant.ids, meant.protocol);
                if same {
                    // The same workload by another name.
                    meant.by = by;
                }
                same
            }
            // Bytes that go on as they are do so by any line.
            (
                Self::Passed { .. } | Self::Nothing { passes: true, .. },
                Lookup::Found { upstream: Upstream::Passthrough { .. }, .. },
            ) => true,
            _ => false,
        }
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
}
