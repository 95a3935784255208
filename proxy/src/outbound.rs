//! One connection from the own application to a peer.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{Request, Response, Version};
use hyper::body::Incoming;
use mantlet_id::SpiffeId;
use mantlet_identity::{ExpectedPeer, PeerIdentity};
use tokio::{net::TcpStream, sync::watch};
use tracing::debug;

use crate::{
    authz::{Authorizer, Permit},
    connection::{self, ConnectionError},
    detect,
    directory::{Destination, Directory, Endpoint, EndpointProtocol},
    drain::DrainToken,
    forward,
    http::{
        Body, Timeouts,
        client::{Host, Key, Pool, Upstream},
        headers,
        server::{self, ServeError},
        upgrade::{self, Switch, Switched},
    },
    io::{BoxIo, Rewind},
    lifetime::Lifetime,
    listener::Accepted,
    log::AccessLine,
    metrics::{CloseReason, ConnectionGuard, Direction, Metrics, RequestMetrics, Text, Transport},
    pool::Dialer,
    revoke::revocable,
    tls::{ALPN_H2, ALPN_HTTP1, ALPN_TCP, Alpn, MeshStream},
    vouch::Vouchers,
};

/// What an outbound listener of one worker needs.
pub struct Outbound {
    /// Gives the permit to reach a destination.
    pub authorizer: Arc<Authorizer>,
    /// Says where a connection goes.
    pub directory: Directory,
    /// Opens connections to peers.
    pub dialer: Dialer,
    /// The worker's upstream connections.
    pub pool: Arc<Pool>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The authenticated connections of the worker.
    pub vouchers: Arc<Vouchers>,
    /// How long open work may outlive the peer's SVID.
    pub max_stale_identity: Duration,
    /// How long a request head and an idle connection may take.
    pub timeouts: Timeouts,
    /// True while there is no own identity.
    pub withdrawn: watch::Receiver<bool>,
}

/// An outbound connection that carries HTTP.
struct HttpConnection {
    outbound: Arc<Outbound>,
    endpoints: Arc<[Endpoint]>,
    requests: Arc<RequestMetrics>,
    /// The upstream under the credentials it was looked up with.
    host: Mutex<Option<(u64, Arc<Host>)>>,
    switch: Switch,
}

/// Carries one connection from accept to close, and counts it once.
pub async fn serve(outbound: Arc<Outbound>, accepted: Accepted, drain: DrainToken) {
    let mut guard = ConnectionGuard::new(Arc::clone(&outbound.metrics), Direction::Outbound);
    let client = accepted.client;
    let line = outbound.authorizer.log().access_line("outbound", "tcp");
    let reason = match revocable(connection(&outbound, accepted, drain, &mut guard)).await {
        Ok(Ok(reason)) => reason,
        Ok(Err(error)) => {
            debug!(event = "outbound_failed", %client, error = &error as &dyn std::error::Error);
            error.close_reason()
        }
        Err(revoked) => revoked,
    };
    connection::log(line, &guard, reason, None);
    guard.finish(reason);
}

/// The life of an outbound connection, a phase a paragraph.
async fn connection(
    outbound: &Arc<Outbound>,
    accepted: Accepted,
    drain: DrainToken,
    guard: &mut ConnectionGuard,
) -> Result<CloseReason, ConnectionError> {
    let Accepted { tcp, orig_dst, permit: _counted, .. } = accepted;

    // phase: outbound 1 "where to, whom to expect, how to speak" | fails: not redirected, the sidecar itself, destination refused | close: not_redirected, loop, denied | metric: mantlet_connections_closed_total
    let destination = outbound.directory.resolve(orig_dst?);
    let permit =
        outbound.authorizer.permit_destination(destination).ok_or(ConnectionError::DestinationRefused)?;

    let endpoints = match destination {
        Destination::Mesh(endpoints) => endpoints,
        // phase: outbound 2 "outside the mesh, by declaration: relay" | fails: not reachable, reset | close: connect, timeout, reset | metric: mantlet_upstream_connects_total
        Destination::Passthrough { addr, .. } => {
            let upstream = outbound.dialer.plain(*addr).await?;
            guard.opened(Transport::Plaintext, Text::none());
            return passthrough(permit, tcp, upstream).await;
        }
        Destination::Refuse => return Err(ConnectionError::DestinationRefused),
    };
    let label = peer_label(outbound, endpoints);

    match endpoints.first().map(|endpoint| endpoint.protocol) {
        // phase: outbound 3 "opaque bytes: dial, verify the peer, relay" | fails: not reachable, not the expected peer, reset | close: connect, timeout, tls, reset | metric: mantlet_tls_handshakes_total
        Some(EndpointProtocol::Opaque) => {
            let stream = outbound.dialer.mesh(endpoints, &[ALPN_TCP]).await?;
            guard.opened(Transport::Opaque, label);
            relay(outbound, permit, tcp, stream).await
        }
        // phase: outbound 4 "protocol unknown: dial first, offer everything, believe the peer" | fails: as for HTTP and for bytes | close: connect, timeout, tls | metric: mantlet_upstream_connects_total
        Some(EndpointProtocol::AskPeer) => {
            let http_connection = HttpConnection::new(outbound, endpoints, label.clone());
            if !http_connection.host()?.is_known_http() {
                let stream = outbound.dialer.mesh(endpoints, &[ALPN_H2, ALPN_HTTP1, ALPN_TCP]).await?;
                if matches!(stream.alpn, Alpn::Tcp | Alpn::None) {
                    guard.opened(Transport::Opaque, label);
                    return relay(outbound, permit, tcp, stream).await;
                }
                http_connection.host()?.adopt(stream).await.map_err(ConnectionError::Send)?;
            }
            guard.opened(Transport::Mtls, label);
            http(http_connection, tcp, drain).await
        }
        // phase: outbound 5 "HTTP: serve the application's requests" | fails: broken HTTP, reset | close: eof, protocol, reset, drain | metric: mantlet_http_requests_total
        Some(EndpointProtocol::Http) | None => {
            guard.opened(Transport::Mtls, label.clone());
            http(HttpConnection::new(outbound, endpoints, label), tcp, drain).await
        }
    }
}

/// Relays to a peer, at most for as long as somebody vouches for it.
async fn relay(
    outbound: &Arc<Outbound>,
    permit: Permit,
    app: TcpStream,
    stream: MeshStream,
) -> Result<CloseReason, ConnectionError> {
    let MeshStream { io, peer, .. } = stream;
    let lifetime = outbound.lifetime(&peer);
    let _voucher = outbound.vouchers.enter(peer);
    tokio::select! {
        relayed = forward::tcp(permit, app, io) => {
            relayed.map(|()| CloseReason::Eof).map_err(ConnectionError::Relay)
        }
        () = lifetime.over(|| ()) => Ok(CloseReason::PeerExpired),
    }
}

async fn passthrough(
    permit: Permit,
    app: TcpStream,
    upstream: TcpStream,
) -> Result<CloseReason, ConnectionError> {
    forward::tcp(permit, app, upstream).await.map_err(ConnectionError::Relay)?;
    Ok(CloseReason::Eof)
}

async fn http(
    connection: Arc<HttpConnection>,
    mut tcp: TcpStream,
    drain: DrainToken,
) -> Result<CloseReason, ConnectionError> {
    let seen = detect::read_http_version(&mut tcp).await.map_err(ConnectionError::FirstBytes)?;
    let Some((version, bytes)) = seen else { return Ok(CloseReason::Eof) };
    let io: BoxIo = Box::new(Rewind::new(bytes.freeze(), tcp));
    let serving = Arc::clone(&connection);
    let service = move |request| Arc::clone(&serving).request(request);
    // The application is not told that the own identity is gone: its requests fail with the reason.
    let stays = std::future::pending();
    server::serve(io, version, service, connection.outbound.timeouts, drain, stays)
        .await
        .map_err(ConnectionError::Serve)?;

    // phase: outbound 8 "WebSocket: HTTP is over, relay what was agreed to" | fails: a side is gone, reset | close: reset, bundle | metric: mantlet_connections_closed_total
    match connection.switch.switched().await.map_err(|error| ConnectionError::Serve(ServeError(error)))? {
        Some(Switched { permit, downstream, upstream }) => {
            forward::tcp(permit, downstream, upstream).await.map_err(ConnectionError::Relay)?;
            Ok(CloseReason::Eof)
        }
        None => Ok(CloseReason::Eof),
    }
}

/// The expected peer, where there is exactly one. What the metric says is who was demanded, and the
/// handshake makes it who was met.
fn peer_label(outbound: &Outbound, endpoints: &[Endpoint]) -> Text {
    let [Endpoint { expected: ExpectedPeer::OneOf(ids), .. }] = endpoints else { return Text::none() };
    match ids.iter().next() {
        Some(id) if ids.len() == 1 => outbound.metrics.peer_label(id.as_str()),
        _ => Text::none(),
    }
}

// === impl Outbound ===

impl Outbound {
    fn lifetime(&self, peer: &PeerIdentity) -> Lifetime {
        Lifetime::new(Some(peer.not_after()), self.max_stale_identity, self.withdrawn.clone())
    }
}

// === impl HttpConnection ===

impl HttpConnection {
    fn new(outbound: &Arc<Outbound>, endpoints: &Arc<[Endpoint]>, label: Text) -> Arc<Self> {
        Arc::new(Self {
            outbound: Arc::clone(outbound),
            endpoints: Arc::clone(endpoints),
            requests: RequestMetrics::new(Arc::clone(&outbound.metrics), Direction::Outbound, label),
            host: Mutex::default(),
            switch: Switch::default(),
        })
    }

    /// Answers one request; whatever happens, there is an answer and one count.
    async fn request(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let grpc = headers::is_grpc(&request);
        let mut guard = self.requests.begin(request.method());
        let mut line = self.access_line(&request);
        match self.forward(request.map(Body::from)).await {
            Ok((response, permit)) => {
                guard.answered(response.status());
                if let Some(line) = &mut line {
                    line.answered(response.status().as_u16(), None);
                }
                response.map(|body| body.with_scope(Box::new((guard, line, permit))))
            }
            Err(error) => {
                let id = self.outbound.authorizer.failure_id();
                // The caller is the application of this pod: it may know what happened.
                let response = error.refusal(Some(""), id).into_response(grpc);
                guard.answered(response.status());
                if let Some(line) = &mut line {
                    line.refused(response.status().as_u16(), error.close_reason().as_str(), error.id(id));
                }
                response.map(|body| body.with_scope(Box::new((guard, line))))
            }
        }
    }

    fn access_line(&self, request: &Request<Incoming>) -> Option<AccessLine> {
        let mut line = self.outbound.authorizer.log().access_line("outbound", "http")?;
        if let [Endpoint { addr, expected: ExpectedPeer::OneOf(ids), .. }] = &*self.endpoints {
            line.peer(ids.iter().next().filter(|_| ids.len() == 1).map(SpiffeId::as_str), None);
            line.upstream(*addr);
        }
        line.request(request.method().as_str(), request.uri().path());
        Some(line)
    }

    async fn forward(
        &self,
        mut request: Request<Body>,
    ) -> Result<(Response<Body>, Option<Permit>), ConnectionError> {
        // phase: outbound 6 "request: strip what belongs to this hop, say what the application spoke" | fails: nothing can | close: - | metric: -
        let destination = Destination::Mesh(Arc::clone(&self.endpoints));
        let spoken = headers::proto(request.version());
        headers::remove_owned(request.headers_mut());
        let permitted = self.outbound.authorizer.permit_request(&destination, request);
        let mut permitted = permitted.ok_or(ConnectionError::DestinationRefused)?;
        headers::remove_hop_by_hop(permitted.headers_mut());
        permitted.headers_mut().insert(headers::PROTO, spoken);

        // phase: outbound 7 "send over a connection to the expected peer" | fails: not reachable, not the expected peer, reset | close: connect, timeout, tls, reset | metric: mantlet_tls_handshakes_total
        let host = self.host()?;
        let (mut response, permit) = if permitted.kind().websocket {
            let downstream = permitted.upgrade();
            upgrade::ask(permitted.headers_mut());
            let (response, permit) = host.upgrade(permitted).await.map_err(ConnectionError::Send)?;
            self.switch.answer(response, permit, downstream)
        } else {
            let (mut response, permit) = host.send(permitted).await.map_err(ConnectionError::Send)?;
            headers::remove_hop_by_hop(response.headers_mut());
            (response, Some(permit))
        };
        *response.version_mut() = Version::HTTP_11;
        Ok((response, permit))
    }

    /// The upstream, looked up again only when the own credentials have changed: then the next
    /// request goes over a new connection, and the old one finishes what it carries.
    fn host(&self) -> Result<Arc<Host>, ConnectionError> {
        let credentials = self.outbound.dialer.credentials()?;
        let mut cached = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((generation, host)) = &*cached
            && *generation == credentials.generation()
        {
            return Ok(Arc::clone(host));
        }
        let endpoint = self.endpoints.first().ok_or(ConnectionError::DestinationRefused)?;
        let host = self.outbound.pool.host(Key::mesh(&credentials, endpoint), || {
            Upstream::Mesh(self.outbound.dialer.clone(), Arc::clone(&self.endpoints))
        });
        *cached = Some((credentials.generation(), Arc::clone(&host)));
        Ok(host)
    }
}
