//! Mutual TLS with SPIFFE identities, over tokio-rustls.
//!
//! The whole of what TLS means here (version, groups, verification, no resumption) stands in the
//! `identity` crate; this module drives handshakes with a deadline and names what failed.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use mantlet_identity::{Credentials, ExpectedPeer, HandshakeReason, PeerIdentity};
use rustls::{CipherSuite, CommonState, NamedGroup, ProtocolVersion, pki_types::ServerName};
use thiserror::Error;
use tokio::{net::TcpStream, time};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    io::{BoxIo, Heard},
    listener::Handshakes,
    metrics::{Limit, TlsCipher, TlsGroup, TlsSession, TlsVersion},
};

/// ALPN of HTTP/2 (RFC 9113, 3.1).
pub const ALPN_H2: &[u8] = b"h2";
/// ALPN of HTTP/1.1 (RFC 7301, 6).
pub const ALPN_HTTP1: &[u8] = b"http/1.1";
/// ALPN of opaque bytes between sidecars.
pub const ALPN_TCP: &[u8] = b"mantlet-tcp";

/// Most of a client's hello that is looked at; real ones have less than 2 KiB.
const MAX_HELLO_BYTES: usize = 16 * 1024;
/// How often a hello that has arrived in part is looked at again.
const HELLO_POLL: Duration = Duration::from_millis(5);

/// What both sides agreed to speak inside TLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Alpn {
    /// HTTP/2.
    H2,
    /// HTTP/1.1.
    Http1,
    /// Opaque bytes.
    Tcp,
    /// The peer sent no ALPN at all, or, for a server of another make, chose none.
    None,
}

/// A stream whose other end has proved who it is.
pub struct MeshStream {
    /// The decrypted bytes.
    pub io: BoxIo,
    /// Who is at the other end.
    pub peer: Arc<PeerIdentity>,
    /// What is spoken on it.
    pub alpn: Alpn,
    /// What both sides agreed on.
    pub session: TlsSession,
}

/// Why there is no [`MeshStream`].
#[derive(Debug, Error)]
pub enum TlsError {
    /// The handshake was not done in time.
    #[error("TLS handshake not finished in {0:?}")]
    Timeout(Duration),
    /// The peer ended the connection before it said anything: as a server nobody is at home behind that socket,
    /// as a client it only looked whether anybody is at home here.
    #[error("closed before the TLS handshake")]
    Silent(#[source] io::Error),
    /// The handshake was refused, by us or by the peer.
    #[error("TLS handshake failed: {}", reason.as_str())]
    Handshake {
        /// The reason, one of the closed vocabulary.
        reason: HandshakeReason,
        /// What the TLS library said.
        #[source]
        source: io::Error,
    },
}

/// Does the server side: the client must prove an identity of a trusted domain.
///
/// # Errors
/// No handshake within `limit`, or one that failed.
pub async fn accept(
    tcp: TcpStream,
    credentials: &Arc<Credentials>,
    offer: &[&[u8]],
    limit: Duration,
    handshakes: &Handshakes,
) -> Result<MeshStream, TlsError> {
    let mut silent = true;
    let accepted = deadline(limit, async {
        // Until it speaks, a connection is a socket and a timer: whoever opens thousands and says nothing must not
        // make us hold the state of as many handshakes.
        if tcp.peek(&mut [0]).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        silent = false;
        let (config, handshake) = credentials.server_handshake(offer);
        let handshaking = Box::pin(TlsAcceptor::from(config).accept(tcp));
        let stream = handshakes.carry(handshaking).await.unwrap_or_else(|| Err(displaced()))?;
        Ok((stream, handshake))
    })
    .await;
    let (stream, handshake) = accepted.map_err(|error| error.of(silent))?;
    let connection = stream.get_ref().1;
    let alpn = Alpn::of(connection.alpn_protocol());
    let session = session(connection);
    let peer = handshake.verified(connection).ok_or_else(unverified)?;
    Ok(MeshStream { io: Box::new(stream), peer: Arc::new(peer), alpn, session })
}

/// Does the client side: the server must prove an identity that `expected` admits. Names play no
/// part: the address is only where to, never who.
///
/// # Errors
/// No handshake within `limit`, or one that failed.
pub async fn connect(
    tcp: TcpStream,
    addr: SocketAddr,
    credentials: &Arc<Credentials>,
    expected: &ExpectedPeer,
    offer: &[&[u8]],
    limit: Duration,
) -> Result<MeshStream, TlsError> {
    let (config, handshake) = credentials.client_handshake(expected.clone(), offer);
    let name = ServerName::IpAddress(addr.ip().into());
    let connecting = TlsConnector::from(config).connect(name, Heard::new(tcp)).into_fallible();
    let mut silent = false;
    let stream = deadline(limit, async {
        connecting.await.map_err(|(error, io)| {
            silent = !io.has_spoken();
            error
        })
    })
    .await;
    let stream = stream.map_err(|error| error.of(silent))?;
    let connection = stream.get_ref().1;
    let alpn = Alpn::of(connection.alpn_protocol());
    let session = session(connection);
    let peer = handshake.verified(connection).ok_or_else(unverified)?;
    Ok(MeshStream { io: Box::new(stream), peer: Arc::new(peer), alpn, session })
}

/// Whether the client's hello offers one of our protocols: then it is a peer, and not an application
/// that does TLS of its own. Nothing is consumed. A hello with a post-quantum key share spans two
/// segments, so one look is not enough.
///
/// # Errors
/// The connection broke.
pub async fn offers_mesh(tcp: &TcpStream) -> io::Result<bool> {
    let mut seen = vec![0; MAX_HELLO_BYTES];
    let mut known = 0;
    loop {
        let length = tcp.peek(&mut seen).await?;
        if length > known {
            known = length;
            let mut acceptor = rustls::server::Acceptor::default();
            let mut hello = seen.get(..length).unwrap_or_default();
            acceptor.read_tls(&mut hello)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    let offered = accepted.client_hello().alpn();
                    let ours = [ALPN_H2, ALPN_HTTP1, ALPN_TCP];
                    return Ok(offered.is_some_and(|mut offered| offered.any(|alpn| ours.contains(&alpn))));
                }
                Ok(None) if length < MAX_HELLO_BYTES => {}
                Ok(None) | Err(_) => return Ok(false),
            }
        } else if length == 0 {
            return Ok(false);
        } else {
            // Readable all the time, because nothing is consumed: give the rest a moment to arrive.
            time::sleep(HELLO_POLL).await;
        }
    }
}

/// The error of a handshake that newer ones have displaced, in the form that tells the limit.
fn displaced() -> io::Error {
    io::Error::new(io::ErrorKind::QuotaExceeded, Limit::Handshakes.as_str())
}

async fn deadline<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> Result<T, TlsError> {
    match time::timeout(limit, work).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(source)) => Err(TlsError::Handshake { reason: HandshakeReason::of_io(&source), source }),
        Err(_) => Err(TlsError::Timeout(limit)),
    }
}

/// What was agreed on, in words that cannot grow in number.
fn session(connection: &CommonState) -> TlsSession {
    TlsSession {
        version: match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => TlsVersion::Tls13,
            _ => TlsVersion::Other,
        },
        group: match connection.negotiated_key_exchange_group().map(|group| group.name()) {
            Some(NamedGroup::X25519MLKEM768) => TlsGroup::X25519MlKem768,
            Some(NamedGroup::X25519) => TlsGroup::X25519,
            Some(NamedGroup::secp256r1) => TlsGroup::Secp256r1,
            Some(NamedGroup::secp384r1) => TlsGroup::Secp384r1,
            _ => TlsGroup::Other,
        },
        cipher: match connection.negotiated_cipher_suite().map(|suite| suite.suite()) {
            Some(CipherSuite::TLS13_AES_128_GCM_SHA256) => TlsCipher::Aes128Gcm,
            Some(CipherSuite::TLS13_AES_256_GCM_SHA384) => TlsCipher::Aes256Gcm,
            Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256) => TlsCipher::ChaCha20Poly1305,
            _ => TlsCipher::Other,
        },
    }
}

/// Cannot happen while the verifier of the `identity` crate is in place; if it ever is not, this
/// fails closed.
fn unverified() -> TlsError {
    let source = io::Error::other("handshake without a verified peer");
    TlsError::Handshake { reason: HandshakeReason::of_io(&source), source }
}

// === impl Alpn ===

impl Alpn {
    fn of(protocol: Option<&[u8]>) -> Self {
        match protocol {
            Some(ALPN_H2) => Self::H2,
            Some(ALPN_HTTP1) => Self::Http1,
            Some(ALPN_TCP) => Self::Tcp,
            // rustls refuses a protocol that was not offered, so anything else is none.
            _ => Self::None,
        }
    }
}

// === impl TlsError ===

impl TlsError {
    /// The same, of a peer that was `silent` to the end.
    fn of(self, silent: bool) -> Self {
        match self {
            Self::Handshake { source, .. } if silent => Self::Silent(source),
            error => error,
        }
    }

    /// The reason as the handshake metric and the log say it.
    #[must_use]
    pub fn reason(&self) -> HandshakeReason {
        match self {
            Self::Timeout(_) => HandshakeReason::Timeout,
            Self::Silent(_) => HandshakeReason::Io,
            Self::Handshake { reason, .. } => *reason,
        }
    }
}
