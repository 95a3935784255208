//! Readiness: named blockers, held as guards.
//!
//! Whoever can keep the sidecar from working holds a [`Blocker`] and says what is wrong and what to do about it.
//! The sidecar is ready while no blocker is set; dropping one clears it, so a part that ends cannot leave the pod
//! unready for ever.

use std::{collections::BTreeMap, fmt, sync::Arc};

use tokio::sync::watch;

/// The shared state; cheap to clone.
#[derive(Clone, Debug)]
pub struct Readiness {
    state: Arc<watch::Sender<Snapshot>>,
}

/// What keeps the sidecar from being ready, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    conditions: BTreeMap<u64, Condition>,
    next: u64,
    started: bool,
}

/// One reason for not being ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which part says so, e.g. `identity`.
    pub name: &'static str,
    /// What is wrong.
    pub cause: String,
    /// What to do about it.
    pub next_step: String,
}

/// The right to keep the sidecar unready; set from the start, cleared by [`Blocker::clear`] or when dropped.
#[derive(Debug)]
pub struct Blocker {
    name: &'static str,
    id: u64,
    state: Arc<watch::Sender<Snapshot>>,
}

// === impl Readiness ===

impl Readiness {
    /// Ready until the first blocker exists.
    #[must_use]
    pub fn new() -> Self {
        Self { state: Arc::new(watch::Sender::new(Snapshot::default())) }
    }

    /// A new blocker, set: between its making and the first news the part it stands for is not known to work.
    #[must_use]
    pub fn blocker(&self, name: &'static str) -> Blocker {
        let mut id = 0;
        self.state.send_modify(|snapshot| {
            id = snapshot.next;
            snapshot.next += 1;
            let condition = Condition { name, cause: "starting".to_owned(), next_step: "wait".to_owned() };
            snapshot.conditions.insert(id, condition);
        });
        Blocker { name, id, state: Arc::clone(&self.state) }
    }

    /// The state now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.state.borrow().clone()
    }

    /// Told at every change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Snapshot> {
        self.state.subscribe()
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Whether nothing is in the way.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Whether the sidecar has been ready once since it started.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.started
    }

    /// What is in the way, oldest blocker first.
    pub fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.conditions.values()
    }
}

// === impl Blocker ===

impl Blocker {
    /// Not ready, for this cause; `next_step` says what to do.
    pub fn set(&self, cause: impl Into<String>, next_step: impl Into<String>) {
        let condition = Condition { name: self.name, cause: cause.into(), next_step: next_step.into() };
        self.state.send_if_modified(|snapshot| {
            let changed = snapshot.conditions.get(&self.id) != Some(&condition);
            snapshot.conditions.insert(self.id, condition);
            changed
        });
    }

    /// Nothing in the way any more, as far as this part knows.
    pub fn clear(&self) {
        self.state.send_if_modified(|snapshot| {
            let changed = snapshot.conditions.remove(&self.id).is_some();
            snapshot.started |= snapshot.is_ready();
            changed
        });
    }
}

impl Drop for Blocker {
    fn drop(&mut self) {
        self.clear();
    }
}

// === impl Condition ===

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (next: {})", self.name, self.cause, self.next_step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_while_no_blocker_is_set() {
        let readiness = Readiness::new();
        let identity = readiness.blocker("identity");
        let policy = readiness.blocker("policy");
        assert!(!readiness.snapshot().is_ready());
        identity.clear();
        assert!(!readiness.snapshot().is_ready());
        policy.clear();
        assert!(readiness.snapshot().is_ready());
        identity.set("no identity issued", "register the workload");
        let snapshot = readiness.snapshot();
        let shown: Vec<String> = snapshot.conditions().map(Condition::to_string).collect();
        assert_eq!(shown, ["identity: no identity issued (next: register the workload)"]);
    }

    #[test]
    fn a_part_that_ends_blocks_no_longer() {
        let readiness = Readiness::new();
        let blocker = readiness.blocker("policy");
        drop(blocker);
        assert!(readiness.snapshot().is_ready());
    }

    #[test]
    fn having_started_is_remembered() {
        let readiness = Readiness::new();
        let blocker = readiness.blocker("identity");
        assert!(!readiness.snapshot().has_started());
        blocker.clear();
        blocker.set("expired", "see the agent");
        assert!(readiness.snapshot().has_started());
        assert!(!readiness.snapshot().is_ready());
    }

    #[test]
    fn subscribers_hear_changes_and_no_repetitions() {
        let readiness = Readiness::new();
        let blocker = readiness.blocker("identity");
        let mut watching = readiness.subscribe();
        watching.mark_unchanged();
        blocker.set("a", "b");
        assert!(watching.has_changed().unwrap());
        watching.mark_unchanged();
        blocker.set("a", "b");
        assert!(!watching.has_changed().unwrap());
        blocker.clear();
        assert!(watching.has_changed().unwrap());
    }
}
