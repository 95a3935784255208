//! Who is calling on one connection, and what is known of them.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use mantlet_id::SpiffeId;
use mantlet_identity::PeerIdentity;
use mantlet_policy::{Decision, Peer, PeerView, Reason, Verdict};

use crate::{
    activity::Edge,
    addr::{ClientAddr, OrigDst},
    metrics::{DecisionCounters, Layer, Text},
    policy_watch::PolicySnapshot,
};

/// Most kinds of decisions whose counters a connection keeps at hand. Past it the counters are still
/// exact, only looked up each time.
const KEPT_COUNTERS: usize = 32;

/// Who is calling.
pub enum Caller {
    /// A peer that has proved its identity.
    Peer(Arc<PeerIdentity>),
    /// Somebody at this address, without identity.
    Plaintext(IpAddr),
}

/// One connection's caller, resolved against the policy once.
pub struct Session {
    pub(super) caller: Caller,
    pub(super) client: ClientAddr,
    orig_dst: OrigDst,
    pub(super) label: Text,
    resolved: Mutex<Option<Resolved>>,
    counters: Mutex<Vec<Counted>>,
}

/// A kind of decision, and its counters.
struct Counted {
    layer: Layer,
    verdict: Verdict,
    reason: Reason,
    rule: Option<Arc<str>>,
    audit_allow: Option<Arc<str>>,
    counters: DecisionCounters,
    edge: Arc<Edge>,
}

/// The caller under one generation of the policy.
#[derive(Clone)]
pub(super) struct Resolved {
    pub(super) policy: Arc<PolicySnapshot>,
    pub(super) view: Arc<PeerView>,
}

// === impl Session ===

impl Session {
    /// A caller about whom nothing has been looked up yet. `orig_dst` is where it wanted to go, and what
    /// the policy is asked about; `label` is its metric label.
    pub(super) fn new(caller: Caller, client: ClientAddr, orig_dst: OrigDst, label: Text) -> Self {
        Self { caller, client, orig_dst, label, resolved: Mutex::default(), counters: Mutex::default() }
    }

    /// Who is calling.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Where the caller wanted to go.
    #[must_use]
    pub fn orig_dst(&self) -> OrigDst {
        self.orig_dst
    }

    pub(super) fn port(&self) -> u16 {
        self.orig_dst.0.port()
    }

    /// Where the caller connected from.
    #[must_use]
    pub fn client(&self) -> ClientAddr {
        self.client
    }

    /// The caller under `policy`: looked up again only when the policy has changed.
    pub(super) fn resolve(&self, policy: Arc<PolicySnapshot>) -> Resolved {
        let mut resolved = lock(&self.resolved);
        if let Some(known) = &*resolved
            && known.policy.generation == policy.generation
        {
            return known.clone();
        }
        let view = Arc::new(policy.policy.view(self.caller.as_peer(), self.port()));
        let fresh = Resolved { policy, view };
        *resolved = Some(fresh.clone());
        fresh
    }

    /// Counts a decision; the counters are looked up once per connection.
    pub(super) fn count(
        &self,
        layer: Layer,
        decision: &Decision,
        now: SystemTime,
        find: impl FnOnce() -> (DecisionCounters, Arc<Edge>),
    ) {
        let mut counters = lock(&self.counters);
        let same = |kept: &&Counted| {
            kept.layer == layer
                && kept.verdict == decision.verdict
                && kept.reason == decision.reason
                && kept.rule == decision.rule
                && kept.audit_allow == decision.audit_allow
        };
        if let Some(kept) = counters.iter().find(same) {
            kept.counters.count();
            kept.edge.seen(now);
            return;
        }
        let (found, edge) = find();
        found.count();
        edge.seen(now);
        if counters.len() < KEPT_COUNTERS {
            let Decision { verdict, reason, rule, audit_allow, .. } = decision.clone();
            counters.push(Counted { layer, verdict, reason, rule, audit_allow, counters: found, edge });
        }
    }
}

// === impl Caller ===

impl Caller {
    /// The identity that was proved, if any.
    #[must_use]
    pub fn id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Peer(peer) => Some(peer.id()),
            Self::Plaintext(_) => None,
        }
    }

    pub(super) fn serial(&self) -> Option<&str> {
        match self {
            Self::Peer(peer) => Some(peer.serial()),
            Self::Plaintext(_) => None,
        }
    }

    fn as_peer(&self) -> Peer<'_> {
        match self {
            Self::Peer(peer) => Peer::Identity(peer.id()),
            Self::Plaintext(addr) => Peer::Plaintext(*addr),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
