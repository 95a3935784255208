//! Where an outbound connection goes, whom to expect there, and how to speak.
//!
//! There is no automatic fallback to plaintext: a destination is passed through only because
//! something says so before any handshake.

pub mod balance;

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use mantlet_id::SpiffeId;
use mantlet_identity::ExpectedPeer;

use self::balance::Health;
use crate::addr::OrigDst;

/// The answer for one destination.
#[derive(Clone, Debug)]
pub enum Destination {
    /// Workloads of the mesh; any of them will do.
    Mesh(Endpoints),
    /// Outside the mesh: relay the bytes as they are.
    Passthrough {
        /// Where to.
        addr: SocketAddr,
        /// Whether the bytes are HTTP by declaration.
        http: bool,
    },
    /// Nobody may go there.
    Refuse,
}

/// The endpoints of a destination as they stand at each moment: a connection of the application may
/// outlive the workloads that it began with.
#[derive(Clone, Debug)]
pub struct Endpoints(Arc<ArcSwap<Vec<Endpoint>>>);

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
#[derive(Clone, Debug)]
pub enum Directory {
    /// An explicit listener: everything that arrives there goes to one place.
    Explicit(Destination),
    /// What was intercepted, while nothing says who is where: it is refused.
    Nothing,
}

// === impl Endpoints ===

impl Endpoints {
    /// These, until they are replaced.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(endpoints)))
    }

    /// Those of this moment.
    #[must_use]
    pub fn current(&self) -> Arc<Vec<Endpoint>> {
        self.0.load_full()
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

// === impl Directory ===

impl Directory {
    /// Where a connection goes whose client wanted to go to `_wanted`.
    #[must_use]
    pub fn resolve(&self, _wanted: OrigDst) -> &Destination {
        match self {
            Self::Explicit(destination) => destination,
            Self::Nothing => &Destination::Refuse,
        }
    }
}
