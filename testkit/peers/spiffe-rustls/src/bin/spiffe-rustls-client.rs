//! Calls one address once as a workload written with spiffe-rustls and expects one identity.
//!
//! Flags and output are those of `gospiffe-client`.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mantlet_peer_spiffe_rustls::{Flags, agreed, fail, must, peer};
use rustls::pki_types::ServerName;
use spiffe_rustls::{authorizer, mtls_client};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if tokio::time::timeout(PATIENCE, call()).await.is_err() {
        fail("call", "it took too long");
    }
}

async fn call() {
    let flags = Flags::parse();
    let source = flags.identity().await;
    let authorized = must("-expect", authorizer::exact([flags.get("expect", "")]));
    let config = mtls_client(source).authorize(authorized).with_alpn_protocols(flags.alpn()).build();
    let connector = TlsConnector::from(Arc::new(must("configuration", config)));
    let addr = flags.get("addr", "");
    let tcp = must("dial", TcpStream::connect(addr).await);
    // The name is not looked at: the peer is who its certificate says.
    let name = must("name", ServerName::try_from("localhost"));
    let stream = must("dial", connector.connect(name, tcp).await);
    let session = stream.get_ref().1;
    let alpn = agreed(session.alpn_protocol());
    println!("PEER {}\nALPN {alpn}", peer(session.peer_certificates()).unwrap_or_default());
    if flags.get("mode", "http") == "tcp" {
        bytes(stream).await;
    } else {
        http(stream, alpn == "h2", addr, flags.get("path", "/")).await;
    }
}

async fn bytes(mut stream: TlsStream<TcpStream>) {
    must("write", stream.write_all(b"hello\n").await);
    must("write", stream.flush().await);
    // In TLS 1.3 a refusal by the server arrives only with the first read.
    let mut line = String::new();
    if must("read", BufReader::new(stream).read_line(&mut line).await) == 0 {
        fail("read", "it was closed");
    }
    print!("BODY {line}");
}

async fn http(stream: TlsStream<TcpStream>, h2: bool, addr: &str, path: &str) {
    let io = TokioIo::new(stream);
    let target = if h2 { format!("https://{addr}{path}") } else { path.to_owned() };
    let request = Request::get(target).header("host", addr).body(Empty::<Bytes>::new());
    let mut request = must("request", request);
    let response = if h2 {
        request.headers_mut().remove("host");
        let (mut send, connection) = must("call", http2::handshake(TokioExecutor::new(), io).await);
        tokio::spawn(connection);
        send.send_request(request).await
    } else {
        let (mut send, connection) = must("call", http1::handshake(io).await);
        tokio::spawn(connection);
        send.send_request(request).await
    };
    report(must("call", response)).await;
}

async fn report(response: Response<Incoming>) {
    println!("STATUS {}\nPROTO {:?}", response.status().as_u16(), response.version());
    for (name, value) in response.headers() {
        println!("HEADER {name}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    let body = must("body", response.into_body().collect().await).to_bytes();
    println!("BODY {}", String::from_utf8_lossy(&body).trim());
}
