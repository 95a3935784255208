//! The guard of one HTTP request.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::{HeaderMap, Method, StatusCode};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use super::{
    Direction, MethodLabel, Metrics, Text,
    labels::Code,
    traffic::{DirectionLabels, DurationLabels, GrpcLabels, RequestLabels},
    vocabulary::{CodeClass, GrpcStatus},
};

/// Most kinds of requests whose counters a connection keeps at hand. Past it the counters are still
/// exact, only looked up each time.
const KEPT_COUNTERS: usize = 16;

/// The counters of one connection's requests, looked up once each.
pub struct RequestMetrics {
    metrics: Arc<Metrics>,
    direction: Direction,
    peer: Text,
    in_flight: Gauge,
    requests: Mutex<Vec<(RequestLabels, Counter)>>,
    grpc: Mutex<Vec<(GrpcLabels, Counter)>>,
}

/// Counts one request, exactly once, when it is dropped.
pub struct RequestGuard {
    requests: Arc<RequestMetrics>,
    begun: Instant,
    method: MethodLabel,
    route: Option<Text>,
    code: Code,
    /// `None` for what is no gRPC call.
    grpc: Option<GrpcStatus>,
}

// === impl RequestMetrics ===

impl RequestMetrics {
    /// For a connection of `peer`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, direction: Direction, peer: Text) -> Arc<Self> {
        let in_flight = metrics.traffic.in_flight.get(DirectionLabels { direction }).clone();
        let (requests, grpc) = (Mutex::default(), Mutex::default());
        Arc::new(Self { metrics, direction, peer, in_flight, requests, grpc })
    }

    /// A request begins.
    #[must_use]
    pub fn begin(self: &Arc<Self>, method: &Method, grpc: bool) -> RequestGuard {
        self.in_flight.inc();
        RequestGuard {
            requests: Arc::clone(self),
            begun: Instant::now(),
            method: MethodLabel::of(method),
            route: None,
            code: Code::Class(CodeClass::None),
            grpc: grpc.then_some(GrpcStatus::None),
        }
    }

    /// Requests of this direction that have not ended, of all connections.
    #[must_use]
    pub fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }
}

/// Counts under `labels`, with a counter that is at hand if there is one.
fn count<L: PartialEq>(kept: &Mutex<Vec<(L, Counter)>>, labels: L, find: impl FnOnce(&L) -> Counter) {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, counter)) = kept.iter().find(|(known, _)| *known == labels) {
        counter.inc();
        return;
    }
    let counter = find(&labels);
    counter.inc();
    if kept.len() < KEPT_COUNTERS {
        kept.push((labels, counter));
    }
}

// === impl RequestGuard ===

impl RequestGuard {
    /// How long it has taken so far.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// The pattern of the policy that the request matched.
    pub fn route(&mut self, route: Text) {
        self.route = Some(route);
    }

    /// The head of the response is known; `waited` is how long the upstream took for it, if it was asked.
    pub fn answered(&mut self, status: StatusCode, headers: &HeaderMap, waited: Option<Duration>) {
        self.code = Code::Status(status.as_u16());
        self.ended(headers);
        if let Some(waited) = waited {
            let direction = self.requests.direction;
            let histogram = self.requests.metrics.traffic.overhead_seconds.get(DirectionLabels { direction });
            histogram.observe(self.begun.elapsed().saturating_sub(waited));
        }
    }

    /// Fields that may hold the status of a gRPC call: trailers, or the head of an answer without body.
    pub fn ended(&mut self, fields: &HeaderMap) {
        if let (Some(grpc), Some(status)) = (&mut self.grpc, fields.get("grpc-status")) {
            *grpc = GrpcStatus::of(status.as_bytes());
        }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let RequestMetrics { metrics, direction, peer, in_flight, requests, grpc } = &*self.requests;
        let (direction, traffic) = (*direction, &metrics.traffic);
        in_flight.dec();
        let route = self.route.take().unwrap_or_else(Text::none);
        if let Some(grpc_status) = self.grpc {
            let labels = GrpcLabels { direction, peer: peer.clone(), route: route.clone(), grpc_status };
            count(grpc, labels, |labels| traffic.grpc.get(labels));
        }
        let (method, code) = (self.method, self.code);
        let labels = RequestLabels { direction, peer: peer.clone(), route, method, code };
        count(requests, labels, |labels| traffic.requests.get(labels));
        let labels = DurationLabels { direction, code_class: code.class() };
        traffic.request_seconds.get(labels).observe(self.begun.elapsed());
    }
}

// === impl MethodLabel ===

impl MethodLabel {
    /// The label of a method.
    #[must_use]
    pub fn of(method: &Method) -> Self {
        match *method {
            Method::GET => Self::Get,
            Method::HEAD => Self::Head,
            Method::POST => Self::Post,
            Method::PUT => Self::Put,
            Method::DELETE => Self::Delete,
            Method::PATCH => Self::Patch,
            Method::OPTIONS => Self::Options,
            Method::TRACE => Self::Trace,
            Method::CONNECT => Self::Connect,
            _ => Self::Other,
        }
    }
}

// === impl GrpcStatus ===

impl GrpcStatus {
    fn of(status: &[u8]) -> Self {
        let known = Self::ALL.iter().find(|known| known.as_str().as_bytes() == status);
        known.copied().filter(|known| *known != Self::None).unwrap_or(Self::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_status_is_a_number_that_grpc_knows_or_other() {
        assert_eq!(GrpcStatus::of(b"0"), GrpcStatus::Ok);
        assert_eq!(GrpcStatus::of(b"16"), GrpcStatus::Unauthenticated);
        for strange in [&b"17"[..], b"-", b"", b"00", b"\xff", b"_OTHER", b" 0"] {
            assert_eq!(GrpcStatus::of(strange), GrpcStatus::Other, "{strange:?}");
        }
    }
}
