//! gRPC by hand, both sides: one message is one byte of flags, four of length, and the bytes (gRPC over HTTP/2).

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::{Interval, interval};

use super::client::PATIENCE;
use super::plan::WATCH;

/// Between two messages of a stream.
const PACE: Duration = Duration::from_millis(20);
const CONTENT_TYPE: &str = "application/grpc";
const STATUS: &str = "grpc-status";
/// A protobuf message with one text field, number 1: "row 42".
const MESSAGE: &[u8] = b"\x0a\x06row 42";

/// What the app answers with: one message or many, then the status.
pub(crate) struct Answer {
    /// None once the last message is out.
    pace: Option<Interval>,
    many: bool,
    over: bool,
}

/// A call that was answered at once.
#[derive(Debug)]
pub(crate) struct Unary {
    pub(crate) status: Option<u8>,
    pub(crate) denied: Option<String>,
    pub(crate) took: Duration,
}

/// A call whose answer goes on.
pub(crate) struct Stream {
    // Held, because dropping it ends the connection.
    _sender: SendRequest<Full<Bytes>>,
    body: Incoming,
    pub(crate) messages: u64,
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// The app's answer to a call of `path`.
pub(crate) fn answer(path: &str) -> Response<Answer> {
    let many = path.strip_prefix('/') == Some(WATCH);
    let mut response = Response::new(Answer { pace: Some(interval(PACE)), many, over: false });
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response
}

/// Calls `method` through the sidecar at `addr`.
pub(crate) async fn call(addr: SocketAddr, method: &str) -> Result<Unary, String> {
    let begin = Instant::now();
    let exchange = async {
        let (_sender, response) = send(addr, method).await?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await?;
        let status = status(&parts.headers).or_else(|| body.trailers().and_then(status));
        let denied = parts.headers.get("x-mantlet-denied").and_then(|value| value.to_str().ok());
        Ok::<_, Fault>(Unary { status, denied: denied.map(str::to_owned), took: begin.elapsed() })
    };
    match tokio::time::timeout(PATIENCE, exchange).await {
        Ok(answered) => answered.map_err(|error| format!("no answer: {error}")),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

async fn send(
    addr: SocketAddr,
    method: &str,
) -> Result<(SendRequest<Full<Bytes>>, Response<Incoming>), Fault> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await?;
    tokio::spawn(connection);
    let request = Request::post(format!("http://db.shop/{method}"))
        .header(header::CONTENT_TYPE, CONTENT_TYPE)
        .header(header::TE, "trailers")
        .body(Full::new(message()))?;
    let response = sender.send_request(request).await?;
    Ok((sender, response))
}

fn message() -> Bytes {
    let length = u32::try_from(MESSAGE.len()).unwrap_or_default().to_be_bytes();
    [&[0][..], &length, MESSAGE].concat().into()
}

fn status(headers: &HeaderMap) -> Option<u8> {
    headers.get(STATUS)?.to_str().ok()?.parse().ok()
}

// === impl Stream ===

impl Stream {
    /// Calls `method`, and has its first messages when this returns.
    pub(crate) async fn open(addr: SocketAddr, method: &str) -> Result<Self, String> {
        let open = async {
            let (sender, response) = send(addr, method).await.map_err(|error| error.to_string())?;
            let mut stream = Self { _sender: sender, body: response.into_body(), messages: 0 };
            while stream.messages < 3 {
                if let Some(end) = stream.next().await {
                    return Err(format!("the stream ended at once: {end:?}"));
                }
            }
            Ok(stream)
        };
        tokio::time::timeout(PATIENCE, open).await.unwrap_or_else(|_| Err("the stream does not flow".into()))
    }

    /// Reads on until the stream ends, and says with which status.
    pub(crate) async fn end(&mut self) -> Result<Option<u8>, String> {
        let end = async {
            loop {
                if let Some(end) = self.next().await {
                    return end;
                }
            }
        };
        let seconds = PATIENCE.as_secs();
        tokio::time::timeout(PATIENCE, end)
            .await
            .unwrap_or_else(|_| Err(format!("the stream still flows after {seconds} s")))
    }

    /// Takes a message; something at the end.
    async fn next(&mut self) -> Option<Result<Option<u8>, String>> {
        match self.body.frame().await {
            None => Some(Ok(None)),
            Some(Err(error)) => Some(Err(error.to_string())),
            Some(Ok(frame)) => match frame.trailers_ref() {
                Some(trailers) => Some(Ok(status(trailers))),
                None => {
                    self.messages += 1;
                    None
                }
            },
        }
    }
}

// === impl Answer ===

impl Body for Answer {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(pace) = &mut self.pace {
            std::task::ready!(pace.poll_tick(context));
            if !self.many {
                self.pace = None;
            }
            return Poll::Ready(Some(Ok(Frame::data(message()))));
        }
        if std::mem::replace(&mut self.over, true) {
            return Poll::Ready(None);
        }
        let trailers =
            HeaderMap::from_iter([(header::HeaderName::from_static(STATUS), HeaderValue::from_static("0"))]);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}
