//! Where our identity comes from: a supervised stream from the Workload API to published credentials.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use mantlet_id::{SpiffeId, TrustDomain};
use tokio::sync::watch;

use crate::usage::LeafConstraints;
use crate::workload_api::{GrpcWorkloadApi, WorkloadApi};
use crate::{Credentials, Endpoint};

mod backoff;
mod status;
mod supervisor;
mod update;

pub use status::{IdentityCounts, IdentityErrorKind, IdentityState, IdentityStatus};
pub use update::UpdateError;

/// How long an identity that the agent denies after a reconnect is kept: real agents deny for a moment while
/// they restart.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// What the source of our identity has to know.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// Where the Workload API is.
    pub endpoint: Endpoint,
    /// Our trust domain. Without it, the first usable SVID decides, once and for all.
    pub trust_domain: Option<TrustDomain>,
    /// Our SPIFFE id: taken wherever it is among several SVIDs.
    pub expected_id: Option<SpiffeId>,
    /// The hint to go by where the expected id is not there (WA 5.2.1). Nobody with this hint: not ready.
    pub hint: Option<String>,
    /// How long an identity outlives a denial that follows a reconnect; zero gives it up at once.
    pub grace: Duration,
    /// How a peer's leaf without basicConstraints is taken.
    pub leaf_constraints: LeafConstraints,
}

/// The supervisor of our identity. [`run`](Self::run) it on the control thread.
pub struct IdentitySource {
    config: SourceConfig,
    shared: Arc<Shared>,
}

/// A look at our identity from any thread. Cheap to clone.
#[derive(Clone)]
pub struct IdentityHandle {
    shared: Arc<Shared>,
}

struct Shared {
    credentials: ArcSwapOption<Credentials>,
    status: ArcSwap<IdentityStatus>,
    version: watch::Sender<u64>,
}

// === impl SourceConfig ===

impl SourceConfig {
    /// Takes the first SVID that the agent gives, with a grace of 30 s.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            trust_domain: None,
            expected_id: None,
            hint: None,
            grace: DEFAULT_GRACE,
            leaf_constraints: LeafConstraints::default(),
        }
    }
}

// === impl IdentitySource ===

impl IdentitySource {
    /// Nothing happens before [`run`](Self::run).
    #[must_use]
    pub fn new(config: SourceConfig) -> Self {
        let shared = Shared {
            credentials: ArcSwapOption::empty(),
            status: ArcSwap::from_pointee(IdentityStatus::starting(SystemTime::now())),
            version: watch::Sender::new(0),
        };
        Self { config, shared: Arc::new(shared) }
    }

    /// Where to look at the identity.
    #[must_use]
    pub fn handle(&self) -> IdentityHandle {
        IdentityHandle { shared: self.shared.clone() }
    }

    /// Follows the Workload API for ever; whatever it answers, this does not end.
    pub async fn run(self) -> Infallible {
        let api = GrpcWorkloadApi::new(self.config.endpoint.clone());
        self.run_with(api).await
    }

    /// The same over another transport.
    pub async fn run_with(self, api: impl WorkloadApi) -> Infallible {
        supervisor::Supervisor::new(self.config, self.shared).run(api).await
    }
}

// === impl IdentityHandle ===

impl IdentityHandle {
    /// What to make and to judge handshakes with; `None` while there is no identity to present. No lock. An
    /// identity past its notAfter is never given out, whatever the timers of the supervisor do: they stand
    /// still while a laptop sleeps.
    #[must_use]
    pub fn credentials(&self) -> Option<Arc<Credentials>> {
        let credentials = self.shared.credentials.load_full()?;
        (SystemTime::now() <= credentials.not_after()).then_some(credentials)
    }

    /// How it stands. An identity that has expired is said to have, like [`credentials`](Self::credentials)
    /// without waiting for the supervisor.
    #[must_use]
    pub fn status(&self) -> Arc<IdentityStatus> {
        let status = self.shared.status.load_full();
        let past = |credentials: &Arc<Credentials>| SystemTime::now() > credentials.not_after();
        match self.shared.credentials.load().as_ref().filter(|credentials| past(credentials)) {
            Some(credentials) if status.is_usable() => Arc::new(status.expired(credentials)),
            _ => status,
        }
    }

    /// A number that changes with each change of credentials or status. Subscribe first, then look.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    /// Waits for an identity.
    pub async fn ready(&self) -> Arc<Credentials> {
        let mut version = self.subscribe();
        loop {
            if let Some(credentials) = self.credentials() {
                return credentials;
            }
            if version.changed().await.is_err() {
                // The sender lives in `shared`, which this handle holds.
                std::future::pending::<()>().await;
            }
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Credentials first: who is woken finds both.
    fn publish(&self, credentials: Option<Arc<Credentials>>, status: IdentityStatus) {
        self.credentials.store(credentials);
        self.status.store(Arc::new(status));
        self.version.send_modify(|version| *version = version.wrapping_add(1));
    }
}
