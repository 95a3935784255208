//! How long a connection may outlive what it was opened under: the peer's SVID, the own identity.

use std::time::{Duration, SystemTime};

use tokio::{sync::watch, time};

/// An ordinary request that began before the peer's SVID expired has this long to be answered.
const ANSWER_GRACE: Duration = Duration::from_secs(60);
/// The wall clock is looked at again at least this often: it may be set, the timers may not notice.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// The ends of one connection's time.
#[derive(Clone)]
pub struct Lifetime {
    peer_not_after: Option<SystemTime>,
    max_stale: Duration,
    withdrawn: watch::Receiver<bool>,
}

// === impl Lifetime ===

impl Lifetime {
    /// `peer_not_after` is the end of the peer's SVID, none for a peer without identity; `max_stale`
    /// how much longer open streams and opaque bytes may go on; `withdrawn` is true while there is no
    /// own identity.
    #[must_use]
    pub fn new(
        peer_not_after: Option<SystemTime>,
        max_stale: Duration,
        withdrawn: watch::Receiver<bool>,
    ) -> Self {
        Self { peer_not_after, max_stale, withdrawn }
    }

    /// Resolves when no new request may be taken: the peer's SVID has expired, or the own identity is
    /// gone.
    pub async fn must_leave(mut self) {
        let own_identity_gone = async {
            // Connections can use a new identity a moment before the worker has noted that there is
            // one: what counts is that it goes after it has come.
            let came = self.withdrawn.wait_for(|withdrawn| !*withdrawn).await.is_ok();
            if !came || self.withdrawn.wait_for(|withdrawn| *withdrawn).await.is_err() {
                std::future::pending().await
            }
        };
        tokio::select! {
            () = until(self.peer_not_after) => {}
            () = own_identity_gone => {}
        }
    }

    /// Resolves when whatever is still open has to end. `grace_over` is called when requests that
    /// nobody has begun to answer have to.
    pub async fn over(self, grace_over: impl FnOnce()) {
        unanswered(self.peer_not_after, self.max_stale).await;
        grace_over();
        stale(self.peer_not_after, self.max_stale).await;
    }
}

/// Resolves when a request that nobody has begun to answer has to end, because the SVID of the peer that sent
/// it, or that has it, ended at `peer_not_after`.
pub async fn unanswered(peer_not_after: Option<SystemTime>, max_stale: Duration) {
    until(peer_not_after.and_then(|end| end.checked_add(ANSWER_GRACE.min(max_stale)))).await;
}

/// Resolves when nothing may go on any more with a peer whose SVID ends at `peer_not_after`.
pub async fn stale(peer_not_after: Option<SystemTime>, max_stale: Duration) {
    until(peer_not_after.and_then(|end| end.checked_add(max_stale))).await;
}

/// Sleeps until a moment of the wall clock; for ever without one.
async fn until(moment: Option<SystemTime>) {
    let Some(moment) = moment else { return std::future::pending().await };
    while let Ok(left) = moment.duration_since(SystemTime::now())
        && !left.is_zero()
    {
        time::sleep(left.min(CLOCK_CHECK)).await;
    }
}
