//! The first part of a request body, kept for as long as the request may have to be sent again.
//!
//! What is kept are counted references to what was read; the rest is where it was. A body of which more was
//! read than is kept cannot be read again.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::Body;
use crate::limits::{KEPT_BODIES, KEPT_BODY};

/// What a frame or a field costs besides its bytes.
const OVERHEAD: usize = 64;

/// What all bodies together have kept: those that nobody answers must not fill the memory.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// The hold on a body that can be read again.
pub(super) struct Tape(Arc<Mutex<Reel>>);

/// One reading of such a body.
pub(super) struct Reading {
    reel: Arc<Mutex<Reel>>,
    number: u32,
}

struct Reel {
    /// Where what is not kept comes from.
    source: Body,
    kept: VecDeque<Piece>,
    /// The next of those kept that is to be read; no meaning once nothing is kept any more.
    next: usize,
    bytes: usize,
    keeps: bool,
    /// Only the newest reading reads. An older one belongs to a stream that is over.
    reading: u32,
}

enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

// === impl Tape ===

impl Tape {
    /// Keeps what is read of `source` from here on, and the first reading.
    pub(super) fn new(source: Body) -> (Self, Reading) {
        let reel = Reel { source, kept: VecDeque::new(), next: 0, bytes: 0, keeps: true, reading: 0 };
        let reel = Arc::new(Mutex::new(reel));
        (Self(Arc::clone(&reel)), Reading { reel, number: 0 })
    }

    /// Nothing will be sent again.
    pub(super) fn forget(&self) {
        lock(&self.0).forget();
    }

    /// The body from its start. `None` when too much of it is gone.
    pub(super) fn rewind(&self) -> Option<Reading> {
        let mut reel = lock(&self.0);
        if !reel.keeps {
            return None;
        }
        reel.next = 0;
        reel.reading = reel.reading.wrapping_add(1);
        Some(Reading { reel: Arc::clone(&self.0), number: reel.reading })
    }
}

// === impl Reading ===

impl Reading {
    /// The hold on what this reads.
    pub(super) fn tape(&self) -> Tape {
        Tape(Arc::clone(&self.reel))
    }

    pub(super) fn poll_frame(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut reel = lock(&self.reel);
        // Its stream is over. Saying "end" would be a lie about the body, should anybody still listen.
        if reel.reading != self.number {
            return Poll::Pending;
        }
        reel.poll_frame(cx)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let reel = lock(&self.reel);
        reel.left().next().is_none() && http_body::Body::is_end_stream(&reel.source)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let reel = lock(&self.reel);
        let kept: u64 = reel.left().map(Piece::len).sum();
        let source = http_body::Body::size_hint(&reel.source);
        let mut hint = SizeHint::new();
        hint.set_lower(kept.saturating_add(source.lower()));
        if let Some(upper) = source.upper() {
            hint.set_upper(kept.saturating_add(upper));
        }
        hint
    }
}

/// Whether there is room for so much more.
fn take(cost: usize) -> bool {
    let room = KEPT.fetch_add(cost, Ordering::Relaxed).saturating_add(cost) <= KEPT_BODIES;
    if !room {
        KEPT.fetch_sub(cost, Ordering::Relaxed);
    }
    room
}

fn lock(reel: &Mutex<Reel>) -> MutexGuard<'_, Reel> {
    reel.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Reel ===

impl Reel {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if !self.keeps {
            if let Some(piece) = self.kept.pop_front() {
                return Poll::Ready(Some(Ok(piece.into_frame())));
            }
        } else if let Some(piece) = self.kept.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(piece.copy().into_frame())));
        }
        let frame = ready!(http_body::Body::poll_frame(std::pin::Pin::new(&mut self.source), cx));
        match &frame {
            Some(Ok(frame)) => self.keep(frame),
            Some(Err(_)) => self.forget(),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        let piece = match (frame.data_ref(), frame.trailers_ref()) {
            _ if !self.keeps => return,
            (Some(data), _) => Piece::Data(data.clone()),
            (None, Some(trailers)) => Piece::Trailers(trailers.clone()),
            (None, None) => return self.forget(),
        };
        let cost = piece.cost();
        if self.bytes.saturating_add(cost) > KEPT_BODY || !take(cost) {
            return self.forget();
        }
        self.bytes = self.bytes.saturating_add(cost);
        self.kept.push_back(piece);
        self.next += 1;
    }

    /// What a reading has still before it is only read once.
    fn forget(&mut self) {
        if self.keeps {
            self.keeps = false;
            self.kept.drain(..self.next.min(self.kept.len()));
            self.kept.shrink_to_fit();
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        KEPT.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
    }

    /// What is kept and not read.
    fn left(&self) -> impl Iterator<Item = &Piece> {
        self.kept.iter().skip(if self.keeps { self.next } else { 0 })
    }
}

impl Drop for Reel {
    fn drop(&mut self) {
        self.give_back();
    }
}

// === impl Piece ===

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Trailers(_) => 0,
        }
    }

    fn cost(&self) -> usize {
        match self {
            Self::Data(data) => data.len().saturating_add(OVERHEAD),
            Self::Trailers(trailers) => {
                let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                    name.as_str().len().saturating_add(value.len()).saturating_add(OVERHEAD)
                };
                trailers.iter().map(field).fold(OVERHEAD, usize::saturating_add)
            }
        }
    }

    fn copy(&self) -> Self {
        match self {
            Self::Data(data) => Self::Data(data.clone()),
            Self::Trailers(trailers) => Self::Trailers(trailers.clone()),
        }
    }

    fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data),
            Self::Trailers(trailers) => Frame::trailers(trailers),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http::HeaderValue;

    use super::*;

    /// A body of these pieces, as one that comes over a connection would give them.
    fn body(pieces: Vec<Piece>) -> Body {
        let (tape, reading) = Tape::new(Body::default());
        {
            let mut reel = lock(&tape.0);
            reel.keeps = false;
            reel.kept = pieces.into();
        }
        Body::from(reading)
    }

    async fn read(reading: &Reading, frames: usize) -> Vec<String> {
        let mut read = Vec::new();
        for _ in 0..frames {
            match poll_fn(|cx| reading.poll_frame(cx)).await {
                Some(Ok(frame)) => read.push(match frame.trailers_ref() {
                    Some(trailers) => format!("{trailers:?}"),
                    None => String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap(),
                }),
                _ => break,
            }
        }
        read
    }

    fn data(text: &str) -> Piece {
        Piece::Data(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[tokio::test]
    async fn what_was_read_is_read_again_and_the_rest_follows_with_its_trailers() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-end", HeaderValue::from_static("yes"));
        let (tape, first) = Tape::new(body(vec![data("a"), data("bc"), Piece::Trailers(trailers)]));
        assert_eq!(read(&first, 2).await, ["a", "bc"]);
        let second = tape.rewind().unwrap();
        assert!(!second.is_end_stream());
        assert_eq!(second.size_hint().exact(), Some(3));
        assert_eq!(read(&second, 9).await, ["a", "bc", r#"{"x-end": "yes"}"#]);
        let third = tape.rewind().unwrap();
        assert_eq!(read(&third, 1).await, ["a"]);
        // The answer is there: the rest is read, and nothing more is kept.
        tape.forget();
        assert_eq!(read(&third, 9).await, ["bc", r#"{"x-end": "yes"}"#]);
        assert!(third.is_end_stream() && lock(&tape.0).kept.is_empty());
        assert!(tape.rewind().is_none());
    }

    #[tokio::test]
    async fn a_body_longer_than_what_is_kept_is_read_once_and_holds_nothing() {
        let piece = "x".repeat(1000);
        let (tape, reading) = Tape::new(body((0..100).map(|_| data(&piece)).collect()));
        let most = KEPT_BODY / (1000 + OVERHEAD);
        assert_eq!(read(&reading, most).await.len(), most);
        assert_eq!(lock(&tape.0).kept.len(), most);
        assert_eq!(read(&reading, 1).await.len(), 1);
        assert!(lock(&tape.0).kept.is_empty() && tape.rewind().is_none());
        assert_eq!(read(&reading, 1000).await.len(), 100 - most - 1);
    }

    #[tokio::test]
    async fn many_small_frames_are_not_kept_for_the_price_of_their_bytes() {
        let (tape, reading) = Tape::new(body((0..5000).map(|_| data("x")).collect()));
        read(&reading, 2000).await;
        assert!(tape.rewind().is_none());
    }

    #[tokio::test]
    async fn an_older_reading_never_says_that_the_body_has_ended() {
        let (tape, first) = Tape::new(body(vec![data("a")]));
        let _second = tape.rewind().unwrap();
        let polled = poll_fn(|cx| Poll::Ready(first.poll_frame(cx).is_pending())).await;
        assert!(polled);
    }
}
