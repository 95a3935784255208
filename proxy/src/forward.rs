//! Relaying opaque bytes, for whoever holds a permit.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{
    authz::Permit,
    io::{BoxIo, Rewind},
    metrics::Counted,
    sys,
};

/// Read buffer of a worker: 64 KiB moves bulk data at four TLS records a system call.
const SCRATCH_BYTES: usize = 64 * 1024;

thread_local! {
    /// One buffer a worker, not one a connection: an idle connection has none.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

/// A stream that can be dropped so that its other side does not take what came for all that there was.
pub trait Sever {
    /// Says so. TLS does by dropping alone: there is no `close_notify`.
    fn sever(&self) {}
}

/// One direction of a relay.
#[derive(Default)]
struct Half {
    /// Read, but not yet taken by the writer. Empty while data flows freely.
    unsent: Bytes,
    unflushed: bool,
    state: HalfState,
}

#[derive(Clone, Copy, Default, Eq, PartialEq)]
enum HalfState {
    #[default]
    Open,
    /// The reader has ended; the writer is being told.
    Closing,
    Done,
}

/// Relays until both sides have ended, each end handed on as a half-close, and what is no end in order as none. The
/// permit is what entitles the bytes to flow, and lives exactly as long as they do.
///
/// # Errors
/// The first error of either side; which one decides nothing.
pub async fn tcp<A, B>(permit: Permit, mut downstream: A, mut upstream: B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Sever + Unpin,
    B: AsyncRead + AsyncWrite + Sever + Unpin,
{
    let result = relay(&mut downstream, &mut upstream).await;
    if result.is_err() {
        downstream.sever();
        upstream.sever();
    }
    drop(permit);
    result
}

async fn relay<A, B>(downstream: &mut A, upstream: &mut B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Half::default(), Half::default());
    std::future::poll_fn(|cx| {
        let upwards = up.poll(cx, downstream, upstream)?;
        let downwards = down.poll(cx, upstream, downstream)?;
        ready!(upwards);
        ready!(downwards);
        Poll::Ready(Ok(()))
    })
    .await
}

// === impl Sever ===

impl Sever for TcpStream {
    fn sever(&self) {
        sys::reset_when_dropped(self);
    }
}

impl<T: Sever> Sever for Counted<T> {
    fn sever(&self) {
        self.get_ref().sever();
    }
}

impl<T: Sever> Sever for Rewind<T> {
    fn sever(&self) {
        self.get_ref().sever();
    }
}

impl Sever for BoxIo {}

impl Sever for TokioIo<Upgraded> {}

// === impl Half ===

impl Half {
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while !self.unsent.is_empty() {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.unsent))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.unsent.advance(written);
            }
            match self.state {
                HalfState::Open => ready!(self.poll_move(cx, from, to))?,
                HalfState::Closing => {
                    // A peer that is gone already cannot be told; the other direction will say so.
                    match ready!(Pin::new(&mut *to).poll_shutdown(cx)) {
                        Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                            return Poll::Ready(Err(error));
                        }
                        _ => self.state = HalfState::Done,
                    }
                }
                HalfState::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Reads once into the worker's buffer and writes from there; only what the writer does not
    /// take at once is copied.
    fn poll_move<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(from).poll_read(cx, &mut buffer) {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
            let mut data = buffer.filled();
            if data.is_empty() {
                self.state = HalfState::Closing;
                return Poll::Ready(Ok(()));
            }
            self.unflushed = true;
            while !data.is_empty() {
                match Pin::new(&mut *to).poll_write(cx, data) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(written)) => data.advance(written),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        self.unsent = Bytes::copy_from_slice(data);
                        return Poll::Pending;
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// A relay between two pipes of `room` bytes each; the returned ends are client and application.
    fn between(
        room: usize,
    ) -> (tokio::io::DuplexStream, tokio::io::DuplexStream, tokio::task::JoinHandle<io::Result<()>>) {
        let (client, mut downstream) = duplex(room);
        let (mut upstream, app) = duplex(room);
        (client, app, tokio::spawn(async move { relay(&mut downstream, &mut upstream).await }))
    }

    #[tokio::test]
    async fn a_half_close_is_handed_on_and_the_answer_still_comes() {
        let (mut client, mut app, relay) = between(64);
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        app.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        app.write_all(b"answer").await.unwrap();
        drop(app);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
        relay.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_writer_that_takes_seven_bytes_at_a_time_loses_none() {
        let (mut client, mut app, relay) = between(7);
        let sent: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let copy = sent.clone();
        let writer = tokio::spawn(async move {
            client.write_all(&copy).await.unwrap();
            client.shutdown().await.unwrap();
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.unwrap();
            rest
        });
        let mut received = Vec::new();
        app.read_to_end(&mut received).await.unwrap();
        assert!(received == sent);
        drop(app);
        assert!(writer.await.unwrap().is_empty());
        relay.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn both_directions_flow_while_one_is_blocked() {
        let (mut client, mut app, _relay) = between(16);
        // The application does not read; what it says arrives all the same.
        let mut unread = Box::pin(client.write_all(&[0; 4096]));
        assert!(poll_once(&mut unread).await.is_pending());
        drop(unread);
        app.write_all(b"banner").await.unwrap();
        let mut banner = [0; 6];
        client.read_exact(&mut banner).await.unwrap();
        assert_eq!(&banner, b"banner");
    }

    async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx))).await
    }
}
