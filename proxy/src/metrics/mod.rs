//! What the sidecar counts.
//!
//! Metrics are guards: created when something begins, finished exactly once when it ends, also when
//! the task that carries it is cancelled. Handles are looked up once per connection. Labels are
//! closed enums, rule names and patterns of the own policy, and the bounded set of authenticated
//! peers; never a path, a host or anything else that a client can invent. Each family is bounded
//! besides, see [`family`].

mod bytes;
mod catalog;
mod connection;
mod decision;
mod directory;
mod family;
mod handshake;
mod labels;
mod pool;
mod process;
mod reach;
mod request;
mod state;
mod traffic;
mod vocabulary;

use std::sync::Arc;

use tokio::runtime::RuntimeMetrics;

pub use self::{
    bytes::{ByteCount, Counted, Fault},
    catalog::{Description, Level, Stability},
    connection::ConnectionGuard,
    decision::{Deciding, DecisionCounters},
    handshake::{HandshakeGuard, TlsSession},
    labels::Text,
    pool::PoolSlot,
    request::{RequestGuard, RequestMetrics},
    state::{BundleNow, IdentityNow, LinesNow, Now, PolicyNow},
    vocabulary::{
        CloseReason, CodeClass, ConnectResult, Direction, DirectoryAnswer, DirectoryEnd, DirectoryState,
        DirectoryWait, EndpointState, Full, GrpcStatus, Io, Layer, Limit, LogStream, LookupResult,
        MethodLabel, PoolState, RefreshResult, ReloadResult, TlsCipher, TlsGroup, TlsVersion, Transport,
    },
};
use self::{
    catalog::Catalog,
    directory::Directory,
    labels::PeerLabels,
    reach::Reach,
    state::State,
    traffic::{ConnectLabels, LimitLabels, OverflowLabels, Traffic},
};

/// How much there may be.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What is exposed.
    pub level: Level,
    /// Most authenticated peers that have a label of their own; the others share [`Text::other`].
    pub peers: usize,
}

/// Every family of the process.
pub struct Metrics {
    level: Level,
    catalog: Catalog,
    peers: PeerLabels,
    traffic: Traffic,
    state: State,
    reach: Reach,
    directory: Directory,
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self { level: Level::Default, peers: 64 }
    }
}

// === impl Metrics ===

impl Metrics {
    /// Registers every family.
    #[must_use]
    pub fn new(options: Options) -> Arc<Self> {
        let traffic = Traffic::new();
        let state = State::new(&traffic);
        let (reach, directory) = (Reach::new(), Directory::new());
        let mut catalog = Catalog::new(options.level);
        traffic.register(&mut catalog);
        state.register(&mut catalog);
        reach.register(&mut catalog);
        directory.register(&mut catalog);
        let peers = PeerLabels::new(options.peers);
        Arc::new(Self { level: options.level, catalog, peers, traffic, state, reach, directory })
    }

    /// Every family, whatever the level shows.
    #[must_use]
    pub fn describe(&self) -> &[Description] {
        self.catalog.describe()
    }

    /// The label of an authenticated peer, bounded in number.
    #[must_use]
    pub fn peer_label(&self, peer: &str) -> Text {
        self.peers.get(peer).unwrap_or_else(|| {
            self.traffic.overflow.get(OverflowLabels { label: Full::Peer }).inc();
            Text::other()
        })
    }

    /// Counts an attempt to reach an upstream.
    pub fn connect(&self, result: ConnectResult) {
        self.traffic.connects.get(ConnectLabels { result }).inc();
    }

    /// Counts that somebody ran into a limit.
    pub fn limit(&self, limit: Limit) {
        self.traffic.limits.get(LimitLabels { limit }).inc();
    }

    /// Counts that somebody ran into a limit, if it was one.
    pub fn refused(&self, limit: Option<Limit>) {
        if let Some(limit) = limit {
            self.limit(limit);
        }
    }

    /// Counts a request that is sent again.
    pub fn repeated(&self) {
        self.traffic.repeats.inc();
    }

    /// Counts an endpoint that is left out for a while.
    pub fn ejected(&self) {
        self.traffic.ejections.inc();
    }

    /// Counts a connection to a peer of which only the trust domain was demanded.
    pub fn unpinned(&self) {
        self.traffic.unpinned.inc();
    }

    /// Adds a runtime whose tasks are shown.
    pub fn watch(&self, runtime: RuntimeMetrics) {
        self.state.watch(runtime);
    }

    /// Takes over the state of a moment, at a scrape.
    pub fn observe(&self, now: &Now) {
        self.state.observe(now, &self.traffic);
    }

    /// Everything that the level shows, as OpenMetrics text.
    #[must_use]
    pub fn encode(&self) -> String {
        self.catalog.encode()
    }
}
