//! Those who have no business here, and go to a sidecar directly: without TLS, without a certificate, and with one
//! from an authority of their own that has taken the trust domain's name.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mantlet_devagent::{Config, Entry, Server};
use mantlet_id::{SpiffeId, TrustDomain};
use mantlet_identity::{Endpoint, ExpectedPeer, IdentitySource, SourceConfig};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::client::PATIENCE;
use super::plan::{PATH, TRUST_DOMAIN};

/// What a stranger shows.
pub(crate) enum Stranger {
    /// Speaks HTTP to a port that wants TLS.
    Plaintext,
    /// Speaks TLS and shows nothing.
    NoCertificate,
    /// Shows this.
    Certificate(Arc<dyn ResolvesClientCert>),
}

/// What a stranger got.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// How it was refused, or what came back instead.
    pub(crate) refused: Result<(), String>,
    /// The certificate that the sidecar showed.
    pub(crate) server: Option<Vec<u8>>,
    pub(crate) took: Duration,
}

// === impl Stranger ===

impl Stranger {
    /// Somebody whose certificate names `id` and is signed by an authority that nobody here knows.
    pub(crate) async fn forger(id: SpiffeId, directory: &Path) -> Result<Self, String> {
        let domain = TrustDomain::parse(TRUST_DOMAIN).map_err(|error| error.to_string())?;
        let socket = directory.join("forger.sock");
        let mut config = Config::new(&socket, domain);
        config.entries.push(Entry::for_pid(id.clone(), std::process::id()));
        let server = Server::bind(config).map_err(|error| error.to_string())?;
        let endpoint =
            Endpoint::parse(&format!("unix://{}", socket.display())).map_err(|error| error.to_string())?;
        let source = IdentitySource::new(SourceConfig::new(endpoint));
        let handle = source.handle();
        let credentials = tokio::select! {
            never = source.run() => match never {},
            ended = server.run(std::future::pending()) => return Err(format!("the forger's authority: {ended:?}")),
            credentials = tokio::time::timeout(PATIENCE, handle.ready()) => {
                credentials.map_err(|late| format!("the forger has no certificate: {late}"))?
            }
        };
        let (config, _) = credentials.client_handshake(ExpectedPeer::one(id), &[]);
        Ok(Self::Certificate(Arc::clone(&config.client_auth_cert_resolver)))
    }

    /// Asks for something at a sidecar's inbound listener.
    pub(crate) async fn knock(self, addr: SocketAddr) -> Outcome {
        let begin = Instant::now();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let seen = Arc::new(Seen { provider, certificate: Mutex::new(None) });
        let asking = async {
            match self {
                Self::Plaintext => ask(TcpStream::connect(addr).await?).await,
                Self::NoCertificate => ask(handshake(addr, &seen, None).await?).await,
                Self::Certificate(shown) => ask(handshake(addr, &seen, Some(shown)).await?).await,
            }
        };
        let refused = match tokio::time::timeout(PATIENCE, asking).await {
            // A refusal in TLS is an alert, which plain HTTP sees as bytes that are no HTTP.
            Ok(Ok(bytes)) if !bytes.starts_with(b"HTTP/") => Ok(()),
            Ok(Ok(bytes)) => Err(format!("let in: {}", String::from_utf8_lossy(&bytes).escape_debug())),
            Ok(Err(_)) => Ok(()),
            Err(_) => Err(format!("nothing happened within {} s", PATIENCE.as_secs())),
        };
        let server = seen.certificate.lock().unwrap_or_else(PoisonError::into_inner).take();
        Outcome { refused, server, took: begin.elapsed() }
    }
}

async fn handshake(
    addr: SocketAddr,
    seen: &Arc<Seen>,
    shown: Option<Arc<dyn ResolvesClientCert>>,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&seen.provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(seen) as Arc<dyn ServerCertVerifier>);
    let config = match shown {
        Some(shown) => builder.with_client_cert_resolver(shown),
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(addr).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(ServerName::IpAddress(addr.ip().into()), stream).await
}

/// Sends a request and reads the beginning of what comes. In TLS 1.3 the client is done before the server has
/// judged it, so a refusal comes with the first read.
async fn ask(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) -> io::Result<Vec<u8>> {
    let request = format!("GET {PATH} HTTP/1.1\r\nhost: api.shop\r\n\r\n");
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = vec![0; 256];
    let length = stream.read(&mut answer).await?;
    answer.truncate(length);
    Ok(answer)
}

/// Looks at the server's certificate and believes it: here it is the server that must refuse.
#[derive(Debug)]
struct Seen {
    provider: Arc<CryptoProvider>,
    certificate: Mutex<Option<Vec<u8>>>,
}

// === impl Seen ===

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.certificate.lock().unwrap_or_else(PoisonError::into_inner) = Some(end_entity.to_vec());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
