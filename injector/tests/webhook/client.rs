//! A client that does what an API server does: it trusts the bundle of the webhook configuration, expects the name of
//! the Service, and speaks HTTP/2.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::api::unbase64;

/// The name that the API server expects.
pub(crate) const NAME: &str = "mantlet-injector.mantlet.svc";

/// A connection of HTTP/2.
pub(crate) struct Caller {
    sender: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    /// The certificate that was shown.
    pub(crate) certificate: Vec<u8>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: Bytes,
}

/// An API server's side of a TLS connection.
///
/// # Errors
/// Everything that an API server would call a failed webhook.
pub(crate) async fn tls(
    addr: SocketAddr,
    bundle: &str,
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let tcp = TcpStream::connect(addr).await?;
    tcp.set_nodelay(true)?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME).unwrap(), tcp).await
}

// === impl Caller ===

impl Caller {
    /// Connects; only a certificate of `bundle` will do.
    pub(crate) async fn try_connect(addr: SocketAddr, bundle: &str) -> std::io::Result<Self> {
        let stream = tls(addr, bundle, &["h2", "http/1.1"]).await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        let io = TokioIo::new(stream);
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self { sender, certificate })
    }

    /// Sends a request.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Reply, hyper::Error> {
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status().as_u16();
        let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
        let body = response.into_body().collect().await?.to_bytes();
        Ok(Reply { status, content_type, body })
    }

    /// Posts a body as an API server does.
    pub(crate) async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Reply {
        self.send(post(path, body)).await.unwrap()
    }

    /// Asks about a review, and gives the response in the answer.
    pub(crate) async fn review(&mut self, path: &str, request: &Value) -> Value {
        let reply = self.post(&format!("{path}?timeout=5s"), review(request)).await;
        reply.response(request)
    }
}

// === impl Reply ===

impl Reply {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The response in an answer; what an API server demands of it is checked.
    pub(crate) fn response(&self, request: &Value) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(self.content_type, "application/json");
        let answer: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(answer["kind"], "AdmissionReview");
        let response = answer["response"].clone();
        assert_eq!(response["uid"], request["uid"]);
        assert_eq!(
            response["patch"].is_string(),
            response["patchType"] == "JSONPatch",
            "both or none: {response}"
        );
        response
    }
}

pub(crate) fn post(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::post(format!("https://{NAME}{path}")).header("content-type", "application/json");
    request.body(Full::from(body.into())).unwrap()
}

pub(crate) fn review(request: &Value) -> String {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string()
}

/// The patch in a response, as JSON; nothing where there is none.
pub(crate) fn patch(response: &Value) -> Option<Value> {
    let text = response["patch"].as_str()?;
    Some(serde_json::from_slice(&unbase64(text)).unwrap())
}

/// `object` as the API server would go on with it: the patch in `response`, applied by RFC 6902. A step that has no place
/// is an error 500 for the user of a real one.
pub(crate) fn patched(object: &Value, response: &Value) -> Value {
    let mut object = object.clone();
    for step in patch(response).as_ref().and_then(Value::as_array).into_iter().flatten() {
        let path = step["path"].as_str().unwrap();
        match step["op"].as_str().unwrap() {
            "add" => add(&mut object, path, step["value"].clone()),
            "remove" => drop(take(&mut object, path)),
            "replace" => {
                *object.pointer_mut(path).unwrap_or_else(|| panic!("no place: {step}")) =
                    step["value"].clone()
            }
            "move" => {
                let value = take(&mut object, step["from"].as_str().unwrap());
                add(&mut object, path, value);
            }
            other => panic!("{other}"),
        }
    }
    object
}

fn add(object: &mut Value, path: &str, value: Value) {
    let (parent, token) = split(path);
    match object.pointer_mut(parent).unwrap_or_else(|| panic!("no parent: {path}")) {
        Value::Object(members) => drop(members.insert(token, value)),
        Value::Array(items) if token == "-" => items.push(value),
        Value::Array(items) => items.insert(token.parse().unwrap(), value),
        other => panic!("{path} in {other}"),
    }
}

fn take(object: &mut Value, path: &str) -> Value {
    let (parent, token) = split(path);
    match object.pointer_mut(parent).unwrap_or_else(|| panic!("no parent: {path}")) {
        Value::Object(members) => members.remove(&token).unwrap_or_else(|| panic!("no place: {path}")),
        Value::Array(items) => items.remove(token.parse().unwrap()),
        other => panic!("{path} in {other}"),
    }
}

fn split(path: &str) -> (&str, String) {
    let (parent, token) = path.rsplit_once('/').unwrap();
    (parent, token.replace("~1", "/").replace("~0", "~"))
}
