//! Which request gets which answer, and from where it may come.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use serde_json::Value;
use thiserror::Error;

use super::{
    Explain, Sources,
    exposition::{self, Format},
    watch::{Cut, Events},
};
use crate::{
    activity::Filter,
    probes::{Asked, Probes},
    readiness::Snapshot,
};

/// Below it stand the application's probes.
const APP_HEALTH: &str = "/app-health/";
/// Largest body of a request.
const LARGEST_BODY: usize = 64 << 10;

/// How a request came in: decides what it may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Over TCP from another address than loopback: health and metrics.
    Network,
    /// Over TCP, both ends loopback: also the dumps. Shared with the app's container, so nothing that changes.
    Loopback,
    /// Over the Unix socket, whose owner is the sidecar itself: everything.
    Socket,
}

type Answer = Response<Either<Full<Bytes>, Events>>;

// === impl Origin ===

impl Origin {
    pub(super) fn of(local: IpAddr, peer: IpAddr) -> Self {
        match local.to_canonical().is_loopback() && peer.to_canonical().is_loopback() {
            true => Self::Loopback,
            false => Self::Network,
        }
    }
}

/// A hook of the application failed, and any answer would mean that it did not.
#[derive(Debug, Error)]
#[error("the hook failed")]
pub(super) struct HookFailed;

/// Answers one request; `cut` ends the connection under an answer that nobody takes.
///
/// # Errors
/// The connection is to be closed in place of an answer.
pub(super) async fn answer(
    request: Request<Incoming>,
    sources: &Sources,
    origin: Origin,
    cut: &Cut,
) -> Result<Answer, HookFailed> {
    if request.uri().path().starts_with(APP_HEALTH) {
        return app_health(&request, &sources.probes).await;
    }
    Ok(own(request, sources, origin, cut).await)
}

/// Asks the application in the kubelet's place.
async fn app_health(request: &Request<Incoming>, probes: &Probes) -> Result<Answer, HookFailed> {
    if request.method() != Method::GET {
        return Ok(not_allowed("GET"));
    }
    match probes.ask(request.uri().path(), request.headers().get(header::USER_AGENT)).await {
        Asked::Unknown => Ok(text(StatusCode::NOT_FOUND, "no probe was recorded under this path\n")),
        Asked::Failed(failure) => Ok(text(failure.status(), &format!("{failure}\n"))),
        Asked::HookFailed => Err(HookFailed),
        Asked::Answered(answered) => {
            let mut answer = text(answered.status, "");
            *answer.body_mut() = Either::Left(Full::new(answered.body));
            Ok(answer)
        }
    }
}

/// What the sidecar says of itself.
async fn own(request: Request<Incoming>, sources: &Sources, origin: Origin, cut: &Cut) -> Answer {
    let (parts, body) = request.into_parts();
    let read = matches!(parts.method, Method::GET | Method::HEAD);
    match (parts.uri.path(), read) {
        ("/livez", true) => text(StatusCode::OK, "alive\n"),
        ("/readyz", true) => readiness(&sources.readiness.snapshot(), Snapshot::is_ready, "ready\n"),
        ("/startupz", true) => readiness(&sources.readiness.snapshot(), Snapshot::has_started, "started\n"),
        ("/metrics", true) => metrics(&parts.headers, sources),
        ("/livez" | "/readyz" | "/startupz" | "/metrics", false) => not_allowed("GET, HEAD"),
        ("/drain" | "/log", _) if origin != Origin::Socket => text(
            StatusCode::FORBIDDEN,
            "what changes something is done on the Unix socket (--admin-socket)\n",
        ),
        ("/drain", false) if parts.method == Method::POST => {
            (sources.drain)();
            text(StatusCode::ACCEPTED, "draining\n")
        }
        ("/log", false) if parts.method == Method::POST => {
            asked(&parts.headers, body, &sources.log_level).await
        }
        ("/drain" | "/log", _) => not_allowed("POST"),
        (path, _) if path.starts_with("/v1/") => match refusal(origin, &parts.headers) {
            Some(refusal) => refusal,
            None if path == "/v1/events" => watch(&parts, sources, cut),
            None if read => dump(path, sources),
            None if parts.method == Method::POST => ask(path, &parts.headers, body, sources).await,
            None => not_allowed("GET, HEAD, POST"),
        },
        _ => text(
            StatusCode::NOT_FOUND,
            "/livez /readyz /startupz /metrics /v1/config /v1/certs /v1/policy /v1/edges /v1/events\n",
        ),
    }
}

fn readiness(snapshot: &Snapshot, good: fn(&Snapshot) -> bool, yes: &str) -> Answer {
    if good(snapshot) {
        return text(StatusCode::OK, yes);
    }
    let no: String = snapshot.conditions().map(|condition| format!("not ready: {condition}\n")).collect();
    text(StatusCode::SERVICE_UNAVAILABLE, &no)
}

fn metrics(headers: &HeaderMap, sources: &Sources) -> Answer {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = Format::negotiate(accept);
    let text = format.render((sources.metrics)());
    let packed = exposition::accepts_gzip(headers).then(|| exposition::gzip(&text)).flatten();
    let mut answer = respond(StatusCode::OK, format.content_type(), text);
    let vary = header::HeaderValue::from_static("accept, accept-encoding");
    answer.headers_mut().insert(header::VARY, vary);
    if let Some(packed) = packed {
        *answer.body_mut() = Either::Left(Full::new(packed));
        let gzip = header::HeaderValue::from_static("gzip");
        answer.headers_mut().insert(header::CONTENT_ENCODING, gzip);
    }
    answer
}

/// What is not for the network, and not for a page of a browser whose name server answers 127.0.0.1 (DNS
/// rebinding, linkerd2#4060).
fn refusal(origin: Origin, headers: &HeaderMap) -> Option<Answer> {
    match origin {
        Origin::Socket => None,
        Origin::Network => {
            Some(text(StatusCode::FORBIDDEN, "/v1/ is for loopback; use kubectl port-forward\n"))
        }
        Origin::Loopback => {
            let mut hosts = headers.get_all(header::HOST).iter();
            let host = hosts.next().and_then(|host| host.to_str().ok());
            match host.is_some_and(is_loopback_name) && hosts.next().is_none() {
                true => None,
                false => Some(text(StatusCode::FORBIDDEN, "Host must be 127.0.0.1, localhost or [::1]\n")),
            }
        }
    }
}

fn is_loopback_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    ["127.0.0.1", "[::1]"].contains(&name) || name.eq_ignore_ascii_case("localhost")
}

fn dump(path: &str, sources: &Sources) -> Answer {
    match path {
        "/v1/certs" => json(StatusCode::OK, &(sources.certs)()),
        "/v1/policy" => json(StatusCode::OK, &(sources.policy)()),
        "/v1/config" => json(StatusCode::OK, &sources.config),
        "/v1/edges" => json(StatusCode::OK, &(sources.edges)()),
        "/v1/policy/explain" => not_allowed("POST"),
        _ => text(
            StatusCode::NOT_FOUND,
            "/v1/config /v1/certs /v1/policy /v1/policy/explain /v1/edges /v1/events\n",
        ),
    }
}

/// Decisions, policies and identities as they come; `?decision=deny,would_deny` leaves out other decisions.
fn watch(parts: &Parts, sources: &Sources, cut: &Cut) -> Answer {
    if parts.method != Method::GET {
        return not_allowed("GET");
    }
    let filter = match Filter::parse(parts.uri.query()) {
        Ok(filter) => filter,
        Err(problem) => return text(StatusCode::BAD_REQUEST, &format!("{problem}\n")),
    };
    let Some(watcher) = sources.events.watch(filter, Arc::clone(&cut.0)) else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "as many watch already as may\n");
    };
    let mut answer = respond(StatusCode::OK, "text/event-stream", String::new());
    *answer.body_mut() = Either::Right(Events::new(watcher));
    answer
}

/// Asking changes nothing, but takes a body.
async fn ask(path: &str, headers: &HeaderMap, body: Incoming, sources: &Sources) -> Answer {
    match path {
        "/v1/policy/explain" => asked(headers, body, &sources.explain).await,
        _ => not_allowed("GET, HEAD"),
    }
}

/// A JSON document in, one out.
async fn asked(headers: &HeaderMap, body: Incoming, answer: &Explain) -> Answer {
    let is_json =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
            let media = value.split(';').next().unwrap_or_default().trim();
            media.eq_ignore_ascii_case("application/json")
        });
    if !is_json {
        // A page of a browser cannot send this type to another origin without asking first.
        return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type must be application/json\n");
    }
    let Ok(body) = Limited::new(body, LARGEST_BODY).collect().await else {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "at most 64 KiB\n");
    };
    let question: Value = match serde_json::from_slice(&body.to_bytes()) {
        Ok(question) => question,
        Err(error) => return text(StatusCode::BAD_REQUEST, &format!("not JSON: {error}\n")),
    };
    match answer(&question) {
        Ok(answer) => json(StatusCode::OK, &answer),
        Err(problem) => text(StatusCode::BAD_REQUEST, &format!("{problem}\n")),
    }
}

fn json(status: StatusCode, value: &Value) -> Answer {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    respond(status, "application/json", text)
}

fn text(status: StatusCode, text: &str) -> Answer {
    respond(status, "text/plain; charset=utf-8", text.to_owned())
}

fn not_allowed(allow: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
    answer.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allow));
    answer
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(Bytes::from(body))));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    // Paths and identities in the dumps are other people's text.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_hosts_of_the_dumps() {
        for host in ["127.0.0.1", "127.0.0.1:24190", "localhost:1", "LOCALHOST", "[::1]", "[::1]:24190"] {
            assert!(is_loopback_name(host), "{host}");
        }
        for host in
            ["", "evil.test", "127.0.0.1.evil.test", "evil.test:127", "localhost:x", "::1", "127.0.0.2"]
        {
            assert!(!is_loopback_name(host), "{host}");
        }
    }

    #[test]
    fn loopback_means_both_ends() {
        let (own, other): (IpAddr, IpAddr) = ("127.0.0.1".parse().unwrap(), "10.0.0.7".parse().unwrap());
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        assert_eq!(Origin::of(own, own), Origin::Loopback);
        assert_eq!(Origin::of(mapped, mapped), Origin::Loopback);
        assert_eq!(Origin::of(own, other), Origin::Network);
        assert_eq!(Origin::of(other, own), Origin::Network);
    }
}
