//! Families that traffic feeds: connections, handshakes, requests, decisions.

use std::fmt;

use mantlet_identity::HandshakeReason;
use mantlet_policy::{Reason, Verdict};
use prometheus_client::{
    encoding::{EncodeLabelSet, LabelSetEncoder},
    metrics::{counter::Counter, gauge::Gauge},
};

use super::{
    CloseReason, ConnectResult, Direction, Text, Transport,
    catalog::{Catalog, NoLabels, about},
    family::{Closed, Histogram, Open},
    labels::{ClosedLabels, Code, Labels, OpenLabels, Value, closed_labels, label_set, open_labels},
    vocabulary::{
        CodeClass, Full, GrpcStatus, Io, Layer, Limit, MethodLabel, PoolState, TlsCipher, TlsGroup,
        TlsVersion, Word,
    },
};

const REQUEST: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
const OVERHEAD: &[f64] = &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05];
const DECIDING: &[f64] = &[0.000_001, 0.000_002_5, 0.000_005, 0.000_01, 0.000_025, 0.000_1, 0.001];
const HANDSHAKE: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0];
const CONNECTION: &[f64] = &[1.0, 10.0, 60.0, 600.0, 3600.0, 86_400.0];

open_labels!(OpenedLabels { direction: Direction, transport: Transport, peer: Text });
open_labels!(RequestLabels {
    direction: Direction,
    peer: Text,
    route: Text,
    method: MethodLabel,
    code: Code
});
open_labels!(GrpcLabels { direction: Direction, peer: Text, route: Text, grpc_status: GrpcStatus });
open_labels!(DecisionLabels { layer: Layer, decision: Verdict, reason: Reason, rule: Text, peer: Text });
open_labels!(RuleLabels { rule: Text });
closed_labels!(ClosedConnectionLabels { direction: Direction, reason: CloseReason });
closed_labels!(ActiveLabels { direction: Direction, transport: Transport });
closed_labels!(DirectionLabels { direction: Direction });
closed_labels!(BytesLabels { direction: Direction, io: Io });
closed_labels!(DurationLabels { direction: Direction, code_class: CodeClass });
closed_labels!(LayerLabels { layer: Layer });
closed_labels!(ConnectLabels { result: ConnectResult });
closed_labels!(PoolLabels { state: PoolState });
closed_labels!(SessionLabels {
    direction: Direction,
    version: TlsVersion,
    group: TlsGroup,
    cipher: TlsCipher
});
closed_labels!(LimitLabels { limit: Limit });
closed_labels!(OverflowLabels { label: Full });

/// A handshake's result follows from its reason.
#[derive(Clone, Copy, Debug)]
pub(super) struct HandshakeLabels {
    pub(super) direction: Direction,
    pub(super) reason: HandshakeReason,
}

/// What traffic feeds.
pub(super) struct Traffic {
    pub(super) opened: Open<OpenedLabels, Counter>,
    pub(super) closed: Closed<ClosedConnectionLabels, Counter>,
    pub(super) active: Closed<ActiveLabels, Gauge>,
    pub(super) connection_seconds: Closed<DirectionLabels, Histogram>,
    pub(super) bytes: Closed<BytesLabels, Counter>,
    pub(super) unpinned: Counter,
    pub(super) handshakes: Closed<HandshakeLabels, Counter>,
    pub(super) handshake_seconds: Closed<DirectionLabels, Histogram>,
    pub(super) sessions: Closed<SessionLabels, Counter>,
    pub(super) requests: Open<RequestLabels, Counter>,
    pub(super) request_seconds: Closed<DurationLabels, Histogram>,
    pub(super) overhead_seconds: Closed<DirectionLabels, Histogram>,
    pub(super) in_flight: Closed<DirectionLabels, Gauge>,
    pub(super) grpc: Open<GrpcLabels, Counter>,
    pub(super) decisions: Open<DecisionLabels, Counter>,
    pub(super) deciding_seconds: Closed<LayerLabels, Histogram>,
    pub(super) rule_hits: Open<RuleLabels, Counter>,
    pub(super) connects: Closed<ConnectLabels, Counter>,
    pub(super) ejections: Counter,
    pub(super) repeats: Counter,
    pub(super) pool: Closed<PoolLabels, Gauge>,
    pub(super) limits: Closed<LimitLabels, Counter>,
    pub(super) overflow: Closed<OverflowLabels, Counter>,
}

// === impl Traffic ===

impl Traffic {
    pub(super) fn new() -> Self {
        let overflow = Closed::<OverflowLabels, Counter>::default();
        let full = |label| overflow.get(OverflowLabels { label }).clone();
        let traffic = Self {
            opened: Open::new(full(Full::ConnectionsOpened)),
            closed: Closed::default(),
            active: Closed::default(),
            connection_seconds: Closed::new(|| Histogram::new(CONNECTION)),
            bytes: Closed::default(),
            unpinned: Counter::default(),
            handshakes: Closed::default(),
            handshake_seconds: Closed::new(|| Histogram::new(HANDSHAKE)),
            sessions: Closed::default(),
            requests: Open::new(full(Full::HttpRequests)),
            request_seconds: Closed::new(|| Histogram::new(REQUEST)),
            overhead_seconds: Closed::new(|| Histogram::new(OVERHEAD)),
            in_flight: Closed::default(),
            grpc: Open::new(full(Full::GrpcResponses)),
            decisions: Open::new(full(Full::AuthzDecisions)),
            deciding_seconds: Closed::new(|| Histogram::new(DECIDING)),
            rule_hits: Open::new(full(Full::PolicyRuleHits)),
            connects: Closed::default(),
            ejections: Counter::default(),
            repeats: Counter::default(),
            pool: Closed::default(),
            limits: Closed::default(),
            overflow,
        };
        traffic.closed.complete();
        traffic.active.complete();
        traffic.bytes.complete();
        traffic.handshakes.complete();
        traffic.in_flight.complete();
        traffic.connects.complete();
        traffic.pool.complete();
        traffic.limits.complete();
        traffic.overflow.complete();
        traffic
    }

    pub(super) fn register(&self, to: &mut Catalog) {
        self.register_http(to);
        self.register_policy(to);
        self.register_connections(to);
        self.register_tls(to);
        to.add::<LimitLabels>(
            about("mantlet_limits_reached", "How often somebody ran into a limit, by which").minimal(),
            self.limits.clone(),
        );
        to.add::<OverflowLabels>(
            about(
                "mantlet_metrics_label_overflow",
                "How often something was counted as _other because a limit was reached, by what was full",
            )
            .minimal(),
            self.overflow.clone(),
        );
    }

    fn register_http(&self, to: &mut Catalog) {
        to.add::<RequestLabels>(
            about("mantlet_http_requests", "HTTP requests that ended").minimal(),
            self.requests.clone(),
        );
        to.add::<DurationLabels>(
            about(
                "mantlet_http_request_duration",
                "Time from the request head to the last byte of the response",
            )
            .seconds(),
            self.request_seconds.clone(),
        );
        to.add::<DirectionLabels>(
            about(
                "mantlet_http_proxy_overhead",
                "Time from the request head to the response head without the wait for the upstream",
            )
            .seconds()
            .minimal(),
            self.overhead_seconds.clone(),
        );
        to.add::<DirectionLabels>(
            about("mantlet_http_requests_in_flight", "HTTP requests that have not ended"),
            self.in_flight.clone(),
        );
        to.add::<GrpcLabels>(
            about("mantlet_grpc_responses", "gRPC calls that ended, by the status of the call"),
            self.grpc.clone(),
        );
    }

    fn register_policy(&self, to: &mut Catalog) {
        to.add::<DecisionLabels>(
            about("mantlet_authz_decisions", "Policy decisions").minimal(),
            self.decisions.clone(),
        );
        to.add::<LayerLabels>(
            about("mantlet_authz_duration", "Time that a policy decision took").seconds().full(),
            self.deciding_seconds.clone(),
        );
        to.add::<RuleLabels>(
            about("mantlet_policy_rule_hits", "Decisions by the rule that made them, unused rules as 0")
                .minimal(),
            self.rule_hits.clone(),
        );
    }

    fn register_connections(&self, to: &mut Catalog) {
        to.add::<OpenedLabels>(
            about("mantlet_connections_opened", "Connections whose transport is established").minimal(),
            self.opened.clone(),
        );
        to.add::<ClosedConnectionLabels>(
            about("mantlet_connections_closed", "Connections that ended, by reason").minimal(),
            self.closed.clone(),
        );
        to.add::<ActiveLabels>(
            about("mantlet_connections_active", "Connections that are open"),
            self.active.clone(),
        );
        to.add::<BytesLabels>(
            about(
                "mantlet_connection",
                "Bytes read from and written to whoever opened the connection, without TLS",
            )
            .bytes(),
            self.bytes.clone(),
        );
        to.add::<DirectionLabels>(
            about("mantlet_connection_duration", "How long connections were open").seconds().full(),
            self.connection_seconds.clone(),
        );
        to.add::<NoLabels>(
            about(
                "mantlet_outbound_unpinned_connections",
                "Connections to a peer of which only the trust domain was demanded",
            ),
            self.unpinned.clone(),
        );
        to.add::<ConnectLabels>(
            about("mantlet_upstream_connects", "Attempts to reach an upstream, by result"),
            self.connects.clone(),
        );
        to.add::<NoLabels>(
            about(
                "mantlet_upstream_ejections",
                "Endpoints that were left out for a while because they could not be reached",
            ),
            self.ejections.clone(),
        );
        to.add::<NoLabels>(
            about(
                "mantlet_upstream_repeats",
                "Requests that were sent again because the upstream had not processed them, or a connection broke",
            ),
            self.repeats.clone(),
        );
        to.add::<PoolLabels>(
            about("mantlet_upstream_pool_connections", "Upstream connections that carry HTTP").full(),
            self.pool.clone(),
        );
    }

    fn register_tls(&self, to: &mut Catalog) {
        to.add::<HandshakeLabels>(
            about("mantlet_tls_handshakes", "Mutual TLS handshakes, by result and reason").minimal(),
            self.handshakes.clone(),
        );
        to.add::<DirectionLabels>(
            about("mantlet_tls_handshake_duration", "Time that mutual TLS handshakes took").seconds(),
            self.handshake_seconds.clone(),
        );
        to.add::<SessionLabels>(
            about("mantlet_tls_sessions", "Mutual TLS sessions, by what was agreed on"),
            self.sessions.clone(),
        );
    }
}

// === impl HandshakeLabels ===

impl EncodeLabelSet for HandshakeLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let result = if self.reason == HandshakeReason::Ok { "ok" } else { "error" };
        super::labels::write(encoder, "direction", &self.direction)?;
        super::labels::write(encoder, "result", &result)?;
        super::labels::write(encoder, "reason", &self.reason.as_str())
    }
}

impl Labels for HandshakeLabels {
    const NAMES: &'static [&'static str] = &["direction", "result", "reason"];
}

impl ClosedLabels for HandshakeLabels {
    const COUNT: usize = <Direction as Word>::ALL.len() * <HandshakeReason as Word>::ALL.len();

    fn number(self) -> usize {
        self.direction.number() * <HandshakeReason as Word>::ALL.len() + self.reason.number()
    }

    fn at(number: usize) -> Option<Self> {
        let reasons = <HandshakeReason as Word>::ALL;
        let direction = *<Direction as Word>::ALL.get(number / reasons.len())?;
        Some(Self { direction, reason: *reasons.get(number % reasons.len())? })
    }
}
