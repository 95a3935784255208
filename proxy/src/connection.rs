//! How a connection or a request can fail, and the only two things made of that: the reason that
//! metrics and logs name, and the answer that the caller gets.

use std::{io, net::SocketAddr};

use http::StatusCode;
use thiserror::Error;

use crate::{
    addr::ClientAddr,
    authz::{Denied, reason_text},
    http::{answer::Refusal, client::SendError, headers, limit_of, server::ServeError},
    listener::{Admission, Misdirected},
    log::{AccessLine, AccessRecord, DecisionId, Log},
    metrics::{CloseReason, ConnectionGuard, Fault, Limit, RequestMetrics, Transport},
    pool::DialError,
    tls::TlsError,
    vouch::Unvouched,
};

/// A failure, by the phase in which it happened.
#[derive(Debug, Error)]
pub enum ConnectionError {
    /// The sidecar carries as much as it may.
    #[error("limit reached: {0}")]
    Limit(Limit),
    /// It has no business here.
    #[error("refused at the door")]
    Misdirected(#[source] Misdirected),
    /// There is no own identity to serve with.
    #[error("no usable identity")]
    NoIdentity,
    /// The peer did not prove who it is.
    #[error("handshake with the peer")]
    Tls(#[source] TlsError),
    /// The peer closed, or fell silent, before it said what it wants.
    #[error("reading the first bytes")]
    FirstBytes(#[source] io::Error),
    /// Policy refused.
    #[error("refused by policy: {}", .0.decision.reason.as_str())]
    Denied(Box<Denied>),
    /// The right was taken away before there was an answer.
    #[error("revoked: {0}")]
    Revoked(CloseReason),
    /// The destination may not be reached.
    #[error("destination refused")]
    DestinationRefused,
    /// The upstream could not be reached.
    #[error("dialling the upstream")]
    Dial(#[source] DialError),
    /// The request got no response.
    #[error("sending the request")]
    Send(#[source] SendError),
    /// The HTTP exchange with the downstream broke.
    #[error("serving HTTP")]
    Serve(#[source] ServeError),
    /// The network ended a connection that carried HTTP, not in order.
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    /// Relaying bytes broke.
    #[error("relaying")]
    Relay(#[source] io::Error),
}

/// Says in the access log how a connection ended. One that carried HTTP in an orderly way has a line per request
/// instead.
pub fn log(
    line: Option<AccessLine>,
    guard: &ConnectionGuard,
    reason: CloseReason,
    inbound: Option<(ClientAddr, SocketAddr)>,
) {
    let Some(mut line) = line else { return };
    let orderly = matches!(reason, CloseReason::Eof | CloseReason::Drain);
    let (transport, peer) = guard.transport();
    line.peer(Some(peer.as_str()).filter(|peer| *peer != "-"), inbound.map(|(client, _)| client.0));
    if let Some((_, upstream)) = inbound {
        line.upstream(upstream);
    }
    match orderly && transport != Some(Transport::Opaque) {
        true => line.withhold(),
        false => line.closed(reason.as_str(), !orderly),
    }
}

// === impl ConnectionError ===

impl ConnectionError {
    /// The id that the caller is told: that of the decision, or that of a line about `failed`.
    #[must_use]
    pub fn told(&self, log: &Log, failed: AccessRecord<'_>) -> DecisionId {
        match self {
            Self::Denied(denied) => denied.id,
            _ => log.failure(&AccessRecord { close: self.close_reason().as_str(), failed: true, ..failed }),
        }
    }

    /// The reason, for metrics, the log and the `x-mantlet-error` header.
    #[must_use]
    pub fn close_reason(&self) -> CloseReason {
        match self {
            Self::Revoked(reason) => *reason,
            Self::Limit(_) | Self::Send(SendError::Busy) => CloseReason::Limit,
            Self::Tls(TlsError::Handshake { source, .. }) if limit_of(source).is_some() => CloseReason::Limit,
            Self::Misdirected(Misdirected::Loop(_)) => CloseReason::Loop,
            Self::Misdirected(_) => CloseReason::NotRedirected,
            Self::NoIdentity => CloseReason::Withdrawn,
            Self::Tls(TlsError::Timeout(_)) => CloseReason::Timeout,
            Self::Tls(TlsError::Silent(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                CloseReason::Eof
            }
            Self::Tls(TlsError::Handshake { source, .. } | TlsError::Silent(source)) => tls_reason(source),
            Self::Denied(_) | Self::DestinationRefused => CloseReason::Denied,
            Self::Dial(error) | Self::Send(SendError::Dial(error)) => dial_reason(error),
            Self::Send(SendError::NotHttp(_)) => CloseReason::Protocol,
            Self::Send(SendError::NoResponse(_)) => CloseReason::Timeout,
            Self::Send(SendError::PeerExpired) => CloseReason::PeerExpired,
            Self::Send(SendError::Http(error)) => http_reason(error, CloseReason::Reset),
            Self::Serve(ServeError(error)) => http_reason(error, CloseReason::Protocol),
            Self::FirstBytes(error) | Self::Relay(error) | Self::Broken(error) => {
                match (self, error.kind()) {
                    (_, io::ErrorKind::TimedOut) => CloseReason::Timeout,
                    (Self::FirstBytes(_), io::ErrorKind::UnexpectedEof) => CloseReason::Eof,
                    _ => Unvouched::reason(error).unwrap_or(CloseReason::Reset),
                }
            }
        }
    }

    /// How a connection that carried HTTP has ended: what the network said first counts, unless a side had
    /// already been refused for something else, or `told` to go and may go as it likes.
    ///
    /// # Errors
    /// It did not end in order.
    pub fn served(served: Result<(), ServeError>, fault: &Fault, told: bool) -> Result<(), Self> {
        let served = served.map_err(Self::Serve);
        let reason = served.as_ref().map_or_else(Self::close_reason, |()| CloseReason::Eof);
        match fault.kind() {
            Some(kind)
                if !told
                    && matches!(reason, CloseReason::Eof | CloseReason::Reset | CloseReason::Protocol) =>
            {
                Err(Self::Broken(kind.into()))
            }
            _ => served,
        }
    }

    /// The limit that it is about, if it is about one.
    #[must_use]
    pub fn limit(&self) -> Option<Limit> {
        match self {
            Self::Limit(limit) => Some(*limit),
            Self::Send(SendError::Busy) => Some(Limit::PendingRequests),
            Self::Serve(ServeError(error)) => http_limit(error),
            Self::Tls(TlsError::Handshake { source, .. }) => limit_of(source),
            _ => None,
        }
    }

    /// The answer to a request. `caller` is the caller's own identity; one without identity gets no
    /// text. A decision answers with the id that it has in the audit log, another failure with `id`.
    #[must_use]
    pub fn refusal(&self, caller: Option<&str>, id: DecisionId) -> Refusal {
        let reason = self.close_reason();
        let (status, grpc_status) = match (self, reason) {
            (Self::Denied(denied), _) => return denied_refusal(denied, caller),
            (Self::DestinationRefused, _)
            | (Self::Revoked(_), CloseReason::Policy | CloseReason::Expired) => (StatusCode::FORBIDDEN, 7),
            // Its body did not come.
            (Self::Revoked(_), CloseReason::Timeout) => (StatusCode::REQUEST_TIMEOUT, 4),
            (Self::Revoked(_) | Self::Limit(_) | Self::Send(SendError::Busy | SendError::PeerExpired), _) => {
                (StatusCode::SERVICE_UNAVAILABLE, 14)
            }
            (Self::Dial(_) | Self::Send(SendError::Dial(_)), CloseReason::Timeout | CloseReason::Limit) => {
                (StatusCode::SERVICE_UNAVAILABLE, 14)
            }
            (_, CloseReason::Timeout) => (StatusCode::GATEWAY_TIMEOUT, 4),
            _ => (StatusCode::BAD_GATEWAY, 14),
        };
        let what = match self {
            Self::DestinationRefused => "destination refused, see mantlet.dev/upstreams".to_owned(),
            _ => format!("upstream failed: {reason}"),
        };
        Refusal {
            status,
            grpc_status,
            header: (headers::ERROR, format!("{reason}; id={id}")),
            text: caller.map(|_| format!("{what} (id {id})\n")),
        }
    }
}

fn denied_refusal(denied: &Denied, caller: Option<&str>) -> Refusal {
    let (status, grpc_status) = match denied.decision.malformed {
        Some(malformed) => (StatusCode::from_u16(malformed.status()).unwrap_or(StatusCode::BAD_REQUEST), 3),
        None => (StatusCode::FORBIDDEN, 7),
    };
    let (reason, id) = (reason_text(&denied.decision), denied.id);
    Refusal {
        status,
        grpc_status,
        header: (headers::DENIED, format!("{reason}; id={id}")),
        text: caller.map(|caller| format!("denied: {caller} (id {id})\n")),
    }
}

fn dial_reason(error: &DialError) -> CloseReason {
    match error {
        DialError::NoIdentity => CloseReason::Withdrawn,
        DialError::Timeout { .. } | DialError::Tls { source: TlsError::Timeout(_), .. } => {
            CloseReason::Timeout
        }
        DialError::Connect { .. } | DialError::NoEndpoint => CloseReason::Connect,
        DialError::Tls { source: TlsError::Handshake { source, .. } | TlsError::Silent(source), .. } => {
            tls_reason(source)
        }
    }
}

/// A handshake that did not end: the network took the connection away under it, or it failed as a handshake.
fn tls_reason(error: &io::Error) -> CloseReason {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut,
    };
    match error.kind() {
        TimedOut => CloseReason::Timeout,
        BrokenPipe | ConnectionAborted | ConnectionReset | HostUnreachable | NetworkUnreachable => {
            CloseReason::Reset
        }
        _ => CloseReason::Tls,
    }
}

/// Whether one more request may be carried; `requests` counts it already.
///
/// # Errors
/// The limit that stands against it.
pub fn admit(admission: &Admission, requests: &RequestMetrics) -> Result<(), ConnectionError> {
    if !admission.has_room_for_request(requests.in_flight()) {
        return Err(ConnectionError::Limit(Limit::Requests));
    }
    match admission.has_memory() {
        true => Ok(()),
        false => Err(ConnectionError::Limit(Limit::Memory)),
    }
}

/// The limit by which a connection that carries HTTP was ended: one of ours, or one of the HTTP/2 library.
fn http_limit(error: &hyper::Error) -> Option<Limit> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return limit_of(error);
        }
        if let Some(error) = cause.downcast_ref::<h2::Error>()
            && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
            && !error.is_remote()
        {
            return Some(Limit::Http2);
        }
        source = cause.source();
    }
    None
}

/// hyper's errors of a connection: somebody broke the rules, somebody went away, or `other`.
fn http_reason(error: &hyper::Error, other: CloseReason) -> CloseReason {
    if http_limit(error).is_some() {
        return CloseReason::Limit;
    }
    // A body broke off that was on its way: whoever sent it has left, whatever became of his connection.
    let other = if error.is_user() { CloseReason::Reset } else { other };
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let io = cause.downcast_ref().or_else(|| cause.downcast_ref().and_then(h2::Error::get_io));
        if let Some(io) = io {
            return match io.kind() {
                io::ErrorKind::TimedOut => CloseReason::Timeout,
                _ => Unvouched::reason(io).unwrap_or(CloseReason::Reset),
            };
        }
        source = cause.source();
    }
    if error.is_parse() {
        CloseReason::Protocol
    } else if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        CloseReason::Reset
    } else if error.is_timeout() {
        CloseReason::Timeout
    } else {
        other
    }
}

impl From<Misdirected> for ConnectionError {
    fn from(misdirected: Misdirected) -> Self {
        Self::Misdirected(misdirected)
    }
}

impl From<DialError> for ConnectionError {
    fn from(error: DialError) -> Self {
        match error {
            DialError::NoIdentity => Self::NoIdentity,
            error => Self::Dial(error),
        }
    }
}

impl From<Box<Denied>> for ConnectionError {
    fn from(denied: Box<Denied>) -> Self {
        Self::Denied(denied)
    }
}
