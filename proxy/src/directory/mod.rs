//! Where an outbound connection goes, whom to expect there, and how to speak.
//!
//! There is no automatic fallback to plaintext: a destination is passed through only because
//! something says so before any handshake.

pub mod balance;
mod cluster;
mod explicit;
mod fleet;
mod lines;
mod standing;
mod table;
mod watch;

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use mantlet_id::SpiffeId;
use mantlet_identity::ExpectedPeer;
use tokio::sync::watch::Sender;

use self::balance::Health;
#[cfg(fuzzing)]
pub use self::cluster::fuzzing;
pub use self::{
    cluster::{Cluster, Follower},
    explicit::Explicit,
    fleet::Fleet,
    lines::Lines,
    standing::Standing,
    table::{Answer, ApiServer, Found, Source, Table},
    watch::LinesWatch,
};
use crate::{addr::OrigDst, config::UpstreamProtocol};

/// The answer for one destination.
#[derive(Clone, Debug)]
pub enum Destination {
    /// Workloads of the mesh; any of them will do.
    Mesh(Endpoints),
    /// Outside the mesh: relay the bytes as they are.
    Passthrough {
        /// Where to.
        addr: SocketAddr,
        /// Whether a line says that the bytes are HTTP. They are relayed all the same.
        http: bool,
        /// For how long.
        standing: Standing,
    },
    /// Nobody may go there.
    Refuse,
}

/// The endpoints of a destination as they stand at each moment: a connection of the application may
/// outlive the workloads that it began with.
#[derive(Clone, Debug)]
pub struct Endpoints {
    live: Arc<Live>,
    standing: Standing,
}

#[derive(Debug)]
struct Live {
    protocol: Sender<EndpointProtocol>,
    current: ArcSwap<Vec<Endpoint>>,
}

/// One workload that can be dialled.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Who must be there.
    pub expected: ExpectedPeer,
    /// How to speak to it.
    pub protocol: EndpointProtocol,
    /// How it fares.
    pub health: Arc<Health>,
}

/// How to speak to an endpoint.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum EndpointProtocol {
    /// HTTP: be a server to the application, share connections to the peer.
    Http,
    /// Opaque bytes: one connection to the peer for each of the application's.
    Opaque,
    /// Nobody said: connect first, offer everything, believe the peer's choice. No byte of the
    /// application is awaited, so protocols in which the server speaks first work at once.
    AskPeer,
}

/// Finds the [`Destination`] of a connection.
#[derive(Clone)]
pub enum Directory {
    /// An explicit listener: everything that arrives there goes to one place.
    Explicit(Arc<Explicit>),
    /// Whoever knows first where the client wanted to go.
    Table(Arc<Table>),
}

// === impl Endpoints ===

impl Endpoints {
    /// These, until they are replaced, for as long as `standing` says.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>, protocol: EndpointProtocol, standing: Standing) -> Self {
        let (protocol, current) = (Sender::new(protocol), ArcSwap::from_pointee(endpoints));
        Self { live: Arc::new(Live { protocol, current }), standing }
    }

    /// How to speak to them, also while there are none: what holds for a connection that begins now.
    #[must_use]
    pub fn protocol(&self) -> EndpointProtocol {
        *self.live.protocol.borrow()
    }

    /// Those of this moment.
    #[must_use]
    pub fn current(&self) -> Arc<Vec<Endpoint>> {
        self.live.current.load_full()
    }

    /// For how long the destination is what it is.
    #[must_use]
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Returns when no HTTP can be sent there any more: the destination is over, or speaks bytes by now.
    pub async fn over_for_http(&self) {
        let mut protocol = self.live.protocol.subscribe();
        tokio::select! {
            () = self.standing.over() => {}
            _ = protocol.wait_for(|protocol| *protocol == EndpointProtocol::Opaque) => {}
        }
    }

    /// The same endpoints, for those who also go by `other`.
    fn under(self, other: Standing) -> Self {
        Self { standing: self.standing.under(other), ..self }
    }

    fn speak(&self, protocol: EndpointProtocol) {
        self.live.protocol.send_if_modified(|now| std::mem::replace(now, protocol) != protocol);
    }

    fn replace(&self, endpoints: Vec<Endpoint>) {
        self.live.current.store(Arc::new(endpoints));
    }

    /// Whether anybody else holds them.
    fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.live) > 1
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// The identity that must be there, where it is a single one.
    #[must_use]
    pub fn only_id(&self) -> Option<&SpiffeId> {
        match &self.expected {
            ExpectedPeer::OneOf(ids) => ids.iter().next().filter(|_| ids.len() == 1),
            ExpectedPeer::AnyIn(_) => None,
        }
    }
}

/// The identity that every one of these endpoints must have, where it is a single one.
#[must_use]
pub fn common_id(endpoints: &[Endpoint]) -> Option<&SpiffeId> {
    let first = endpoints.first()?.only_id()?;
    endpoints.iter().all(|endpoint| endpoint.only_id() == Some(first)).then_some(first)
}

// === impl EndpointProtocol ===

impl EndpointProtocol {
    fn declared(protocol: Option<UpstreamProtocol>) -> Self {
        match protocol {
            Some(UpstreamProtocol::Http) => Self::Http,
            Some(UpstreamProtocol::Opaque) => Self::Opaque,
            None => Self::AskPeer,
        }
    }
}

// === impl Directory ===

impl Directory {
    /// Where a connection goes whose client wanted to go to `wanted`.
    pub async fn resolve(&self, wanted: OrigDst) -> Destination {
        match self {
            Self::Explicit(explicit) => Destination::Mesh(explicit.endpoints().await),
            Self::Table(table) => table.resolve(wanted).await,
        }
    }
}
