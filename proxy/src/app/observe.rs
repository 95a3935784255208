//! What the admin listener says, put together at the moment it is asked.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mantlet_identity::{IdentityErrorKind, IdentityHandle};
use serde_json::json;
use tokio::sync::Notify;

use crate::{
    activity::{self, Activity, Event},
    admin::{Sources, documents},
    config::Config,
    metrics::{IdentityNow, Metrics, PolicyNow},
    policy_watch::PolicyHandle,
    readiness::Readiness,
};

/// What there is to look at.
pub(super) struct Parts<'a> {
    pub(super) readiness: Readiness,
    pub(super) metrics: Arc<Metrics>,
    pub(super) identity: IdentityHandle,
    pub(super) policy: PolicyHandle,
    pub(super) activity: Activity,
    pub(super) config: &'a Config,
    pub(super) draining: Arc<AtomicBool>,
    pub(super) stop: Arc<Notify>,
}

/// The answers of the admin listener.
pub(super) fn sources(parts: Parts<'_>) -> Sources {
    let Parts { readiness, metrics, identity, policy, activity, config, draining, stop } = parts;
    let scrape = {
        let (readiness, identity, policy) = (readiness.clone(), identity.clone(), policy.clone());
        move || {
            let ready = readiness.snapshot().is_ready();
            metrics.observe(
                &identity_now(&identity),
                &policy_now(&policy),
                ready,
                draining.load(Ordering::Relaxed),
            );
            metrics.encode()
        }
    };
    let (shown, asked) = (policy.clone(), policy);
    let (own, edges) = (identity.clone(), activity.edges);
    Sources {
        readiness,
        metrics: Box::new(scrape),
        certs: Box::new(move || documents::certs(&identity)),
        policy: Box::new(move || shown.describe()),
        explain: Box::new(move |question| asked.explain(question)),
        edges: Box::new(move || edges.describe(own.credentials().map(|own| own.id().to_string()).as_deref())),
        events: activity.events,
        config: documents::config(&config.effective),
        drain: Box::new(move || stop.notify_one()),
    }
}

/// Tells watchers of every new policy and every change of the own identity, until the process ends.
pub(super) async fn follow(activity: Activity, policy: PolicyHandle, identity: IdentityHandle) {
    let (mut policies, mut identities) = (policy.subscribe(), identity.subscribe());
    let (mut known_policy, mut known_identity) = (None, None);
    loop {
        let now = SystemTime::now();
        let current = policy.current();
        if known_policy.replace(current.generation) != Some(current.generation) {
            let (hash, mode) = (current.policy.hash(), current.mode(now));
            let (generation, rules) = (current.generation, current.policy.rule_count());
            let data = json!({"generation": generation, "hash": hash, "mode": mode, "rules": rules});
            activity.events.publish(Event::Policy, None, now, data);
        }
        let own = identity.credentials();
        let generation = own.as_ref().map(|own| own.generation());
        if known_identity.replace(generation) != Some(generation) {
            let data = json!({
                "spiffe_id": own.as_ref().map(|own| own.id().as_str()),
                "serial": own.as_ref().map(|own| own.serial()),
                "not_after": own.as_ref().and_then(|own| activity::time(own.not_after())),
            });
            activity.events.publish(Event::Identity, None, now, data);
        }
        let changed = tokio::select! {
            changed = policies.changed() => changed,
            changed = identities.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

fn identity_now(identity: &IdentityHandle) -> IdentityNow {
    let status = identity.status();
    let credentials = identity.credentials();
    IdentityNow {
        spiffe_id: credentials.as_ref().map(|own| own.id().to_string()),
        validity: credentials
            .as_ref()
            .map(|own| (since_epoch(own.not_before()), since_epoch(own.not_after()))),
        usable: credentials.is_some(),
        stream_connected: status.stream_connected(),
        last_refresh: status.last_refresh().map(since_epoch),
        errors: IdentityErrorKind::ALL
            .map(|kind| (kind.as_str(), status.counts().errors(kind)))
            .into_iter()
            .collect(),
    }
}

fn policy_now(policy: &PolicyHandle) -> PolicyNow {
    let current = policy.current();
    PolicyNow {
        mode: current.mode(SystemTime::now()),
        source: current.origin.as_str().to_owned(),
        hash: current.policy.hash(),
        rules: current.policy.rule_count(),
        last_reload_success: policy.status().last_reload_ok,
    }
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
