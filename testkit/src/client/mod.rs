//! Clients of every kind: plain and mutual TLS, raw HTTP/1 bytes, HTTP/2, and bare sockets.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::apps::Protocol;
use crate::http1::{self, Fields, Io, Message};
use crate::wait::within;

mod h1;
mod h2c;
mod tls;

pub use h1::Http1;
pub use h2c::{Http2, Http2Stream};
pub use tls::{Session, TlsClient, client_hello_of_tls12};

/// A request in no protocol yet.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method.
    pub method: String,
    /// Request target; for HTTP/2 `:path`.
    pub target: String,
    /// Host or `:authority`; `None` leaves it out.
    pub authority: Option<String>,
    /// Header fields in order.
    pub headers: Vec<(String, String)>,
    /// Body; HTTP/1 frames it by Content-Length, or by chunks where there are trailers.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: Vec<(String, String)>,
}

/// A response as it arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// Status.
    pub status: u16,
    /// Header fields in order.
    pub headers: Fields,
    /// Body without its framing.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: Fields,
}

/// An HTTP client of either version on one connection.
#[derive(Debug)]
pub enum HttpClient {
    /// HTTP/1.1.
    Http1(Http1),
    /// HTTP/2.
    Http2(Http2),
}

/// Connects a plain socket.
pub async fn connect(addr: SocketAddr) -> TcpStream {
    try_connect(addr).await.unwrap_or_else(|error| panic!("connect to {addr}: {error}"))
}

async fn try_connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let io = within(format!("a connection to {addr}"), TcpStream::connect(addr)).await?;
    // Linux refuses it where the other side has reset the connection already.
    io.set_nodelay(true)?;
    Ok(io)
}

/// Writes and then reads until the end; an error of the peer's making is an end too.
pub async fn exchange(io: &mut Io, bytes: &[u8]) -> Vec<u8> {
    let _ = io.write_all(bytes).await;
    until_end(io).await
}

/// Everything until the peer closes or resets.
pub async fn until_end(io: &mut Io) -> Vec<u8> {
    let mut all = Vec::new();
    let read = async { while io.read_buf(&mut all).await.is_ok_and(|count| count > 0) {} };
    within("the peer to close the connection", read).await;
    all
}

/// Exactly so many bytes.
pub async fn exactly(io: &mut Io, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let read = within(format!("{count} bytes"), io.read_exact(&mut bytes)).await;
    read.unwrap_or_else(|error| panic!("{count} bytes: {error}"));
    bytes
}

// === impl HttpClient ===

impl HttpClient {
    /// A plain client, such as the app behind an outbound listener.
    pub async fn plain(addr: SocketAddr, protocol: Protocol) -> Self {
        Self::over(Box::new(connect(addr).await), protocol).await
    }

    /// A client on a stream that is there already.
    pub async fn over(io: Io, protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http1 => Self::Http1(Http1::new(io)),
            Protocol::H2c => Self::Http2(Http2::new(io).await.expect("HTTP/2 preface")),
        }
    }

    /// Sends a request and reads its response.
    ///
    /// # Panics
    /// When there is none.
    pub async fn send(&mut self, request: &Request) -> Response {
        let what = format!("the response to {} {}", request.method, request.target);
        match self.try_send(request).await {
            Ok(response) => response,
            Err(error) => panic!("{what}: {error}"),
        }
    }

    /// Sends a request and reads its response, or says why there is none.
    pub async fn try_send(&mut self, request: &Request) -> io::Result<Response> {
        let what = format!("the response to {} {}", request.method, request.target);
        within(what, async {
            match self {
                Self::Http1(client) => client.send(request).await,
                Self::Http2(client) => client.send(request).await.map_err(io::Error::other),
            }
        })
        .await
    }
}

// === impl Request ===

impl Request {
    /// A request without a body, for the host `app.test`.
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            authority: Some("app.test".to_owned()),
            headers: Vec::new(),
            body: Vec::new(),
            trailers: Vec::new(),
        }
    }

    /// A GET.
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// The same with a further header field.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with this body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The same with a further trailer.
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same for another host.
    pub fn host(mut self, authority: &str) -> Self {
        self.authority = Some(authority.to_owned());
        self
    }
}

// === impl Response ===

impl Response {
    /// Every value of a header field.
    pub fn header(&self, name: &str) -> Vec<String> {
        http1::values(&self.headers, name)
    }

    /// Every value of a trailer field.
    pub fn trailer(&self, name: &str) -> Vec<String> {
        http1::values(&self.trailers, name)
    }

    /// The reason of a refusal, without the id: `default` of `x-mantlet-denied: default; id=7`.
    pub fn denied(&self) -> Option<String> {
        reason(self.header("x-mantlet-denied"))
    }

    /// The reason of an error, without the id.
    pub fn error(&self) -> Option<String> {
        reason(self.header("x-mantlet-error"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl From<Message> for Response {
    fn from(message: Message) -> Self {
        let Message { first_line, fields, body, trailers, .. } = message;
        Self { status: http1::status(&first_line), headers: fields, body, trailers }
    }
}

fn reason(values: Vec<String>) -> Option<String> {
    assert!(values.len() < 2, "one reason at most: {values:?}");
    let value = values.into_iter().next()?;
    let (reason, id) = value.split_once("; id=").unwrap_or_else(|| panic!("no id in {value:?}"));
    assert!(!id.is_empty(), "empty id in {value:?}");
    Some(reason.to_owned())
}
