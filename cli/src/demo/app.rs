//! The app behind a sidecar: plain HTTP, says what it was asked and by whom.

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
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The header that says who the verified caller is.
pub(crate) const CALLER_HEADER: &str = "x-forwarded-client-cert";

/// A running app.
pub(crate) struct App {
    pub(crate) addr: SocketAddr,
    served: Arc<Served>,
    task: JoinHandle<()>,
}

/// What reached the app.
#[derive(Debug, Default)]
struct Served {
    reads: AtomicU64,
    others: AtomicU64,
}

// === impl App ===

impl App {
    pub(crate) async fn start(name: &'static str) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let served = Arc::new(Served::default());
        let task = tokio::spawn(serve(listener, name, Arc::clone(&served)));
        Ok(Self { addr, served, task })
    }

    /// How many requests other than GET came through.
    pub(crate) fn writes(&self) -> u64 {
        self.served.others.load(Ordering::Relaxed)
    }

    /// How many requests came through.
    pub(crate) fn requests(&self) -> u64 {
        self.writes() + self.served.reads.load(Ordering::Relaxed)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, name: &'static str, served: Arc<Served>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                // Out of descriptors, most likely: others will close theirs.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let served = Arc::clone(&served);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = answer(name, &request, &served);
                async move { Ok::<_, Infallible>(response) }
            });
            // A sidecar may close at any time.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn answer(name: &str, request: &Request<Incoming>, served: &Served) -> Response<Full<Bytes>> {
    let counter = if request.method() == http::Method::GET { &served.reads } else { &served.others };
    counter.fetch_add(1, Ordering::Relaxed);
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
