//! What hyper does not limit: how long a request head may take, how long a connection may be idle,
//! and how often a peer may send HTTP/2 frames that make us work without getting anything done.
//!
//! The limits sit in the byte stream under hyper. hyper's own head timer also closes connections on
//! which nothing has begun, and its HTTP/2 answers PING and SETTINGS without counting them.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use crate::{detect::H2_PREFACE, io::BoxIo, metrics::Counted};

/// PING, SETTINGS and the like within a second, without a request or a body byte between them.
const IDLE_FRAMES_PER_SECOND: u32 = 200;
const FRAME_HEAD: usize = 9;

/// Times of an HTTP/1 connection.
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
}

/// The byte stream under an HTTP server.
pub(super) struct Guarded {
    io: Counted<BoxIo>,
    guard: Guard,
}

enum Guard {
    H1(HeadTimer),
    H2(FrameScan),
}

/// Where an HTTP/1 connection is; shared with whoever answers. The lowest two bits are the stage, the
/// others number the requests, so that one request's head is not taken for another's.
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

struct HeadTimer {
    stage: Stage,
    timeouts: Timeouts,
    /// When the present stage began, and what it was.
    since: (u32, Instant),
    timer: Option<Pin<Box<Sleep>>>,
}

/// Follows the frames of an HTTP/2 connection (RFC 9113, 4.1).
#[derive(Default)]
struct FrameScan {
    /// Bytes of the preface, or of the present payload, still to come.
    skip: usize,
    begun: bool,
    head: [u8; FRAME_HEAD],
    head_len: usize,
    idle_frames: u32,
    second: Option<Instant>,
}

// === impl Guarded ===

impl Guarded {
    pub(super) fn http1(io: Counted<BoxIo>, timeouts: Timeouts, stage: Stage) -> Self {
        let since = (stage.now(), Instant::now());
        Self { io, guard: Guard::H1(HeadTimer { stage, timeouts, since, timer: None }) }
    }

    pub(super) fn http2(io: Counted<BoxIo>) -> Self {
        Self { io, guard: Guard::H2(FrameScan::default()) }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        let seen = buffer.filled().get(before..).unwrap_or_default();
        match (&mut self.guard, &read) {
            (Guard::H1(timer), Poll::Pending) => timer.poll(cx),
            (Guard::H1(timer), Poll::Ready(Ok(()))) if !seen.is_empty() => {
                timer.stage.advance(IDLE, HEAD);
                read
            }
            (Guard::H2(scan), Poll::Ready(Ok(()))) => match scan.follow(seen, Instant::now) {
                Ok(()) => read,
                Err(Flood) => Poll::Ready(Err(io::Error::new(io::ErrorKind::QuotaExceeded, "frame flood"))),
            },
            _ => read,
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

// === impl Stage ===

impl Stage {
    /// A complete head has arrived.
    pub(super) fn answer(&self) -> Exchange {
        let request = (self.now() / STAGES).wrapping_add(1);
        self.0.now.store(request.wrapping_mul(STAGES) | BUSY, Ordering::Relaxed);
        Exchange(self.clone())
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

// === impl HeadTimer ===

impl HeadTimer {
    /// Nothing to read: errs when that has lasted too long for the present stage, and is the end of the
    /// stream when the sidecar stops. One timer is armed and looked at again when it fires; a request
    /// in time costs no timer operation.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stage = self.stage.now();
        if self.since.0 != stage {
            self.since = (stage, Instant::now());
        }
        let stopping = self.stage.is_stopping() && stage % STAGES == IDLE;
        let limit = match stage % STAGES {
            IDLE if stopping => self.timeouts.idle_at_stop.min(self.timeouts.idle),
            IDLE => self.timeouts.idle,
            HEAD => self.timeouts.head,
            // What limits an exchange is limited where the exchange is.
            _ => return Poll::Pending,
        };
        let deadline = self.since.1 + limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(if stopping { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) });
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

// === impl FrameScan ===

/// A peer keeps us busy with frames that lead nowhere (CVE-2019-9512, CVE-2019-9515).
#[derive(Debug)]
struct Flood;

impl FrameScan {
    fn follow(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> Result<(), Flood> {
        if !self.begun {
            self.begun = true;
            self.skip = H2_PREFACE.len();
        }
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            let wanted = (FRAME_HEAD - self.head_len).min(bytes.len());
            let (head, rest) = bytes.split_at(wanted);
            if let Some(place) = self.head.get_mut(self.head_len..self.head_len + wanted) {
                place.copy_from_slice(head);
            }
            self.head_len += wanted;
            bytes = rest;
            if self.head_len == FRAME_HEAD {
                self.head_len = 0;
                self.frame(&now)?;
            }
        }
        Ok(())
    }

    /// A frame head is complete.
    fn frame(&mut self, now: &impl Fn() -> Instant) -> Result<(), Flood> {
        const DATA: u8 = 0x0;
        const HEADERS: u8 = 0x1;
        const PRIORITY: u8 = 0x2;
        const SETTINGS: u8 = 0x4;
        const PING: u8 = 0x6;
        let [a, b, c, kind, ..] = self.head;
        self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        match kind {
            HEADERS => self.idle_frames = 0,
            DATA if self.skip > 0 => self.idle_frames = 0,
            DATA | PRIORITY | SETTINGS | PING => {
                let now = now();
                if self.second.is_none_or(|begun| now.duration_since(begun) >= Duration::from_secs(1)) {
                    self.second = Some(now);
                    self.idle_frames = 0;
                }
                self.idle_frames += 1;
                if self.idle_frames > IDLE_FRAMES_PER_SECOND {
                    return Err(Flood);
                }
            }
            _ => {}
        }
        Ok(())
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
    };

    fn counted(io: tokio::io::DuplexStream) -> Counted<BoxIo> {
        let metrics = Metrics::new(Options::default());
        Counted::new(Box::new(io), metrics.bytes(Direction::Inbound))
    }

    fn frames(kind: u8, payload: usize, count: usize) -> Vec<u8> {
        let length = payload as u32;
        let mut frame = vec![(length >> 16) as u8, (length >> 8) as u8, length as u8, kind, 0, 0, 0, 0, 0];
        frame.resize(FRAME_HEAD + payload, 0);
        frame.repeat(count)
    }

    fn follow(pieces: &[&[u8]]) -> Result<(), Flood> {
        let (mut scan, start) = (FrameScan::default(), Instant::now());
        scan.follow(H2_PREFACE, || start).unwrap();
        pieces.iter().try_for_each(|piece| scan.follow(piece, || start))
    }

    #[tokio::test]
    async fn pings_without_progress_are_a_flood_and_pings_between_data_are_not() {
        assert!(follow(&[&frames(6, 8, 200)]).is_ok());
        assert!(follow(&[&frames(6, 8, 201)]).is_err());
        assert!(follow(&[&frames(4, 0, 150), &frames(6, 8, 51)]).is_err());
        let busy: Vec<u8> = (0..1000).flat_map(|_| [frames(6, 8, 1), frames(0, 5, 1)].concat()).collect();
        assert!(follow(&[&busy]).is_ok());
        assert!(follow(&[&frames(0, 0, 201)]).is_err(), "empty DATA frames lead nowhere");
    }

    #[tokio::test]
    async fn frames_are_followed_however_they_are_packed() {
        let flood = frames(6, 8, 201);
        let bytes: Vec<&[u8]> = flood.chunks(1).collect();
        assert!(follow(&bytes).is_err());
        let mut hidden = frames(0, 9 * 300, 1);
        // A payload that looks like frames is a payload.
        let end = hidden.len();
        hidden[FRAME_HEAD..end].copy_from_slice(&frames(6, 0, 300));
        assert!(follow(&[&hidden]).is_ok());
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
}
