//! Keeps Secret, webhook configurations and the shown certificate in step.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use rustls::crypto::CryptoProvider;
use tokio::time;
use tracing::{info, warn};

use super::{
    Shown, Terms,
    authority::{Certificate, CertificateError},
    state::{State, seconds},
};
use crate::{
    health::{Condition, Readiness},
    kubernetes::{Bundles, Cluster, ConfigurationKind, Error, Secret},
    metrics::{Call, Metrics, Rotation},
};

/// Pause after a failure.
const AGAIN: Duration = Duration::from_millis(500);
/// Half of the pause after somebody else was quicker; twice as long each time.
const QUICK: Duration = Duration::from_millis(10);
/// Steps that one look may take; a state never needs more than a few.
const STEPS: usize = 8;

/// Where the Secret and the webhook configurations are.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) namespace: String,
    pub(crate) secret: String,
    /// Name of both webhook configurations.
    pub(crate) configuration: String,
}

/// The one task that writes certificates.
pub(crate) struct Keeper {
    pub(crate) cluster: Cluster,
    pub(crate) place: Place,
    pub(crate) terms: Terms,
    /// Time between two looks.
    pub(crate) poll: Duration,
    pub(crate) shown: Arc<Shown>,
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Arc<Metrics>,
}

/// What is remembered from one look to the next.
#[derive(Default)]
struct Memory {
    /// What was last read or written: put back when the Secret is gone, so that nobody who trusts us has to learn anew.
    state: Option<State>,
    /// The next authority, and since when it has been in every configuration.
    settling: Option<(String, Instant)>,
}

/// Why a look ended early.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the Secret: {0}")]
    Secret(#[source] Error),
    #[error("{} {name}: {error}", kind.name())]
    Configuration {
        kind: ConfigurationKind,
        name: String,
        #[source]
        error: Error,
    },
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

// === impl Keeper ===

impl Keeper {
    /// Looks again and again, until the future is dropped.
    pub(crate) async fn run(self) {
        let mut memory = Memory::default();
        let mut failed = None;
        let mut conflicts = 0;
        loop {
            let looked = self.look(&mut memory).await;
            let conflict = looked.as_ref().is_err_and(Failure::is_conflict);
            conflicts = if conflict { conflicts + 1 } else { 0 };
            let pause = match looked {
                Ok(()) => {
                    if failed.take().is_some() {
                        info!(event = "certificates_recovered", "the certificates are in order again");
                    }
                    self.poll
                }
                // Somebody who sets other bundles again and again is not answered as fast as possible.
                Err(_) if conflict => (QUICK * 2_u32.saturating_pow(conflicts)).min(self.poll),
                Err(failure) => {
                    self.failed(&failure, &mut failed);
                    AGAIN.max(self.poll / 4).min(self.poll)
                }
            };
            time::sleep(pause).await;
        }
    }

    /// One look at everything.
    ///
    /// The configurations are read first and the Secret afterwards, and they are written only if they are still what
    /// was read: so nobody who has read an old Secret takes an authority out that somebody else has just put in.
    async fn look(&self, memory: &mut Memory) -> Result<(), Failure> {
        let mutating = self.bundles(ConfigurationKind::Mutating).await;
        let validating = self.bundles(ConfigurationKind::Validating).await;
        let now = SystemTime::now();
        let settled = memory.settling.as_ref().filter(|(_, since)| since.elapsed() >= self.terms.settle);
        let settled = settled.map(|(pem, _)| pem.clone());
        let state = self.state(memory, settled.as_deref(), now).await?;
        memory.state = Some(state.clone());
        if !self.shown.is_set() {
            // Before anybody trusts it, so that a port that answers is not taken for one that is away.
            self.show(&state)?;
        }
        let bundle = state.bundle();
        let mut trusted = true;
        for (kind, found) in
            [(ConfigurationKind::Mutating, mutating?), (ConfigurationKind::Validating, validating?)]
        {
            if found.of_webhooks.iter().any(|found| found != bundle.as_bytes()) {
                trusted = false;
                self.publish(kind, &found, bundle.as_bytes()).await?;
            }
        }
        if !trusted {
            memory.settling = None;
            let waits = "its authority is not in the webhook configurations yet";
            self.readiness.set(Condition::Certificate, Some(waits.to_owned()));
            // What was written counts once it has been read.
            return Err(Failure::Secret(Error::Conflict));
        }
        let next = state.next.map(|next| next.certificate.pem);
        match (&next, &memory.settling) {
            (Some(next), Some((known, _))) if next == known => {}
            (Some(next), _) => memory.settling = Some((next.clone(), Instant::now())),
            (None, _) => memory.settling = None,
        }
        if let Some(state) = &memory.state {
            self.show(state)?;
        }
        self.readiness.set(Condition::Certificate, None);
        Ok(())
    }

    /// What the Secret holds, after everything that is due has been done to it.
    async fn state(&self, memory: &Memory, settled: Option<&str>, now: SystemTime) -> Result<State, Failure> {
        for _ in 0..STEPS {
            let found = self.read().await?;
            let current = found.as_ref().map(|secret| State::read(&secret.data, now));
            let (state, step) = match current {
                Some(Ok(state)) => {
                    let is_settled = state
                        .next
                        .as_ref()
                        .is_some_and(|next| Some(next.certificate.pem.as_str()) == settled);
                    match state.due(&self.terms, is_settled, now)? {
                        Some(due) => due,
                        None => return Ok(state),
                    }
                }
                Some(Err(error)) => {
                    warn!(event = "secret_unusable", %error, secret = self.place.secret,
                        "the Secret is written anew");
                    (self.anew(memory, now)?, Rotation::Repaired)
                }
                None => (self.anew(memory, now)?, Rotation::Created),
            };
            match self.write(found, &state).await {
                Ok(()) => self.done(step),
                // Somebody else has done it; what they wrote is read next.
                Err(Error::Conflict) => {}
                Err(error) => return Err(Failure::Secret(error)),
            }
        }
        Err(Failure::Secret(Error::Conflict))
    }

    /// What was known before, if it is still good; otherwise everything new.
    fn anew(&self, memory: &Memory, now: SystemTime) -> Result<State, CertificateError> {
        let known = memory.state.as_ref().filter(|state| !state.authority.certificate.is_over(now));
        known.cloned().map_or_else(|| State::new(&self.terms, now), Ok)
    }

    async fn read(&self) -> Result<Option<Secret>, Failure> {
        let Place { namespace, secret, .. } = &self.place;
        self.cluster.secret(namespace, secret).await.map_err(Failure::Secret)
    }

    async fn write(&self, found: Option<Secret>, state: &State) -> Result<(), Error> {
        let Place { namespace, secret, .. } = &self.place;
        match found {
            Some(found) => self.cluster.replace_secret(namespace, found, state.data()).await,
            None => self.cluster.create_secret(namespace, secret, state.data()).await,
        }
    }

    async fn bundles(&self, kind: ConfigurationKind) -> Result<Bundles, Failure> {
        let name = &self.place.configuration;
        let found = self.cluster.bundles(kind, name).await;
        found.map_err(|error| Failure::Configuration { kind, name: name.clone(), error })
    }

    async fn publish(&self, kind: ConfigurationKind, found: &Bundles, bundle: &[u8]) -> Result<(), Failure> {
        let name = &self.place.configuration;
        match self.cluster.publish(kind, name, found, bundle).await {
            Ok(()) => {
                self.done(Rotation::Published);
                Ok(())
            }
            Err(error) => Err(Failure::Configuration { kind, name: name.clone(), error }),
        }
    }

    fn show(&self, state: &State) -> Result<(), CertificateError> {
        self.shown.set(&state.serving, &self.provider)?;
        let Certificate { issued, not_after, .. } = state.serving.certificate;
        let authority = state.authority.certificate.not_after;
        self.metrics.certificates((seconds(issued), seconds(not_after)), seconds(authority));
        Ok(())
    }

    fn done(&self, step: Rotation) {
        self.metrics.rotation(step);
        info!(event = "certificates", step = step.as_str());
    }

    /// Says once what is wrong, and again when it is something else.
    fn failed(&self, failure: &Failure, last: &mut Option<String>) {
        self.metrics.kubernetes_error(match failure {
            Failure::Configuration { .. } => Call::Webhooks,
            Failure::Secret(_) | Failure::Certificate(_) => Call::Secret,
        });
        // An API server that does not answer says nothing about what it trusts: whoever was ready stays it.
        if failure.says_something() {
            self.readiness.set(Condition::Certificate, Some(format!("{failure}")));
        } else {
            self.readiness.explain(Condition::Certificate, &failure.to_string());
        }
        let said = failure.to_string();
        if last.as_ref() != Some(&said) {
            warn!(event = "certificates_failed", error = said, hint = failure.hint());
            *last = Some(said);
        }
    }
}

// === impl Failure ===

impl Failure {
    fn error(&self) -> Option<&Error> {
        match self {
            Self::Secret(error) | Self::Configuration { error, .. } => Some(error),
            Self::Certificate(_) => None,
        }
    }

    fn is_conflict(&self) -> bool {
        matches!(self.error(), Some(Error::Conflict))
    }

    /// Whether the API server has told something, rather than nothing.
    fn says_something(&self) -> bool {
        matches!(self, Self::Configuration { error: Error::NotFound, .. } | Self::Certificate(_))
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Configuration { error: Error::NotFound, .. } => {
                "install it, or name it by --webhook-configuration"
            }
            Self::Configuration { .. } => "the service account needs get and patch on it",
            Self::Secret(_) => "the service account needs get, update and create on it",
            Self::Certificate(_) => "delete the Secret; it is made anew",
        }
    }
}
