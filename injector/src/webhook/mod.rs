//! The admission webhook: AdmissionReview in, AdmissionReview out, over HTTPS.
//!
//! `POST` [`MUTATE`] adds the sidecar to pods that are being created; `POST` [`VALIDATE`] checks `mantlet.dev/*`
//! annotations where somebody writes them: in pods and in the templates of workloads. Everything else that comes here
//! is allowed as it is, so that a rule in the cluster that is wider than it should be stops nothing.

mod answer;
mod body;
mod connection;
mod deadline;
mod mutate;
mod review;
mod validate;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinSet,
    time,
};
use tokio_rustls::TlsAcceptor;
use tracing::error;

use self::{
    answer::Answer,
    body::{Budget, Unread},
    review::Unreadable,
};
use crate::{
    config::Admissions,
    events::Recorder,
    inject,
    kubernetes::Namespaces,
    listener::Listener,
    log::Log,
    metrics::{Admission, BadRequest, Metrics, Refused, Webhook as Which},
};

/// The path of the webhook that adds sidecars.
pub const MUTATE: &str = "/mutate";
/// The path of the webhook that checks annotations.
pub const VALIDATE: &str = "/validate";

/// Bytes of a body from which on it is judged alone: a parsed document takes many times the memory of its text.
const LARGE: usize = 256 << 10;
/// Kept of the caller's deadline for the way back.
const WAY_BACK: Duration = Duration::from_millis(100);

/// What answers reviews.
pub(crate) struct Webhook {
    pub(crate) config: Arc<inject::Config>,
    pub(crate) namespaces: Namespaces,
    pub(crate) events: Recorder,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) log: Log,
    /// Which answers have a line in the log.
    pub(crate) logged: Admissions,
    pub(crate) limits: Limits,
    /// Set once the process was told to stop, while it still accepts connections.
    pub(crate) leaving: Arc<AtomicBool>,
}

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Limits {
    budget: Budget,
    /// One large document at a time.
    large: Semaphore,
    /// Longest head of a request, and longest silence on a connection with HTTP/1.1.
    head: Duration,
    /// When a connection is asked to end: an API server keeps one for as long as it lives, and would never find out
    /// that there is another replica.
    age: Duration,
}

/// What was decided about an object, and how it is known.
struct Judged {
    answer: Answer,
    admission: Admission,
    /// As people know it.
    name: String,
}

/// Why there is no answer to a request.
enum Refusal {
    /// It is none that we could answer.
    Bad(BadRequest, String),
    /// There is no room, or no time.
    Limit(Refused, StatusCode),
}

/// Serves until `stop` says so, and then to the end of what is in flight.
pub(crate) async fn serve(
    webhook: Arc<Webhook>,
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    connections: usize,
    stop: watch::Receiver<bool>,
) {
    let mut stopped = stop.clone();
    // The API server finds a place whatever one pod does.
    let listener =
        Listener::new(tcp, connections, connections.div_ceil(2), Arc::clone(&webhook.metrics) as _);
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            arrived = listener.accept() => {
                let webhook = Arc::clone(&webhook);
                open.spawn(connection::serve(webhook, arrived, acceptor.clone(), stop.clone()));
            }
            // A panic ends the connection that it happened on, and nothing else.
            Some(ended) = open.join_next() => log_panic(&ended),
            _ = stopped.wait_for(|stop| *stop) => break,
        }
    }
    drop(listener);
    while let Some(ended) = open.join_next().await {
        log_panic(&ended);
    }
}

fn log_panic(ended: &Result<(), tokio::task::JoinError>) {
    if let Err(failure) = ended
        && failure.is_panic()
    {
        error!(event = "panic", error = %failure, "a connection ended with a defect of this program");
    }
}

// === impl Limits ===

impl Limits {
    pub(crate) fn new(head: Duration, age: Duration) -> Self {
        Self { budget: Budget::default(), large: Semaphore::new(1), head, age }
    }
}

// === impl Webhook ===

impl Webhook {
    /// Answers a request, whatever it is.
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let begun = Instant::now();
        match self.reviewed(request, begun).await {
            Ok(document) => response(StatusCode::OK, "application/json", document),
            Err(Refusal::Bad(reason, text)) => {
                self.metrics.bad_request(reason);
                response(
                    StatusCode::BAD_REQUEST,
                    "text/plain; charset=utf-8",
                    format!("{text}\n").into_bytes(),
                )
            }
            Err(Refusal::Limit(limit, status)) => {
                self.metrics.refused(limit);
                let text = format!("{}\n", limit.as_str());
                let mut response = response(status, "text/plain; charset=utf-8", text.into_bytes());
                // What was not read of a body is not to be taken for the next request.
                response
                    .headers_mut()
                    .insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
                response
            }
        }
    }

    async fn reviewed(&self, request: Request<Incoming>, begun: Instant) -> Result<Vec<u8>, Refusal> {
        let (which, timeout) = heading(&request)?;
        let deadline = begun + timeout.saturating_sub(WAY_BACK.min(timeout / 4));
        let late = |_| Refusal::Limit(Refused::Deadline, StatusCode::GATEWAY_TIMEOUT);
        let read = time::timeout_at(deadline.into(), self.limits.budget.read(request.into_body()));
        let body = read.await.map_err(late)?.map_err(|unread| match unread {
            Unread::TooLarge => Refusal::Limit(Refused::Body, StatusCode::PAYLOAD_TOO_LARGE),
            Unread::Busy => Refusal::Limit(Refused::Memory, StatusCode::SERVICE_UNAVAILABLE),
            Unread::Incomplete => {
                Refusal::Bad(BadRequest::Incomplete, "the body ended in the middle".to_owned())
            }
        })?;
        let _alone = match body.bytes.len() > LARGE {
            true => {
                let turn = time::timeout_at(deadline.into(), self.limits.large.acquire());
                turn.await.map_err(late)?.ok()
            }
            false => None,
        };
        let request = review::parse(&body.bytes).map_err(refuse)?;
        let judged = match which {
            Which::Mutate => self.mutate(&request, deadline).await,
            Which::Validate => self.validate(&request),
        };
        let judged = judged.map_err(refuse)?;
        let (result, reason) = (judged.admission.result(), judged.admission.reason());
        let took = begun.elapsed();
        self.metrics.admission(which, judged.admission, request.is_dry_run(), took);
        if self.logged.includes(result) {
            self.log.admission(&[
                ("webhook", which.as_str().into()),
                ("result", result.into()),
                ("reason", reason.into()),
                ("uid", request.uid.as_str().into()),
                ("operation", request.operation.as_str().into()),
                ("kind", request.kind.kind.as_ref().into()),
                ("namespace", request.namespace().into()),
                ("name", judged.name.as_str().into()),
                ("dry_run", request.is_dry_run().into()),
                ("took_us", u64::try_from(took.as_micros()).unwrap_or(u64::MAX).into()),
                ("message", judged.answer.message().map_or(Value::Null, Value::from)),
            ]);
        }
        Ok(judged.answer.audit(result, reason).into_json(&request.uid))
    }
}

/// What is asked, and how long the caller waits.
fn heading(request: &Request<Incoming>) -> Result<(Which, Duration), Refusal> {
    let bad = |reason, text: &str| Refusal::Bad(reason, text.to_owned());
    let which = match request.uri().path() {
        MUTATE => Which::Mutate,
        VALIDATE => Which::Validate,
        _ => return Err(bad(BadRequest::Path, "there are /mutate and /validate")),
    };
    if request.method() != Method::POST {
        return Err(bad(BadRequest::Method, "an admission review is sent with POST"));
    }
    let content =
        request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = content.split(';').next().unwrap_or_default().trim();
    if !media.eq_ignore_ascii_case("application/json") {
        return Err(bad(BadRequest::ContentType, "an admission review is application/json"));
    }
    let timeout = deadline::of_query(request.uri().query())
        .ok_or_else(|| bad(BadRequest::Timeout, "timeout is a duration such as 5s"))?;
    Ok((which, timeout))
}

fn refuse(error: Unreadable) -> Refusal {
    let reason = match error {
        Unreadable::Json(_) => BadRequest::Json,
        Unreadable::Review(_) => BadRequest::Review,
    };
    Refusal::Bad(reason, error.to_string())
}

fn response(status: StatusCode, content: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content));
    response
}
