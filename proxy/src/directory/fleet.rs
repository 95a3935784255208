//! What is remembered about addresses, whichever destination they serve.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use super::balance::Health;

/// Fewer addresses than this are not searched for ones that nobody needs any more.
const FIRST_PRUNE: usize = 256;

/// The health of every endpoint in use. Two destinations that share an address share what is known
/// about it. Cheap to clone.
#[derive(Clone, Default)]
pub struct Fleet(Arc<Mutex<Members>>);

#[derive(Default)]
struct Members {
    all: HashMap<SocketAddr, Weak<Health>>,
    prune_at: usize,
}

// === impl Fleet ===

impl Fleet {
    /// How this address fares.
    #[must_use]
    pub fn health(&self, addr: SocketAddr) -> Arc<Health> {
        let mut members = self.lock();
        if let Some(health) = members.all.get(&addr).and_then(Weak::upgrade) {
            return health;
        }
        if members.all.len() >= members.prune_at {
            members.all.retain(|_, health| health.strong_count() > 0);
            members.prune_at = FIRST_PRUNE.max(members.all.len().saturating_mul(2));
        }
        let health = Arc::default();
        members.all.insert(addr, Arc::downgrade(&health));
        health
    }

    /// How many endpoints take part, and how many are left out.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let members = self.lock();
        let known = members.all.values().filter_map(Weak::upgrade);
        known.fold((0, 0), |(all, out), health| match health.is_in() {
            true => (all + 1, out),
            false => (all, out + 1),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
