//! Dialling: the one place that opens connections, to peers and to the own application.

use std::{io, net::SocketAddr, os::fd::AsFd, sync::Arc, time::Duration};

use mantlet_identity::{Credentials, ExpectedPeer, HandshakeReason, IdentityHandle};
use thiserror::Error;
use tokio::{net::TcpStream, time};

use crate::{
    directory::{
        Endpoint,
        balance::{self, Load},
    },
    limits::UNSENT_BYTES,
    listener::OwnCalls,
    metrics::{ConnectResult, Direction, HandshakeGuard, Metrics, PoolSlot},
    sys,
    tls::{self, ALPN_H2, Alpn, MeshStream, TlsError},
};

/// Where nothing else is configured.
const DEAD_AFTER: Duration = Duration::from_secs(60);
/// Most endpoints that are tried for one connection.
const ATTEMPTS: usize = 3;

/// The endpoints that were tried for one connection or request.
#[derive(Debug, Default)]
pub struct Tried {
    /// They could not be reached.
    failed: Vec<SocketAddr>,
    /// They were reached and served nothing: another one is better, and they are better than none.
    last: Vec<SocketAddr>,
}

/// Opens connections, with deadlines and counted results. Cheap to clone.
#[derive(Clone)]
pub struct Dialer {
    identity: IdentityHandle,
    metrics: Arc<Metrics>,
    connect_timeout: Duration,
    handshake_timeout: Duration,
    own_calls: Option<Arc<OwnCalls>>,
    dead_after: Duration,
    unacknowledged: Duration,
}

/// A peer that was reached.
pub struct Reached {
    /// The connection to it.
    pub stream: MeshStream,
    /// Which endpoint it is.
    pub addr: SocketAddr,
    /// The connection's weight on the endpoint.
    pub load: Load,
}

/// Why an upstream could not be reached.
#[derive(Debug, Error)]
pub enum DialError {
    /// There is no own identity to connect with.
    #[error("no usable identity")]
    NoIdentity,
    /// The connection was not established in time.
    #[error("no answer from {addr} in {limit:?}")]
    Timeout {
        /// Where it went.
        addr: SocketAddr,
        /// How long it was tried.
        limit: Duration,
    },
    /// The network said no.
    #[error("cannot connect to {addr}")]
    Connect {
        /// Where it went.
        addr: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The peer was reached, but did not prove what it should.
    #[error("cannot speak TLS with {addr}")]
    Tls {
        /// Where it went.
        addr: SocketAddr,
        /// What failed.
        #[source]
        source: TlsError,
    },
    /// The destination has no endpoint.
    #[error("no endpoint")]
    NoEndpoint,
}

fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

// === impl Tried ===

impl Tried {
    /// An endpoint that refused the TCP connection, or reset it before it said anything, is passed
    /// over and the next one tried at once. One that fails the handshake is not: whoever answers
    /// there is the problem, and asking the next would hide it. Nor is one that answers nothing: the
    /// caller has waited long enough.
    ///
    /// # Errors
    /// `error`, when there is nothing left to try.
    pub fn failed(
        &mut self,
        addr: SocketAddr,
        endpoints: &[Endpoint],
        error: DialError,
    ) -> Result<(), DialError> {
        self.failed.push(addr);
        let next = matches!(error, DialError::Connect { .. }) && !error.is_own_fault();
        match next && self.failed.len() < ATTEMPTS && self.pick(endpoints).is_some() {
            true => Ok(()),
            false => Err(error),
        }
    }

    /// An endpoint on whose connection the request was not served: it may be going.
    pub fn served_nothing(&mut self, addr: SocketAddr) {
        self.last.push(addr);
    }

    fn pick<'e>(&self, endpoints: &'e [Endpoint]) -> Option<&'e Endpoint> {
        let others = match self.last.as_slice() {
            [] => None,
            last => balance::pick(endpoints, &[last, &self.failed].concat()),
        };
        others.or_else(|| balance::pick(endpoints, &self.failed))
    }
}

// === impl DialError ===

impl DialError {
    /// The same for another caller who waited for the same attempt.
    #[must_use]
    pub fn copy(&self) -> Self {
        match self {
            Self::NoIdentity => Self::NoIdentity,
            Self::NoEndpoint => Self::NoEndpoint,
            Self::Timeout { addr, limit } => Self::Timeout { addr: *addr, limit: *limit },
            Self::Connect { addr, source } => Self::Connect { addr: *addr, source: copy(source) },
            Self::Tls { addr, source } => {
                let source = match source {
                    TlsError::Timeout(limit) => TlsError::Timeout(*limit),
                    TlsError::Silent(source) => TlsError::Silent(copy(source)),
                    TlsError::Handshake { reason, source } => {
                        TlsError::Handshake { reason: *reason, source: copy(source) }
                    }
                };
                Self::Tls { addr: *addr, source }
            }
        }
    }

    /// Whether it says something about this process and nothing about the endpoint.
    fn is_own_fault(&self) -> bool {
        use rustix::io::Errno;
        let own = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
        match self {
            Self::NoIdentity | Self::NoEndpoint => true,
            Self::Connect { source, .. } => {
                Errno::from_io_error(source).is_some_and(|errno| own.contains(&errno))
            }
            Self::Timeout { .. } | Self::Tls { .. } => false,
        }
    }
}

// === impl Dialer ===

impl Dialer {
    /// A dialler that presents the own identity of the moment.
    #[must_use]
    pub fn new(
        identity: IdentityHandle,
        metrics: Arc<Metrics>,
        connect_timeout: Duration,
        handshake_timeout: Duration,
    ) -> Self {
        let (own_calls, dead_after, unacknowledged) = (None, DEAD_AFTER, DEAD_AFTER);
        Self { identity, metrics, connect_timeout, handshake_timeout, own_calls, dead_after, unacknowledged }
    }

    /// The same, and what goes to the own pod goes to its own inbound side.
    #[must_use]
    pub fn with_own_calls(self, own_calls: Option<Arc<OwnCalls>>) -> Self {
        Self { own_calls, ..self }
    }

    /// The same, and a host that answers nothing for `dead_after` is gone. One that speaks HTTP takes what is
    /// sent to it; not for `unacknowledged` is the same as gone.
    #[must_use]
    pub fn with_dead_after(self, dead_after: Duration, unacknowledged: Duration) -> Self {
        Self { dead_after, unacknowledged, ..self }
    }

    /// Says of a connection, whoever opened it, that it carries HTTP. Keep-alive alone does not find a host
    /// that vanished while bytes were on their way to it.
    pub fn reads_steadily(&self, tcp: &impl AsFd) {
        // Without it the kernel's own limit holds.
        let _ = sys::acknowledged_within(tcp, self.unacknowledged);
    }

    /// The own credentials of the moment.
    ///
    /// # Errors
    /// [`DialError::NoIdentity`] while there are none that can be used.
    pub fn credentials(&self) -> Result<Arc<Credentials>, DialError> {
        self.identity.credentials().ok_or(DialError::NoIdentity)
    }

    /// Where a connection is counted that carries HTTP.
    #[must_use]
    pub fn pool_slot(&self) -> Arc<PoolSlot> {
        self.metrics.pool_slot()
    }

    /// Counts a request that is sent again.
    pub fn repeated(&self) {
        self.metrics.repeated();
    }

    /// Connects to one of `endpoints`, and does the handshake. One that cannot be reached is passed
    /// over at once, see [`Tried`].
    ///
    /// # Errors
    /// The error of the last attempt.
    pub async fn mesh(&self, endpoints: &[Endpoint], offer: &[&[u8]]) -> Result<Reached, DialError> {
        let mut tried = Tried::default();
        loop {
            let endpoint = self.pick(&tried, endpoints)?;
            let load = endpoint.health.carry();
            match self.endpoint(endpoint, offer).await {
                Ok(stream) => return Ok(Reached { stream, addr: endpoint.addr, load }),
                Err(error) => tried.failed(endpoint.addr, endpoints, error)?,
            }
        }
    }

    /// The endpoint to try next.
    ///
    /// # Errors
    /// There is none: no name of the destination has an address.
    pub fn pick<'e>(&self, tried: &Tried, endpoints: &'e [Endpoint]) -> Result<&'e Endpoint, DialError> {
        tried.pick(endpoints).ok_or_else(|| {
            self.metrics.connect(ConnectResult::Dns);
            DialError::NoEndpoint
        })
    }

    /// Connects to this endpoint, does the handshake, and remembers how it went.
    ///
    /// # Errors
    /// It cannot be reached, or is not who is expected there.
    pub async fn endpoint(&self, endpoint: &Endpoint, offer: &[&[u8]]) -> Result<MeshStream, DialError> {
        let dialled = self.dial(endpoint, offer).await;
        match &dialled {
            Ok(_) => endpoint.health.succeeded(),
            Err(error) if error.is_own_fault() => {}
            Err(_) => {
                if endpoint.health.failed() {
                    self.metrics.ejected();
                }
            }
        }
        dialled
    }

    async fn dial(&self, endpoint: &Endpoint, offer: &[&[u8]]) -> Result<MeshStream, DialError> {
        let addr = endpoint.addr;
        let credentials = self.credentials()?;
        let tcp = match &self.own_calls {
            Some(own) if own.are_to(addr.ip()) => self.tcp(addr, own.connect(addr)).await?,
            _ => self.tcp(addr, TcpStream::connect(addr)).await?,
        };
        // A second descriptor, because the handshake takes the first one along.
        let socket = tcp.as_fd().try_clone_to_owned().ok();
        let limit = self.handshake_timeout;
        let guard = HandshakeGuard::new(&self.metrics, Direction::Outbound);
        let handshake = tls::connect(tcp, addr, &credentials, &endpoint.expected, offer, limit).await;
        guard.finish(handshake.as_ref().map(|stream| stream.session).map_err(TlsError::reason));
        // On the other side of bytes, or of what leaves HTTP, there may be one who pauses.
        let carries_http = offer.contains(&ALPN_H2)
            && handshake.as_ref().is_ok_and(|stream| matches!(stream.alpn, Alpn::H2 | Alpn::Http1));
        if let (true, Some(socket)) = (carries_http, &socket) {
            self.reads_steadily(socket);
        }
        if handshake.is_ok() && matches!(endpoint.expected, ExpectedPeer::AnyIn(_)) {
            self.metrics.unpinned();
        }
        let result = match &handshake {
            Ok(_) => ConnectResult::Ok,
            Err(TlsError::Timeout(_)) => ConnectResult::Timeout,
            Err(TlsError::Handshake { reason: HandshakeReason::PeerNotExpected, .. }) => {
                ConnectResult::Identity
            }
            Err(TlsError::Silent(_) | TlsError::Handshake { reason: HandshakeReason::Io, .. }) => {
                ConnectResult::Error
            }
            Err(TlsError::Handshake { .. }) => ConnectResult::Tls,
        };
        self.metrics.connect(result);
        handshake.map_err(|error| match error {
            TlsError::Silent(source) => DialError::Connect { addr, source },
            source => DialError::Tls { addr, source },
        })
    }

    /// Connects to the own application, or to a destination outside the mesh.
    ///
    /// # Errors
    /// The upstream cannot be reached.
    pub async fn plain(&self, addr: SocketAddr) -> Result<TcpStream, DialError> {
        let tcp = self.tcp(addr, TcpStream::connect(addr)).await?;
        self.metrics.connect(ConnectResult::Ok);
        Ok(tcp)
    }

    async fn tcp(
        &self,
        addr: SocketAddr,
        connecting: impl Future<Output = io::Result<TcpStream>>,
    ) -> Result<TcpStream, DialError> {
        let limit = self.connect_timeout;
        let connected = time::timeout(limit, connecting).await;
        let prepare = |tcp: TcpStream| {
            sys::prepare(&tcp, UNSENT_BYTES)?;
            sys::keep_alive(&tcp, self.dead_after)?;
            Ok(tcp)
        };
        match connected.map(|tcp| tcp.and_then(prepare)) {
            Ok(Ok(tcp)) => Ok(tcp),
            Ok(Err(source)) => {
                let refused = source.kind() == io::ErrorKind::ConnectionRefused;
                self.metrics.connect(if refused { ConnectResult::Refused } else { ConnectResult::Error });
                Err(DialError::Connect { addr, source })
            }
            Err(_) => {
                self.metrics.connect(ConnectResult::Timeout);
                Err(DialError::Timeout { addr, limit })
            }
        }
    }
}
