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
    unsent::{Paced, Unsent},
};
use crate::{
    detect::HttpVersion,
    drain::{DrainToken, Phase},
    io::BoxIo,
    limits::{
        BROKEN_STREAMS, CONNECTION_WINDOW, HEAD_BYTES, HEAD_FIELDS, PENDING_RESETS, SEND_BYTES,
        STREAM_WINDOW, STREAMS,
    },
    metrics::Counted,
    revoke::revocable,
};

/// The connection broke HTTP, or broke.
#[derive(Debug, Error)]
#[error("HTTP connection failed")]
pub struct ServeError(#[source] pub hyper::Error);

/// Who holds the stage of an HTTP/2 connection without a request: its service, and whoever waits for it to
/// be idle.
const HOLDERS: usize = 2;

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
            let (stage, announced, unsent) = (Stage::default(), drain.clone(), Unsent::default());
            let (io, guarded) = (Guarded::http1(io, timeouts, stage.clone()), stage.clone());
            let io = Paced::new(io, unsent.clone());
            let service = service_fn(move |request| {
                let (exchange, answer) = (stage.answer(), boxed(service(request)));
                let (stage, announced, unsent) = (stage.clone(), announced.clone(), unsent.clone());
                async move {
                    let mut response = answer.await;
                    response.body_mut().pace(&unsent);
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
            let stage = Stage::default();
            let guarded = stage.clone();
            let service = service_fn(move |request| {
                let (exchange, answer) = (stage.stream(), boxed(service(request)));
                async move { Ok::<_, Infallible>(answer.await.map(|body| body.with_exchange(exchange))) }
            });
            let leave = async {
                tokio::select! {
                    () = leave => {}
                    () = guarded.idle(HOLDERS, timeouts.idle) => {}
                }
            };
            let io = Guarded::http2(io, timeouts);
            serve_h2(io, service, &guarded, drain, leave).await
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
    io: Paced<Guarded>,
    service: S,
    stage: Stage,
    mut drain: DrainToken,
    leave: impl Future<Output = ()>,
) -> hyper::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
{
    let connection = http1::Builder::new()
        .max_headers(HEAD_FIELDS)
        .max_buf_size(HEAD_BYTES)
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
    stage: &Stage,
    mut drain: DrainToken,
    leave: impl Future<Output = ()>,
) -> hyper::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    let connection = http2::Builder::new(Streams)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD_BYTES as u32)
        .max_send_buf_size(SEND_BYTES)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(BROKEN_STREAMS)
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
    match finish(connection, drain).await {
        // After GOAWAY either side may close first, and not every peer says goodbye.
        Err(_) if stage.is_idle(HOLDERS) => Ok(()),
        ended => ended,
    }
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
