//! rustls clients that present any chain, offer any ALPN and judge nothing about the server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, ClientConfig, NamedGroup};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{HttpClient, try_connect};
use crate::apps::Protocol;
use crate::http1::Io;
use crate::pki::TestSvid;
use crate::tls::{AcceptAny, FixedCertificate, certified, provider};
use crate::wait::within;

/// How a client introduces itself.
#[derive(Clone, Debug, Default)]
pub struct TlsClient {
    svid: Option<TestSvid>,
    alpn: Vec<Vec<u8>>,
    groups: Option<Vec<NamedGroup>>,
}

/// An established connection and what was negotiated on it.
#[derive(Debug)]
pub struct Session {
    /// The protocol that was chosen, if any.
    pub alpn: Option<String>,
    /// The key exchange group.
    pub group: Option<NamedGroup>,
    /// Whether the first flight had to be repeated for another group.
    pub retried: bool,
    /// The chain that the server presented.
    pub chain: Vec<CertificateDer<'static>>,
    stream: TlsStream<TcpStream>,
    tickets: Arc<TicketCounter>,
}

#[derive(Debug, Default)]
struct TicketCounter(AtomicUsize);

/// A ClientHello of a client that knows TLS 1.2 and nothing newer, as a record.
pub fn client_hello_of_tls12() -> Vec<u8> {
    let mut extensions = Vec::new();
    let mut extension = |id: u16, content: &[u8]| {
        extensions.extend(id.to_be_bytes());
        extensions.extend((content.len() as u16).to_be_bytes());
        extensions.extend(content);
    };
    extension(10, &[0, 4, 0, 23, 0, 29]); // supported_groups: secp256r1, x25519
    extension(11, &[1, 0]); // ec_point_formats: uncompressed
    extension(13, &[0, 4, 4, 3, 8, 4]); // signature_algorithms: ECDSA P-256, RSA-PSS
    extension(23, &[]); // extended_master_secret

    let mut body = vec![3, 3];
    body.extend([7; 32]); // random
    body.push(0); // no session id
    body.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2f]); // two ECDHE-AES-GCM suites of TLS 1.2
    body.extend([1, 0]); // no compression
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);

    let mut handshake = vec![1, 0];
    handshake.extend((body.len() as u16).to_be_bytes());
    handshake.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend((handshake.len() as u16).to_be_bytes());
    record.extend(handshake);
    record
}

// === impl TlsClient ===

impl TlsClient {
    /// A client with this identity, conforming or not, and no ALPN.
    pub fn new(svid: &TestSvid) -> Self {
        Self { svid: Some(svid.clone()), ..Self::default() }
    }

    /// A client without a certificate.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// The same with these protocols in this order.
    pub fn alpn(mut self, alpn: &[&str]) -> Self {
        self.alpn = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    /// The same with these key exchange groups alone, in this order.
    pub fn groups(mut self, groups: &[NamedGroup]) -> Self {
        self.groups = Some(groups.to_vec());
        self
    }

    /// Connects. In TLS 1.3 the client is done before the server has judged its certificate: success
    /// here is no acceptance.
    pub async fn handshake(&self, addr: SocketAddr) -> io::Result<Session> {
        let tickets = Arc::new(TicketCounter::default());
        let connector = TlsConnector::from(Arc::new(self.config(&tickets)));
        let name = ServerName::try_from("peer.invalid").expect("a name");
        // A refusal may reach us before the connection is known to be there.
        let io = try_connect(addr).await?;
        let stream = within("the TLS handshake", connector.connect(name, io)).await?;
        let tls = stream.get_ref().1;
        Ok(Session {
            alpn: tls.alpn_protocol().map(|alpn| String::from_utf8_lossy(alpn).into_owned()),
            group: tls.negotiated_key_exchange_group().map(|group| group.name()),
            retried: tls.handshake_kind() == Some(rustls::HandshakeKind::FullWithHelloRetryRequest),
            chain: tls.peer_certificates().unwrap_or_default().to_vec(),
            stream,
            tickets,
        })
    }

    /// Connects and expects to be let in as far as the client can tell.
    ///
    /// # Panics
    /// When the handshake fails.
    pub async fn connect(&self, addr: SocketAddr) -> Session {
        let result = self.handshake(addr).await;
        result.unwrap_or_else(|error| panic!("TLS handshake with {addr}: {error}"))
    }

    /// Connects and expects the server to refuse; gives its alert.
    ///
    /// # Panics
    /// When the server says anything else, or nothing.
    pub async fn refused(&self, addr: SocketAddr) -> AlertDescription {
        let error = match self.handshake(addr).await {
            Err(error) => error,
            Ok(mut session) => {
                let mut byte = [0; 1];
                let read = within("an alert of the server", session.stream.read(&mut byte)).await;
                match read {
                    Err(error) => error,
                    Ok(count) => panic!("let in: {count} bytes instead of an alert"),
                }
            }
        };
        let tls = error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::AlertReceived(alert)) => *alert,
            _ => panic!("an error that is no alert: {error}"),
        }
    }

    /// Connects with the ALPN of this protocol and speaks it.
    pub async fn http(&self, addr: SocketAddr, protocol: Protocol) -> HttpClient {
        let alpn = match protocol {
            Protocol::Http1 => "http/1.1",
            Protocol::H2c => "h2",
        };
        let session = self.clone().alpn(&[alpn]).connect(addr).await;
        assert_eq!(session.alpn.as_deref(), Some(alpn), "the server's choice");
        HttpClient::over(session.into_io(), protocol).await
    }

    fn config(&self, tickets: &Arc<TicketCounter>) -> ClientConfig {
        let mut provider = CryptoProvider::clone(&provider());
        if let Some(groups) = &self.groups {
            let all = rustls::crypto::aws_lc_rs::ALL_KX_GROUPS;
            let find = |group: &NamedGroup| all.iter().copied().find(|known| known.name() == *group);
            provider.kx_groups = groups.iter().map(|group| find(group).expect("a known group")).collect();
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAny::default()));
        let mut config = match &self.svid {
            Some(svid) => builder.with_client_cert_resolver(Arc::new(FixedCertificate(certified(svid)))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config.enable_sni = false;
        config.resumption = Resumption::store(Arc::clone(tickets) as Arc<dyn ClientSessionStore>);
        config
    }
}

// === impl Session ===

impl Session {
    /// The bytes inside.
    pub fn into_io(self) -> Io {
        Box::new(self.stream)
    }

    /// The bytes inside, and a way to count the tickets that come with them.
    pub fn into_io_and_tickets(self) -> (Io, impl Fn() -> usize) {
        let tickets = Arc::clone(&self.tickets);
        (Box::new(self.stream), move || tickets.0.load(Ordering::Relaxed))
    }

    /// The bytes inside as HTTP.
    pub async fn http(self, protocol: Protocol) -> HttpClient {
        HttpClient::over(self.into_io(), protocol).await
    }
}

// === impl TicketCounter ===

impl ClientSessionStore for TicketCounter {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        None
    }
}
