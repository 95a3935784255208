//! Foreign peers: TLS servers that are no Mantlet, for the outbound side to talk to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{NamedGroup, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::http1::Io;
use crate::pki::TestSvid;
use crate::tls::{AcceptAny, FixedCertificate, certified, provider};
use crate::wait::within;

/// A TLS server with any chain and any ALPN; it asks for a client certificate and accepts every one.
#[derive(Debug)]
pub struct TlsPeer {
    listener: TcpListener,
    config: Arc<ServerConfig>,
}

/// What a client said and presented.
#[derive(Debug)]
pub struct Accepted {
    /// ALPN in the order of the client's offer.
    pub offered: Vec<String>,
    /// The protocol that was chosen, if any.
    pub alpn: Option<String>,
    /// Key exchange groups in the client's order.
    pub groups: Vec<NamedGroup>,
    /// The group that was used.
    pub group: Option<NamedGroup>,
    /// Server name, if the client sent one.
    pub server_name: Option<String>,
    /// The client's chain.
    pub chain: Vec<CertificateDer<'static>>,
    stream: TlsStream<TcpStream>,
}

// === impl TlsPeer ===

impl TlsPeer {
    /// Listens with this identity and these protocols; none means that ALPN is not spoken at all.
    pub async fn start(svid: &TestSvid, alpn: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("free port");
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(Arc::new(AcceptAny { mandatory: true }))
            .with_cert_resolver(Arc::new(FixedCertificate(certified(svid))));
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Self { listener, config: Arc::new(config) }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("bound")
    }

    /// The next connection after its handshake, or why the handshake failed.
    pub async fn try_accept(&self) -> io::Result<Accepted> {
        let (io, _) = within("a connection to the peer", self.listener.accept()).await?;
        let accepting = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io);
        let start = within("a ClientHello", accepting).await?;
        let hello = start.client_hello();
        let offered = hello.alpn().into_iter().flatten().map(text).collect();
        let groups = hello.named_groups().unwrap_or_default().to_vec();
        let server_name = hello.server_name().map(ToOwned::to_owned);
        let stream = within("the TLS handshake", start.into_stream(Arc::clone(&self.config))).await?;
        let tls = stream.get_ref().1;
        Ok(Accepted {
            offered,
            alpn: tls.alpn_protocol().map(text),
            groups,
            group: tls.negotiated_key_exchange_group().map(|group| group.name()),
            server_name,
            chain: tls.peer_certificates().unwrap_or_default().to_vec(),
            stream,
        })
    }

    /// The next connection after its handshake.
    ///
    /// # Panics
    /// When the handshake fails.
    pub async fn accept(&self) -> Accepted {
        let result = self.try_accept().await;
        result.unwrap_or_else(|error| panic!("TLS handshake at the peer: {error}"))
    }
}

// === impl Accepted ===

impl Accepted {
    /// The bytes inside.
    pub fn into_io(self) -> Io {
        Box::new(self.stream)
    }
}

fn text(alpn: &[u8]) -> String {
    String::from_utf8_lossy(alpn).into_owned()
}
