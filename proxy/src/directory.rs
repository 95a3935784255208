//! Where an outbound connection goes, whom to expect there, and how to speak.
//!
//! There is no automatic fallback to plaintext: a destination is passed through only because
//! something says so before any handshake.

use std::{net::SocketAddr, sync::Arc};

use mantlet_identity::ExpectedPeer;

use crate::addr::OrigDst;

/// The answer for one destination.
#[derive(Clone, Debug)]
pub enum Destination {
    /// Workloads of the mesh; any of them will do.
    Mesh(Arc<[Endpoint]>),
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

/// One workload that can be dialled.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Who must be there.
    pub expected: ExpectedPeer,
    /// How to speak to it.
    pub protocol: EndpointProtocol,
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
