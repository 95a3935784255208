//! The guard of one connection.

use std::sync::Arc;

use super::{
    CloseReason, Direction, Metrics, Text, Transport,
    families::{ActiveLabels, ClosedLabels, OpenedLabels},
};

/// Counts one connection: opened when its transport stands, closed exactly once with a reason, also
/// when its task is cancelled or panics.
pub struct ConnectionGuard {
    metrics: Arc<Metrics>,
    direction: Direction,
    transport: Option<Transport>,
    peer: Text,
    finished: bool,
}

// === impl ConnectionGuard ===

impl ConnectionGuard {
    /// A connection that was accepted.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, direction: Direction) -> Self {
        Self { metrics, direction, transport: None, peer: Text::none(), finished: false }
    }

    /// The transport stands, and `peer` is who proved to be at the other end.
    pub fn opened(&mut self, transport: Transport, peer: Text) {
        let direction = self.direction;
        self.transport = Some(transport);
        self.peer.clone_from(&peer);
        self.metrics.opened.get_or_create_owned(&OpenedLabels { direction, transport, peer }).inc();
        self.metrics.active.get_or_create_owned(&ActiveLabels { direction, transport }).inc();
    }

    /// What stands, once it does, and the label of who is at the other end.
    #[must_use]
    pub fn transport(&self) -> (Option<Transport>, &Text) {
        (self.transport, &self.peer)
    }

    /// The connection ended.
    pub fn finish(mut self, reason: CloseReason) {
        self.close(reason);
    }

    fn close(&mut self, reason: CloseReason) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let direction = self.direction;
        self.metrics.closed.get_or_create_owned(&ClosedLabels { direction, reason }).inc();
        if let Some(transport) = self.transport {
            self.metrics.active.get_or_create_owned(&ActiveLabels { direction, transport }).dec();
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        // Unfinished: the task panicked, or its runtime ended at the deadline of a stop.
        self.close(if std::thread::panicking() { CloseReason::Internal } else { CloseReason::Drain });
    }
}
