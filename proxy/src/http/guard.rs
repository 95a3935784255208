//! What hyper does not limit: how long a request head may take, how long a connection may be idle or its
//! peer take nothing, and how often a peer may send HTTP/2 frames that make us work without getting
//! anything done.
//!
//! The limits sit in the byte stream under hyper. hyper's own head timer also closes connections on
//! which nothing has begun, and its HTTP/2 answers PING and SETTINGS without counting them.

mod ahead;
mod frames;
mod patience;

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep},
};

pub(super) use self::patience::Patience;
use self::{ahead::Ahead, frames::FrameScan};
use crate::{
    io::BoxIo,
    metrics::{Counted, Limit},
};

/// Times of a connection that carries HTTP.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From the first byte of a request head to its last.
    pub head: Duration,
    /// From a request that is sent on to the head of its response; `None`: for ever.
    pub response: Option<Duration>,
    /// From the end of an exchange to the next byte.
    pub idle: Duration,
    /// The same once the sidecar stops: as long as a peer may still send a request on it.
    pub idle_at_stop: Duration,
    /// A peer that takes none of the bytes that wait for it, or sends none of a body of known length.
    pub stall: Duration,
}

/// The byte stream under an HTTP server.
pub(super) struct Guarded {
    io: Counted<BoxIo>,
    guard: Guard,
    timeouts: Timeouts,
    /// With a peer that sends nothing.
    reading: Patience,
    /// With a peer that takes nothing.
    writing: Patience,
}

enum Guard {
    H1 {
        stage: Stage,
        ahead: Ahead,
        /// The stage when it was last looked at.
        seen: u32,
    },
    H2 {
        scan: Box<FrameScan>,
        /// The limit that the peer has run into.
        beyond: Option<Limit>,
    },
}

/// Where a connection is; shared with whoever answers. The lowest two bits are the stage, the
/// others number the requests, so that one request's head is not taken for another's. On HTTP/2 the
/// stage is always [`IDLE`], and the open exchanges are those that hold it.
#[derive(Clone, Default)]
pub(super) struct Stage(Arc<StageState>);

#[derive(Default)]
struct StageState {
    now: AtomicU32,
    stopping: AtomicBool,
}

/// Between requests.
const IDLE: u32 = 0;
/// A head has begun.
const HEAD: u32 = 1;
/// A request is being answered.
const BUSY: u32 = 2;
/// It is HTTP no longer.
const SWITCHED: u32 = 3;
const STAGES: u32 = 4;

/// An exchange, from the complete head to the end of the response.
pub(super) struct Exchange(Stage);

// === impl Guarded ===

impl Guarded {
    pub(super) fn http1(io: Counted<BoxIo>, timeouts: Timeouts, stage: Stage) -> Self {
        let seen = stage.now();
        Self::new(io, timeouts, Guard::H1 { stage, seen, ahead: Ahead::default() })
    }

    pub(super) fn http2(io: Counted<BoxIo>, timeouts: Timeouts) -> Self {
        Self::new(io, timeouts, Guard::H2 { scan: Box::default(), beyond: None })
    }

    fn new(io: Counted<BoxIo>, timeouts: Timeouts, guard: Guard) -> Self {
        Self { io, guard, timeouts, reading: Patience::default(), writing: Patience::default() }
    }

    fn is_switched(&self) -> bool {
        matches!(&self.guard, Guard::H1 { stage, .. } if stage.now() % STAGES == SWITCHED)
    }

    /// Nothing to read: errs when that has lasted too long for the present stage, and is the end of an
    /// idle stream when the sidecar stops.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (limit, end) = match &mut self.guard {
            Guard::H1 { stage, seen, .. } => {
                let now = stage.now();
                if std::mem::replace(seen, now) != now {
                    self.reading.renew();
                }
                match now % STAGES {
                    IDLE if stage.is_stopping() => {
                        (self.timeouts.idle_at_stop.min(self.timeouts.idle), Ok(()))
                    }
                    IDLE => (self.timeouts.idle, Err(io::ErrorKind::TimedOut)),
                    HEAD => (self.timeouts.head, Err(io::ErrorKind::TimedOut)),
                    // What limits an exchange is limited where the exchange is.
                    _ => return Poll::Pending,
                }
            }
            Guard::H2 { scan, .. } if scan.is_in_head() => (self.timeouts.head, Err(io::ErrorKind::TimedOut)),
            Guard::H2 { .. } => {
                self.reading.renew();
                return Poll::Pending;
            }
        };
        ready!(self.reading.poll(cx, limit));
        Poll::Ready(end.map_err(Into::into))
    }

    /// What came of a write. A peer that takes nothing is waited for so long and no longer.
    fn wrote(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            // What is no HTTP any more may rest for as long as it likes.
            Poll::Pending if self.is_switched() => Poll::Pending,
            Poll::Pending => {
                let limit = self.timeouts.stall;
                ready!(self.writing.poll(cx, limit));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Ready(result) => {
                self.writing.renew();
                if let (Guard::H2 { scan, .. }, Ok(bytes)) = (&mut self.guard, result) {
                    scan.sent(*bytes);
                }
                written
            }
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Guard::H2 { beyond: Some(limit), .. } = self.guard {
            return Poll::Ready(Err(beyond(limit)));
        }
        let before = buffer.filled().len();
        let read = match &mut self.guard {
            Guard::H1 { ahead, .. } if !ahead.is_empty() => {
                ahead.give(buffer);
                Poll::Ready(Ok(()))
            }
            _ => Pin::new(&mut self.io).poll_read(cx, buffer),
        };
        let seen = buffer.filled().get(before..).unwrap_or_default();
        match (&mut self.guard, &read) {
            (_, Poll::Pending) => self.wait(cx),
            (Guard::H1 { stage, .. }, Poll::Ready(Ok(()))) if !seen.is_empty() => {
                stage.advance(IDLE, HEAD);
                read
            }
            (Guard::H2 { scan, beyond }, Poll::Ready(Ok(()))) => {
                // The library sees these bytes still: it may have a limit of its own to tell the peer.
                *beyond = scan.follow(seen, Instant::now).err();
                read
            }
            _ => read,
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, data);
        self.wrote(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, data);
        self.wrote(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// The HTTP/1 library flushes whenever it is woken, whether there is something to flush or not.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { io, guard, .. } = &mut *self;
        ready!(Pin::new(&mut *io).poll_flush(cx))?;
        Poll::Ready(match guard {
            Guard::H1 { stage, ahead, .. } if stage.now() % STAGES == BUSY => ahead.look(io, cx),
            _ => Ok(()),
        })
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The error of a connection that has run into `limit`. Its text is the limit's word: HTTP libraries hand
/// on the kind and the text of an error, and nothing else.
fn beyond(limit: Limit) -> io::Error {
    io::Error::new(io::ErrorKind::QuotaExceeded, limit.as_str())
}

/// The limit that an error of a connection is about.
#[must_use]
pub fn limit_of(error: &io::Error) -> Option<Limit> {
    let text = (error.kind() == io::ErrorKind::QuotaExceeded).then(|| error.to_string())?;
    Limit::ALL.iter().copied().find(|limit| limit.as_str() == text)
}

// === impl Stage ===

impl Stage {
    /// A complete head has arrived.
    pub(super) fn answer(&self) -> Exchange {
        let request = (self.now() / STAGES).wrapping_add(1);
        self.0.now.store(request.wrapping_mul(STAGES) | BUSY, Ordering::Relaxed);
        Exchange(self.clone())
    }

    /// A request of HTTP/2, until what this gives is dropped.
    pub(super) fn stream(&self) -> Exchange {
        self.0.now.fetch_add(STAGES, Ordering::Relaxed);
        Exchange(self.clone())
    }

    /// Whether an HTTP/2 connection carries nothing. `holders` is how many hold the stage then.
    pub(super) fn is_idle(&self, holders: usize) -> bool {
        Arc::strong_count(&self.0) <= holders
    }

    /// Resolves when an HTTP/2 connection has carried nothing for `limit`, or up to a quarter longer.
    /// `holders` is how many hold the stage when there is no request.
    pub(super) async fn idle(&self, holders: usize, limit: Duration) {
        let quarter = limit / 4;
        let (mut seen, mut quiet) = (self.now(), 0);
        while quiet < 4 {
            sleep(quarter).await;
            let now = self.now();
            let idle = now == seen && self.is_idle(holders);
            quiet = if idle { quiet + 1 } else { 0 };
            seen = now;
        }
    }

    /// The connection has been switched to another protocol: nothing here is for it.
    pub(super) fn switch(&self) {
        self.0.now.store(SWITCHED, Ordering::Relaxed);
    }

    /// The sidecar stops: the connection ends once it has been idle for [`Timeouts::idle_at_stop`].
    /// Whoever says so polls the connection afterwards.
    pub(super) fn stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Relaxed)
    }

    /// Goes on to `to`, if the stage is `from`. All of a connection's stages change on one thread.
    fn advance(&self, from: u32, to: u32) {
        let now = self.now();
        if now % STAGES == from {
            self.0.now.store(now - from + to, Ordering::Relaxed);
        }
    }

    fn now(&self) -> u32 {
        self.0.now.load(Ordering::Relaxed)
    }
}

// === impl Exchange ===

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.advance(BUSY, IDLE);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::metrics::{Direction, Metrics, Options};

    const TIMEOUTS: Timeouts = Timeouts {
        response: None,
        head: Duration::from_secs(10),
        idle: Duration::from_secs(300),
        idle_at_stop: Duration::from_secs(11),
        stall: Duration::from_secs(60),
    };

    fn counted(io: tokio::io::DuplexStream) -> Counted<BoxIo> {
        let metrics = Metrics::new(Options::default());
        Counted::new(Box::new(io), metrics.bytes(Direction::Inbound))
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_dribbles_in_ends_after_ten_seconds() {
        let (mut client, io) = duplex(64);
        let mut guarded = Guarded::http1(counted(io), TIMEOUTS, Stage::default());
        let begun = Instant::now();
        let dribble = tokio::spawn(async move {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let mut sink = [0; 1];
        let error = loop {
            if let Err(error) = guarded.read_exact(&mut sink).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), 10);
        drop(guarded);
        dribble.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_may_be_idle_longer_and_an_exchange_has_no_limit_here() {
        let (_client, io) = duplex(64);
        let stage = Stage::default();
        let mut guarded = Guarded::http1(counted(io), TIMEOUTS, stage.clone());
        let exchange = stage.answer();
        let mut sink = [0; 1];
        let hour = tokio::time::timeout(Duration::from_secs(3600), guarded.read_exact(&mut sink)).await;
        assert!(hour.is_err(), "an exchange goes on");
        drop(exchange);
        let begun = Instant::now();
        assert_eq!(guarded.read_exact(&mut sink).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), 300);
    }

    #[tokio::test(start_paused = true)]
    async fn at_a_stop_an_idle_connection_ends_in_order_when_no_request_can_come_any_more() {
        let (_client, io) = duplex(64);
        let stage = Stage::default();
        let mut guarded = Guarded::http1(counted(io), TIMEOUTS, stage.clone());
        let exchange = stage.answer();
        stage.stop();
        let mut sink = [0; 1];
        let busy = tokio::time::timeout(Duration::from_secs(100), guarded.read(&mut sink)).await;
        assert!(busy.is_err(), "an exchange goes on");
        drop(exchange);
        let begun = Instant::now();
        assert_eq!(guarded.read(&mut sink).await.unwrap(), 0);
        assert_eq!(begun.elapsed().as_secs(), 11);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_waited_for_so_long_and_no_longer() {
        let (_client, io) = duplex(64);
        let stage = Stage::default();
        let _exchange = stage.answer();
        let mut guarded = Guarded::http1(counted(io), TIMEOUTS, stage.clone());
        let begun = Instant::now();
        let error = guarded.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, 60));
        stage.switch();
        let hour = tokio::time::timeout(Duration::from_secs(3600), guarded.write_all(&[0; 100])).await;
        assert!(hour.is_err(), "what is no HTTP any more may rest");
    }

    #[tokio::test(start_paused = true)]
    async fn an_http_2_connection_without_a_stream_is_idle_and_one_with_a_stream_is_not() {
        let stage = Stage::default();
        let (hour, limit) = (Duration::from_secs(3600), Duration::from_secs(300));
        let stream = stage.stream();
        assert!(tokio::time::timeout(hour, stage.idle(1, limit)).await.is_err());
        drop(stream);
        let begun = Instant::now();
        stage.idle(1, limit).await;
        assert_eq!(begun.elapsed(), limit);
    }

    #[test]
    fn a_limit_is_known_again_by_the_text_that_libraries_hand_on() {
        let handed_on = io::Error::new(io::ErrorKind::QuotaExceeded, beyond(Limit::Resets).to_string());
        assert_eq!(limit_of(&handed_on), Some(Limit::Resets));
        assert_eq!(limit_of(&io::ErrorKind::QuotaExceeded.into()), None);
    }
}
