//! The end, from the first word of it: nothing that was accepted is lost.
//!
//! `drain` (the admin socket, for a preStop hook) makes the sidecar unready and tells the peers that are
//! connected to go elsewhere; it goes on serving, because the application does. SIGTERM is the stop:
//! unready, on as before for the configured delay, then everybody is told, then the listening sockets
//! close, then what is in flight has until the deadline. A second SIGTERM is the deadline.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
    time::{self, Instant},
};
use tracing::info;

use crate::{
    config::Config,
    drain::{Drain, Phase},
    last_word::LastWord,
    listener::Admission,
    log::{Log, Value},
    readiness::{Blocker, Readiness},
};

/// How long a stop is announced while new connections are still served, so that peers with
/// connections here learn of it before the listening socket is gone.
const ANNOUNCEMENT: Duration = Duration::from_secs(1);
/// Workers that were forced have this long to drop what they hold.
const FORCED_LIMIT: Duration = Duration::from_secs(2);

/// What a stop acts on, and what tells that it has begun.
pub(super) struct Stop<'a> {
    pub(super) drain: Drain,
    /// `drain` was asked for.
    pub(super) asked: Arc<Notify>,
    /// What the metric says.
    pub(super) draining: Arc<AtomicBool>,
    pub(super) readiness: Readiness,
    /// Says what was missing, where the process ends before it was ever ready.
    pub(super) last_word: &'a LastWord,
    pub(super) log: Log,
    pub(super) config: &'a Config,
    /// The limit of connections; every listening socket holds one place for whoever comes next.
    pub(super) admission: Arc<Admission>,
    pub(super) sockets: usize,
}

/// The signals that end a process in order. They are caught from the moment this exists, so that none
/// comes between two waits.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

// === impl Stop ===

impl Stop<'_> {
    /// Waits for the stop, and sees it through.
    ///
    /// # Errors
    /// Signals cannot be caught.
    pub(super) async fn run(self) -> io::Result<()> {
        let mut signals = Signals::catch()?;
        let asked = Arc::clone(&self.asked);
        let mut unready = None;
        let (begun, why) = tokio::select! {
            why = signals.next() => (Instant::now(), why),
            () = asked.notified() => {
                let begun = Instant::now();
                unready = Some(self.begin("drain", "it serves until it is stopped"));
                self.drain.advance(Phase::Draining);
                (begun, signals.next().await)
            }
        };
        self.last_word.ended(why, &self.readiness.snapshot());
        let _unready = (unready, self.begin(why, "nothing: it ends by itself"));
        let delay = self.config.stop_delay.saturating_sub(begun.elapsed());
        let orderly = async {
            time::sleep(delay).await;
            self.drain.advance(Phase::Announcing);
            if self.is_connected() {
                time::sleep(ANNOUNCEMENT).await;
            }
            self.drain.advance(Phase::Stopping);
            self.drain.finished().await;
        };
        tokio::select! {
            () = orderly => return Ok(()),
            () = time::sleep(delay.saturating_add(self.config.drain_deadline)) => info!(event = "drain_deadline"),
            _ = signals.next() => info!(event = "drain_forced"),
        }
        self.drain.advance(Phase::Forced);
        let _ = time::timeout(FORCED_LIMIT, self.drain.finished()).await;
        Ok(())
    }

    /// Unready from here on, for as long as the blocker is kept.
    fn begin(&self, why: &'static str, next_step: &'static str) -> Blocker {
        let unready = self.readiness.blocker("drain");
        unready.set(format!("stopping ({why})"), next_step);
        self.draining.store(true, Ordering::Relaxed);
        self.log.event("draining", &[("reason", Value::from(why))]);
        unready
    }

    fn is_connected(&self) -> bool {
        self.admission.free().saturating_add(self.sockets) < self.config.max_connections
    }
}

// === impl Signals ===

impl Signals {
    fn catch() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
