//! The requests of one connection that are under way, so that they can be ended with their destination.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slab::Slab;

use crate::{metrics::CloseReason, revoke::Revoke};

/// Requests of the application, each with what ends it.
#[derive(Default)]
pub(super) struct UnderWay(Mutex<Slab<Revoke>>);

/// A request's place among them, until it is dropped.
pub(super) struct Place {
    under_way: Arc<UnderWay>,
    key: usize,
}

// === impl UnderWay ===

impl UnderWay {
    /// Enters a request, before it is looked at where it may go.
    pub(super) fn enter(self: &Arc<Self>, revoke: Revoke) -> Place {
        Place { under_way: Arc::clone(self), key: self.lock().insert(revoke) }
    }

    /// Ends them all.
    pub(super) fn end(&self, reason: CloseReason) {
        self.lock().iter().for_each(|(_, revoke)| revoke.revoke(reason));
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Revoke>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        // Taken out under the lock, dropped outside it.
        let revoke = self.under_way.lock().try_remove(self.key);
        drop(revoke);
    }
}
