//! The apps behind the sidecars. They know nothing of identities: plain HTTP that says what it was asked and by
//! whom, gRPC without TLS, and lines over TCP.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::plan::{FLOW_PATH, Speaks};
use super::rpc;

/// The header that says who the verified caller is.
pub(crate) const CALLER_HEADER: &str = "x-forwarded-client-cert";
/// What the app on the TCP port says first.
pub(crate) const GREETING: &str = "db ready";

/// A running app, on one port.
pub(crate) struct App {
    pub(crate) addr: SocketAddr,
    reached: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

// === impl App ===

impl App {
    pub(crate) async fn start(name: &'static str, speaks: Speaks) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let reached = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(serve(listener, name, speaks, Arc::clone(&reached)));
        Ok(Self { addr, reached, task })
    }

    /// How many requests, or connections of the TCP app, came through; those that flow all the time are left out.
    pub(crate) fn reached(&self) -> u64 {
        self.reached.load(Ordering::Relaxed)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, name: &'static str, speaks: Speaks, reached: Arc<AtomicU64>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                // Out of descriptors, most likely: others will close theirs.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // An answer in several writes must not wait for the other side's acknowledgement.
        let _ = stream.set_nodelay(true);
        let reached = Arc::clone(&reached);
        // A sidecar may close at any time: how these end is nobody's affair.
        match speaks {
            Speaks::Http => tokio::spawn(http(stream, name, reached)),
            Speaks::Grpc => tokio::spawn(grpc(stream, reached)),
            Speaks::Tcp => tokio::spawn(lines(stream, reached)),
        };
    }
}

async fn http(stream: TcpStream, name: &'static str, reached: Arc<AtomicU64>) {
    let service = service_fn(|request| {
        let response = answer(name, &request, &reached);
        async move { Ok::<_, Infallible>(response) }
    });
    let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let _ = serving.await;
}

fn answer(name: &str, request: &Request<Incoming>, reached: &AtomicU64) -> Response<Full<Bytes>> {
    if request.uri().path() != FLOW_PATH {
        reached.fetch_add(1, Ordering::Relaxed);
    }
    let caller: Vec<String> = request
        .headers()
        .get_all(CALLER_HEADER)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .collect();
    let body = json!({
        "app": name, "method": request.method().as_str(), "path": request.uri().path(),
        CALLER_HEADER: caller,
    });
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

async fn grpc(stream: TcpStream, reached: Arc<AtomicU64>) {
    let service = service_fn(|request: Request<Incoming>| {
        reached.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, Infallible>(rpc::answer(request.uri().path())) }
    });
    let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service);
    let _ = serving.await;
}

/// Speaks first, as databases do, and gives every line back.
async fn lines(stream: TcpStream, reached: Arc<AtomicU64>) {
    reached.fetch_add(1, Ordering::Relaxed);
    let mut stream = BufReader::new(stream);
    let mut line = format!("{GREETING}\n");
    while stream.get_mut().write_all(line.as_bytes()).await.is_ok() {
        line.clear();
        match stream.read_line(&mut line).await {
            Ok(length) if length > 0 => {}
            _ => return,
        }
    }
}
