//! HTTP/1 by hand: the test writes the bytes.

use std::fmt;
use std::io;

use tokio::io::AsyncWriteExt;

use super::{Request, Response, until_end};
use crate::http1::{Io, Reader};
use crate::wait::within;

/// An HTTP/1 client connection.
pub struct Http1 {
    reader: Reader,
}

// === impl Http1 ===

impl Http1 {
    /// A client on this stream.
    pub fn new(io: Io) -> Self {
        Self { reader: Reader::new(io) }
    }

    /// Writes bytes as they are.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.reader.io.write_all(bytes.as_ref()).await?;
        self.reader.io.flush().await
    }

    /// The next response; 1xx other than 101 are skipped.
    pub async fn read(&mut self) -> io::Result<Response> {
        within("an HTTP/1 response", self.reader.response(false)).await.map(Response::from)
    }

    /// Only the head of the next response: its body may never end.
    pub async fn read_head(&mut self) -> io::Result<Response> {
        let head = within("the head of an HTTP/1 response", self.reader.head()).await?;
        head.map(Response::from).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Exactly so many bytes, of a body or after an upgrade.
    pub async fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        within(format!("{count} bytes"), self.reader.exactly(count)).await
    }

    /// Writes bytes and reads one response.
    pub async fn raw(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<Response> {
        self.write(bytes).await?;
        self.read().await
    }

    /// Writes a request and reads its response.
    pub async fn send(&mut self, request: &Request) -> io::Result<Response> {
        self.write(encode(request)).await?;
        let head = request.method == "HEAD";
        within("an HTTP/1 response", self.reader.response(head)).await.map(Response::from)
    }

    /// Waits until the peer closes, and gives what it said before.
    pub async fn closed(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.reader.buffer);
        rest.extend(until_end(&mut self.reader.io).await);
        rest
    }
}

impl fmt::Debug for Http1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1").field("unread", &self.reader.buffer.len()).finish_non_exhaustive()
    }
}

fn encode(request: &Request) -> Vec<u8> {
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    if let Some(host) = &request.authority {
        head.push_str(&format!("Host: {host}\r\n"));
    }
    for (name, value) in &request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if request.trailers.is_empty() {
        if !request.body.is_empty() {
            head.push_str(&format!("Content-Length: {}\r\n", request.body.len()));
        }
        return [head.as_bytes(), b"\r\n", &request.body].concat();
    }
    head.push_str("Transfer-Encoding: chunked\r\n\r\n");
    let mut out = head.into_bytes();
    if !request.body.is_empty() {
        out.extend_from_slice(format!("{:x}\r\n", request.body.len()).as_bytes());
        out.extend_from_slice(&request.body);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n");
    for (name, value) in &request.trailers {
        out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out
}
