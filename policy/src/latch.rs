//! Expiry latches: what has expired once stays expired, whatever the clock does later.
//!
//! Keyed by the rule's text in normal form, so that the same text loaded again stays expired and a
//! new `until` is a new grant.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::language::Time;

/// Latched grants that no current policy has are kept up to this number, the latest ends first.
const MAX_KEPT: usize = 16_384;

/// The latches of one process. Clones share them; give the same to every compilation.
#[derive(Clone, Debug, Default)]
pub struct Latches {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    // Two keyed hashes instead of the text: a policy that changes often must not make the process
    // remember every text it ever had.
    hashers: (RandomState, RandomState),
    flags: Mutex<HashMap<(u64, u64), Latch>>,
}

/// The time that a question is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    /// Now: what is over is over for good.
    Now(Time),
    /// A time that somebody supposes. Supposing ends nothing.
    Supposed(Time),
}

/// The end of one grant.
#[derive(Clone, Debug)]
pub(crate) struct Latch {
    until: Time,
    passed: Arc<AtomicBool>,
}

// === impl Latches ===

impl Latches {
    /// No grant has expired yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The latch of the grant with this text.
    pub(crate) fn get(&self, text: &str, until: Time) -> Latch {
        let key = (self.shared.hashers.0.hash_one(text), self.shared.hashers.1.hash_one(text));
        let mut flags = self.shared.flags.lock().unwrap_or_else(PoisonError::into_inner);
        flags.entry(key).or_insert_with(|| Latch { until, passed: Arc::default() }).clone()
    }

    /// Forgets grants that nothing refers to any more and that have not expired.
    pub(crate) fn prune(&self) {
        let mut flags = self.shared.flags.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = |latch: &Latch| Arc::strong_count(&latch.passed) == 1;
        flags.retain(|_, latch| !unused(latch) || latch.has_passed());
        if flags.len() > MAX_KEPT {
            let mut ends: Vec<_> =
                flags.iter().filter(|(_, l)| unused(l)).map(|(k, l)| (l.until, *k)).collect();
            ends.sort_unstable();
            let excess = flags.len() - MAX_KEPT;
            for (_, key) in ends.into_iter().take(excess) {
                flags.remove(&key);
            }
        }
    }
}

// === impl When ===

impl When {
    /// Whether `latch` has reached its end by then, or at any earlier look.
    pub(crate) fn is_past(self, latch: &Latch) -> bool {
        match self {
            Self::Now(now) => latch.is_over(now),
            Self::Supposed(time) => latch.has_passed() || time >= latch.until,
        }
    }
}

// === impl Latch ===

impl Latch {
    /// Whether the end has been reached, now or at any earlier look.
    pub(crate) fn is_over(&self, now: Time) -> bool {
        if self.has_passed() {
            return true;
        }
        let over = now >= self.until;
        if over {
            self.passed.store(true, Ordering::Relaxed);
        }
        over
    }

    pub(crate) fn has_passed(&self) -> bool {
        self.passed.load(Ordering::Relaxed)
    }

    pub(crate) fn until(&self) -> Time {
        self.until
    }
}
