//! The guard of one connection.

use std::{sync::Arc, time::Instant};

use super::{
    CloseReason, Direction, Metrics, Text, Transport,
    traffic::{ActiveLabels, ClosedConnectionLabels, DirectionLabels, OpenedLabels},
};

/// Counts one connection: opened when its transport stands, closed exactly once with a reason, also
/// when its task is cancelled or panics.
pub struct ConnectionGuard {
    metrics: Arc<Metrics>,
    direction: Direction,
    begun: Instant,
    transport: Option<Transport>,
    peer: Text,
    finished: bool,
}

// === impl ConnectionGuard ===

impl ConnectionGuard {
    /// A connection that was accepted.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, direction: Direction) -> Self {
        let begun = Instant::now();
        Self { metrics, direction, begun, transport: None, peer: Text::none(), finished: false }
    }

    /// The transport stands, and `peer` is who proved to be at the other end.
    pub fn opened(&mut self, transport: Transport, peer: Text) {
        let direction = self.direction;
        self.transport = Some(transport);
        self.peer.clone_from(&peer);
        self.metrics.traffic.opened.get(&OpenedLabels { direction, transport, peer }).inc();
        self.metrics.traffic.active.get(ActiveLabels { direction, transport }).inc();
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
        let (direction, traffic) = (self.direction, &self.metrics.traffic);
        traffic.closed.get(ClosedConnectionLabels { direction, reason }).inc();
        traffic.connection_seconds.get(DirectionLabels { direction }).observe(self.begun.elapsed());
        if let Some(transport) = self.transport {
            traffic.active.get(ActiveLabels { direction, transport }).dec();
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        // Unfinished: the task panicked, or its runtime ended at the deadline of a stop.
        self.close(if std::thread::panicking() { CloseReason::Internal } else { CloseReason::Drain });
    }
}
