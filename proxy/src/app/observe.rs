//! What the admin listener says, put together at the moment it is asked.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mantlet_id::TrustDomain;
use mantlet_identity::{IdentityErrorKind, IdentityHandle, TrustBundle};
use serde_json::json;
use tokio::sync::Notify;

use crate::{
    activity::{self, Activity, Event},
    admin::{Explain, Sources, documents},
    config::Config,
    directory::Fleet,
    log::Log,
    metrics::{BundleNow, IdentityNow, LinesNow, LogStream, Metrics, Now, PolicyNow, RefreshResult},
    policy_watch::PolicyHandle,
    probes::Probes,
    readiness::Readiness,
};

/// What there is to look at.
pub(super) struct Parts<'a> {
    pub(super) readiness: Readiness,
    pub(super) metrics: Arc<Metrics>,
    pub(super) log: Log,
    pub(super) identity: IdentityHandle,
    pub(super) policy: PolicyHandle,
    pub(super) activity: Activity,
    pub(super) fleet: Fleet,
    pub(super) config: &'a Config,
    pub(super) draining: Arc<AtomicBool>,
    pub(super) stop: Arc<Notify>,
    pub(super) log_level: Explain,
}

/// The answers of the admin listener.
pub(super) fn sources(parts: Parts<'_>) -> Sources {
    let Parts {
        readiness,
        metrics,
        log,
        identity,
        policy,
        activity,
        fleet,
        config,
        draining,
        stop,
        log_level,
    } = parts;
    let scrape = {
        let (readiness, identity, policy) = (readiness.clone(), identity.clone(), policy.clone());
        let events = Arc::clone(&activity.events);
        move || {
            metrics.observe(&Now {
                identity: identity_now(&identity),
                policy: policy_now(&policy),
                log: log_now(&log),
                watchers_dropped: events.dropped(),
                ready: readiness.snapshot().is_ready(),
                draining: draining.load(Ordering::Relaxed),
            });
            metrics.observe_endpoints(fleet.count());
            metrics.encode()
        }
    };
    let (shown, asked) = (policy.clone(), policy);
    let (own, edges) = (identity.clone(), activity.edges);
    Sources {
        readiness,
        probes: Probes::new(config.probes.clone()),
        metrics: Box::new(scrape),
        certs: Box::new(move || documents::certs(&identity)),
        policy: Box::new(move || shown.describe()),
        explain: Box::new(move |question| asked.explain(question)),
        edges: Box::new(move || edges.describe(own.credentials().map(|own| own.id().to_string()).as_deref())),
        events: activity.events,
        config: documents::config(&config.effective),
        drain: Box::new(move || stop.notify_one()),
        log_level,
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
        without: status.without(SystemTime::now()),
        stream_connected: status.stream_connected(),
        last_refresh: status.last_refresh().map(since_epoch),
        refreshes: vec![
            (RefreshResult::Updated, status.counts().updated),
            (RefreshResult::Unchanged, status.counts().unchanged),
            (RefreshResult::Rejected, status.counts().rejected),
        ],
        errors: IdentityErrorKind::ALL.map(|kind| (kind, status.counts().errors(kind))).into(),
        bundles: credentials.iter().flat_map(|own| own.bundles().iter()).map(bundle_now).collect(),
    }
}

fn bundle_now((trust_domain, bundle): (&TrustDomain, &Arc<TrustBundle>)) -> BundleNow {
    BundleNow {
        trust_domain: trust_domain.as_str().to_owned(),
        authorities: bundle.authorities().len(),
        not_after: bundle.not_after().map(since_epoch),
    }
}

fn log_now(log: &Log) -> Vec<(LogStream, LinesNow)> {
    let counts = log.counts();
    vec![
        (LogStream::Access, LinesNow { written: counts.access, dropped: counts.access_dropped }),
        (LogStream::Audit, LinesNow { written: counts.audit, dropped: counts.audit_dropped }),
    ]
}

fn policy_now(policy: &PolicyHandle) -> PolicyNow {
    let (current, status) = (policy.current(), policy.status());
    PolicyNow {
        mode: current.mode(SystemTime::now()),
        source: current.origin.as_str(),
        hash: current.policy.hash(),
        generation: current.generation,
        rules: current.policy.rule_labels().cloned().collect(),
        last_reload_success: status.last_reload_ok,
        accepted: status.accepted,
        rejected: status.rejected,
    }
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
