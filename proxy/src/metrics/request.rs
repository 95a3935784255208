//! The guard of one HTTP request.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use http::{Method, StatusCode};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use super::{
    Direction, Metrics, Text,
    families::{DirectionLabels, DurationLabels, RequestLabels},
};

/// Most (route, method, status) triples whose counters a connection keeps at hand. Past it the
/// counters are still exact, only looked up each time.
const KEPT_COUNTERS: usize = 16;

/// The counters of one connection's requests, looked up once each.
pub struct RequestMetrics {
    metrics: Arc<Metrics>,
    direction: Direction,
    peer: Text,
    in_flight: Gauge,
    counters: Mutex<Vec<(Text, &'static str, u16, Counter)>>,
}

/// Counts one request, exactly once, when it is dropped.
pub struct RequestGuard {
    requests: Arc<RequestMetrics>,
    begun: Instant,
    method: &'static str,
    route: Option<Text>,
    status: Option<StatusCode>,
}

// === impl RequestMetrics ===

impl RequestMetrics {
    /// For a connection of `peer`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, direction: Direction, peer: Text) -> Arc<Self> {
        let in_flight = metrics.in_flight.get_or_create_owned(&DirectionLabels { direction });
        Arc::new(Self { metrics, direction, peer, in_flight, counters: Mutex::default() })
    }

    /// A request begins.
    #[must_use]
    pub fn begin(self: &Arc<Self>, method: &Method) -> RequestGuard {
        self.in_flight.inc();
        RequestGuard {
            requests: Arc::clone(self),
            begun: Instant::now(),
            method: method_label(method),
            route: None,
            status: None,
        }
    }

    fn count(&self, route: Text, method: &'static str, status: Option<StatusCode>) {
        let code = status.map_or(0, |status| status.as_u16());
        let mut kept = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((.., counter)) =
            kept.iter().find(|(r, m, c, _)| *c == code && *m == method && *r == route)
        {
            counter.inc();
            return;
        }
        let labels = RequestLabels {
            direction: self.direction,
            peer: self.peer.clone(),
            route: route.clone(),
            method,
            code: status.map_or_else(Text::none, |status| Text::from(status.as_str())),
        };
        let counter = self.metrics.requests.get_or_create_owned(&labels);
        counter.inc();
        if kept.len() < KEPT_COUNTERS {
            kept.push((route, method, code, counter));
        }
    }
}

// === impl RequestGuard ===

impl RequestGuard {
    /// The rule that allowed the request; what it is called is the route.
    pub fn route(&mut self, rule: Text) {
        self.route = Some(rule);
    }

    /// The head of the response is known.
    pub fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let requests = &self.requests;
        requests.in_flight.dec();
        requests.count(self.route.take().unwrap_or_else(Text::none), self.method, self.status);
        let labels = DurationLabels { direction: requests.direction, code_class: class(self.status) };
        requests
            .metrics
            .request_seconds
            .get_or_create_owned(&labels)
            .observe(self.begun.elapsed().as_secs_f64());
    }
}

/// Methods outside the standard set share one label, because a client can invent them.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        Method::TRACE => "TRACE",
        Method::CONNECT => "CONNECT",
        _ => "_OTHER",
    }
}

fn class(status: Option<StatusCode>) -> &'static str {
    match status.map_or(0, |status| status.as_u16() / 100) {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "-",
    }
}
