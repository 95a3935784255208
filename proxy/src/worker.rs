//! A worker thread: its own runtime, listeners, upstream connections and judge. No connection ever
//! leaves the worker that accepted it.

use std::{io, sync::Arc, thread, time::Duration};

use tokio::{
    runtime,
    sync::{mpsc, watch},
    time::{self, Instant},
};

use crate::{
    authz::Authorizer,
    directory::Directory,
    drain::{DrainToken, Phase},
    http::{Timeouts, client::Pool},
    inbound::{self, Inbound},
    listener::{Accepted, Admission, Door, Listener, Origin},
    metrics::{CloseReason, Direction, Metrics},
    outbound::{self, Outbound},
    pool::Dialer,
    vital::{self, Vital},
    vouch::Vouchers,
};

/// Work in hand under an identity that is gone has this long to finish.
const WITHDRAWN_DRAIN: Duration = Duration::from_secs(10);

/// A listening address and what happens to its connections.
#[derive(Clone)]
pub enum Route {
    /// From peers to the application.
    Inbound(Origin),
    /// From the application to where the directory says.
    Outbound(Origin, Directory),
}

/// What a worker is made of.
pub struct Worker {
    /// Its sockets.
    pub listeners: Vec<(std::net::TcpListener, Route)>,
    /// Judges callers and requests.
    pub authorizer: Arc<Authorizer>,
    /// Opens connections.
    pub dialer: Dialer,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The process's limits on what comes in.
    pub admission: Arc<Admission>,
    /// A handshake takes no longer.
    pub handshake_timeout: Duration,
    /// How long open work may outlive the peer's SVID.
    pub max_stale_identity: Duration,
    /// How long a request head and an idle connection may take.
    pub timeouts: Timeouts,
    /// Changes of the own identity or of a bundle.
    pub identity_changes: watch::Receiver<u64>,
    /// Changes of the policy, and ends of grants.
    pub policy_changes: watch::Receiver<u64>,
    /// The stop.
    pub drain: DrainToken,
}

/// Held by every connection of a worker, so that the worker ends with its last one.
type Alive = mpsc::Sender<std::convert::Infallible>;

// === impl Worker ===

impl Worker {
    /// Starts the thread. It ends when a stop was announced and the last connection is gone, or when
    /// the stop is forced.
    ///
    /// # Errors
    /// No thread, no runtime.
    pub fn start(self, number: usize) -> io::Result<thread::JoinHandle<io::Result<()>>> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        self.metrics.watch(runtime.metrics());
        thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            let _vital = Vital::new("worker");
            let result = runtime.block_on(self.run());
            // Connections that a forced stop left behind end here, each counted by its guard.
            drop(runtime);
            result
        })
    }

    async fn run(self) -> io::Result<()> {
        let vouchers = Arc::new(Vouchers::new(self.max_stale_identity));
        let pool = Arc::new(Pool::new(Arc::clone(&vouchers)));
        let (gone, withdrawn) = watch::channel(false);
        let (alive, mut last_gone) = mpsc::channel(1);
        let Self {
            listeners,
            authorizer,
            dialer,
            metrics,
            admission,
            handshake_timeout,
            max_stale_identity,
            timeouts,
            drain,
            ..
        } = self;
        for (socket, route) in listeners {
            let (origin, direction) = match &route {
                Route::Inbound(origin) => (origin.clone(), Direction::Inbound),
                Route::Outbound(origin, _) => (origin.clone(), Direction::Outbound),
            };
            let admission = Arc::clone(&admission);
            let door =
                Door { origin, direction, admission: Arc::clone(&admission), metrics: Arc::clone(&metrics) };
            let listener = Listener::new(socket, door)?;
            let (authorizer, dialer) = (Arc::clone(&authorizer), dialer.clone());
            let (pool, metrics) = (Arc::clone(&pool), Arc::clone(&metrics));
            let (vouchers, withdrawn) = (Arc::clone(&vouchers), withdrawn.clone());
            match route {
                Route::Inbound(_) => {
                    let inbound = Arc::new(Inbound {
                        admission,
                        authorizer,
                        dialer,
                        pool,
                        metrics,
                        vouchers,
                        handshake_timeout,
                        max_stale_identity,
                        timeouts,
                        withdrawn,
                    });
                    let serve = move |accepted, token: DrainToken| {
                        inbound::serve(Arc::clone(&inbound), accepted, token.of_peer())
                    };
                    vital::spawn("accept", accept(listener, drain.clone(), alive.clone(), serve));
                }
                Route::Outbound(_, directory) => {
                    let outbound = Arc::new(Outbound {
                        admission,
                        authorizer,
                        directory,
                        dialer,
                        pool,
                        metrics,
                        vouchers,
                        max_stale_identity,
                        timeouts: Timeouts { idle_at_stop: Duration::ZERO, ..timeouts },
                        withdrawn,
                    });
                    let serve =
                        move |accepted, token| outbound::serve(Arc::clone(&outbound), accepted, token);
                    vital::spawn("accept", accept(listener, drain.clone(), alive.clone(), serve));
                }
            }
        }
        drop(alive);
        vital::spawn("policy", follow_policy(self.policy_changes, authorizer));
        vital::spawn("identity", follow_identity(self.identity_changes, dialer, vouchers, pool, gone));

        let mut forced = drain;
        tokio::select! {
            _ = last_gone.recv() => {}
            () = forced.reached(Phase::Forced) => {}
        }
        Ok(())
    }
}

/// Accepts until the stop says otherwise. What the kernel has accepted for us by then is served.
async fn accept<F>(
    listener: Listener,
    drain: DrainToken,
    alive: Alive,
    serve: impl Fn(Accepted, DrainToken) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut stopping = drain.clone();
    let begin = |accepted| {
        // Boxed, because a task would hold it twice: where it is captured and where it runs.
        let (connection, alive) = (Box::pin(serve(accepted, drain.clone())), alive.clone());
        tokio::spawn(async move {
            connection.await;
            drop(alive);
        });
    };
    loop {
        tokio::select! {
            biased;
            accepted = listener.accept() => {
                vital::test_panic("accept");
                begin(accepted);
            }
            () = stopping.reached(Phase::Stopping) => break,
        }
    }
    listener.close().for_each(begin);
}

/// Ends what a policy change, or the end of a grant, no longer allows.
async fn follow_policy(mut changes: watch::Receiver<u64>, authorizer: Arc<Authorizer>) {
    while changes.changed().await.is_ok() {
        vital::test_panic("policy");
        authorizer.rejudge();
    }
}

/// Ends what a bundle change no longer vouches for, retires connections made under an identity that
/// has rotated, and ends everything when the identity is gone for good.
async fn follow_identity(
    mut changes: watch::Receiver<u64>,
    dialer: Dialer,
    vouchers: Arc<Vouchers>,
    pool: Arc<Pool>,
    gone: watch::Sender<bool>,
) {
    let mut gone_since = None;
    loop {
        gone_since = match dialer.credentials() {
            Ok(credentials) => {
                vouchers.reverify(&credentials);
                pool.retire(&credentials);
                None
            }
            Err(_) => gone_since.or_else(|| Some(Instant::now())),
        };
        gone.send_replace(gone_since.is_some());
        let over = gone_since.unwrap_or_else(Instant::now) + WITHDRAWN_DRAIN;
        tokio::select! {
            changed = changes.changed() => {
                vital::test_panic("identity");
                if changed.is_err() { return }
            }
            () = time::sleep_until(over), if gone_since.is_some() => {
                vouchers.end_all(CloseReason::Withdrawn);
                // What comes until the identity is back is refused at the door.
                if changes.changed().await.is_err() { return }
            }
        }
    }
}
