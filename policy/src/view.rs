//! What one caller may meet on one port: made once per connection.

use std::net::IpAddr;

use mantlet_id::SpiffeId;

use crate::{decision::Peer, matcher::set::Set};

/// The rules of one port that are about one caller.
///
/// Belongs to the policy that made it. Another policy does not use it but makes its own on the spot,
/// so an old view costs time and never a wrong answer; [`Policy::owns`](crate::Policy::owns) tells
/// when to renew it.
#[derive(Clone, Debug)]
pub struct PeerView {
    pub(crate) serial: u64,
    pub(crate) peer: OwnedPeer,
    pub(crate) port: u16,
    pub(crate) rules: Option<ViewRules>,
}

/// The rules, by table number and table.
#[derive(Clone, Debug)]
pub(crate) struct ViewRules {
    pub(crate) table: u32,
    pub(crate) allow: Set,
    pub(crate) deny: Set,
    pub(crate) audit_allow: Set,
    pub(crate) audit_deny: Set,
}

#[derive(Clone, Debug)]
pub(crate) enum OwnedPeer {
    Identity(SpiffeId),
    Plaintext(IpAddr),
}

// === impl PeerView ===

impl PeerView {
    /// The caller.
    #[must_use]
    pub fn peer(&self) -> Peer<'_> {
        match &self.peer {
            OwnedPeer::Identity(id) => Peer::Identity(id),
            OwnedPeer::Plaintext(ip) => Peer::Plaintext(*ip),
        }
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether no allow rule is about this caller: everything it asks for will be refused.
    #[must_use]
    pub fn is_hopeless(&self) -> bool {
        self.rules.as_ref().is_none_or(|rules| rules.allow.is_empty())
    }
}

// === impl OwnedPeer ===

impl From<Peer<'_>> for OwnedPeer {
    fn from(peer: Peer<'_>) -> Self {
        match peer {
            Peer::Identity(id) => Self::Identity(id.clone()),
            Peer::Plaintext(ip) => Self::Plaintext(ip.to_canonical()),
        }
    }
}
