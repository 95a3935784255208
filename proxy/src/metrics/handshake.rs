//! The guard of one handshake.

use std::{sync::Arc, time::Instant};

use mantlet_identity::HandshakeReason;

use super::{
    Direction, Metrics, TlsCipher, TlsGroup, TlsVersion,
    traffic::{DirectionLabels, HandshakeLabels, SessionLabels},
};

/// What two sides agreed on.
#[derive(Clone, Copy, Debug)]
pub struct TlsSession {
    /// The version.
    pub version: TlsVersion,
    /// The key exchange.
    pub group: TlsGroup,
    /// The cipher.
    pub cipher: TlsCipher,
}

/// Counts one handshake, with its time; one that is cut off counts as broken.
#[must_use]
pub struct HandshakeGuard {
    metrics: Arc<Metrics>,
    direction: Direction,
    begun: Instant,
    reason: HandshakeReason,
}

// === impl HandshakeGuard ===

impl HandshakeGuard {
    /// A handshake begins.
    pub fn new(metrics: &Arc<Metrics>, direction: Direction) -> Self {
        let reason = HandshakeReason::Io;
        Self { metrics: Arc::clone(metrics), direction, begun: Instant::now(), reason }
    }

    /// It ended.
    pub fn finish(mut self, result: Result<TlsSession, HandshakeReason>) {
        self.reason = match result {
            Ok(TlsSession { version, group, cipher }) => {
                let labels = SessionLabels { direction: self.direction, version, group, cipher };
                self.metrics.traffic.sessions.get(labels).inc();
                HandshakeReason::Ok
            }
            Err(reason) => reason,
        };
    }
}

impl Drop for HandshakeGuard {
    fn drop(&mut self) {
        let (traffic, direction) = (&self.metrics.traffic, self.direction);
        traffic.handshakes.get(HandshakeLabels { direction, reason: self.reason }).inc();
        traffic.handshake_seconds.get(DirectionLabels { direction }).observe(self.begun.elapsed());
    }
}
