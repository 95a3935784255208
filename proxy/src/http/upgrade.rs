//! WebSocket: the only protocol that a connection may be switched to.

use std::sync::{Mutex, PoisonError};

use http::{
    HeaderMap, HeaderValue, Response, StatusCode, Version,
    header::{CONNECTION, UPGRADE},
};
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;

use super::{Body, headers};
use crate::authz::Permit;

/// Where a connection finds, after its last HTTP response, what it is to carry from then on.
#[derive(Default)]
pub struct Switch(Mutex<Option<Pending>>);

struct Pending {
    permit: Permit,
    downstream: OnUpgrade,
    upstream: OnUpgrade,
}

/// Both sides of a switched connection, and the right to relay between them.
pub struct Switched {
    /// What entitles the bytes to flow.
    pub permit: Permit,
    /// Towards whoever asked.
    pub downstream: TokioIo<Upgraded>,
    /// Towards whoever agreed.
    pub upstream: TokioIo<Upgraded>,
}

/// Ends the connection with this response: bytes that the client sent before it must not be read as
/// its next request.
pub fn close_after(response: &mut Response<Body>) {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
}

/// Says again what hop-by-hop cleaning has removed: the next hop is asked to switch.
pub fn ask(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Whether an answer switches to WebSocket and to nothing else (RFC 6455, 4.1).
fn names_websocket(headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(UPGRADE).iter();
    match (protocols.next(), protocols.next()) {
        (Some(only), None) => only.as_bytes().eq_ignore_ascii_case(b"websocket"),
        _ => false,
    }
}

/// Whether a request asks to leave HTTP: what follows it may not be a request.
#[must_use]
pub fn asks(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE)
}

// === impl Switch ===

impl Switch {
    /// Takes the answer to a request for WebSocket. 101 to WebSocket switches the connection; a refusal is
    /// handed on; any other switch is no answer and becomes 502. So does an ordinary response where policy is
    /// `enforced`, because a grant of WEBSOCKET is no grant of what that would carry.
    pub fn answer(
        &self,
        mut response: Response<Incoming>,
        permit: Permit,
        downstream: OnUpgrade,
        enforced: bool,
    ) -> (Response<Body>, Option<Permit>) {
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS && names_websocket(response.headers()) {
            let upstream = hyper::upgrade::on(&mut response);
            let pending = Pending { permit, downstream, upstream };
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(pending);
            let mut response = response.map(|_| Body::default());
            headers::remove_hop_by_hop(response.headers_mut());
            ask(response.headers_mut());
            *response.version_mut() = Version::HTTP_11;
            return (response, None);
        }
        let refusal = status.is_client_error() || status.is_server_error();
        let mut response = if refusal || (!enforced && !status.is_informational()) {
            response.map(Body::from)
        } else {
            let mut bad = Response::new(Body::text("the upstream did not switch to WebSocket\n"));
            *bad.status_mut() = StatusCode::BAD_GATEWAY;
            bad
        };
        headers::remove_hop_by_hop(response.headers_mut());
        close_after(&mut response);
        (response, Some(permit))
    }

    /// Both sides, once HTTP is over on them; `None` when the connection was not switched.
    ///
    /// # Errors
    /// A side was closed before it was switched.
    pub async fn switched(&self) -> hyper::Result<Option<Switched>> {
        let pending = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Pending { permit, downstream, upstream }) = pending else { return Ok(None) };
        let (downstream, upstream) = (TokioIo::new(downstream.await?), TokioIo::new(upstream.await?));
        Ok(Some(Switched { permit, downstream, upstream }))
    }
}
