//! Keeps the stream open, and the last good state alive no longer than it may live.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::backoff::Backoff;
use super::status::{IdentityErrorKind, IdentityState, IdentityStatus, no_new_one};
use super::update::{Assembler, LeftOut, Outcome};
use super::{Shared, SourceConfig};
use crate::workload_api::{ApiError, Updates, WorkloadApi, X509Update};
use crate::{Credentials, Endpoint, provider};

/// The wall clock is looked at this often at least: it can jump, timers do not.
const LONGEST_WATCH: Duration = Duration::from_secs(5);

/// Agents renew at half of an SVID's life. At this part of what is left of it, an open and silent stream is
/// taken for dead and opened anew.
const OVERDUE: f64 = 5.0 / 6.0;
/// SVIDs of seconds are for tests and demonstrations, where a stream is not dead so soon.
const SHORTEST_OVERDUE: Duration = Duration::from_secs(5);

/// The one writer of what [`super::IdentityHandle`] shows.
pub(super) struct Supervisor {
    config: SourceConfig,
    shared: Arc<Shared>,
    assembler: Assembler,
    backoff: Backoff,
    current: Option<Arc<Credentials>>,
    /// The identity that has expired, by a clock that may be set back: nobody would send it again.
    expired: Option<Arc<Credentials>>,
    status: IdentityStatus,
    /// When an identity that is denied since a reconnect is given up.
    grace: Option<Instant>,
    /// When an agent that keeps a stream open has been silent for too long. Once for each SVID.
    overdue: Option<Instant>,
}

/// How a stream ended.
struct StreamEnd {
    /// `None`: without a status.
    error: Option<ApiError>,
    /// A valid message was received on it.
    established: bool,
    lived: Duration,
}

// === impl Supervisor ===

impl Supervisor {
    pub(super) fn new(config: SourceConfig, shared: Arc<Shared>) -> Self {
        Self {
            assembler: Assembler::new(&config),
            config,
            backoff: Backoff::default(),
            current: None,
            expired: None,
            status: IdentityStatus::clone(&shared.status.load()),
            grace: None,
            overdue: None,
            shared,
        }
    }

    pub(super) async fn run(mut self, api: impl WorkloadApi) -> Infallible {
        loop {
            let end = self.follow(&api).await;
            let pause = self.ended(end);
            self.watching(tokio::time::sleep(pause)).await;
        }
    }

    /// Opens one stream and takes what it says, until it ends.
    async fn follow(&mut self, api: &impl WorkloadApi) -> StreamEnd {
        let mut updates = match self.watching(api.open()).await {
            Ok(updates) => updates,
            Err(error) => {
                return StreamEnd { error: Some(error), established: false, lived: Duration::ZERO };
            }
        };
        let opened = Instant::now();
        let mut established = false;
        self.status.stream_connected = true;
        self.publish();
        loop {
            let next = until(self.overdue, updates.next());
            let error = match self.watching(next).await {
                Some(Ok(Some(update))) => {
                    established |= self.take(update);
                    continue;
                }
                Some(Ok(None)) => None,
                Some(Err(error)) => Some(error),
                None => {
                    self.overdue = None;
                    Some(ApiError::Unavailable("it has not renewed the SVID in time".to_owned()))
                }
            };
            return StreamEnd { error, established, lived: opened.elapsed() };
        }
    }

    /// Awaits `future` and looks after what ends by itself meanwhile: our own expiry and the grace.
    async fn watching<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        loop {
            let deadline = self.next_deadline();
            tokio::select! {
                output = &mut future => return output,
                () = sleep_until(deadline) => self.deadline(),
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let expiry = self.current.as_ref().map(|current| {
            let left = current.not_after().duration_since(SystemTime::now()).unwrap_or_default();
            // A moment later: at notAfter itself the SVID is still valid (RFC 5280 4.1.2.5).
            Instant::now() + (left + Duration::from_millis(1)).min(LONGEST_WATCH)
        });
        let expiry = expiry.or_else(|| self.expired.as_ref().map(|_| Instant::now() + LONGEST_WATCH));
        match (expiry, self.grace) {
            (Some(expiry), Some(grace)) => Some(expiry.min(grace)),
            (expiry, grace) => expiry.or(grace),
        }
    }

    fn deadline(&mut self) {
        let now = SystemTime::now();
        if let Some(valid) = self.expired.take_if(|expired| now <= expired.not_after()) {
            self.current = Some(valid);
            self.enter(IdentityState::Ready, None);
            self.publish();
            return;
        }
        let Some(current) = &self.current else { return };
        if now > current.not_after() {
            let (expired, cause) = (Arc::clone(current), self.status.expired(current).cause);
            self.withdraw(IdentityState::Expired, cause.unwrap_or_default());
            self.expired = Some(expired);
        } else if self.grace.is_some_and(|grace| grace <= Instant::now()) {
            let cause = self.status.cause.clone();
            self.withdraw(
                IdentityState::Withdrawn,
                cause.as_deref().unwrap_or("agent says no identity issued"),
            );
        }
    }

    /// Gives the identity up; the bundles go with it.
    fn withdraw(&mut self, state: IdentityState, cause: impl Into<Arc<str>>) {
        self.current = None;
        self.expired = None;
        self.grace = None;
        self.status.grace_until = None;
        self.enter(state, Some(cause.into()));
        self.publish();
    }

    /// Takes an update; `false` if it was not valid.
    fn take(&mut self, update: X509Update) -> bool {
        let now = SystemTime::now();
        let mut left_out = Vec::new();
        let outcome =
            self.assembler.assemble(&self.config, self.current.as_ref(), update, now, &mut left_out);
        self.report(&left_out);
        match outcome {
            Ok(outcome) => {
                self.backoff.answered();
                self.expired = None;
                self.grace = None;
                self.status.attempt = 0;
                self.status.grace_until = None;
                self.status.next_step = None;
                self.status.last_refresh = Some(now);
                match outcome {
                    Outcome::Changed(credentials) => {
                        self.status.counts.updated += 1;
                        tracing::info!(
                            id = credentials.id().as_str(),
                            serial = credentials.serial(),
                            generation = credentials.generation(),
                            "identity updated"
                        );
                        self.publishable(credentials, now);
                        self.enter(IdentityState::Ready, None);
                        self.publish();
                    }
                    Outcome::Unchanged => {
                        self.status.counts.unchanged += 1;
                        let recovered = self.status.cause.is_some();
                        self.enter(IdentityState::Ready, None);
                        self.show(recovered);
                    }
                }
                true
            }
            Err(error) => {
                self.status.counts.rejected += 1;
                self.status.counts.count(IdentityErrorKind::Update, 1);
                self.status.next_step =
                    Some("the last good identity is kept; look at the agent's registration entries".into());
                self.enter(self.status.state, Some(error.to_string().into()));
                self.publish();
                false
            }
        }
    }

    fn publishable(&mut self, credentials: Arc<Credentials>, now: SystemTime) {
        let known = self.current.as_ref().map(|current| current.svid_generation());
        if known != Some(credentials.svid_generation()) {
            let life = credentials.not_after().duration_since(now).unwrap_or_default();
            self.overdue = Some(Instant::now() + life.mul_f64(OVERDUE).max(SHORTEST_OVERDUE));
        }
        self.current = Some(credentials);
    }

    fn report(&mut self, left_out: &[LeftOut]) {
        for LeftOut { kind, text } in left_out {
            self.status.counts.count(*kind, 1);
            tracing::warn!(kind = kind.as_str(), text = text.as_str(), "left out of the identity update");
        }
    }

    /// Decides what a broken stream means and how long to wait.
    fn ended(&mut self, end: StreamEnd) -> Duration {
        let StreamEnd { error, established, lived } = end;
        self.status.stream_connected = false;
        self.status.attempt = self.status.attempt.saturating_add(1);
        let kind = error.as_ref().map_or(IdentityErrorKind::StreamEnded, IdentityErrorKind::of);
        self.status.counts.count(kind, 1);
        let cause: Arc<str> = match &error {
            Some(error) => error.to_string().into(),
            None => "agent ended the stream".into(),
        };
        self.status.next_step = Some(next_step(kind, &self.config).into());

        if kind == IdentityErrorKind::NoIdentity {
            self.expired = None;
        }
        if kind == IdentityErrorKind::NoIdentity && self.current.is_some() {
            if established || self.config.grace.is_zero() {
                self.withdraw(IdentityState::Withdrawn, cause);
                return self.backoff.after_passing(lived, provider::jitter_byte());
            }
            // Once from the first denial: an agent that flaps does not start it anew.
            if self.grace.is_none() {
                self.grace = Some(Instant::now() + self.config.grace);
                self.status.grace_until = SystemTime::now().checked_add(self.config.grace);
            }
        }
        let cause = match &self.expired {
            // Why it lasts is not why it is so.
            Some(expired) => no_new_one(expired, Some(&cause)),
            None => cause,
        };
        self.enter(self.status.state, Some(cause));
        self.publish();
        match kind {
            IdentityErrorKind::Refused | IdentityErrorKind::Update => self.backoff.after_refused(),
            _ => self.backoff.after_passing(lived, provider::jitter_byte()),
        }
    }

    /// Sets state and cause. One log line per cause, not per attempt.
    fn enter(&mut self, state: IdentityState, cause: Option<Arc<str>>) {
        let begins =
            self.status.cause.is_none() != cause.is_none() && self.status.state != IdentityState::Waiting;
        if state != self.status.state || begins {
            self.status.since = SystemTime::now();
        }
        if state != self.status.state || cause != self.status.cause {
            let next_step = self.status.next_step.as_deref().unwrap_or_default();
            match &cause {
                Some(cause) => tracing::warn!(state = state.as_str(), %cause, next_step, "identity"),
                None => tracing::info!(state = state.as_str(), "identity"),
            }
        }
        self.status.state = state;
        self.status.cause = cause;
    }

    fn publish(&self) {
        self.shared.publish(self.current.clone(), self.status.clone());
    }

    /// Shows the status; wakes nobody if only counters and times have moved.
    fn show(&self, wake: bool) {
        if wake {
            self.publish();
        } else {
            self.shared.status.store(Arc::new(self.status.clone()));
        }
    }
}

/// `None` if the deadline comes first.
async fn until<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// What to do about it, in words that can be typed.
fn next_step(kind: IdentityErrorKind, config: &SourceConfig) -> String {
    match kind {
        IdentityErrorKind::Unreachable => match &config.endpoint {
            Endpoint::Unix(path) => format!(
                "check that the agent runs and that the directory of {} is mounted (the directory, not the socket)",
                path.display()
            ),
            Endpoint::Tcp(address) => format!("check that the agent runs and listens at {address}"),
        },
        // Which agent answers cannot be seen from here.
        IdentityErrorKind::NoIdentity => {
            let whose = config.expected_id.as_ref().map_or(String::new(), |id| format!(" -spiffeID {id}"));
            format!(
                "a new entry takes some seconds to arrive here; else check that one selects this workload: with \
                 SPIRE `spire-server entry show{whose}`, and that a ClusterSPIFFEID matches the pod where its \
                 controller manager makes them; with `mantlet dev-agent` its entries file"
            )
        }
        IdentityErrorKind::Refused => {
            format!("check that {} is a SPIFFE Workload API with X.509 enabled", config.endpoint)
        }
        IdentityErrorKind::Update => "look at the agent's registration entries and bundles".to_owned(),
        _ => "the agent's own log has the reason; trying again".to_owned(),
    }
}
