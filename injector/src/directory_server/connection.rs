//! One connection of a sidecar, from its handshake to its end.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mantlet_id::TrustDomain;
use mantlet_identity::{IdentityHandle, PeerIdentity};
use mantlet_proto::directory::directory_server::DirectoryServer;
use tokio::{net::TcpStream, sync::watch, time};
use tokio_rustls::TlsAcceptor;
use tonic::codegen::Service as _;
use tracing::debug;

use super::{follow::Follow, hub::Hub};
use crate::{
    listener::Place,
    metrics::{Caller, DirectoryMetrics, StreamEnd},
};

/// Longest handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Largest head of a request.
const HEADS: u32 = 16 << 10;
/// Streams of a connection at a time. A sidecar needs one.
const STREAMS: u32 = 2;
/// Largest question; the real ones have 25 bytes.
const QUESTION: usize = 1024;
/// How often a silent sidecar is asked whether it is still there, and how long it may take to say so.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));
/// A connection without a stream for this long is ended.
const IDLE: Duration = Duration::from_secs(60);
/// How long the last words of a connection may take.
const LAST: Duration = Duration::from_secs(2);

/// What connections share.
pub(super) struct Directory {
    pub(super) hub: Hub,
    pub(super) identity: IdentityHandle,
    pub(super) trust_domain: TrustDomain,
    pub(super) metrics: Arc<DirectoryMetrics>,
}

/// Serves a connection to its end.
pub(super) async fn serve(
    directory: Arc<Directory>,
    (tcp, place): (TcpStream, Place),
    stop: watch::Receiver<bool>,
) {
    let metrics = &directory.metrics;
    // phase: handshake
    let Some(credentials) = directory.identity.credentials() else {
        return metrics.handshake(Caller::NoIdentity);
    };
    let (config, handshake) = credentials.server_handshake(&[b"h2"]);
    let tls = match time::timeout(HANDSHAKE, TlsAcceptor::from(config).accept(tcp)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            debug!(event = "directory_handshake_failed", %error);
            return metrics.handshake(Caller::Failed);
        }
        Err(_) => return metrics.handshake(Caller::Timeout),
    };
    let Some(peer) = handshake.verified(tls.get_ref().1) else {
        return metrics.handshake(Caller::Failed);
    };
    // phase: who is it
    if *peer.id().trust_domain() != directory.trust_domain {
        debug!(event = "directory_caller_refused", id = peer.id().as_str());
        return metrics.handshake(Caller::TrustDomain);
    }
    // A client that names no protocol at all has not been refused by TLS.
    if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
        return metrics.handshake(Caller::Protocol);
    }
    metrics.handshake(Caller::Ok);
    // phase: streams
    let (end, ending) = watch::channel(None);
    let open = Arc::new(AtomicUsize::new(0));
    let follow = Follow {
        hub: directory.hub.clone(),
        metrics: Arc::clone(metrics),
        ending,
        source: place.address(),
        open: Arc::clone(&open),
    };
    let service = DirectoryServer::new(follow).max_decoding_message_size(QUESTION);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut service = service.clone();
        async move {
            let answer: Result<_, Infallible> = service.call(request).await;
            answer
        }
    });
    let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADS)
        .max_pending_accept_reset_streams(16)
        .max_local_error_reset_streams(16)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1);
    let mut connection = pin!(http.serve_connection(TokioIo::new(tls), service));
    let why = tokio::select! {
        _ = connection.as_mut() => return,
        why = over(&directory, &peer, &open, stop) => why,
    };
    // phase: end
    let _ = end.send(Some(why));
    connection.as_mut().graceful_shutdown();
    let _ = time::timeout(LAST, connection).await;
    drop(place);
}

/// Waits until the connection has to end, and says why.
async fn over(
    directory: &Directory,
    peer: &PeerIdentity,
    open: &AtomicUsize,
    mut stop: watch::Receiver<bool>,
) -> StreamEnd {
    let mut changed = directory.identity.subscribe();
    let mut was_idle = false;
    loop {
        let left = peer.not_after().duration_since(SystemTime::now()).unwrap_or_default();
        tokio::select! {
            () = time::sleep(left) => return StreamEnd::PeerExpired,
            // An error says that nobody can stop the process any more, which is no order to stop.
            Ok(_) = stop.wait_for(|stop| *stop) => return StreamEnd::Drain,
            Ok(()) = changed.changed() => match directory.identity.credentials() {
                None => return StreamEnd::Withdrawn,
                Some(credentials) if credentials.reverify(peer, SystemTime::now()).is_err() => {
                    return StreamEnd::Bundle;
                }
                Some(_) => {}
            },
            () = time::sleep(IDLE) => {
                let is_idle = open.load(Ordering::Relaxed) == 0;
                if is_idle && was_idle {
                    return StreamEnd::Drain;
                }
                was_idle = is_idle;
            }
        }
    }
}
