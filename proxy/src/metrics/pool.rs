//! Where the upstream connections are.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use prometheus_client::metrics::gauge::Gauge;

use super::{Metrics, PoolState, traffic::PoolLabels};

/// One upstream connection, shared by all who use it: busy while somebody does, gone with the last owner.
#[derive(Debug)]
pub struct PoolSlot {
    idle: Gauge,
    busy: Gauge,
    users: AtomicUsize,
}

// === impl PoolSlot ===

impl PoolSlot {
    /// Somebody uses the connection.
    pub fn enter(&self) {
        if self.users.fetch_add(1, Ordering::Relaxed) == 0 {
            self.idle.dec();
            self.busy.inc();
        }
    }

    /// Somebody no longer does.
    pub fn leave(&self) {
        if self.users.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.busy.dec();
            self.idle.inc();
        }
    }

    /// How many do.
    #[must_use]
    pub fn users(&self) -> usize {
        self.users.load(Ordering::Relaxed)
    }
}

impl Drop for PoolSlot {
    fn drop(&mut self) {
        if *self.users.get_mut() == 0 {
            self.idle.dec()
        } else {
            self.busy.dec()
        };
    }
}

// === impl Metrics ===

impl Metrics {
    /// For a connection that was opened and that nobody uses yet.
    #[must_use]
    pub fn pool_slot(&self) -> Arc<PoolSlot> {
        let gauge = |state| self.traffic.pool.get(PoolLabels { state }).clone();
        let slot = PoolSlot {
            idle: gauge(PoolState::Idle),
            busy: gauge(PoolState::Busy),
            users: AtomicUsize::new(0),
        };
        slot.idle.inc();
        Arc::new(slot)
    }
}
