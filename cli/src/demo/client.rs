//! A caller's app, over plain HTTP and plain TCP to its own sidecar.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Longer than any answer takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

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

/// Connects over TCP through the sidecar at `addr`, and says what the other side began with; nothing, where the
/// connection was closed.
pub(crate) async fn greeting(addr: SocketAddr) -> Result<(Option<String>, Duration), String> {
    let begin = Instant::now();
    let exchange = async {
        let mut stream = BufReader::new(TcpStream::connect(addr).await?);
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or_default() == 0 {
            return Ok(None);
        }
        // What one says must come back, or it is not relayed both ways.
        stream.get_mut().write_all(b"ping\n").await?;
        let mut echo = String::new();
        stream.read_line(&mut echo).await?;
        Ok::<_, std::io::Error>((echo == "ping\n").then(|| line.trim_end().to_owned()))
    };
    match tokio::time::timeout(PATIENCE, exchange).await {
        Ok(greeting) => {
            greeting.map(|greeting| (greeting, begin.elapsed())).map_err(|error| error.to_string())
        }
        Err(_) => Err(format!("nothing happened within {} s", PATIENCE.as_secs())),
    }
}
