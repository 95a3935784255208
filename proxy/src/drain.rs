//! Stopping without losing anything.
//!
//! A stop goes through phases, each announced to everybody who holds a [`DrainToken`]. Whoever has
//! work in hand holds a token until the work is done; dropping the token *is* saying "done". So the
//! end of a drain is not a counter somebody must remember to change, but the moment at which the
//! last token is gone.

use tokio::sync::watch;

/// How far a stop has come. Phases only go forward.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Phase {
    /// Business as usual.
    Serving,
    /// A stop will come (`drain`). Peers that are connected now are told to go elsewhere (GOAWAY,
    /// `connection: close`); all that comes is served, new connections as ever.
    Draining,
    /// The stop has come (SIGTERM): every peer is told, and all that comes is served.
    Announcing,
    /// Accept nothing new; what is in flight finishes.
    Stopping,
    /// The deadline has passed: end everything.
    Forced,
}

/// The one who stops. Lives on the control thread.
pub struct Drain {
    phase: watch::Sender<Phase>,
}

/// Held by everybody who has work in hand.
#[derive(Clone)]
pub struct DrainToken {
    phase: watch::Receiver<Phase>,
    /// When the peer of this piece of work is told to go elsewhere.
    tell_at: Phase,
}

// === impl Drain ===

impl Drain {
    /// A stop that has not begun, and its first token.
    #[must_use]
    pub fn new() -> (Self, DrainToken) {
        let (phase, token) = watch::channel(Phase::Serving);
        (Self { phase }, DrainToken { phase: token, tell_at: Phase::Announcing })
    }

    /// Goes forward to `phase`; going back is ignored.
    pub fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let forward = *now < phase;
            *now = (*now).max(phase);
            forward
        });
    }

    /// Resolves when no token is left: all work is done.
    pub async fn finished(&self) {
        self.phase.closed().await;
    }
}

// === impl DrainToken ===

impl DrainToken {
    /// A token for a connection that a peer has just opened. Who connects while the sidecar drains has
    /// nowhere better to go, and is told only when the stop comes.
    #[must_use]
    pub fn of_peer(&self) -> Self {
        let tell_at = if self.phase() == Phase::Serving { Phase::Draining } else { Phase::Announcing };
        Self { phase: self.phase.clone(), tell_at }
    }

    /// The phase right now; one relaxed read of a shared lock, no wait.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Whether the other side has to be told to go elsewhere.
    #[must_use]
    pub fn must_tell(&self) -> bool {
        self.phase() >= self.tell_at
    }

    /// Resolves once the other side has to be told to go elsewhere.
    pub async fn telling(&mut self) {
        self.reached(self.tell_at).await;
    }

    /// Resolves once the stop has come to `phase` or further. If the [`Drain`] itself is gone the
    /// process is ending, which is [`Phase::Forced`].
    pub async fn reached(&mut self, phase: Phase) {
        let _ = self.phase.wait_for(|now| *now >= phase).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_finishes_when_the_last_token_is_dropped() {
        let (drain, token) = Drain::new();
        let mut worker = token.clone();
        drop(token);
        drain.advance(Phase::Stopping);
        worker.reached(Phase::Announcing).await;
        assert_eq!(worker.phase(), Phase::Stopping);
        let done = tokio::spawn(async move { drain.finished().await });
        drop(worker);
        done.await.unwrap();
    }

    #[test]
    fn whoever_connects_while_the_sidecar_drains_is_not_sent_away_before_the_stop() {
        let (drain, token) = Drain::new();
        let (before, application) = (token.of_peer(), token.clone());
        drain.advance(Phase::Draining);
        let during = token.of_peer();
        assert!(before.must_tell());
        assert!(!during.must_tell() && !application.must_tell());
        drain.advance(Phase::Announcing);
        assert!(during.must_tell() && application.must_tell());
    }

    #[test]
    fn phases_only_go_forward() {
        let (drain, token) = Drain::new();
        drain.advance(Phase::Stopping);
        drain.advance(Phase::Announcing);
        assert_eq!(token.phase(), Phase::Stopping);
    }
}
