//! Being an HTTP server on an established stream.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
};

use http::{HeaderValue, Request, Response, StatusCode, header::CONNECTION};
use hyper::{
    body::Incoming,
    rt::Executor,
    server::conn::{http1, http2},
    service::{Service, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;

use super::{
    Body, Timeouts,
    guard::{Guarded, Stage},
};
use crate::{
    detect::HttpVersion,
    drain::{DrainToken, Phase},
    io::BoxIo,
    metrics::Counted,
    revoke::revocable,
};

/// Most fields of a request head.
const MAX_HEADERS: usize = 100;
/// Most bytes of a request head, for both versions.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// Streams that a peer may have open.
const MAX_STREAMS: u32 = 100;
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;
/// Resets that may wait for their streams to be cleaned up, and errors that a peer may provoke,
/// before the connection ends (CVE-2023-44487, CVE-2025-8671).
const MAX_PENDING_RESETS: usize = 20;
const MAX_LOCAL_RESETS: usize = 100;

/// The connection broke HTTP, or broke.
#[derive(Debug, Error)]
#[error("HTTP connection failed")]
pub struct ServeError(#[source] pub hyper::Error);

/// Spawns the streams of an HTTP/2 connection, each revocable by itself.
#[derive(Clone, Copy)]
struct Streams;

/// Serves requests until the peer is done, has to `leave`, or the sidecar stops. Either of the
/// latter is announced (GOAWAY, `connection: close`), and what is in flight finishes.
///
/// # Errors
/// The peer broke the protocol, or the stream broke.
pub async fn serve<S, F>(
    io: Counted<BoxIo>,
    version: HttpVersion,
    service: S,
    timeouts: Timeouts,
    drain: DrainToken,
    leave: impl Future<Output = ()>,
) -> Result<(), ServeError>
where
    S: Fn(Request<Incoming>) -> F + Send,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    match version {
        HttpVersion::H1 => {
            let (stage, announced) = (Stage::default(), drain.clone());
            let (io, guarded) = (Guarded::http1(io, timeouts, stage.clone()), stage.clone());
            let service = service_fn(move |request| {
                let (exchange, answer) = (stage.answer(), boxed(service(request)));
                let (stage, announced) = (stage.clone(), announced.clone());
                async move {
                    let mut response = answer.await;
                    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                        stage.switch();
                    } else if announced.must_tell() {
                        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    Ok::<_, Infallible>(response.map(|body| body.with_exchange(exchange)))
                }
            });
            serve_h1(io, service, guarded, drain, leave).await
        }
        HttpVersion::H2 => {
            let service = service_fn(move |request| {
                let answer = boxed(service(request));
                async move { Ok::<_, Infallible>(answer.await) }
            });
            serve_h2(Guarded::http2(io), service, drain, leave).await
        }
    }
    .map_err(ServeError)
}

/// The HTTP library moves a request's future several times, and keeps room for one on every HTTP/1
/// connection, an idle one too: it gets a pointer.
fn boxed<F: Future>(answer: F) -> Pin<Box<F>> {
    Box::pin(answer)
}

async fn serve_h1<S>(
    io: Guarded,
    service: S,
    stage: Stage,
    mut drain: DrainToken,
    leave: impl Future<Output = ()>,
) -> hyper::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
{
    let connection = http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        // Applications close their half after the last request and still want the answer.
        .half_close(true)
        .auto_date_header(false)
        // hyper's own timer would also close idle connections.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        done = connection.as_mut() => return done,
        // A request may be on its way already, and closing now would lose it: the peer has been told
        // with the last response, or is with the next.
        () = drain.reached(Phase::Stopping) => stage.stop(),
        () = leave => connection.as_mut().graceful_shutdown(),
    }
    finish(connection, drain).await
}

async fn serve_h2<S>(
    io: Guarded,
    service: S,
    mut drain: DrainToken,
    leave: impl Future<Output = ()>,
) -> hyper::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    let connection = http2::Builder::new(Streams)
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    tokio::select! {
        done = connection.as_mut() => return done,
        // GOAWAY is the announcement: the peer opens its next stream elsewhere.
        () = drain.telling() => {}
        () = leave => {}
    }
    connection.as_mut().graceful_shutdown();
    finish(connection, drain).await
}

/// Lets what is in flight finish, until the stop is forced.
async fn finish(
    connection: impl Future<Output = hyper::Result<()>>,
    mut drain: DrainToken,
) -> hyper::Result<()> {
    tokio::select! {
        done = connection => done,
        () = drain.reached(Phase::Forced) => Ok(()),
    }
}

// === impl Streams ===

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        // Why a stream was revoked is known to whoever did it.
        tokio::spawn(async move { revocable(stream).await.unwrap_or(()) });
    }
}
