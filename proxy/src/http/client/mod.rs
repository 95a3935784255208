//! Sending requests upstream over connections that are reused.
//!
//! A [`Pool`] belongs to one worker. A [`Host`] is one upstream of it: the own application in one
//! version of HTTP, or a mesh peer under one own SVID, one expected identity and one trust bundle.
//! When any of those changes the key changes, so a rotation retires connections without closing
//! one: busy ones finish, idle ones are dropped with their host.

mod again;
mod balanced;
mod connection;
mod hosts;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use http::{Request, Response, Version};
use hyper::body::Incoming;
use mantlet_identity::PeerIdentity;
use thiserror::Error;
use tokio::time;

use self::{
    again::{Attempts, Failed, Kept, Wanted},
    connection::{Connection, Connections},
};
pub use self::{
    balanced::{Balanced, Sent},
    connection::Lease,
    hosts::{Key, Pool},
};
use super::{Body, headers};
use crate::{
    authz::{Permit, Permitted},
    detect::HttpVersion,
    directory::{Endpoint, balance::Load},
    io::BoxIo,
    lifetime,
    limits::PENDING_REQUESTS,
    pool::{DialError, Dialer},
    tls::{ALPN_H2, ALPN_HTTP1, Alpn, MeshStream},
    vouch::Vouchers,
};

/// An application may close an idle connection at any moment; one that has been idle so long is
/// not used again.
const APP_IDLE: Duration = Duration::from_secs(3);
/// Shorter than a sidecar keeps its side open, so that the side that opened the connection is the
/// one that closes it and no request crosses a close.
const MESH_IDLE: Duration = Duration::from_secs(10);
/// How long a sidecar that stops keeps an idle HTTP/1 connection of a peer: after that no sidecar sends a
/// request on it any more, and until then one may be on its way.
pub const IDLE_AT_STOP: Duration = Duration::from_secs(11);

/// One upstream.
pub struct Host {
    upstream: Upstream,
    idle_limit: Duration,
    connections: Mutex<Connections>,
    /// Held while a connection is opened that others are going to share; remembers for those who
    /// waited when it failed, and how.
    opening: tokio::sync::Mutex<Option<(Instant, DialError)>>,
    /// Requests that wait for a connection.
    pending: AtomicUsize,
    vouchers: Arc<Vouchers>,
}

/// Counts a request among those that wait, until it is dropped.
struct Pending<'a>(&'a AtomicUsize);

/// How to open a connection.
pub enum Upstream {
    /// To the own application.
    App(Dialer, SocketAddr, HttpVersion),
    /// To a peer.
    Mesh(Dialer, Endpoint),
}

/// A connection that is set aside for one request.
struct Reserved {
    connection: Connection,
    /// It carried requests before, so the upstream may be about to close it.
    reused: bool,
    /// The request's weight on the endpoint.
    load: Option<Load>,
}

/// Why a request got no response.
#[derive(Debug, Error)]
pub enum SendError {
    /// No connection could be opened.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The upstream is connected, but does not speak HTTP.
    #[error("the upstream does not speak HTTP: it chose {0:?}")]
    NotHttp(Alpn),
    /// There was no response in time.
    #[error("no response in {0:?}")]
    NoResponse(Duration),
    /// Too many requests wait for a connection already.
    #[error("too many requests wait for a connection")]
    Busy,
    /// The connection failed under the request.
    #[error("the upstream connection failed")]
    Http(#[source] hyper::Error),
    /// The upstream had not begun to answer when its SVID was long enough past its end.
    #[error("the upstream's identity expired before it answered")]
    PeerExpired,
}

/// Waits for a response as long as `limit` says. Giving up drops the exchange, and with it the
/// stream or the connection that carries it.
///
/// # Errors
/// No response in time, or none at all.
pub async fn in_time<T>(
    limit: Option<Duration>,
    exchange: impl Future<Output = Result<T, SendError>>,
) -> Result<T, SendError> {
    match limit {
        None => exchange.await,
        Some(limit) => match time::timeout(limit, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(SendError::NoResponse(limit)),
        },
    }
}

// === impl Upstream ===

impl Upstream {
    fn dialer(&self) -> &Dialer {
        match self {
            Self::App(dialer, ..) | Self::Mesh(dialer, _) => dialer,
        }
    }
}

// === impl Host ===

impl Host {
    fn new(upstream: Upstream, vouchers: Arc<Vouchers>) -> Self {
        let idle_limit = match upstream {
            Upstream::App(..) => APP_IDLE,
            Upstream::Mesh(..) => MESH_IDLE,
        };
        let (connections, opening) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { upstream, idle_limit, connections, opening, pending: AtomicUsize::new(0), vouchers }
    }

    /// Sends a request that was permitted, and returns the response as soon as its head is there.
    ///
    /// What the upstream has not touched is sent again, on another connection: a request of which nothing was
    /// written, and one that it says it has not processed. So is, once, one without a body and with an
    /// idempotent method (RFC 9110, 9.2.2) when a reused connection fails before the response. Nothing else is.
    ///
    /// # Errors
    /// No connection, or one that failed.
    pub async fn send(
        self: &Arc<Self>,
        permitted: Permitted<Request<Body>>,
    ) -> Result<(Response<Body>, Permit), SendError> {
        let (request, permit) = permitted.into_parts();
        // It is handed on by value, and a future that takes a value has room for it twice.
        let mut request = Box::new(request);
        let (mut attempts, mut wanted) = (Attempts::default(), Wanted::Any);
        loop {
            let reserved = self.reserve(wanted).await?;
            match self.exchange(reserved, request).await {
                Ok(response) => return Ok((response, permit)),
                Err(failed) => (request, wanted) = attempts.next(failed)?,
            }
            self.upstream.dialer().repeated();
        }
    }

    /// Sends a request that asks for another protocol, over an HTTP/1.1 connection of its own: what
    /// follows the answer belongs to nobody else, so the connection is never used again.
    ///
    /// # Errors
    /// No connection, or one that failed.
    pub async fn upgrade(
        self: &Arc<Self>,
        permitted: Permitted<Request<Body>>,
    ) -> Result<(Response<Incoming>, Permit), SendError> {
        let (request, permit) = permitted.into_parts();
        let (response, _) = self.exchange_alone(self.reserve(Wanted::Upgrade).await?, request).await?;
        Ok((response, permit))
    }

    /// Makes a connection that was opened elsewhere one of this host's.
    async fn adopt(self: &Arc<Self>, stream: MeshStream) -> Result<(), SendError> {
        let version = http_version(stream.alpn)?;
        let connection = self.handshake(stream.io, version, Some(stream.peer)).await?;
        Lease::new(self, connection, None).give_back();
        Ok(())
    }

    /// Whether a connection stands that another request can use or share.
    fn is_live(&self) -> bool {
        self.lock().is_live(self.idle_limit, SystemTime::now())
    }

    async fn exchange(
        self: &Arc<Self>,
        reserved: Reserved,
        mut request: Box<Request<Body>>,
    ) -> Result<Response<Body>, Failed> {
        let Reserved { connection, reused, load } = reserved;
        self.fit(&mut request, &connection);
        let kept = Kept::of(&mut request, reused, connection.version());
        let asked = Instant::now();
        match self.answer(connection, request).await {
            Ok((response, connection)) => {
                if let Some(kept) = kept {
                    kept.forget();
                }
                let (lease, waited) = (Lease::new(self, connection, load), asked.elapsed());
                Ok(response.map(|body| Body::from(body).with_wait(waited).with_lease(lease)))
            }
            Err((error, unsent)) => {
                let failed = Failed::new(error, unsent, kept);
                if let (true, false, Upstream::Mesh(_, endpoint)) =
                    (failed.is_farewell(), reused, &self.upstream)
                {
                    endpoint.health.leaves();
                }
                Err(failed)
            }
        }
    }

    /// Sends a request and waits for the answer, for as long as the peer's SVID entitles it to give one.
    async fn answer(
        &self,
        connection: Connection,
        request: Box<Request<Body>>,
    ) -> Result<(Response<Incoming>, Connection), (SendError, Option<Box<Request<Body>>>)> {
        let not_after = connection.not_after();
        tokio::select! {
            biased;
            sent = connection.send(request) => {
                sent.map_err(|(error, unsent)| (SendError::Http(error), unsent))
            }
            () = lifetime::unanswered(not_after, self.vouchers.max_stale()) => {
                Err((SendError::PeerExpired, None))
            }
        }
    }

    /// The connection ends with this exchange.
    async fn exchange_alone(
        &self,
        reserved: Reserved,
        mut request: Request<Body>,
    ) -> Result<(Response<Incoming>, Option<Load>), SendError> {
        let Reserved { connection, load, .. } = reserved;
        self.fit(&mut request, &connection);
        let answer = self.answer(connection, Box::new(request)).await;
        let (response, _never_again) = answer.map_err(|(error, _)| error)?;
        Ok((response, load))
    }

    /// Puts the request in the form of the connection that is going to carry it. The application
    /// gets the version that the request says; on the mesh hop the connection decides.
    fn fit(&self, request: &mut Request<Body>, connection: &Connection) {
        let (version, wire) = match (connection.version(), &self.upstream) {
            (HttpVersion::H2, _) => (HttpVersion::H2, Version::HTTP_2),
            (HttpVersion::H1, Upstream::App(..)) => (HttpVersion::H1, request.version()),
            (HttpVersion::H1, Upstream::Mesh(..)) => (HttpVersion::H1, Version::HTTP_11),
        };
        headers::place_authority(request, version, wire);
        if version == HttpVersion::H1 {
            headers::frame_body(request);
        }
        connection.pace(request.body_mut());
    }

    async fn reserve(self: &Arc<Self>, wanted: Wanted) -> Result<Reserved, SendError> {
        match wanted {
            Wanted::Any => self.any().await,
            Wanted::Fresh => self.fresh(&[ALPN_H2, ALPN_HTTP1]).await,
            Wanted::Upgrade => self.fresh(&[ALPN_HTTP1]).await,
        }
    }

    /// A connection that stands, or a new one.
    async fn any(self: &Arc<Self>) -> Result<Reserved, SendError> {
        if let Some(reserved) = self.take() {
            return Ok(reserved);
        }
        let offer: &[&[u8]] = &[ALPN_H2, ALPN_HTTP1];
        let _pending = Pending::among(&self.pending)?;
        if self.lock().speaks == Some(HttpVersion::H1) {
            return self.fresh(offer).await;
        }
        // The first one opens, the others wait and share: the connection, or that there is none.
        let asked = Instant::now();
        let mut turn = self.opening.lock().await;
        if let Some(reserved) = self.take() {
            return Ok(reserved);
        }
        if let Some((failed, error)) = &*turn
            && *failed >= asked
        {
            return Err(SendError::Dial(error.copy()));
        }
        let opened = self.fresh(offer).await;
        *turn = match &opened {
            Err(SendError::Dial(error)) => Some((Instant::now(), error.copy())),
            _ => None,
        };
        opened
    }

    /// A connection that no request was sent on.
    async fn fresh(self: &Arc<Self>, offer: &[&[u8]]) -> Result<Reserved, SendError> {
        let load = self.load();
        // Most requests open nothing: what opening needs room for is not part of every request.
        let connection = Box::pin(self.open(offer)).await?;
        Ok(Reserved { connection, reused: false, load })
    }

    fn take(&self) -> Option<Reserved> {
        let connection = self.lock().take(self.idle_limit, SystemTime::now())?;
        Some(Reserved { connection, reused: true, load: self.load() })
    }

    fn load(&self) -> Option<Load> {
        match &self.upstream {
            Upstream::App(..) => None,
            Upstream::Mesh(_, endpoint) => Some(endpoint.health.carry()),
        }
    }

    async fn open(self: &Arc<Self>, offer: &[&[u8]]) -> Result<Connection, SendError> {
        match &self.upstream {
            Upstream::App(dialer, addr, version) => {
                let tcp = dialer.plain(*addr).await?;
                dialer.reads_steadily(&tcp);
                self.handshake(Box::new(tcp), *version, None).await
            }
            Upstream::Mesh(dialer, endpoint) => {
                let dialled = dialer.endpoint(endpoint, offer).await;
                if dialled.is_err() {
                    // The port may speak something else by now; the next connection asks again.
                    self.lock().speaks = None;
                }
                let stream = dialled?;
                self.handshake(stream.io, http_version(stream.alpn)?, Some(stream.peer)).await
            }
        }
    }

    async fn handshake(
        &self,
        io: BoxIo,
        version: HttpVersion,
        peer: Option<Arc<PeerIdentity>>,
    ) -> Result<Connection, SendError> {
        let not_after = peer.as_ref().map(|peer| peer.not_after());
        let io = match peer {
            Some(peer) => Box::new(self.vouchers.stream(io, peer)),
            None => io,
        };
        let slot = self.upstream.dialer().pool_slot();
        let opened = match version {
            HttpVersion::H1 => connection::http1(io, not_after, &slot).await,
            HttpVersion::H2 => connection::http2(io, not_after, &slot).await,
        };
        let connection = opened.map_err(SendError::Http)?;
        let mut connections = self.lock();
        connections.speaks = Some(version);
        connections.share(&connection);
        Ok(connection)
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Pending ===

impl<'a> Pending<'a> {
    fn among(pending: &'a AtomicUsize) -> Result<Self, SendError> {
        let counted = Self(pending);
        match pending.fetch_add(1, Ordering::Relaxed) < PENDING_REQUESTS {
            true => Ok(counted),
            false => Err(SendError::Busy),
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn http_version(alpn: Alpn) -> Result<HttpVersion, SendError> {
    match alpn {
        Alpn::H2 => Ok(HttpVersion::H2),
        Alpn::Http1 | Alpn::None => Ok(HttpVersion::H1),
        Alpn::Tcp => Err(SendError::NotHttp(alpn)),
    }
}
