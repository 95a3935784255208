//! The work in hand, so that it can be judged again.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use mantlet_policy::{Decision, HttpFacts, Verdict};
use slab::Slab;

use super::{Facts, Session};
use crate::{policy_watch::PolicySnapshot, revoke::Revoke};

/// Everything that a worker is carrying under a permit.
///
/// Work is entered before it is judged: a policy that changes between the judgement and the entry
/// would otherwise miss it.
#[derive(Default)]
pub(super) struct InFlight {
    work: Mutex<Slab<Work>>,
}

/// One request or opaque connection.
pub(super) struct Work {
    pub(super) session: Arc<Session>,
    /// What a request is judged by; none for the bytes of a connection.
    facts: Option<Facts>,
    pub(super) revoke: Revoke,
}

/// A place among the work in hand, until it is dropped.
pub(super) struct Registration {
    table: Arc<InFlight>,
    key: usize,
}

// === impl InFlight ===

impl InFlight {
    pub(super) fn enter(self: &Arc<Self>, session: Arc<Session>, facts: Option<Facts>) -> Registration {
        let work = Work { session, facts, revoke: Revoke::current() };
        Registration { table: Arc::clone(self), key: self.lock().insert(work) }
    }

    /// Calls `judge` with each piece of work.
    pub(super) fn each(&self, mut judge: impl FnMut(&Work)) {
        self.lock().iter().for_each(|(_, work)| judge(work));
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Work>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Work ===

impl Work {
    /// The decision about it under `policy`.
    pub(super) fn judge(&self, policy: &Arc<PolicySnapshot>, now: SystemTime) -> Decision {
        let resolved = self.session.resolve(Arc::clone(policy));
        let rules = &policy.policy;
        let Some(facts) = &self.facts else { return rules.decide_tcp(&resolved.view, now) };
        match facts.meaning(rules, self.session.port(), now) {
            Ok(meaning) => {
                let facts = HttpFacts { target: meaning.target(), headers: facts };
                rules.decide_http(&resolved.view, &facts, now)
            }
            Err(malformed) => Decision::malformed(Verdict::Deny, malformed),
        }
    }
}

// === impl Registration ===

impl Drop for Registration {
    fn drop(&mut self) {
        // Taken out under the lock, dropped outside it: what the work holds may lock in turn.
        let work = self.table.lock().try_remove(self.key);
        drop(work);
    }
}
