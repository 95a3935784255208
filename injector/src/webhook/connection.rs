//! One connection of the API server, from its handshake to its end.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderValue, Request, header::CONNECTION};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, sync::watch, time};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::debug;

use super::Webhook;
use crate::{listener::Place, metrics::Handshake};

/// Longest handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long requests in flight may take once a connection is asked to end; longer than any deadline.
const LAST: Duration = Duration::from_secs(31);
/// How long an old connection of HTTP/1.1 may be silent before it is closed without having been announced.
const QUIET: Duration = Duration::from_secs(3);
/// Streams at a time. Go's client opens another connection for more.
const STREAMS: u32 = 128;
/// Largest head.
const HEADS: u32 = 32 << 10;
/// How often a silent client of HTTP/2 is asked whether it is still there, and how long it may take to say so.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// Serves a connection to its end.
pub(super) async fn serve(
    webhook: Arc<Webhook>,
    (tcp, place): (TcpStream, Place),
    acceptor: TlsAcceptor,
    stop: watch::Receiver<bool>,
) {
    // phase: handshake
    let metrics = &webhook.metrics;
    let tls = match time::timeout(HANDSHAKE, acceptor.accept(tcp)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            metrics.handshake(Handshake::Failed);
            debug!(event = "handshake_failed", %error);
            return;
        }
        Err(_) => return metrics.handshake(Handshake::Timeout),
    };
    metrics.handshake(Handshake::Ok);
    // phase: requests
    match tls.get_ref().1.alpn_protocol() {
        Some(b"h2") => http2(webhook, tls, stop).await,
        _ => http1(webhook, tls, stop).await,
    }
    drop(place);
}

async fn http2(webhook: Arc<Webhook>, tls: TlsStream<TcpStream>, stop: watch::Receiver<bool>) {
    let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADS)
        .max_pending_accept_reset_streams(64)
        .max_local_error_reset_streams(64)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1);
    let age = webhook.limits.age;
    let service = service_fn(move |request| answer(Arc::clone(&webhook), request));
    let mut connection = pin!(http.serve_connection(TokioIo::new(tls), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = end(stop, age) => connection.as_mut().graceful_shutdown(),
    }
    let _ = time::timeout(LAST, connection).await;
}

/// An API server speaks HTTP/1.1 here and keeps its connections. A request that meets one just as it is closed is
/// lost, because nobody repeats a POST: so the last answer says that it is the last, and only connections on which
/// nothing has come since are closed without a word.
async fn http1(webhook: Arc<Webhook>, tls: TlsStream<TcpStream>, mut stop: watch::Receiver<bool>) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(webhook.limits.head).max_buf_size(HEADS as usize);
    let age = webhook.limits.age;
    let old = Arc::new(AtomicBool::new(false));
    let is_old = Arc::clone(&old);
    let service = service_fn(move |request| {
        let (webhook, is_old) = (Arc::clone(&webhook), Arc::clone(&is_old));
        async move {
            let leaving = Arc::clone(&webhook.leaving);
            let mut response = answer(webhook, request).await?;
            if is_old.load(Relaxed) || leaving.load(Relaxed) {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(tls), service));
    // An error says that nobody can stop the process any more, which is no order to stop.
    let stopped = async move {
        if stop.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let aged = async {
        time::sleep(age).await;
        old.store(true, Relaxed);
        time::sleep(QUIET).await;
    };
    let end = async {
        tokio::select! {
            // Announced since the process was told to stop.
            () = stopped => {}
            () = aged => {}
        }
    };
    tokio::select! {
        _ = connection.as_mut() => return,
        () = end => connection.as_mut().graceful_shutdown(),
    }
    let _ = time::timeout(LAST, connection).await;
}

async fn answer(
    webhook: Arc<Webhook>,
    request: Request<Incoming>,
) -> Result<http::Response<http_body_util::Full<bytes::Bytes>>, Infallible> {
    Ok(webhook.answer(request).await)
}

/// The moment to ask for an end: the process stops, or the connection is old.
async fn end(mut stop: watch::Receiver<bool>, age: Duration) {
    tokio::select! {
        // An error says that nobody can stop the process any more, which is no order to stop.
        Ok(_) = stop.wait_for(|stop| *stop) => {}
        () = time::sleep(age) => {}
    }
}
