//! Backpressure by what the kernel has taken.
//!
//! The HTTP/1 library takes body bytes until its own buffers are full, and from HTTP/2 that is as much again as
//! the window. So a body over HTTP/1 gives out its next bytes only when the kernel has taken the last ones: what a
//! receiver does not read stays in the window of the sender, which is counted.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};

use crate::limits::READ_BYTES;

/// The body bytes of one HTTP/1 connection that were given out and not written yet; shared by the body and
/// the stream under it.
#[derive(Clone, Default)]
pub(super) struct Unsent(Arc<State>);

#[derive(Default)]
struct State {
    bytes: AtomicUsize,
    waiting: Mutex<Option<Waker>>,
}

/// A stream to an upstream: tells what is written, and reads no more at a time than fits one frame.
pub(super) struct Paced<T> {
    io: Take<T>,
    unsent: Unsent,
}

// === impl Unsent ===

impl Unsent {
    /// A body begins. What the last one gave out and nobody wrote, because it was longer than announced, does
    /// not come any more.
    pub(super) fn begin(&self) -> Self {
        self.0.bytes.store(0, Ordering::Relaxed);
        self.clone()
    }

    /// Ready when all is written that was given out.
    pub(super) fn poll_written(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.bytes.load(Ordering::Relaxed) == 0 {
            return Poll::Ready(());
        }
        // Body and stream are polled by one task: nothing is written between the look and this.
        *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        Poll::Pending
    }

    /// So many bytes of the body are given out.
    pub(super) fn given(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The kernel has taken so many bytes. What is no body (heads, the framing of chunks) counts as one: that
    /// lets the next bytes go a little early.
    pub(super) fn written(&self, bytes: usize) {
        let before = self.0.bytes.load(Ordering::Relaxed);
        if before == 0 {
            return;
        }
        self.0.bytes.store(before.saturating_sub(bytes), Ordering::Relaxed);
        if before <= bytes
            && let Some(waker) = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            waker.wake();
        }
    }
}

// === impl Paced ===

impl<T: AsyncRead> Paced<T> {
    pub(super) fn new(io: T, unsent: Unsent) -> Self {
        Self { io: io.take(0), unsent }
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.unsent.written(*bytes);
        }
        written
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // The library offers as much room as it has, and hands on what comes as one piece.
        self.io.set_limit(READ_BYTES);
        Pin::new(&mut self.io).poll_read(cx, out)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(self.io.get_mut()).poll_write(cx, data);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(self.io.get_mut()).poll_write_vectored(cx, data);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.get_ref().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.io.get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.io.get_mut()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    async fn is_written(unsent: &Unsent) -> bool {
        poll_fn(|cx| Poll::Ready(unsent.poll_written(cx).is_ready())).await
    }

    #[tokio::test]
    async fn a_body_waits_until_the_stream_has_taken_what_it_gave_out() {
        let (io, mut other) = duplex(10);
        let unsent = Unsent::default();
        let mut paced = Paced::new(io, unsent.clone());
        assert!(is_written(&unsent).await);
        unsent.given(25);
        let writing = async { paced.write_all(&[7; 25]).await.unwrap() };
        let waiting = poll_fn(|cx| unsent.poll_written(cx));
        let reading = async {
            let mut read = [0; 25];
            other.read_exact(&mut read[..14]).await.unwrap();
            assert!(!is_written(&unsent).await, "one byte is not taken");
            other.read_exact(&mut read[14..]).await.unwrap();
        };
        tokio::join!(waiting, writing, reading);
    }

    #[tokio::test]
    async fn what_nobody_wrote_of_one_body_does_not_hold_up_the_next() {
        let unsent = Unsent::default();
        unsent.begin().given(5);
        assert!(!is_written(&unsent).await);
        assert!(is_written(&unsent.begin()).await);
    }

    #[tokio::test]
    async fn no_more_than_a_frame_is_read_at_a_time() {
        let (io, mut other) = duplex(64 * 1024);
        other.write_all(&[7; 40_000]).await.unwrap();
        let mut paced = Paced::new(io, Unsent::default());
        let mut buffer = vec![0; 64 * 1024];
        for expected in [READ_BYTES as usize, READ_BYTES as usize, 40_000 - 2 * READ_BYTES as usize] {
            assert_eq!(paced.read(&mut buffer).await.unwrap(), expected);
        }
    }
}
