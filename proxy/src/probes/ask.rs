//! Asking the application once, as the kubelet would.

use std::{io, net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;

use super::{Answer, grpc, unverified};
use crate::{config::Action, io::BoxIo};

/// So much of what the application says is passed on; the kubelet looks at no more.
const LARGEST_BODY: usize = 10 << 10;

/// Why there is no answer of the application.
#[derive(Debug, Error)]
pub enum Failure {
    /// Nobody listens, or nobody answers there.
    #[error("cannot connect to {to}: {source}")]
    Connect {
        /// Where the application should listen.
        to: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The probe says HTTPS, and there is no TLS to be had.
    #[error("{to} does not speak TLS 1.3: {source}")]
    Tls {
        /// Where the application should listen.
        to: SocketAddr,
        /// What the TLS library said.
        source: io::Error,
    },
    /// Not what the probe expects to be spoken.
    #[error("{to} does not answer in {protocol}: {problem}")]
    Protocol {
        /// Where it was asked.
        to: SocketAddr,
        /// HTTP or gRPC.
        protocol: &'static str,
        /// What was there in its place.
        problem: String,
    },
    /// The probe's time was over.
    #[error("no answer in {0:?}")]
    Timeout(Duration),
    /// The same probe is running already, more often than a kubelet lets it.
    #[error("this probe is running as often as it may")]
    Busy,
}

/// Asks the application at `to`, without a limit of time.
pub(super) async fn application(
    to: SocketAddr,
    action: &Action,
    agent: Option<&HeaderValue>,
) -> Result<Answer, Failure> {
    let tcp = TcpStream::connect(to).await.map_err(|source| Failure::Connect { to, source })?;
    match action {
        Action::Tcp => Ok(Answer { status: StatusCode::OK, body: Bytes::new() }),
        Action::Grpc { service } => grpc::check(to, tcp, service, agent).await,
        Action::Http { tls: false, target, headers } => {
            http(to, Box::new(tcp), request(to, target, headers, agent)).await
        }
        Action::Http { tls: true, target, headers } => {
            let io = unverified::connect(tcp, to.ip()).await.map_err(|source| Failure::Tls { to, source })?;
            http(to, Box::new(io), request(to, target, headers, agent)).await
        }
    }
}

/// What the kubelet sends: the recorded fields, and of its own who it is and that it will not come back.
fn request(
    to: SocketAddr,
    target: &Uri,
    headers: &[(HeaderName, HeaderValue)],
    agent: Option<&HeaderValue>,
) -> Request<Empty<Bytes>> {
    let mut fields = HeaderMap::with_capacity(headers.len() + 4);
    for (name, value) in headers {
        fields.append(name, value.clone());
    }
    let host = HeaderValue::try_from(to.to_string()).ok();
    for (name, value) in [
        (header::HOST, host),
        (header::USER_AGENT, agent.cloned()),
        (header::ACCEPT, Some(HeaderValue::from_static("*/*"))),
    ] {
        if let (false, Some(value)) = (fields.contains_key(&name), value) {
            fields.insert(name, value);
        }
    }
    fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = target.clone();
    *request.headers_mut() = fields;
    request
}

async fn http(to: SocketAddr, io: BoxIo, request: Request<Empty<Bytes>>) -> Result<Answer, Failure> {
    let broken = |error: hyper::Error| Failure::Protocol { to, protocol: "HTTP", problem: error.to_string() };
    let (mut sender, connection) =
        hyper::client::conn::http1::Builder::new().handshake(TokioIo::new(io)).await.map_err(broken)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok(answer(response).await)
    };
    let mut exchange = Box::pin(exchange);
    // Nobody else drives the connection: it lives as long as this.
    tokio::select! {
        biased;
        answered = &mut exchange => answered,
        // It may be done before its last bytes were looked at.
        _ = connection => exchange.await,
    }
}

/// A redirect is success for the kubelet, which does not follow it to another host. Passed on, it would be followed
/// from here.
async fn answer(response: Response<Incoming>) -> Answer {
    let (head, mut body) = response.into_parts();
    if head.status.is_redirection() {
        let to = head.headers.get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("-");
        let body = Bytes::from(format!("the application answered {} ({to})\n", head.status));
        return Answer { status: StatusCode::OK, body };
    }
    let mut beginning = BytesMut::new();
    // A body that breaks off is an answer all the same.
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        let room = LARGEST_BODY.saturating_sub(beginning.len());
        beginning.extend_from_slice(data.get(..room).unwrap_or(&data));
        if beginning.len() >= LARGEST_BODY {
            break;
        }
    }
    Answer { status: head.status, body: beginning.freeze() }
}

// === impl Failure ===

impl Failure {
    /// What a probe is told.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Connect { .. } | Self::Tls { .. } | Self::Protocol { .. } => StatusCode::BAD_GATEWAY,
            Self::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
        }
    }
}
