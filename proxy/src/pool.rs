//! Dialling: the one place that opens connections, to peers and to the own application.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use mantlet_identity::{Credentials, HandshakeReason, IdentityHandle};
use thiserror::Error;
use tokio::{net::TcpStream, time};

use crate::{
    directory::Endpoint,
    metrics::{ConnectResult, Direction, Metrics},
    tls::{self, MeshStream, TlsError},
};

/// Most endpoints that are tried for one connection.
const ATTEMPTS: usize = 3;

/// Opens connections, with deadlines and counted results. Cheap to clone.
#[derive(Clone)]
pub struct Dialer {
    identity: IdentityHandle,
    metrics: Arc<Metrics>,
    connect_timeout: Duration,
    handshake_timeout: Duration,
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
        Self { identity, metrics, connect_timeout, handshake_timeout }
    }

    /// The own credentials of the moment.
    ///
    /// # Errors
    /// [`DialError::NoIdentity`] while there are none that can be used.
    pub fn credentials(&self) -> Result<Arc<Credentials>, DialError> {
        self.identity.credentials().ok_or(DialError::NoIdentity)
    }

    /// Connects to the first of `endpoints` that answers, and does the handshake. An endpoint that
    /// refuses the TCP connection is passed over at once; one that fails the handshake is not:
    /// whoever answers there is the problem, and asking the next would hide it.
    ///
    /// # Errors
    /// The error of the last attempt.
    pub async fn mesh(&self, endpoints: &[Endpoint], offer: &[&[u8]]) -> Result<MeshStream, DialError> {
        let mut last = DialError::NoEndpoint;
        for endpoint in endpoints.iter().take(ATTEMPTS) {
            match self.mesh_endpoint(endpoint, offer).await {
                Err(error @ DialError::Connect { .. }) => last = error,
                answer => return answer,
            }
        }
        Err(last)
    }

    async fn mesh_endpoint(&self, endpoint: &Endpoint, offer: &[&[u8]]) -> Result<MeshStream, DialError> {
        let addr = endpoint.addr;
        let credentials = self.credentials()?;
        let tcp = self.tcp(addr).await?;
        let limit = self.handshake_timeout;
        let handshake = tls::connect(tcp, addr, &credentials, &endpoint.expected, offer, limit).await;
        self.metrics.handshake(Direction::Outbound, handshake.as_ref().err().map(TlsError::reason));
        let result = match &handshake {
            Ok(_) => ConnectResult::Ok,
            Err(TlsError::Timeout(_)) => ConnectResult::Timeout,
            Err(TlsError::Handshake { reason: HandshakeReason::PeerNotExpected, .. }) => {
                ConnectResult::Identity
            }
            Err(TlsError::Handshake { .. }) => ConnectResult::Tls,
        };
        self.metrics.connect(result);
        handshake.map_err(|source| DialError::Tls { addr, source })
    }

    /// Connects to the own application, or to a destination outside the mesh.
    ///
    /// # Errors
    /// The upstream cannot be reached.
    pub async fn plain(&self, addr: SocketAddr) -> Result<TcpStream, DialError> {
        let tcp = self.tcp(addr).await?;
        self.metrics.connect(ConnectResult::Ok);
        Ok(tcp)
    }

    async fn tcp(&self, addr: SocketAddr) -> Result<TcpStream, DialError> {
        let limit = self.connect_timeout;
        let connected = time::timeout(limit, TcpStream::connect(addr)).await;
        match connected.map(|tcp| tcp.and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp))) {
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
