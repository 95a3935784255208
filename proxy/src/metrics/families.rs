//! The families and their registry.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use super::{CloseReason, ConnectResult, Direction, PeerLabels, Text, Transport};

const REQUEST_SECONDS: [f64; 11] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Every family of the process.
pub struct Metrics {
    registry: Registry,
    pub(super) peers: PeerLabels,
    pub(super) opened: Family<OpenedLabels, Counter>,
    pub(super) closed: Family<ClosedLabels, Counter>,
    pub(super) active: Family<ActiveLabels, Gauge>,
    pub(super) requests: Family<RequestLabels, Counter>,
    pub(super) request_seconds: Family<DurationLabels, Histogram>,
    pub(super) in_flight: Family<DirectionLabels, Gauge>,
    handshakes: Family<HandshakeLabels, Counter>,
    decisions: Family<DecisionLabels, Counter>,
    connects: Family<ConnectLabels, Counter>,
    ejections: Counter,
    overflow: Family<OverflowLabels, Counter>,
    identity: IdentityGauges,
    policy: PolicyGauges,
    ready: Gauge,
    draining: Gauge,
}

/// The own identity as it stands at a scrape.
#[derive(Clone, Debug, Default)]
pub struct IdentityNow {
    /// The own SPIFFE ID, once there is one.
    pub spiffe_id: Option<String>,
    /// Validity of the current SVID, since the epoch.
    pub validity: Option<(Duration, Duration)>,
    /// Whether handshakes can be made with it.
    pub usable: bool,
    /// Whether the Workload API stream is up.
    pub stream_connected: bool,
    /// When the last update was taken over, since the epoch.
    pub last_refresh: Option<Duration>,
    /// What went wrong with the Workload API since the start, by kind.
    pub errors: Vec<(&'static str, u64)>,
}

/// The policy as it stands at a scrape.
#[derive(Clone, Debug, Default)]
pub struct PolicyNow {
    /// `enforce`, `audit` or `permissive`.
    pub mode: &'static str,
    /// Where it came from.
    pub source: String,
    /// What tells one policy from another across replicas.
    pub hash: String,
    /// How many rules it has.
    pub rules: usize,
    /// Whether the newest file was taken over.
    pub last_reload_success: bool,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct OpenedLabels {
    pub direction: Direction,
    pub transport: Transport,
    pub peer: Text,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct ClosedLabels {
    pub direction: Direction,
    pub reason: CloseReason,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct ActiveLabels {
    pub direction: Direction,
    pub transport: Transport,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct DirectionLabels {
    pub direction: Direction,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct RequestLabels {
    pub direction: Direction,
    pub peer: Text,
    pub route: Text,
    pub method: &'static str,
    pub code: Text,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct DurationLabels {
    pub direction: Direction,
    pub code_class: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct HandshakeLabels {
    direction: Direction,
    result: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct DecisionLabels {
    layer: &'static str,
    decision: &'static str,
    reason: &'static str,
    rule: Text,
    peer: Text,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ConnectLabels {
    result: ConnectResult,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct OverflowLabels {
    label: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct IdentityInfoLabels {
    spiffe_id: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct IdentityErrorLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct PolicyInfoLabels {
    mode: &'static str,
    source: String,
    hash: String,
}

#[derive(Default)]
struct IdentityGauges {
    info: Family<IdentityInfoLabels, Gauge>,
    not_before: Gauge,
    not_after: Gauge,
    usable: Gauge,
    stream_connected: Gauge,
    last_refresh: Gauge,
    errors: Family<IdentityErrorLabels, Counter>,
}

#[derive(Default)]
struct PolicyGauges {
    info: Family<PolicyInfoLabels, Gauge>,
    rules: Gauge,
    last_reload_success: Gauge,
}

// === impl Metrics ===

impl Metrics {
    /// Registers every family.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let mut metrics = Self {
            registry: Registry::with_prefix("mantlet"),
            peers: PeerLabels::default(),
            opened: Family::default(),
            closed: Family::default(),
            active: Family::default(),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(|| Histogram::new(REQUEST_SECONDS)),
            in_flight: Family::default(),
            handshakes: Family::default(),
            decisions: Family::default(),
            connects: Family::default(),
            ejections: Counter::default(),
            overflow: Family::default(),
            identity: IdentityGauges::default(),
            policy: PolicyGauges::default(),
            ready: Gauge::default(),
            draining: Gauge::default(),
        };
        metrics.register_traffic();
        metrics.register_state();
        metrics.create_closed_series();
        Arc::new(metrics)
    }

    fn register_traffic(&mut self) {
        let r = &mut self.registry;
        r.register("connections_opened", "Connections whose transport is established", self.opened.clone());
        r.register("connections_closed", "Connections that ended, by reason", self.closed.clone());
        r.register("connections_active", "Connections that are open", self.active.clone());
        r.register("tls_handshakes", "Mutual TLS handshakes, by result and reason", self.handshakes.clone());
        r.register("authz_decisions", "Policy decisions", self.decisions.clone());
        r.register("http_requests", "HTTP requests that ended", self.requests.clone());
        r.register_with_unit(
            "http_request_duration",
            "Time from the request head to the last byte of the response",
            Unit::Seconds,
            self.request_seconds.clone(),
        );
        r.register("http_requests_in_flight", "HTTP requests that have not ended", self.in_flight.clone());
        r.register("upstream_connects", "Attempts to reach an upstream, by result", self.connects.clone());
        r.register(
            "upstream_ejections",
            "Endpoints that were left out for a while because they could not be reached",
            self.ejections.clone(),
        );
        r.register(
            "metrics_label_overflow",
            "Label values that were counted as _other because the limit was reached",
            self.overflow.clone(),
        );
    }

    fn register_state(&mut self) {
        let r = &mut self.registry;
        let identity = &self.identity;
        r.register("identity_info", "The own SPIFFE ID", identity.info.clone());
        r.register_with_unit(
            "identity_not_before_timestamp",
            "Begin of validity of the own SVID",
            Unit::Seconds,
            identity.not_before.clone(),
        );
        r.register_with_unit(
            "identity_not_after_timestamp",
            "End of validity of the own SVID",
            Unit::Seconds,
            identity.not_after.clone(),
        );
        r.register("identity_usable", "1 while the own identity can be used", identity.usable.clone());
        r.register(
            "identity_stream_connected",
            "1 while the Workload API stream is up",
            identity.stream_connected.clone(),
        );
        r.register_with_unit(
            "identity_last_refresh_timestamp",
            "When the last Workload API update was taken over",
            Unit::Seconds,
            identity.last_refresh.clone(),
        );
        r.register("identity_errors", "What went wrong with the Workload API", identity.errors.clone());
        let policy = &self.policy;
        r.register("policy_info", "The policy in force", policy.info.clone());
        r.register("policy_rules", "Rules of the policy in force", policy.rules.clone());
        r.register(
            "policy_last_reload_success",
            "0 while an older policy is in force because the newest could not be read",
            policy.last_reload_success.clone(),
        );
        r.register("ready", "1 while the sidecar is ready", self.ready.clone());
        r.register("draining", "1 while the sidecar is stopping", self.draining.clone());
        let build = [("version", env!("CARGO_PKG_VERSION"))];
        r.register("build", "The running build", Info::new(build));
    }

    /// Series whose labels are enums alone exist from the start: a counter that is born at 1 shows
    /// no increase for its first event.
    fn create_closed_series(&self) {
        for &direction in Direction::ALL {
            for &reason in CloseReason::ALL {
                drop(self.closed.get_or_create_owned(&ClosedLabels { direction, reason }));
            }
            drop(self.in_flight.get_or_create_owned(&DirectionLabels { direction }));
        }
        for &result in ConnectResult::ALL {
            drop(self.connects.get_or_create_owned(&ConnectLabels { result }));
        }
    }

    /// The label of an authenticated peer, bounded in number.
    #[must_use]
    pub fn peer_label(&self, peer: &str) -> Text {
        self.peers.get(peer).unwrap_or_else(|| {
            self.overflow.get_or_create_owned(&OverflowLabels { label: "peer" }).inc();
            Text::other()
        })
    }

    /// Counts a TLS handshake; `failure` is the reason of the closed handshake vocabulary.
    pub fn handshake(&self, direction: Direction, failure: Option<&'static str>) {
        let result = if failure.is_none() { "ok" } else { "error" };
        let labels = HandshakeLabels { direction, result, reason: failure.unwrap_or("ok") };
        self.handshakes.get_or_create_owned(&labels).inc();
    }

    /// The counter of one kind of decision; the caller keeps it.
    #[must_use]
    pub fn decision_counter(
        &self,
        layer: &'static str,
        decision: &'static str,
        reason: &'static str,
        rule: Text,
        peer: Text,
    ) -> Counter {
        self.decisions.get_or_create_owned(&DecisionLabels { layer, decision, reason, rule, peer })
    }

    /// Counts an attempt to reach an upstream.
    pub fn connect(&self, result: ConnectResult) {
        self.connects.get_or_create_owned(&ConnectLabels { result }).inc();
    }

    /// Counts an endpoint that is left out for a while.
    pub fn ejected(&self) {
        self.ejections.inc();
    }

    /// Takes over the state of a moment, at a scrape.
    pub fn observe(&self, identity: &IdentityNow, policy: &PolicyNow, ready: bool, draining: bool) {
        let own = &self.identity;
        own.info.clear();
        if let Some(spiffe_id) = identity.spiffe_id.clone() {
            own.info.get_or_create_owned(&IdentityInfoLabels { spiffe_id }).set(1);
        }
        if let Some((not_before, not_after)) = identity.validity {
            own.not_before.set(seconds(not_before));
            own.not_after.set(seconds(not_after));
        }
        own.usable.set(identity.usable.into());
        own.stream_connected.set(identity.stream_connected.into());
        own.last_refresh.set(identity.last_refresh.map_or(0, seconds));
        for (kind, errors) in &identity.errors {
            let counter = own.errors.get_or_create_owned(&IdentityErrorLabels { kind });
            counter.inc_by(errors.saturating_sub(counter.get()));
        }
        self.policy.info.clear();
        let labels =
            PolicyInfoLabels { mode: policy.mode, source: policy.source.clone(), hash: policy.hash.clone() };
        self.policy.info.get_or_create_owned(&labels).set(1);
        self.policy.rules.set(i64::try_from(policy.rules).unwrap_or(i64::MAX));
        self.policy.last_reload_success.set(policy.last_reload_success.into());
        self.ready.set(ready.into());
        self.draining.set(draining.into());
    }

    /// Everything as OpenMetrics text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn seconds(since_epoch: Duration) -> i64 {
    i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX)
}
