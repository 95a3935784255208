//! A workload written with spiffe-rustls: it takes its identity from the Workload API, demands a client
//! certificate and says who called.
//!
//! Flags and output are those of `gospiffe-server`: `LISTEN <address>` once and `PEER <SPIFFE ID>` for
//! each connection or request.

use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use mantlet_peer_spiffe_rustls::{Flags, agreed, fail, must, peer};
use spiffe_rustls::{authorizer, mtls_server};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let flags = Flags::parse();
    let source = flags.identity().await;
    let authorized = must("-allow", authorizer::exact([flags.get("allow", "")]));
    let config = mtls_server(source).authorize(authorized).with_alpn_protocols(flags.alpn()).build();
    let acceptor = TlsAcceptor::from(Arc::new(must("configuration", config)));
    let listener = must("listen", TcpListener::bind(flags.get("listen", "127.0.0.1:0")).await);
    println!("LISTEN {}", must("listen", listener.local_addr()));
    let tcp = flags.get("mode", "http") == "tcp";
    loop {
        let (io, _) = listener.accept().await.unwrap_or_else(|error| fail("accept", error));
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            match acceptor.accept(io).await {
                Ok(stream) if tcp => echo(stream).await,
                Ok(stream) => http(stream).await,
                Err(error) => println!("REFUSED {error}"),
            }
        });
    }
}

/// Who is at the other end, and what was agreed to.
fn caller(stream: &TlsStream<TcpStream>) -> (String, String) {
    let session = stream.get_ref().1;
    let id = peer(session.peer_certificates()).unwrap_or_else(|| "none".to_owned());
    println!("PEER {id}");
    (id, agreed(session.alpn_protocol()))
}

async fn http(stream: TlsStream<TcpStream>) {
    let (id, alpn) = caller(&stream);
    let service = service_fn(move |request: Request<Incoming>| {
        let (version, path) = (request.version(), request.uri().path());
        let text = format!("peer={id} proto={version:?} alpn={alpn:?} path={path}\n");
        async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text)))) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        println!("ENDED {error}");
    }
}

/// Answers each line.
async fn echo(stream: TlsStream<TcpStream>) {
    let (id, alpn) = caller(&stream);
    let (read, mut write) = tokio::io::split(stream);
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = format!("peer={id} alpn={alpn:?} line={line}\n");
        if write.write_all(answer.as_bytes()).await.is_err() || write.flush().await.is_err() {
            return;
        }
    }
}
