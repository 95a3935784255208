//! Families that are looked up at a scrape: identity, policy, log, process.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mantlet_identity::IdentityErrorKind;
use prometheus_client::{
    encoding::{EncodeLabelSet, LabelSetEncoder},
    metrics::{counter::Counter, gauge::Gauge},
};
use tokio::runtime::RuntimeMetrics;

use super::{
    Text,
    catalog::{Catalog, NoLabels, about},
    family::{Closed, Open, flag, follow},
    labels::{ClosedLabels, Labels, OpenLabels, Value, closed_labels, label_set, open_labels},
    process::Process,
    traffic::{OverflowLabels, RuleLabels, Traffic},
    vocabulary::{Full, LogStream, RefreshResult, ReloadResult, Word},
};

/// Everything that is looked up at a scrape.
#[derive(Clone, Debug, Default)]
pub struct Now {
    /// The own identity.
    pub identity: IdentityNow,
    /// The policy in force.
    pub policy: PolicyNow,
    /// Lines of the log.
    pub log: Vec<(LogStream, LinesNow)>,
    /// Readers of `/v1/events` that were dropped since the start.
    pub watchers_dropped: u64,
    /// Whether the sidecar is ready.
    pub ready: bool,
    /// Whether it is stopping.
    pub draining: bool,
}

/// The own identity.
#[derive(Clone, Debug, Default)]
pub struct IdentityNow {
    /// The own SPIFFE ID, once there is one.
    pub spiffe_id: Option<String>,
    /// Validity of the current SVID, since the epoch.
    pub validity: Option<(Duration, Duration)>,
    /// Whether handshakes can be made with it.
    pub usable: bool,
    /// How long there has been none that is usable.
    pub without: Duration,
    /// Whether the Workload API stream is up.
    pub stream_connected: bool,
    /// When the last update was taken over, since the epoch.
    pub last_refresh: Option<Duration>,
    /// Updates since the start.
    pub refreshes: Vec<(RefreshResult, u64)>,
    /// What went wrong with the Workload API since the start, by kind.
    pub errors: Vec<(IdentityErrorKind, u64)>,
    /// The trust bundles.
    pub bundles: Vec<BundleNow>,
}

/// One trust bundle.
#[derive(Clone, Debug)]
pub struct BundleNow {
    /// Whose.
    pub trust_domain: String,
    /// How many authorities it has.
    pub authorities: usize,
    /// When the first of them expires, since the epoch.
    pub not_after: Option<Duration>,
}

/// The policy in force.
#[derive(Clone, Debug, Default)]
pub struct PolicyNow {
    /// `enforce`, `audit` or `permissive`.
    pub mode: &'static str,
    /// Where it came from.
    pub source: &'static str,
    /// What tells one policy from another across replicas.
    pub hash: String,
    /// Which load it is.
    pub generation: u64,
    /// What its rules are called.
    pub rules: Vec<Arc<str>>,
    /// Whether the newest file was taken over.
    pub last_reload_success: bool,
    /// Loads that were taken over.
    pub accepted: u64,
    /// Loads that were not.
    pub rejected: u64,
}

/// Lines of one stream of the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinesNow {
    /// Handed to the writer.
    pub written: u64,
    /// Lost, because the reader of the log is too slow.
    pub dropped: u64,
}

label_set!(IdentityInfoLabels { spiffe_id: Text });
open_labels!(DomainLabels { trust_domain: Text });
label_set!(PolicyInfoLabels { mode: &'static str, source: &'static str, hash: Text });
label_set!(BuildLabels { version: &'static str, commit: &'static str, rustc: &'static str });
label_set!(ProviderLabels { provider: &'static str, fips: &'static str, groups: Text });
closed_labels!(RefreshLabels { result: RefreshResult });
closed_labels!(ErrorLabels { kind: IdentityErrorKind });
closed_labels!(ReloadLabels { result: ReloadResult });
closed_labels!(StreamLabels { stream: LogStream });

/// A gauge that is always 1 and says something in its labels; the former labels go when they change.
#[derive(Debug)]
struct Saying<L>(Arc<Mutex<Option<L>>>);

/// What is looked up at a scrape.
pub(super) struct State {
    identity: Identity,
    policy: Policy,
    ready: Gauge,
    draining: Gauge,
    lines: Closed<StreamLabels, Counter>,
    dropped: Closed<StreamLabels, Counter>,
    watchers_dropped: Counter,
    build: Saying<BuildLabels>,
    provider: Saying<ProviderLabels>,
    process: Process,
    tasks: Gauge,
    queue: Gauge,
    runtimes: Mutex<Vec<RuntimeMetrics>>,
}

struct Identity {
    info: Saying<IdentityInfoLabels>,
    not_before: Gauge,
    not_after: Gauge,
    usable: Gauge,
    wait: Gauge,
    stream_connected: Gauge,
    last_refresh: Gauge,
    refreshes: Closed<RefreshLabels, Counter>,
    errors: Closed<ErrorLabels, Counter>,
    bundle_not_after: Open<DomainLabels, Gauge>,
    bundle_authorities: Open<DomainLabels, Gauge>,
}

#[derive(Default)]
struct Policy {
    info: Saying<PolicyInfoLabels>,
    rules: Gauge,
    reloads: Closed<ReloadLabels, Counter>,
    last_reload_success: Gauge,
    /// Of which policy the hits have a series for each rule.
    generation: Mutex<Option<u64>>,
}

// === impl State ===

impl State {
    pub(super) fn new(traffic: &Traffic) -> Self {
        let full = |label| traffic.overflow.get(OverflowLabels { label }).clone();
        let state = Self {
            identity: Identity {
                info: Saying::default(),
                not_before: Gauge::default(),
                not_after: Gauge::default(),
                usable: Gauge::default(),
                wait: Gauge::default(),
                stream_connected: Gauge::default(),
                last_refresh: Gauge::default(),
                refreshes: Closed::default(),
                errors: Closed::default(),
                bundle_not_after: Open::new(full(Full::BundleNotAfter)),
                bundle_authorities: Open::new(full(Full::BundleAuthorities)),
            },
            policy: Policy::default(),
            ready: Gauge::default(),
            draining: Gauge::default(),
            lines: Closed::default(),
            dropped: Closed::default(),
            watchers_dropped: Counter::default(),
            build: Saying::default(),
            provider: Saying::default(),
            process: Process::default(),
            tasks: Gauge::default(),
            queue: Gauge::default(),
            runtimes: Mutex::default(),
        };
        state.identity.refreshes.complete();
        state.identity.errors.complete();
        state.policy.reloads.complete();
        state.lines.complete();
        state.dropped.complete();
        state.build.say(BuildLabels {
            version: env!("CARGO_PKG_VERSION"),
            commit: env!("BUILD_COMMIT"),
            rustc: env!("BUILD_RUSTC"),
        });
        state.provider.say(ProviderLabels {
            provider: "aws_lc_rs",
            fips: if mantlet_identity::provider().fips() { "true" } else { "false" },
            groups: groups(),
        });
        state
    }

    pub(super) fn register(&self, to: &mut Catalog) {
        self.identity.register(to);
        self.policy.register(to);
        to.add::<ProviderLabels>(
            about("mantlet_tls_provider_info", "The cryptography in use, and the key exchanges it offers"),
            self.provider.clone(),
        );
        to.add::<NoLabels>(
            about("mantlet_ready", "1 while the sidecar is ready").minimal(),
            self.ready.clone(),
        );
        to.add::<NoLabels>(
            about("mantlet_draining", "1 while the sidecar is stopping").minimal(),
            self.draining.clone(),
        );
        to.add::<StreamLabels>(
            about("mantlet_log_events", "Lines handed to the log").minimal(),
            self.lines.clone(),
        );
        to.add::<StreamLabels>(
            about("mantlet_log_events_dropped", "Lines lost because the reader of the log is too slow")
                .minimal(),
            self.dropped.clone(),
        );
        to.add::<NoLabels>(
            about(
                "mantlet_watchers_dropped",
                "Readers of /v1/events that were dropped because they were too slow",
            ),
            self.watchers_dropped.clone(),
        );
        to.add::<BuildLabels>(about("mantlet_build_info", "The running build").minimal(), self.build.clone());
        self.process.register(to);
        to.add::<NoLabels>(
            about("tokio_num_alive_tasks", "Tasks of all runtimes that have not ended").full(),
            self.tasks.clone(),
        );
        to.add::<NoLabels>(
            about("tokio_global_queue_depth", "Tasks that wait in the global queues of all runtimes").full(),
            self.queue.clone(),
        );
    }

    pub(super) fn watch(&self, runtime: RuntimeMetrics) {
        self.runtimes.lock().unwrap_or_else(PoisonError::into_inner).push(runtime);
    }

    pub(super) fn observe(&self, now: &Now, traffic: &Traffic) {
        self.identity.observe(&now.identity);
        self.policy.observe(&now.policy, traffic);
        for &(stream, lines) in &now.log {
            follow(self.lines.get(StreamLabels { stream }), lines.written);
            follow(self.dropped.get(StreamLabels { stream }), lines.dropped);
        }
        follow(&self.watchers_dropped, now.watchers_dropped);
        flag(&self.ready, now.ready);
        flag(&self.draining, now.draining);
        self.process.observe();
        let runtimes = self.runtimes.lock().unwrap_or_else(PoisonError::into_inner);
        self.tasks.set(number(runtimes.iter().map(RuntimeMetrics::num_alive_tasks).sum()));
        self.queue.set(number(runtimes.iter().map(RuntimeMetrics::global_queue_depth).sum()));
    }
}

// === impl Identity ===

impl Identity {
    fn register(&self, to: &mut Catalog) {
        to.add::<IdentityInfoLabels>(
            about("mantlet_identity_info", "The own SPIFFE ID").minimal(),
            self.info.clone(),
        );
        to.add::<NoLabels>(
            about("mantlet_identity_not_before_timestamp", "Begin of validity of the own SVID")
                .seconds()
                .minimal(),
            self.not_before.clone(),
        );
        to.add::<NoLabels>(
            about("mantlet_identity_not_after_timestamp", "End of validity of the own SVID")
                .seconds()
                .minimal(),
            self.not_after.clone(),
        );
        to.add::<NoLabels>(
            about("mantlet_identity_usable", "1 while the own identity can be used").minimal(),
            self.usable.clone(),
        );
        to.add::<NoLabels>(
            about(
                "mantlet_identity_wait",
                "How long there has been no identity to use; 0 while there is one",
            )
            .seconds()
            .minimal(),
            self.wait.clone(),
        );
        to.add::<NoLabels>(
            about("mantlet_identity_stream_connected", "1 while the Workload API stream is up").minimal(),
            self.stream_connected.clone(),
        );
        to.add::<NoLabels>(
            about(
                "mantlet_identity_last_refresh_timestamp",
                "When the last Workload API update was taken over",
            )
            .seconds()
            .minimal(),
            self.last_refresh.clone(),
        );
        to.add::<RefreshLabels>(
            about("mantlet_identity_refreshes", "Updates that the Workload API sent, by what came of them")
                .minimal(),
            self.refreshes.clone(),
        );
        to.add::<ErrorLabels>(
            about("mantlet_identity_errors", "What went wrong with the Workload API").minimal(),
            self.errors.clone(),
        );
        to.add::<DomainLabels>(
            about(
                "mantlet_identity_bundle_not_after_timestamp",
                "When the first authority of a trust domain's bundle expires",
            )
            .seconds()
            .minimal(),
            self.bundle_not_after.clone(),
        );
        to.add::<DomainLabels>(
            about(
                "mantlet_identity_bundle_authorities",
                "Authorities of a trust domain, 0 once it is revoked",
            )
            .minimal(),
            self.bundle_authorities.clone(),
        );
    }

    fn observe(&self, now: &IdentityNow) {
        match &now.spiffe_id {
            Some(id) => self.info.say(IdentityInfoLabels { spiffe_id: Text::from(&**id) }),
            None => self.info.silence(),
        }
        if let Some((not_before, not_after)) = now.validity {
            self.not_before.set(seconds(not_before));
            self.not_after.set(seconds(not_after));
        }
        flag(&self.usable, now.usable);
        self.wait.set(seconds(now.without));
        flag(&self.stream_connected, now.stream_connected);
        self.last_refresh.set(now.last_refresh.map_or(0, seconds));
        for &(result, total) in &now.refreshes {
            follow(self.refreshes.get(RefreshLabels { result }), total);
        }
        for &(kind, total) in &now.errors {
            follow(self.errors.get(ErrorLabels { kind }), total);
        }
        // A trust domain that is gone stays, with no authority: that is how a revocation shows.
        let named = |labels: &DomainLabels| {
            now.bundles.iter().any(|bundle| bundle.trust_domain == labels.trust_domain.as_str())
        };
        self.bundle_authorities.retain(|labels, authorities| {
            if !named(labels) {
                authorities.set(0);
            }
            true
        });
        self.bundle_not_after.retain(|labels, _| named(labels));
        for bundle in &now.bundles {
            let labels = DomainLabels { trust_domain: Text::from(&*bundle.trust_domain) };
            self.bundle_authorities.get(&labels).set(number(bundle.authorities));
            match bundle.not_after {
                Some(not_after) => drop(self.bundle_not_after.get(&labels).set(seconds(not_after))),
                None => self.bundle_not_after.retain(|known, _| *known != labels),
            }
        }
    }
}

// === impl Policy ===

impl Policy {
    fn register(&self, to: &mut Catalog) {
        to.add::<PolicyInfoLabels>(
            about("mantlet_policy_info", "The policy in force").minimal(),
            self.info.clone(),
        );
        to.add::<NoLabels>(
            about("mantlet_policy_rules", "Rules of the policy in force").minimal(),
            self.rules.clone(),
        );
        to.add::<ReloadLabels>(
            about("mantlet_policy_reloads", "Loads of the policy, by what came of them").minimal(),
            self.reloads.clone(),
        );
        to.add::<NoLabels>(
            about(
                "mantlet_policy_last_reload_success",
                "0 while an older policy is in force because the newest could not be read",
            )
            .minimal(),
            self.last_reload_success.clone(),
        );
    }

    fn observe(&self, now: &PolicyNow, traffic: &Traffic) {
        let hash = Text::from(&*now.hash);
        self.info.say(PolicyInfoLabels { mode: now.mode, source: now.source, hash });
        self.rules.set(number(now.rules.len()));
        follow(self.reloads.get(ReloadLabels { result: ReloadResult::Accepted }), now.accepted);
        follow(self.reloads.get(ReloadLabels { result: ReloadResult::Rejected }), now.rejected);
        flag(&self.last_reload_success, now.last_reload_success);
        let mut generation = self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        if *generation == Some(now.generation) {
            return;
        }
        *generation = Some(now.generation);
        // Every rule has a series, at 0 if need be: that is how an unused permission shows.
        let rules: std::collections::HashSet<&str> = now.rules.iter().map(|rule| &**rule).collect();
        let other = Text::other();
        traffic.rule_hits.retain(|hit, _| hit.rule == other || rules.contains(hit.rule.as_str()));
        for rule in &now.rules {
            drop(traffic.rule_hits.get(&RuleLabels { rule: Text::from(Arc::clone(rule)) }));
        }
    }
}

// === impl Saying ===

impl<L> Saying<L> {
    fn say(&self, labels: L) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(labels);
    }

    fn silence(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl<L> Clone for Saying<L> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<L> Default for Saying<L> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<L: Labels> prometheus_client::encoding::EncodeMetric for Saying<L> {
    fn encode(&self, mut encoder: prometheus_client::encoding::MetricEncoder<'_>) -> fmt::Result {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(labels) => encoder.encode_family(labels)?.encode_gauge(&1u32),
            None => Ok(()),
        }
    }

    fn metric_type(&self) -> prometheus_client::metrics::MetricType {
        prometheus_client::metrics::MetricType::Gauge
    }

    fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

/// The key exchanges on offer, the first choice first.
fn groups() -> Text {
    let provider = mantlet_identity::provider();
    let names: Vec<String> = provider.kx_groups.iter().map(|group| format!("{:?}", group.name())).collect();
    Text::from(&*names.join(","))
}

fn seconds(since_epoch: Duration) -> i64 {
    i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX)
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
