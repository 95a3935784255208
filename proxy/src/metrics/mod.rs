//! What the sidecar counts.
//!
//! Metrics are guards: created when something begins, finished exactly once when it ends, also when
//! the task that carries it is cancelled. Handles are looked up once per connection. Labels are
//! closed enums, rule names of the own policy, and the bounded set of authenticated peers; never a
//! path, a host or anything else that a client can invent.

mod connection;
mod families;
mod request;
mod vocabulary;

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

pub use connection::ConnectionGuard;
pub use families::{IdentityNow, Metrics, PolicyNow};
pub use request::{RequestGuard, RequestMetrics};
pub use vocabulary::{CloseReason, ConnectResult, Direction, Transport};

/// Most authenticated peers that get a label of their own; the others share [`Text::other`].
const PEER_LABELS: usize = 64;

/// A label value that is shared rather than copied.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Text(Arc<str>);

/// The peers that have a label of their own.
#[derive(Default)]
pub(crate) struct PeerLabels(Mutex<HashSet<Text>>);

// === impl Text ===

impl Text {
    /// Stands for "there is none".
    #[must_use]
    pub fn none() -> Self {
        Self::from("-")
    }

    /// Stands for everything past a limit.
    #[must_use]
    pub fn other() -> Self {
        Self::from("_other")
    }

    /// The value.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<Arc<str>> for Text {
    fn from(text: Arc<str>) -> Self {
        Self(text)
    }
}

impl std::borrow::Borrow<str> for Text {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl EncodeLabelValue for Text {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        (&*self.0).encode(encoder)
    }
}

// === impl PeerLabels ===

impl PeerLabels {
    /// The label of an authenticated peer. `None` once the limit is reached.
    pub(crate) fn get(&self, peer: &str) -> Option<Text> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(label) = known.get(peer) {
            return Some(label.clone());
        }
        if known.len() >= PEER_LABELS {
            return None;
        }
        let label = Text::from(peer);
        known.insert(label.clone());
        Some(label)
    }
}
