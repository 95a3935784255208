//! Health and metrics over plain HTTP/1.1, for the kubelet and the scraper.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, task::AbortHandle, time};
use tracing::warn;

use crate::{log::Log, metrics::Metrics};

/// Connections at a time. The oldest makes room for the next: a probe must not fail because somebody opened
/// connections and said nothing.
const CONNECTIONS: usize = 64;
/// A connection that asks nothing for so long is closed; longer than any sane scrape interval.
const IDLE: Duration = Duration::from_secs(75);
/// Pause after an error of accept.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What must be in order for the API server to be served.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Condition {
    /// A certificate that the API server trusts.
    Certificate,
    /// The process goes on.
    Running,
}

/// Whether the API server can be served, and why not. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Readiness {
    missing: Arc<Mutex<Vec<(Condition, String)>>>,
    /// What else there is to be said, and decides nothing.
    notes: Arc<Mutex<BTreeMap<&'static str, String>>>,
    metrics: Arc<Metrics>,
    log: Log,
}

// === impl Condition ===

impl Condition {
    fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Running => "stopping",
        }
    }
}

// === impl Readiness ===

impl Readiness {
    /// Not ready, for there is no certificate yet.
    pub(crate) fn new(metrics: Arc<Metrics>, log: Log) -> Self {
        let waits = (Condition::Certificate, "waits for the API server".to_owned());
        Self { missing: Arc::new(Mutex::new(vec![waits])), notes: Arc::default(), metrics, log }
    }

    /// Says how something stands that the API server does not need.
    pub(crate) fn note(&self, about: &'static str, text: String) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).insert(about, text);
    }

    /// The notes, one in a line.
    fn notes(&self) -> String {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.iter().map(|(about, text)| format!("{about}: {text}\n")).collect()
    }

    /// Says that a condition holds (`None`), or what is missing.
    pub(crate) fn set(&self, condition: Condition, problem: Option<String>) {
        let mut missing = self.missing();
        let was_ready = missing.is_empty();
        missing.retain(|(known, _)| *known != condition);
        missing.extend(problem.map(|problem| (condition, problem)));
        let ready = missing.is_empty();
        let text = text(&missing);
        drop(missing);
        self.metrics.ready(ready);
        match (was_ready, ready) {
            (false, true) => self.log.event("ready", &[]),
            (true, false) => self.log.event("unready", &[("why", text.into())]),
            _ => {}
        }
    }

    /// Says more about a condition that does not hold; one that holds stays as it is.
    pub(crate) fn explain(&self, condition: Condition, problem: &str) {
        for (known, text) in self.missing().iter_mut() {
            if *known == condition {
                problem.clone_into(text);
            }
        }
    }

    /// What is missing; nothing when ready.
    fn problem(&self) -> Option<String> {
        let missing = self.missing();
        (!missing.is_empty()).then(|| text(&missing))
    }

    fn missing(&self) -> MutexGuard<'_, Vec<(Condition, String)>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn text(missing: &[(Condition, String)]) -> String {
    missing
        .iter()
        .map(|(condition, problem)| format!("{}: {problem}", condition.name()))
        .collect::<Vec<_>>()
        .join("; ")
}

/// Serves until the future is dropped.
pub(crate) async fn serve(listener: TcpListener, readiness: Readiness, metrics: Arc<Metrics>) {
    let mut open = VecDeque::<AbortHandle>::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(event = "health_accept_failed", %error);
                time::sleep(BACK_OFF).await;
                continue;
            }
        };
        open.retain(|task| !task.is_finished());
        if open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        let (readiness, metrics) = (readiness.clone(), Arc::clone(&metrics));
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = answer(&request, &readiness, &metrics);
            async move { Ok::<_, Infallible>(answer) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(16 << 10);
        let connection = http.serve_connection(TokioIo::new(stream), service);
        open.push_back(
            tokio::spawn(async move {
                // Whoever hangs up in the middle needs no answer.
                let _ = connection.await;
            })
            .abort_handle(),
        );
    }
}

fn answer(request: &Request<Incoming>, readiness: &Readiness, metrics: &Metrics) -> Response<Full<Bytes>> {
    let text = |status, content: String| {
        let mut response = Response::new(Full::from(content));
        *response.status_mut() = status;
        let plain = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, plain);
        response
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    match request.uri().path() {
        // It listens. Not more: without its webhook configuration it would otherwise be started again and again.
        "/livez" | "/startupz" => text(StatusCode::OK, "live\n".to_owned()),
        "/readyz" => match readiness.problem() {
            None => text(StatusCode::OK, format!("ready\n{}", readiness.notes())),
            Some(problem) => {
                let notes = readiness.notes();
                text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {problem}\n{notes}"))
            }
        },
        "/metrics" => text(StatusCode::OK, metrics.encode()),
        _ => text(StatusCode::NOT_FOUND, "there are /livez, /readyz, /startupz and /metrics\n".to_owned()),
    }
}
