//! One connection from a peer to the own application.

mod requests;

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::BytesMut;
use http::HeaderValue;
use mantlet_identity::PeerIdentity;
use mantlet_policy::PortProtocol;
use tokio::{io::AsyncReadExt, net::TcpStream, sync::watch, time};
use tracing::debug;

use crate::{
    addr::{ClientAddr, OrigDst},
    authz::{Authorizer, Caller, Permit, PortRules, Session},
    connection::{self, ConnectionError},
    detect::{self, Detected, H2_FRAME_HEADER, H2_PREFACE, HttpVersion, Spoken},
    drain::DrainToken,
    forward,
    http::{Timeouts, client::Pool},
    io::{BoxIo, Rewind},
    lifetime::Lifetime,
    limits::FIRST_BYTE,
    listener::{Accepted, Admission, Misdirected},
    metrics::{
        CloseReason, ConnectionGuard, Counted, Direction, HandshakeGuard, Metrics, RequestMetrics, Text,
        Transport,
    },
    pool::Dialer,
    revoke::{Revoke, revocable},
    sys,
    tls::{self, ALPN_H2, ALPN_HTTP1, ALPN_TCP, Alpn, MeshStream, TlsError},
    vital,
    vouch::Vouchers,
};

/// Where every caller is let in, one that is silent for so long waits for the server to speak.
const PERMISSIVE_FIRST_BYTE: Duration = Duration::from_secs(2);
/// The first byte of every TLS record that can begin a handshake (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// What an inbound listener of one worker needs.
pub struct Inbound {
    /// The process's limits on what comes in.
    pub admission: Arc<Admission>,
    /// Judges callers and requests.
    pub authorizer: Arc<Authorizer>,
    /// Opens connections to the application.
    pub dialer: Dialer,
    /// The worker's upstream connections.
    pub pool: Arc<Pool>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The authenticated connections of the worker.
    pub vouchers: Arc<Vouchers>,
    /// A handshake takes no longer.
    pub handshake_timeout: Duration,
    /// How long open work may outlive the peer's SVID.
    pub max_stale_identity: Duration,
    /// How long a request head and an idle connection may take.
    pub timeouts: Timeouts,
    /// True while there is no own identity.
    pub withdrawn: watch::Receiver<bool>,
}

/// How the bytes of an authenticated connection are to be understood.
enum Speak {
    Http(HttpVersion),
    /// HTTP, and the first bytes tell which: the peer sent no ALPN.
    HttpByPreface,
    Opaque,
    /// Nobody has said: audit, on a port without a rule.
    Undeclared,
}

/// What came of a connection whose protocol nobody declared.
enum Undeclared {
    Http(BoxIo, HttpVersion),
    Relayed(CloseReason),
}

/// Carries one connection from accept to close, and counts it once.
pub async fn serve(inbound: Arc<Inbound>, accepted: Accepted, drain: DrainToken) {
    let mut guard = ConnectionGuard::new(Arc::clone(&inbound.metrics), Direction::Inbound);
    let client = accepted.client;
    let upstream = accepted.orig_dst.map_or_else(Misdirected::addr, |orig_dst| orig_dst.0);
    let line = inbound.authorizer.log().access_line("inbound", "tcp");
    // Not a variable of its own: a future that is moved before it runs takes its size twice.
    let ended = revocable(async {
        let outcome = connection(&inbound, accepted, drain, &mut guard).await;
        // However it ended, what it ended for is that its right was taken away.
        Revoke::current().reason().map_or(outcome, Ok)
    });
    let reason = match ended.await {
        Ok(Ok(reason)) => reason,
        Ok(Err(error)) => {
            debug!(event = "inbound_failed", %client, error = &error as &dyn std::error::Error);
            inbound.metrics.refused(error.limit());
            error.close_reason()
        }
        Err(revoked) => revoked,
    };
    connection::log(line, &guard, reason, Some((client, upstream)));
    guard.finish(reason);
}

/// The life of an inbound connection, a phase a paragraph. What comes after the handshake is boxed: a connection
/// that never gets there does not pay for it.
async fn connection(
    inbound: &Arc<Inbound>,
    accepted: Accepted,
    drain: DrainToken,
    guard: &mut ConnectionGuard,
) -> Result<CloseReason, ConnectionError> {
    let Accepted { tcp, client, orig_dst, place: _counted } = accepted;

    // phase: inbound 1 "where to, and what that port speaks" | fails: not redirected, the sidecar itself, no own identity | close: not_redirected, loop, withdrawn | metric: mantlet_connections_closed_total
    let orig_dst = orig_dst?;
    let rules = inbound.authorizer.port(orig_dst.0.port());
    if rules.protocol == PortProtocol::Http {
        inbound.dialer.reads_steadily(&tcp);
    }
    // To be told that the connection was refused, the caller needs a reset.
    let credentials = inbound.dialer.credentials().inspect_err(|_| sys::reset_when_dropped(&tcp))?;

    // phase: inbound 2 "first byte, on a port that accepts plaintext" | fails: silence, early close | close: timeout, eof | metric: mantlet_connections_closed_total
    if rules.plaintext && !begins_mesh(&tcp, rules.permissive).await? {
        return Box::pin(plaintext(inbound, (tcp, client, orig_dst), rules, drain, guard)).await;
    }

    // phase: inbound 3 "TLS handshake" | fails: no certificate, wrong authority, no common protocol, too slow, reset; a look without a word | close: tls, timeout, reset, eof | metric: mantlet_tls_handshakes_total
    let handshake = HandshakeGuard::new(&inbound.metrics, Direction::Inbound);
    let stream = tls::accept(
        tcp,
        &credentials,
        offer(rules.protocol, rules.enforced),
        inbound.handshake_timeout,
        inbound.admission.handshakes(),
    )
    .await;
    handshake.finish(stream.as_ref().map(|stream| stream.session).map_err(TlsError::reason));
    let MeshStream { io, peer, alpn, .. } = stream.map_err(ConnectionError::Tls)?;

    // phase: inbound 4 "who is calling" | fails: nothing can | close: - | metric: mantlet_connections_opened_total
    let client_cert = client_cert(credentials.id().as_str(), &peer);
    let lifetime = inbound.lifetime(Some(peer.not_after()));
    let _voucher = inbound.vouchers.enter(Arc::clone(&peer));
    let label = inbound.metrics.peer_label(peer.id().as_str());
    let session = inbound.authorizer.session(Caller::Peer(peer), client, orig_dst, label.clone());
    let speak = Speak::on(&rules, alpn);
    guard.opened(speak.transport(), label.clone());

    // phase: inbound 5 "opaque bytes: authorize, connect, relay" | fails: denied, application not reachable, reset | close: denied, connect, reset, policy, bundle | metric: mantlet_authz_decisions_total
    let direct = matches!(speak, Speak::Undeclared);
    let io = match speak {
        Speak::Opaque => return Box::pin(opaque(inbound, &session, io, lifetime)).await,
        // In audit, a port without a rule must work as it would without us.
        Speak::Undeclared => match Box::pin(undeclared(inbound, &session, io, &lifetime)).await? {
            Undeclared::Http(io, version) => (io, version),
            Undeclared::Relayed(reason) => return Ok(reason),
        },
        Speak::Http(version) => (io, version),
        Speak::HttpByPreface => match Box::pin(by_preface(io)).await? {
            Some(known) => known,
            None => return Ok(CloseReason::Eof),
        },
    };

    // phase: inbound 6 "HTTP: serve requests until the peer is done" | fails: broken HTTP, reset, revoked | close: eof, protocol, reset, policy, bundle, drain | metric: mantlet_http_requests_total
    vital::test_panic("connection");
    let requests = RequestMetrics::new(Arc::clone(&inbound.metrics), Direction::Inbound, label);
    Box::pin(requests::serve(inbound, session, requests, (client_cert, direct), io, (drain, lifetime))).await
}

/// Whether a connection on a port that accepts plaintext is one of the mesh all the same. Nothing is
/// consumed, so TLS sees its own first byte. Where every caller is let in, one that says nothing (the
/// server speaks first) or does TLS of its own is let in too.
async fn begins_mesh(tcp: &TcpStream, permissive: bool) -> Result<bool, ConnectionError> {
    let mut first = [0];
    let look = async {
        match tcp.peek(&mut first).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ if first != [TLS_HANDSHAKE] => Ok(false),
            _ if permissive => tls::offers_mesh(tcp).await,
            _ => Ok(true),
        }
    };
    let limit = if permissive { PERMISSIVE_FIRST_BYTE } else { FIRST_BYTE };
    match time::timeout(limit, look).await {
        Err(_) if permissive => Ok(false),
        looked => looked
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(ConnectionError::FirstBytes),
    }
}

/// A caller without identity, on a port whose policy names its address.
async fn plaintext(
    inbound: &Arc<Inbound>,
    (tcp, client, orig_dst): (TcpStream, ClientAddr, OrigDst),
    rules: PortRules,
    drain: DrainToken,
    guard: &mut ConnectionGuard,
) -> Result<CloseReason, ConnectionError> {
    let caller = Caller::Plaintext(client.0.ip());
    let session = inbound.authorizer.session(caller, client, orig_dst, Text::none());
    let _voucher = inbound.vouchers.enter_plaintext();
    guard.opened(Transport::Plaintext, Text::none());
    let lifetime = inbound.lifetime(None);
    let io = match rules.protocol {
        PortProtocol::Opaque => return opaque(inbound, &session, tcp, lifetime).await,
        PortProtocol::None if !rules.enforced => {
            match undeclared(inbound, &session, Box::new(tcp), &lifetime).await? {
                Undeclared::Http(io, version) => (io, version),
                Undeclared::Relayed(reason) => return Ok(reason),
            }
        }
        _ => match by_preface(Box::new(tcp)).await? {
            Some(known) => known,
            None => return Ok(CloseReason::Eof),
        },
    };
    let requests = RequestMetrics::new(Arc::clone(&inbound.metrics), Direction::Inbound, Text::none());
    let direct = rules.protocol == PortProtocol::None;
    requests::serve(inbound, session, requests, (None, direct), io, (drain, lifetime)).await
}

async fn opaque<T>(
    inbound: &Arc<Inbound>,
    session: &Arc<Session>,
    io: T,
    lifetime: Lifetime,
) -> Result<CloseReason, ConnectionError>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + forward::Sever + Unpin,
{
    let permit = inbound.authorizer.authorize_connection(session)?;
    let app = inbound.dialer.plain(session.orig_dst().0).await?;
    let io = Counted::new(io, inbound.metrics.bytes(Direction::Inbound));
    relay(permit, io, app, lifetime).await
}

/// Whoever speaks first decides, and there is no timer: the application is connected at once. If it
/// speaks first, or the client says something that is not HTTP, the bytes are relayed. A server of
/// HTTP/2 may greet before it is asked; that is not speaking first, and the client decides.
async fn undeclared(
    inbound: &Arc<Inbound>,
    session: &Arc<Session>,
    mut io: BoxIo,
    lifetime: &Lifetime,
) -> Result<Undeclared, ConnectionError> {
    let app = inbound.dialer.plain(session.orig_dst().0).await?;
    let (mut seen, mut first) = (BytesMut::with_capacity(H2_PREFACE.len()), [0; H2_FRAME_HEADER]);
    let mut greeted = false;
    loop {
        tokio::select! {
            peeked = app.peek(&mut first), if !greeted => {
                greeted = peeked.is_ok_and(|n| n == first.len()) && detect::begins_as_h2_server(&first);
                if !greeted {
                    break;
                }
            }
            read = io.read_buf(&mut seen) => {
                let ended = read.map_err(ConnectionError::FirstBytes)? == 0;
                match detect::spoken(&seen) {
                    Detected::Known(Spoken::Http(version)) => {
                        return Ok(Undeclared::Http(Box::new(Rewind::new(seen.freeze(), io)), version));
                    }
                    Detected::NeedMore if !ended => {}
                    _ => break,
                }
            }
        }
    }
    let permit = inbound.authorizer.authorize_connection(session)?;
    let io = Rewind::new(seen.freeze(), io);
    let io = Counted::new(io, inbound.metrics.bytes(Direction::Inbound));
    relay(permit, io, app, lifetime.clone()).await.map(Undeclared::Relayed)
}

async fn relay<A, B>(
    permit: Permit,
    downstream: A,
    upstream: B,
    lifetime: Lifetime,
) -> Result<CloseReason, ConnectionError>
where
    A: tokio::io::AsyncRead + tokio::io::AsyncWrite + forward::Sever + Unpin,
    B: tokio::io::AsyncRead + tokio::io::AsyncWrite + forward::Sever + Unpin,
{
    tokio::select! {
        relayed = forward::tcp(permit, downstream, upstream) => {
            relayed.map(|()| CloseReason::Eof).map_err(ConnectionError::Relay)
        }
        () = lifetime.over(|| ()) => Ok(CloseReason::PeerExpired),
    }
}

async fn by_preface(mut io: BoxIo) -> Result<Option<(BoxIo, HttpVersion)>, ConnectionError> {
    let seen = detect::read_http_version(&mut io).await.map_err(ConnectionError::FirstBytes)?;
    Ok(seen.map(|(version, bytes)| -> (BoxIo, _) { (Box::new(Rewind::new(bytes.freeze(), io)), version) }))
}

/// What is offered to a peer, by what the rules make of the port. The server's order decides: a
/// port without a rule answers in HTTP where it can, so that the refusal can say why; in audit it
/// must not change what the application would have seen, so bytes come first.
fn offer(protocol: PortProtocol, enforced: bool) -> &'static [&'static [u8]] {
    match protocol {
        PortProtocol::Http => &[ALPN_H2, ALPN_HTTP1],
        PortProtocol::Opaque => &[ALPN_TCP],
        PortProtocol::None if enforced => &[ALPN_H2, ALPN_HTTP1, ALPN_TCP],
        PortProtocol::None => &[ALPN_TCP, ALPN_H2, ALPN_HTTP1],
    }
}

/// `By` is who received the call, `URI` who made it, `Hash` which certificate it showed: Envoy's
/// form of the header, so that applications need not learn another.
fn client_cert(own: &str, peer: &PeerIdentity) -> Option<HeaderValue> {
    use std::fmt::Write as _;
    let mut value = format!("By={own};URI={};Hash=", peer.id());
    for byte in peer.leaf_sha256() {
        // Writing to a String cannot fail.
        let _ = write!(value, "{byte:02x}");
    }
    HeaderValue::try_from(value).ok()
}

// === impl Inbound ===

impl Inbound {
    fn lifetime(&self, peer_not_after: Option<SystemTime>) -> Lifetime {
        Lifetime::new(peer_not_after, self.max_stale_identity, self.withdrawn.clone())
    }
}

// === impl Speak ===

impl Speak {
    /// The rules decide between HTTP and bytes; the peer's ALPN only between versions of HTTP.
    fn on(rules: &PortRules, alpn: Alpn) -> Self {
        match (rules.protocol, alpn) {
            (PortProtocol::None, Alpn::Tcp | Alpn::None) if !rules.enforced => Self::Undeclared,
            (PortProtocol::Opaque, _) | (PortProtocol::None, Alpn::Tcp | Alpn::None) => Self::Opaque,
            (_, Alpn::H2) => Self::Http(HttpVersion::H2),
            (_, Alpn::Http1) => Self::Http(HttpVersion::H1),
            (PortProtocol::Http, Alpn::None | Alpn::Tcp) => Self::HttpByPreface,
        }
    }

    fn transport(&self) -> Transport {
        match self {
            Self::Http(_) | Self::HttpByPreface => Transport::Mtls,
            Self::Opaque | Self::Undeclared => Transport::Opaque,
        }
    }
}
