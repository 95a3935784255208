//! The nearest miss of a refusal, looked for when its audit line is written.

use std::{
    mem::size_of,
    sync::{Arc, Weak},
    time::SystemTime,
};

use mantlet_policy::{Decision, HttpFacts, PeerView, Reason};

use super::Facts;
use crate::{log::FindNearest, policy_watch::PolicySnapshot};

/// What was refused, and by which policy.
pub(super) struct Refused {
    // Not kept alive: lines that nobody reads must not pile up old policies.
    policy: Weak<PolicySnapshot>,
    view: Arc<PeerView>,
    /// What a request was judged by; none for a connection.
    facts: Option<Facts>,
    at: SystemTime,
    rules: usize,
}

// === impl Refused ===

impl Refused {
    /// Something that no rule refused, so that the nearest one is of interest; `None` for anything else.
    pub(super) fn by_no_rule(
        decision: &Decision,
        policy: &Arc<PolicySnapshot>,
        view: &Arc<PeerView>,
        facts: impl FnOnce() -> Option<Facts>,
        at: SystemTime,
    ) -> Option<Box<dyn FindNearest>> {
        let rules = policy.policy.rule_count();
        if rules == 0 || !matches!(decision.reason, Reason::Default | Reason::Expired) {
            return None;
        }
        let view = Arc::clone(view);
        Some(Box::new(Self { policy: Arc::downgrade(policy), view, facts: facts(), at, rules }))
    }
}

impl FindNearest for Refused {
    fn rules(&self) -> usize {
        self.rules
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.facts.as_ref().map_or(0, Facts::bytes)
    }

    fn find(&self) -> Option<Arc<str>> {
        let snapshot = self.policy.upgrade()?;
        let (policy, port) = (&snapshot.policy, self.view.port());
        let Some(facts) = &self.facts else {
            return policy.nearest_rule(self.view.peer(), port, None, self.at);
        };
        // Cannot fail for what has been judged under the same rules.
        let meaning = facts.meaning(policy, port, self.at).ok()?;
        let facts = HttpFacts { target: meaning.target(), headers: facts };
        policy.nearest_rule(self.view.peer(), port, Some(facts), self.at)
    }
}
