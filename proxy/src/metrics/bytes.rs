//! Bytes of connections.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Direction, Metrics, traffic::BytesLabels, vocabulary::Io};

/// Counts the bytes of one connection. What is added is kept here until [`ByteCount::flush`] or the end, so
/// that a busy connection does not pull the process's counters to and fro between workers.
#[derive(Debug)]
pub struct ByteCount {
    read: Counter,
    written: Counter,
    unsaid: (u64, u64),
}

/// A stream to whoever opened the connection, with its bytes counted.
#[derive(Debug)]
pub struct Counted<T> {
    io: T,
    bytes: ByteCount,
    fault: Fault,
}

/// What went wrong first with a stream: what is tried on it after that fails in other ways, and HTTP takes
/// the end of a connection that rests for an end in order.
#[derive(Clone, Debug, Default)]
pub struct Fault(Arc<OnceLock<io::ErrorKind>>);

// === impl ByteCount ===

impl ByteCount {
    /// Adds bytes that came from whoever opened the connection.
    pub fn read(&mut self, bytes: usize) {
        self.unsaid.0 += bytes as u64;
    }

    /// Adds bytes that went to whoever opened the connection.
    pub fn written(&mut self, bytes: usize) {
        self.unsaid.1 += bytes as u64;
    }

    /// Says what was added: when there is nothing to do for the moment.
    pub fn flush(&mut self) {
        let (read, written) = std::mem::take(&mut self.unsaid);
        if read > 0 {
            self.read.inc_by(read);
        }
        if written > 0 {
            self.written.inc_by(written);
        }
    }
}

impl Drop for ByteCount {
    fn drop(&mut self) {
        self.flush();
    }
}

// === impl Counted ===

impl<T> Counted<T> {
    /// Counts what goes through `io`.
    pub fn new(io: T, bytes: ByteCount) -> Self {
        Self { io, bytes, fault: Fault::default() }
    }

    /// The stream itself.
    pub fn get_ref(&self) -> &T {
        &self.io
    }

    /// What has gone wrong with it, now or later.
    pub fn fault(&self) -> Fault {
        self.fault.clone()
    }
}

// === impl Fault ===

impl Fault {
    /// The network's word for how it ended, if it did not end in order.
    #[must_use]
    pub fn kind(&self) -> Option<io::ErrorKind> {
        self.0.get().copied()
    }

    fn note<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut};
        if let Poll::Ready(Err(error)) = &outcome
            && let kind @ (BrokenPipe | ConnectionReset | HostUnreachable | NetworkUnreachable | TimedOut) =
                error.kind()
        {
            let _ = self.0.set(kind);
        }
        outcome
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, out);
        self.bytes.read(out.filled().len() - before);
        if read.is_pending() {
            self.bytes.flush();
        }
        self.fault.note(read)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, data);
        if let Poll::Ready(Ok(bytes)) = &written {
            self.bytes.written(*bytes);
        }
        self.fault.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, data);
        if let Poll::Ready(Ok(bytes)) = &written {
            self.bytes.written(*bytes);
        }
        self.fault.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bytes.flush();
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.fault.note(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bytes.flush();
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

// === impl Metrics ===

impl Metrics {
    /// For one connection.
    #[must_use]
    pub fn bytes(&self, direction: Direction) -> ByteCount {
        let counter = |io| self.traffic.bytes.get(BytesLabels { direction, io }).clone();
        ByteCount { read: counter(Io::Read), written: counter(Io::Write), unsaid: (0, 0) }
    }
}
