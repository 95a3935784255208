//! An inbound connection once it is known to carry HTTP.

use std::{
    pin::pin,
    sync::{Arc, OnceLock},
};

use http::{HeaderMap, HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use mantlet_id::SpiffeId;

use super::{Inbound, relay};
use crate::{
    authz::{Permit, RequestKind, Session},
    connection::{self, ConnectionError},
    detect::HttpVersion,
    drain::DrainToken,
    http::{
        Body,
        client::{Host, Key, Upstream, in_time},
        headers,
        server::{self, ServeError},
        upgrade::{self, Switch, Switched},
    },
    io::BoxIo,
    lifetime::Lifetime,
    log::{AccessLine, AccessRecord},
    metrics::{CloseReason, Counted, Direction, RequestGuard, RequestMetrics},
    revoke::Revoke,
    vital,
};

/// An inbound connection that carries HTTP.
struct HttpConnection {
    inbound: Arc<Inbound>,
    session: Arc<Session>,
    requests: Arc<RequestMetrics>,
    /// The value of `x-forwarded-client-cert`; none for a caller without identity.
    client_cert: Option<HeaderValue>,
    /// Nothing says what the application speaks: it gets what its caller spoke, as without us.
    direct: bool,
    switch: Switch,
    app_h1: OnceLock<Arc<Host>>,
    app_h2: OnceLock<Arc<Host>>,
}

/// Serves requests until the peer is done, has to leave, or switches to WebSocket.
pub(super) async fn serve(
    inbound: &Arc<Inbound>,
    session: Arc<Session>,
    requests: Arc<RequestMetrics>,
    (client_cert, direct): (Option<HeaderValue>, bool),
    (io, version): (BoxIo, HttpVersion),
    (drain, lifetime): (DrainToken, Lifetime),
) -> Result<CloseReason, ConnectionError> {
    let connection = Arc::new(HttpConnection {
        inbound: Arc::clone(inbound),
        session: Arc::clone(&session),
        requests,
        client_cert,
        direct,
        switch: Switch::default(),
        app_h1: OnceLock::new(),
        app_h2: OnceLock::new(),
    });
    let io = Counted::new(io, inbound.metrics.bytes(Direction::Inbound));
    let (fault, told) = (io.fault(), drain.clone());
    let serving = Arc::clone(&connection);
    let service = move |request| Arc::clone(&serving).request(request);
    let grace_over = || inbound.authorizer.end_unanswered(&session, CloseReason::PeerExpired);
    tokio::select! {
        served = server::serve(io, version, service, inbound.timeouts, drain, lifetime.clone().must_leave()) => {
            ConnectionError::served(served, &fault, told.must_tell())?;
        }
        () = lifetime.clone().over(grace_over) => return Ok(CloseReason::PeerExpired),
    }

    // phase: inbound 10 "WebSocket: HTTP is over, relay what was agreed to" | fails: a side is gone, reset, revoked | close: reset, policy, bundle, peer_expired | metric: mantlet_connections_closed_total
    match connection.switch.switched().await.map_err(|error| ConnectionError::Serve(ServeError(error)))? {
        Some(Switched { permit, downstream, upstream }) => {
            relay(permit, downstream, upstream, lifetime).await
        }
        None => Ok(CloseReason::Eof),
    }
}

// === impl HttpConnection ===

impl HttpConnection {
    /// Answers one request; whatever happens, there is an answer and one count.
    async fn request(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let grpc = headers::is_grpc(&request);
        let mut guard = self.requests.begin(request.method(), grpc);
        vital::test_panic("request");
        let mut line = self.access_line(&request);
        let asks_to_leave = request.version() == Version::HTTP_11 && upgrade::asks(request.headers());
        let revoke = Revoke::current();
        revoke.request_begins();
        let outcome = tokio::select! {
            biased;
            outcome = self.forward(request, &mut guard) => outcome,
            reason = revoke.revoked() => Err(ConnectionError::Revoked(reason)),
        };
        match outcome {
            Ok((response, permit)) => {
                guard.answered(response.status(), response.headers(), response.body().waited());
                if let Some(line) = &mut line {
                    let rule = permit.as_ref().map(|permit| permit.rule().as_str());
                    line.answered(response.status().as_u16(), rule);
                }
                revoke.response_begins(grpc);
                let scope = Box::new((guard, (line, permit)));
                response.map(|body| {
                    let body = if grpc { body.ending_with_trailers(revoke) } else { body };
                    body.with_scope(scope)
                })
            }
            Err(error) => {
                let caller = self.session.caller().id().map(|id| id.as_str());
                self.inbound.metrics.refused(error.limit());
                let id = error.told(
                    self.inbound.authorizer.log(),
                    AccessRecord {
                        direction: "inbound",
                        protocol: "http",
                        peer_id: caller,
                        peer_addr: Some(self.session.client().0),
                        upstream: Some(self.session.orig_dst().0),
                        took: guard.elapsed(),
                        ..AccessRecord::default()
                    },
                );
                let mut response = error.refusal(caller, id).into_response(grpc);
                if asks_to_leave {
                    upgrade::close_after(&mut response);
                }
                guard.answered(response.status(), response.headers(), None);
                revoke.response_begins(true);
                if let Some(line) = &mut line {
                    line.refused(response.status().as_u16(), error.close_reason().as_str(), id);
                }
                response.map(|body| body.with_scope(Box::new((guard, line))))
            }
        }
    }

    /// Most requests are not logged: the line does not take room in all of them.
    fn access_line(&self, request: &Request<Incoming>) -> Option<Box<AccessLine>> {
        let mut line = Box::new(self.inbound.authorizer.log().access_line("inbound", "http")?);
        line.peer(self.session.caller().id().map(SpiffeId::as_str), Some(self.session.client().0));
        line.upstream(self.session.orig_dst().0);
        line.request(request.method().as_str(), request.uri().path());
        Some(line)
    }

    /// What a response carries until its end: the permit, or nothing once the connection has been
    /// switched to WebSocket and the permit with it.
    async fn forward(
        &self,
        request: Request<Incoming>,
        guard: &mut RequestGuard,
    ) -> Result<(Response<Body>, Option<Permit>), ConnectionError> {
        connection::admit(&self.inbound.admission, &self.requests)?;

        // phase: inbound 7 "request: one meaning, or refused; then policy" | fails: malformed, denied | close: denied | metric: mantlet_authz_decisions_total
        let (revoke, stall) = (Revoke::current(), self.inbound.timeouts.stall);
        let request = request.map(|body| Body::from(body).hurried(revoke, stall));
        let mut permitted = self.inbound.authorizer.authorize_request(&self.session, request)?;
        if let Some(route) = permitted.route() {
            guard.route(route.clone());
        }

        // phase: inbound 8 "headers: what we assert is stripped first, then set" | fails: nothing can | close: - | metric: -
        let RequestKind { h2c, websocket, enforced } = permitted.kind();
        let h2c = h2c || (self.direct && permitted.version() == Version::HTTP_2);
        let (version, wire) = headers::upstream_version(permitted.headers_mut(), h2c);
        self.clean(permitted.headers_mut());

        // phase: inbound 9 "forward to the application, in the protocol that the caller's application spoke" | fails: not reachable, reset, too slow | close: connect, reset, timeout | metric: mantlet_upstream_connects_total
        let limit = self.inbound.timeouts.response;
        let (mut response, permit) = if websocket {
            let downstream = permitted.upgrade();
            upgrade::ask(permitted.headers_mut());
            permitted.set_version(Version::HTTP_11);
            // Rare: it does not take room in every request.
            let sent = Box::pin(self.app(HttpVersion::H1).upgrade(permitted));
            let (response, permit) = in_time(limit, sent).await.map_err(ConnectionError::Send)?;
            self.switch.answer(response, permit, downstream, enforced)
        } else {
            permitted.set_version(wire);
            // A future that is handed on takes its size twice, a pointer to it does not.
            let sent = pin!(self.app(version).send(permitted));
            let (mut response, permit) = in_time(limit, sent).await.map_err(ConnectionError::Send)?;
            headers::remove_hop_by_hop(response.headers_mut());
            (response, Some(permit))
        };
        headers::remove_owned(response.headers_mut());
        *response.version_mut() = Version::HTTP_11;
        Ok((response, permit))
    }

    fn clean(&self, headers: &mut HeaderMap) {
        headers::remove_hop_by_hop(headers);
        headers::remove_owned(headers);
        if let Some(client_cert) = &self.client_cert {
            headers.insert(headers::CLIENT_CERT, client_cert.clone());
        }
    }

    /// The application, looked up once a connection and version.
    fn app(&self, version: HttpVersion) -> &Arc<Host> {
        let host = match version {
            HttpVersion::H1 => &self.app_h1,
            HttpVersion::H2 => &self.app_h2,
        };
        host.get_or_init(|| {
            let inbound = &self.inbound;
            let addr = self.session.orig_dst().0;
            inbound
                .pool
                .host(Key::App(addr, version), || Upstream::App(inbound.dialer.clone(), addr, version))
        })
    }
}
