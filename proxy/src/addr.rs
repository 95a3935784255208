//! Addresses that cannot be passed in each other's place.

use std::{fmt, net::SocketAddr};

/// Where a connection came from: the TCP peer as the kernel names it, never a header.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ClientAddr(pub SocketAddr);

/// Where the client wanted to go: the address before redirection, or the upstream of an explicit
/// listener. Policy is about its port.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct OrigDst(pub SocketAddr);

// === impl ClientAddr ===

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl OrigDst ===

impl fmt::Display for OrigDst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
