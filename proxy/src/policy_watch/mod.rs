//! The policy file, watched: compiled completely before it is published, the last good one kept.
//!
//! - At the start an error means: deny everything, not ready, and the readiness text says where the mistake is.
//! - Later an error changes nothing but the status, which shows in metric, `/v1/policy` and log.
//! - A file that vanishes keeps the last policy; an annotations file without a policy of ours denies everything once
//!   there has been one: whoever deletes lines never opens anything by it.

mod explain;
mod load;
mod status;

use std::{
    future::pending,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use mantlet_identity::IdentityHandle;
use mantlet_policy::{ModeName, Policy, Reason, Workload};
use serde_json::Value;
use tokio::{sync::watch, time::sleep};

use self::load::{Loaded, Loader};
pub use self::{load::Origin, status::PolicyStatus};
use crate::{config::Config, log, log::Log, readiness::Blocker, watched::FileWatch};

/// A grant's end is looked for at least this often: the wall clock may jump while the timer's does not.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// A policy and where it came from: one immutable snapshot.
#[derive(Debug)]
pub struct PolicySnapshot {
    /// What decides.
    pub policy: Policy,
    /// Counts the policies of this process; the first is 1.
    pub generation: u64,
    /// What it was made from.
    pub origin: Origin,
    /// When it was published.
    pub since: SystemTime,
    /// What short forms stand for; none without a policy of the workload's own.
    workload: Option<Workload>,
}

/// A look at the policy from any thread. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PolicyHandle {
    shared: Arc<Shared>,
}

/// Loads and follows the policy, on the control thread.
pub struct PolicyWatch {
    loader: Loader,
    identity: IdentityHandle,
    blocker: Blocker,
    log: Option<Log>,
    shared: Arc<Shared>,
    /// There has been a usable policy: errors from now on keep it.
    started: bool,
    /// What the last look found, so that the same is not said twice.
    seen: Option<Seen>,
    next_end: Option<SystemTime>,
}

#[derive(Debug)]
struct Shared {
    current: ArcSwap<PolicySnapshot>,
    status: ArcSwap<PolicyStatus>,
    /// Changes when decisions may: a new policy, or the end of a grant.
    version: watch::Sender<u64>,
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Content([u8; 32]),
    Error(String),
}

// === impl PolicyHandle ===

impl PolicyHandle {
    /// The policy of this moment. No lock.
    #[must_use]
    pub fn current(&self) -> Arc<PolicySnapshot> {
        self.shared.current.load_full()
    }

    /// A number that changes when decisions may: at a new policy, and at the end of a grant. Subscribe first, then
    /// look.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    /// How the last loads went.
    #[must_use]
    pub fn status(&self) -> Arc<PolicyStatus> {
        self.shared.status.load_full()
    }

    /// `/v1/policy`.
    #[must_use]
    pub fn describe(&self) -> Value {
        status::describe(&self.current(), &self.status(), SystemTime::now())
    }

    /// `/v1/policy/explain`: what the policy of this moment says to a request that nobody made.
    ///
    /// # Errors
    /// What is wrong with the question.
    pub fn explain(&self, question: &Value) -> Result<Value, String> {
        explain::explain(&self.current(), question, SystemTime::now())
    }
}

// === impl PolicySnapshot ===

impl PolicySnapshot {
    /// `enforce`, `audit` or `permissive`.
    #[must_use]
    pub fn mode(&self, now: SystemTime) -> &'static str {
        match self.policy.mode(now) {
            ModeName::Enforce => "enforce",
            ModeName::Audit => "audit",
            ModeName::Permissive => "permissive",
        }
    }
}

// === impl PolicyWatch ===

impl PolicyWatch {
    /// Loads the policy once, if that is possible already, and prepares to follow it.
    #[must_use]
    pub fn new(config: &Config, identity: IdentityHandle, blocker: Blocker) -> Self {
        let now = SystemTime::now();
        let first = PolicySnapshot {
            // Before the own trust domain is known nobody can be told from anybody.
            policy: Policy::deny_all(Reason::NoIdentity),
            generation: 0,
            origin: Origin::Nothing,
            since: now,
            workload: None,
        };
        let shared = Arc::new(Shared {
            current: ArcSwap::from_pointee(first),
            status: ArcSwap::from_pointee(PolicyStatus::starting(now)),
            version: watch::Sender::new(0),
        });
        let loader = Loader::new(config);
        let mut watch =
            Self { loader, identity, blocker, log: None, shared, started: false, seen: None, next_end: None };
        watch.reload();
        watch
    }

    /// Says each load on the event stream.
    #[must_use]
    pub fn logging(mut self, log: Log) -> Self {
        self.log = Some(log);
        self
    }

    /// A look at the policy.
    #[must_use]
    pub fn handle(&self) -> PolicyHandle {
        PolicyHandle { shared: Arc::clone(&self.shared) }
    }

    /// Follows the file, the own trust domain and the ends of grants. Never returns.
    pub async fn run(mut self) {
        let mut identity = self.identity.subscribe();
        // Watched before it is read again, so that no change falls between the two.
        let mut file = self.loader.path().map(FileWatch::new);
        self.said();
        self.reload();
        loop {
            let waits_for_domain = !self.loader.has_trust_domain();
            let end = self.next_end;
            tokio::select! {
                () = changed(file.as_mut()) => self.reload(),
                _ = identity.changed(), if waits_for_domain => self.reload(),
                () = ends(end) => self.expire(),
            }
        }
    }

    fn reload(&mut self) {
        let now = SystemTime::now();
        if !self.loader.has_trust_domain()
            && let Some(credentials) = self.identity.credentials()
        {
            self.loader.set_trust_domain(credentials.id().trust_domain().clone());
        }
        match self.loader.load(now) {
            Loaded::Waiting => self.blocker.set(
                "the own trust domain is not known yet, and the policy's short identities belong to it",
                "wait for the identity, or set --trust-domain",
            ),
            Loaded::Policy { policy, workload, origin, digest } => {
                let seen = Some(Seen::Content(digest));
                if self.seen != seen {
                    self.seen = seen;
                    self.publish(*policy, workload, origin, now);
                }
            }
            Loaded::Unchanged { digest } => {
                // An error came and went, and the file says again what is in force.
                self.seen = Some(Seen::Content(digest));
                self.succeeded(false, now);
            }
            Loaded::Failed(error) => {
                let seen = Some(Seen::Error(error.clone()));
                if self.seen != seen {
                    self.seen = seen;
                    self.failed(&error, now);
                }
            }
        }
    }

    fn publish(&mut self, policy: Policy, workload: Option<Workload>, origin: Origin, now: SystemTime) {
        self.started = true;
        self.next_end = policy.expire(now);
        let generation = self.shared.current.load().generation + 1;
        self.shared.current.store(Arc::new(PolicySnapshot {
            policy,
            generation,
            origin,
            since: now,
            workload,
        }));
        self.succeeded(true, now);
        self.shared.version.send_modify(|version| *version += 1);
        self.said();
    }

    fn succeeded(&mut self, is_new: bool, now: SystemTime) {
        let status = self.shared.status.load();
        self.shared.status.store(Arc::new(status.succeeded(is_new, now)));
        self.blocker.clear();
    }

    fn failed(&mut self, error: &str, now: SystemTime) {
        let kept = self.shared.current.load().generation;
        let status = self.shared.status.load().failed(error, now);
        self.shared.status.store(Arc::new(status));
        tracing::error!(event = "policy_rejected", kept_generation = kept, "{error}");
        if let Some(log) = &self.log {
            log.event("policy_rejected", &[("kept_generation", kept.into()), ("error", error.into())]);
        }
        if self.started {
            return;
        }
        let headline = error.lines().next().unwrap_or_default();
        let next = self.loader.next_step();
        self.blocker.set(format!("the policy is not usable: {headline}"), next);
        let origin = Origin::Nothing;
        let policy = Policy::deny_all(Reason::PolicyInvalid);
        self.shared.current.store(Arc::new(PolicySnapshot {
            policy,
            generation: 0,
            origin,
            since: now,
            workload: None,
        }));
        self.shared.version.send_modify(|version| *version += 1);
    }

    /// Lets grants end whose time has come; what they alone carried is judged again.
    fn expire(&mut self) {
        let next = self.shared.current.load().policy.expire(SystemTime::now());
        if next != self.next_end {
            self.next_end = next;
            self.shared.version.send_modify(|version| *version += 1);
        }
    }

    /// Writes an event about the policy in force, if there is one that has not been written about.
    fn said(&self) {
        let current = self.shared.current.load();
        let Some(log) = self.log.as_ref().filter(|_| current.generation > 0) else { return };
        let rules = u64::try_from(current.policy.rule_count()).unwrap_or(u64::MAX);
        let (hash, now) = (current.policy.hash(), SystemTime::now());
        let fields: &log::Fields<'_> = &[
            ("generation", current.generation.into()),
            ("hash", (&hash).into()),
            ("mode", current.mode(now).into()),
            ("source", current.origin.as_str().into()),
            ("rules", rules.into()),
        ];
        log.event("policy_loaded", fields);
    }
}

async fn changed(file: Option<&mut FileWatch>) {
    match file {
        Some(file) => file.changed().await,
        None => pending().await,
    }
}

async fn ends(at: Option<SystemTime>) {
    match at {
        Some(at) => sleep(at.duration_since(SystemTime::now()).unwrap_or_default().min(CLOCK_CHECK)).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
