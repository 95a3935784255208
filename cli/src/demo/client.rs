//! Who calls: the caller's app over plain HTTP to its own sidecar, and a stranger without a
//! certificate who goes to the other's sidecar directly.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Calls through a sidecar, on a connection that it keeps.
pub(crate) struct Client {
    addr: SocketAddr,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) took: Duration,
}

/// What a caller without a certificate got.
#[derive(Debug)]
pub(crate) struct Stranger {
    /// The alert or error that ended it, or what came back instead.
    pub(crate) outcome: Result<rustls::AlertDescription, String>,
    /// The certificate that the sidecar showed.
    pub(crate) server: Option<Vec<u8>>,
    pub(crate) took: Duration,
}

// === impl Client ===

impl Client {
    pub(crate) fn new(addr: SocketAddr) -> Self {
        Self { addr, connection: None }
    }

    /// Sends one request; the answer is complete when this returns.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &'static str)],
    ) -> Result<Reply, String> {
        match tokio::time::timeout(PATIENCE, self.exchange(method, path, headers)).await {
            Ok(reply) => reply,
            Err(_) => {
                self.connection = None;
                Err(format!("no answer within {} s", PATIENCE.as_secs()))
            }
        }
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &'static str)],
    ) -> Result<Reply, String> {
        let begin = Instant::now();
        let mut sender = match self.kept().await {
            Some(kept) => kept,
            None => self.connect().await.map_err(|error| format!("cannot connect: {error}"))?,
        };
        let mut request = Request::builder().method(method).uri(path).header("host", "api.shop");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::new()).map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| format!("no answer: {error}"))?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| format!("answer cut off: {error}"))?.to_bytes();
        self.connection = Some(sender);
        Ok(Reply { status: parts.status, headers: parts.headers, body, took: begin.elapsed() })
    }

    /// The connection of the last request, if the other side has not closed it.
    async fn kept(&mut self) -> Option<SendRequest<Empty<Bytes>>> {
        let mut kept = self.connection.take()?;
        kept.ready().await.ok().map(|()| kept)
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        sender.ready().await?;
        Ok(sender)
    }
}

// === impl Stranger ===

impl Stranger {
    /// Speaks TLS 1.3 to a sidecar without showing a certificate.
    pub(crate) async fn knock(addr: SocketAddr) -> Self {
        let begin = Instant::now();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let seen = Arc::new(Seen { provider, certificate: Mutex::new(None) });
        let outcome = match tokio::time::timeout(PATIENCE, knock(addr, Arc::clone(&seen))).await {
            Ok(Ok(bytes)) => Err(format!("let in: {}", String::from_utf8_lossy(&bytes).escape_debug())),
            Ok(Err(error)) => alert(&error).ok_or_else(|| error.to_string()),
            Err(_) => Err(format!("nothing happened within {} s", PATIENCE.as_secs())),
        };
        let server = seen.certificate.lock().unwrap_or_else(PoisonError::into_inner).take();
        Self { outcome, server, took: begin.elapsed() }
    }
}

async fn knock(addr: SocketAddr, seen: Arc<Seen>) -> io::Result<Vec<u8>> {
    let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&seen.provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(seen)
        .with_no_client_auth();
    let stream = TcpStream::connect(addr).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    // In TLS 1.3 the client is done before the server has judged it: the refusal comes with the
    // first read.
    let mut stream = connector.connect(ServerName::IpAddress(addr.ip().into()), stream).await?;
    let request = format!("GET {} HTTP/1.1\r\nhost: api.shop\r\n\r\n", super::plan::PATH);
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = vec![0; 256];
    let length = stream.read(&mut answer).await?;
    answer.truncate(length);
    Ok(answer)
}

fn alert(error: &io::Error) -> Option<rustls::AlertDescription> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
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
