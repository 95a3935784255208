//! The upstreams language: which identities stand behind which destinations.
//!
//! ```text
//! orders.shop:8080      is shop/orders
//! ledger.pay:9090       is pay/ledger     as http
//! 10.20.0.0/16:443      passthrough
//! * refuse
//! ```
//!
//! The longest match wins: an address with its port, then narrower networks, then names, then `*`.
//! Lines about the same destination unite their identities; if they contradict each other, that is an
//! error.

mod parse;
mod served_by;
mod table;

use std::{collections::BTreeSet, fmt, sync::Arc};

use mantlet_id::SpiffeId;

pub use parse::parse;
pub use served_by::{SERVED_BY, served_by};
pub use table::{By, Lookup, Upstreams};

/// What happens with connections to a destination.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Upstream {
    /// They go through the mesh, to one of these identities.
    Mesh {
        /// Whom to expect.
        ids: Arc<BTreeSet<SpiffeId>>,
        /// What it speaks; `None`: ask the peer.
        protocol: Option<UpstreamProtocol>,
    },
    /// They go on as the application made them.
    Passthrough {
        /// Whether the line says that they are HTTP. A word for its readers: bytes are relayed all the same.
        http: bool,
    },
    /// They are refused.
    Refuse,
}

/// What a destination speaks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum UpstreamProtocol {
    /// HTTP.
    Http,
    /// Bytes.
    Opaque,
}

// === impl Upstream ===

impl Upstream {
    /// Both at once, if they do not contradict each other.
    fn unite(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Mesh { ids: a, protocol: p }, Self::Mesh { ids: b, protocol: q }) => {
                let protocol = match (p, q) {
                    (Some(p), Some(q)) if p != q => return None,
                    (p, q) => p.or(*q),
                };
                let ids = if a == b { Arc::clone(a) } else { Arc::new(a.union(b).cloned().collect()) };
                Some(Self::Mesh { ids, protocol })
            }
            (a, b) if a == b => Some(a.clone()),
            _ => None,
        }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh { ids, protocol } => {
                f.write_str("is")?;
                for (index, id) in ids.iter().enumerate() {
                    write!(f, "{} {id}", if index > 0 { "," } else { "" })?;
                }
                match protocol {
                    Some(protocol) => write!(f, " as {}", protocol.as_str()),
                    None => Ok(()),
                }
            }
            Self::Passthrough { http: false } => f.write_str("passthrough"),
            Self::Passthrough { http: true } => f.write_str("passthrough as http"),
            Self::Refuse => f.write_str("refuse"),
        }
    }
}

// === impl UpstreamProtocol ===

impl UpstreamProtocol {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Opaque => "tcp",
        }
    }
}
