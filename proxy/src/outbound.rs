//! One connection from the own application to a peer.

mod refused;
mod under_way;

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use http::{Request, Response, Version};
use hyper::body::Incoming;
use mantlet_id::SpiffeId;
use mantlet_identity::PeerIdentity;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
};
use tracing::debug;

use self::under_way::UnderWay;
use crate::{
    activity::{Edge, Outcome, Subject},
    authz::{Authorizer, Permit, Permitted},
    connection::{self, ConnectionError},
    detect,
    directory::{Destination, Directory, EndpointProtocol, Endpoints, Standing, balance::Load, common_id},
    drain::DrainToken,
    forward,
    http::{
        Body, Timeouts,
        client::{Balanced, Pool, Sent, in_time},
        headers,
        server::{self, ServeError},
        upgrade::{self, Switch, Switched},
    },
    io::{BoxIo, Rewind},
    lifetime::Lifetime,
    listener::{Accepted, Admission},
    log::{AccessLine, AccessRecord},
    metrics::{CloseReason, ConnectionGuard, Counted, Direction, Metrics, RequestMetrics, Text, Transport},
    pool::{Dialer, Reached},
    revoke::{Revoke, revocable},
    sys,
    tls::{ALPN_H2, ALPN_HTTP1, ALPN_TCP, Alpn, MeshStream},
    vouch::Vouchers,
};

/// What an outbound listener of one worker needs.
pub struct Outbound {
    /// The process's limits on what comes in.
    pub admission: Arc<Admission>,
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
    endpoints: Endpoints,
    upstream: Balanced,
    requests: Arc<RequestMetrics>,
    peer: Text,
    /// Where requests that the peer carried are counted.
    carried: OnceLock<Arc<Edge>>,
    switch: Switch,
    under_way: Arc<UnderWay>,
    /// The weight of a connection that was switched to WebSocket.
    switched: Mutex<Option<Load>>,
}

/// A response on its way to the application.
struct Forwarded {
    response: Response<Body>,
    /// Nothing once the connection was switched to WebSocket, and the permit with it.
    permit: Option<Permit>,
    /// Who answered.
    addr: SocketAddr,
}

/// Carries one connection from accept to close, and counts it once.
pub async fn serve(outbound: Arc<Outbound>, accepted: Accepted, drain: DrainToken) {
    let mut guard = ConnectionGuard::new(Arc::clone(&outbound.metrics), Direction::Outbound);
    let client = accepted.client;
    let line = outbound.authorizer.log().access_line("outbound", "tcp");
    // As in `inbound::serve`.
    let ended = revocable(async {
        let outcome = connection(&outbound, accepted, drain, &mut guard).await;
        Revoke::current().reason().map_or(outcome, Ok)
    });
    let reason = match ended.await {
        Ok(Ok(reason)) => reason,
        Ok(Err(error)) => {
            debug!(event = "outbound_failed", %client, error = &error as &dyn std::error::Error);
            outbound.metrics.refused(error.limit());
            error.close_reason()
        }
        Err(revoked) => revoked,
    };
    connection::log(line, &guard, reason, None);
    count_connection(&outbound, &guard, reason);
    guard.finish(reason);
}

/// The life of an outbound connection, a phase a paragraph.
async fn connection(
    outbound: &Arc<Outbound>,
    accepted: Accepted,
    drain: DrainToken,
    guard: &mut ConnectionGuard,
) -> Result<CloseReason, ConnectionError> {
    let Accepted { tcp, orig_dst, place: _counted, .. } = accepted;

    // phase: outbound 1 "where to, whom to expect, how to speak" | fails: not redirected, the sidecar itself, destination refused | close: not_redirected, loop, denied | metric: mantlet_connections_closed_total
    let destination = outbound.directory.resolve(orig_dst?).await;
    let Some(permit) = outbound.authorizer.permit_destination(&destination) else {
        return Err(refused::tell(outbound, tcp, drain).await);
    };

    let endpoints = &match destination {
        Destination::Mesh(endpoints) => endpoints,
        // phase: outbound 2 "outside the mesh, by declaration: relay" | fails: not reachable, reset | close: connect, timeout, reset | metric: mantlet_upstream_connects_total
        Destination::Passthrough { addr, standing, .. } => {
            let upstream = outbound.dialer.plain(addr).await?;
            guard.opened(Transport::Plaintext, Text::none());
            let app = Counted::new(tcp, outbound.metrics.bytes(Direction::Outbound));
            return passthrough(permit, app, upstream, &standing).await;
        }
        Destination::Refuse => return Err(ConnectionError::DestinationRefused),
    };
    let now = endpoints.current();
    let label = common_id(&now).map_or_else(Text::none, |id| outbound.metrics.peer_label(id.as_str()));

    let protocol = endpoints.protocol();
    if matches!(protocol, EndpointProtocol::Opaque | EndpointProtocol::AskPeer) {
        // HTTP is told why it is not served; an application that may speak anything can only be reset.
        outbound.dialer.credentials().inspect_err(|_| sys::reset_when_dropped(&tcp))?;
    }

    match protocol {
        // phase: outbound 3 "opaque bytes: dial, verify the peer, relay" | fails: not reachable, not the expected peer, reset | close: connect, timeout, tls, reset | metric: mantlet_tls_handshakes_total
        EndpointProtocol::Opaque => {
            let reached = outbound.dialer.mesh(&now, &[ALPN_TCP]).await?;
            guard.opened(Transport::Opaque, label);
            relay(outbound, permit, tcp, reached, endpoints).await
        }
        // phase: outbound 4 "protocol unknown: dial first, offer everything, believe the peer" | fails: as for HTTP and for bytes | close: connect, timeout, tls | metric: mantlet_upstream_connects_total
        EndpointProtocol::AskPeer => {
            let http_connection = HttpConnection::new(outbound, endpoints, label.clone());
            if !http_connection.upstream.is_live()? {
                let reached = outbound.dialer.mesh(&now, &[ALPN_H2, ALPN_HTTP1, ALPN_TCP]).await?;
                if matches!(reached.stream.alpn, Alpn::Tcp | Alpn::None) {
                    guard.opened(Transport::Opaque, label);
                    return relay(outbound, permit, tcp, reached, endpoints).await;
                }
                http_connection.upstream.adopt(reached).await.map_err(ConnectionError::Send)?;
            }
            guard.opened(Transport::Mtls, label);
            http(http_connection, tcp, drain).await
        }
        // phase: outbound 5 "HTTP: serve the application's requests" | fails: broken HTTP, reset | close: eof, protocol, reset, drain | metric: mantlet_http_requests_total
        EndpointProtocol::Http => {
            guard.opened(Transport::Mtls, label.clone());
            http(HttpConnection::new(outbound, endpoints, label), tcp, drain).await
        }
    }
}

/// Counts the edge of a connection; one that carried HTTP is counted by its requests.
fn count_connection(outbound: &Outbound, guard: &ConnectionGuard, reason: CloseReason) {
    let (transport, peer) = guard.transport();
    if transport == Some(Transport::Mtls) {
        return;
    }
    // Whether the peer refused is not told to those who send bytes: a closed connection is all that shows.
    let outcome = Outcome::Ended(reason);
    let mtls = transport == Some(Transport::Opaque);
    let (direction, peer) = (Direction::Outbound, peer.clone());
    let subject = Subject { direction, peer, mtls, layer: "tcp", outcome };
    outbound.authorizer.activity().edges.edge(subject).seen(SystemTime::now());
}

/// Relays to a peer, at most for as long as somebody vouches for it.
async fn relay(
    outbound: &Arc<Outbound>,
    permit: Permit,
    app: TcpStream,
    reached: Reached,
    endpoints: &Endpoints,
) -> Result<CloseReason, ConnectionError> {
    let Reached { stream: MeshStream { io, peer, .. }, load: _load, .. } = reached;
    let lifetime = outbound.lifetime(&peer);
    let _voucher = outbound.vouchers.enter(peer);
    let app = Counted::new(app, outbound.metrics.bytes(Direction::Outbound));
    tokio::select! {
        relayed = forward::tcp(permit, app, io) => {
            relayed.map(|()| CloseReason::Eof).map_err(ConnectionError::Relay)
        }
        () = lifetime.over(|| ()) => Ok(CloseReason::PeerExpired),
        // Who is to be there is somebody else by now, or nobody.
        () = endpoints.standing().over() => Ok(CloseReason::Policy),
    }
}

/// Relays bytes as they are, until one side is gone, or the destination is another.
async fn passthrough<A, B>(
    permit: Permit,
    downstream: A,
    upstream: B,
    standing: &Standing,
) -> Result<CloseReason, ConnectionError>
where
    A: AsyncRead + AsyncWrite + forward::Sever + Unpin,
    B: AsyncRead + AsyncWrite + forward::Sever + Unpin,
{
    tokio::select! {
        relayed = forward::tcp(permit, downstream, upstream) => {
            relayed.map(|()| CloseReason::Eof).map_err(ConnectionError::Relay)
        }
        () = standing.over() => Ok(CloseReason::Policy),
    }
}

async fn http(
    connection: Arc<HttpConnection>,
    mut tcp: TcpStream,
    drain: DrainToken,
) -> Result<CloseReason, ConnectionError> {
    connection.outbound.dialer.reads_steadily(&tcp);
    let seen = detect::read_http_version(&mut tcp).await.map_err(ConnectionError::FirstBytes)?;
    let Some((version, bytes)) = seen else { return Ok(CloseReason::Eof) };
    let io: BoxIo = Box::new(Rewind::new(bytes.freeze(), tcp));
    let io = Counted::new(io, connection.outbound.metrics.bytes(Direction::Outbound));
    let serving = Arc::clone(&connection);
    let service = move |request| Arc::clone(&serving).request(request);
    // The application is not told that the own identity is gone: its requests fail with the reason. A
    // destination that is no longer what it was has to be looked up anew, by another connection.
    let leave = connection.endpoints.over_for_http();
    let (fault, told) = (io.fault(), drain.clone());
    tokio::select! {
        served = server::serve(io, version, service, connection.outbound.timeouts, drain, leave) => {
            ConnectionError::served(served, &fault, told.must_tell())?;
        }
        never = connection.end_with_destination() => match never {},
    }

    // phase: outbound 8 "WebSocket: HTTP is over, relay what was agreed to" | fails: a side is gone, reset | close: reset, policy, bundle | metric: mantlet_connections_closed_total
    match connection.switch.switched().await.map_err(|error| ConnectionError::Serve(ServeError(error)))? {
        Some(Switched { permit, downstream, upstream }) => {
            passthrough(permit, downstream, upstream, connection.endpoints.standing()).await
        }
        None => Ok(CloseReason::Eof),
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
    fn new(outbound: &Arc<Outbound>, endpoints: &Endpoints, label: Text) -> Arc<Self> {
        let pool = Arc::clone(&outbound.pool);
        Arc::new(Self {
            outbound: Arc::clone(outbound),
            endpoints: endpoints.clone(),
            upstream: Balanced::new(pool, outbound.dialer.clone(), endpoints.clone()),
            requests: RequestMetrics::new(Arc::clone(&outbound.metrics), Direction::Outbound, label.clone()),
            peer: label,
            carried: OnceLock::new(),
            switch: Switch::default(),
            under_way: Arc::default(),
            switched: Mutex::default(),
        })
    }

    /// Ends the requests under way when the destination is no longer what it was.
    async fn end_with_destination(&self) -> Infallible {
        self.endpoints.standing().over().await;
        self.under_way.end(CloseReason::Policy);
        std::future::pending().await
    }

    /// Answers one request; whatever happens, there is an answer and one count.
    async fn request(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let grpc = headers::is_grpc(&request);
        let mut guard = self.requests.begin(request.method(), grpc);
        let mut line = self.access_line(&request);
        let revoke = Revoke::current();
        let place = self.under_way.enter(revoke.clone());
        revoke.request_begins();
        let outcome = tokio::select! {
            biased;
            outcome = self.forward(request) => outcome,
            reason = revoke.revoked() => Err(ConnectionError::Revoked(reason)),
        };
        match outcome {
            Ok(Forwarded { response, permit, addr }) => {
                guard.answered(response.status(), response.headers(), response.body().waited());
                self.count(Outcome::answered(response.headers().get(headers::DENIED)));
                if let Some(line) = &mut line {
                    line.upstream(addr);
                    line.answered(response.status().as_u16(), None);
                }
                revoke.response_begins(grpc);
                let scope = Box::new((guard, (line, permit, place)));
                response.map(|body| {
                    let body = if grpc { body.ending_with_trailers(revoke) } else { body };
                    body.with_scope(scope)
                })
            }
            Err(error) => {
                self.outbound.metrics.refused(error.limit());
                let id = error.told(
                    self.outbound.authorizer.log(),
                    AccessRecord {
                        direction: "outbound",
                        protocol: "http",
                        peer_id: Some(self.peer.as_str()).filter(|peer| *peer != "-"),
                        took: guard.elapsed(),
                        ..AccessRecord::default()
                    },
                );
                self.count(Outcome::Ended(error.close_reason()));
                // The caller is the application of this pod: it may know what happened.
                let response = error.refusal(Some(""), id).into_response(grpc);
                guard.answered(response.status(), response.headers(), None);
                revoke.response_begins(true);
                if let Some(line) = &mut line {
                    line.refused(response.status().as_u16(), error.close_reason().as_str(), id);
                }
                response.map(|body| body.with_scope(Box::new((guard, line))))
            }
        }
    }

    fn count(&self, outcome: Outcome) {
        let carried = outcome == Outcome::Answered(Ok(()));
        let edge = || {
            let (direction, peer) = (Direction::Outbound, self.peer.clone());
            let subject = Subject { direction, peer, mtls: true, layer: "http", outcome };
            self.outbound.authorizer.activity().edges.edge(subject)
        };
        let now = SystemTime::now();
        if carried { self.carried.get_or_init(edge).seen(now) } else { edge().seen(now) }
    }

    /// Most requests are not logged: the line does not take room in all of them.
    fn access_line(&self, request: &Request<Incoming>) -> Option<Box<AccessLine>> {
        let mut line = Box::new(self.outbound.authorizer.log().access_line("outbound", "http")?);
        let endpoints = self.endpoints.current();
        line.peer(common_id(&endpoints).map(SpiffeId::as_str), None);
        if let [only] = endpoints.as_slice() {
            line.upstream(only.addr);
        }
        line.request(request.method().as_str(), request.uri().path());
        Some(line)
    }

    fn permit(&self, request: Request<Incoming>) -> Option<Permitted<Request<Body>>> {
        let mut request = request.map(Body::from);
        headers::remove_owned(request.headers_mut());
        let destination = Destination::Mesh(self.endpoints.clone());
        self.outbound.authorizer.permit_request(&destination, request)
    }

    async fn forward(&self, request: Request<Incoming>) -> Result<Forwarded, ConnectionError> {
        connection::admit(&self.outbound.admission, &self.requests)?;

        // phase: outbound 6 "request: strip what belongs to this hop, say what the application spoke" | fails: the destination is another by now | close: policy | metric: -
        if self.endpoints.standing().is_over() {
            return Err(ConnectionError::Revoked(CloseReason::Policy));
        }
        let spoken = headers::proto(request.version());
        let mut permitted = self.permit(request).ok_or(ConnectionError::DestinationRefused)?;
        headers::remove_hop_by_hop(permitted.headers_mut());
        permitted.headers_mut().insert(headers::PROTO, spoken);

        // phase: outbound 7 "send over a connection to the expected peer" | fails: not reachable, not the expected peer, reset | close: connect, timeout, tls, reset | metric: mantlet_tls_handshakes_total
        let limit = self.outbound.timeouts.response;
        let (mut response, permit, addr) = if permitted.kind().websocket {
            let (downstream, enforced) = (permitted.upgrade(), permitted.kind().enforced);
            upgrade::ask(permitted.headers_mut());
            // Rare: it does not take room in every request.
            let sent = in_time(limit, Box::pin(self.upstream.upgrade(permitted))).await;
            let (Sent { response, permit, addr }, load) = sent.map_err(ConnectionError::Send)?;
            *self.switched.lock().unwrap_or_else(PoisonError::into_inner) = load;
            let (response, permit) = self.switch.answer(response, permit, downstream, enforced);
            (response, permit, addr)
        } else {
            // A future that is handed on takes its size twice, a pointer to it does not.
            let sent = pin!(self.upstream.send(permitted));
            let sent = in_time(limit, sent).await;
            let Sent { mut response, permit, addr } = sent.map_err(ConnectionError::Send)?;
            headers::remove_hop_by_hop(response.headers_mut());
            (response, Some(permit), addr)
        };
        *response.version_mut() = Version::HTTP_11;
        Ok(Forwarded { response, permit, addr })
    }
}
