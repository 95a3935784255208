//! Noticing that a peer is gone while nobody reads from it.
//!
//! A client may close its half after its last request, so the HTTP/1 library stops reading until an exchange is
//! over. A reset, or a stream that ends without TLS saying so, would then be noticed when something is written, and
//! a response that has nothing to say for an hour would hold its place for as long.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

/// A pipelined request, or its beginning. Behind more than that nothing is looked for.
const MOST: usize = 512;

/// What has come on a stream before it was asked for.
#[derive(Default)]
pub(super) struct Ahead {
    bytes: Bytes,
    ended: bool,
}

// === impl Ahead ===

impl Ahead {
    /// Looks whether `io` still stands; whoever calls is woken when there is something to see.
    ///
    /// # Errors
    /// What broke it. An end in order breaks nothing.
    pub(super) fn look(&mut self, io: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>) -> io::Result<()> {
        if self.ended || !self.is_empty() {
            return Ok(());
        }
        let mut space = [MaybeUninit::uninit(); MOST];
        let mut buffer = ReadBuf::uninit(&mut space);
        if let Poll::Ready(read) = Pin::new(io).poll_read(cx, &mut buffer) {
            read?;
            self.ended = buffer.filled().is_empty();
            self.bytes = Bytes::copy_from_slice(buffer.filled());
        }
        Ok(())
    }

    /// Whether nothing has come.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Gives out what has come.
    pub(super) fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = self.bytes.len().min(buffer.remaining());
        buffer.put_slice(&self.bytes.split_to(count));
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    async fn look(ahead: &mut Ahead, io: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
        poll_fn(|cx| Poll::Ready(ahead.look(io, cx))).await
    }

    fn given(ahead: &mut Ahead, room: usize) -> Vec<u8> {
        let mut space = vec![0; room];
        let mut buffer = ReadBuf::new(&mut space);
        ahead.give(&mut buffer);
        buffer.filled().to_vec()
    }

    #[tokio::test]
    async fn what_comes_early_is_given_out_in_order_and_no_more_is_taken_before() {
        let (mut io, mut peer) = duplex(2 * MOST);
        let mut ahead = Ahead::default();
        look(&mut ahead, &mut io).await.unwrap();
        assert_eq!(given(&mut ahead, 9), b"");
        peer.write_all(b"GET /next").await.unwrap();
        look(&mut ahead, &mut io).await.unwrap();
        peer.write_all(b" HTTP/1.1").await.unwrap();
        look(&mut ahead, &mut io).await.unwrap();
        assert_eq!(given(&mut ahead, 3), b"GET");
        assert_eq!(given(&mut ahead, 9), b" /next");
        let mut rest = [0; 9];
        io.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b" HTTP/1.1");
    }

    #[tokio::test]
    async fn an_end_in_order_breaks_nothing_and_another_does() {
        let (mut io, peer) = duplex(64);
        drop(peer);
        look(&mut Ahead::default(), &mut io).await.unwrap();
        let error = look(&mut Ahead::default(), &mut Reset).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    struct Reset;

    impl AsyncRead for Reset {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }
    }
}
