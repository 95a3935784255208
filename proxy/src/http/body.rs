//! One body type for requests and responses.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use super::{
    client::Lease,
    guard::{Exchange, Patience},
    headers,
    tape::{Reading, Tape},
    unsent::Unsent,
};
use crate::{
    metrics::{CloseReason, RequestGuard},
    revoke::Revoke,
};

/// A body that is streamed through, or a short text of our own.
///
/// It carries what must live exactly as long as the exchange: the lease of the upstream connection,
/// and the scope (guards of the request) of whoever serves it.
#[derive(Default)]
pub struct Body {
    content: Content,
    lease: Option<Lease>,
    scope: Option<Box<dyn Scope>>,
    exchange: Option<Exchange>,
    /// Set for a gRPC response: when it is revoked, it ends with trailers that say so.
    revoke: Option<Revoke>,
    /// How long the upstream took to answer with the head that belongs to this body.
    waited: Option<Duration>,
    /// Set for a request: ends it when a body of known length does not come.
    hurry: Option<(Revoke, Duration)>,
    patience: Option<Box<Patience>>,
    /// Set where the body leaves over HTTP/1.
    unsent: Option<Unsent>,
}

/// What lives as long as a response.
pub trait Scope: Send {
    /// The trailers, if there are any.
    fn trailers(&mut self, trailers: &HeaderMap);
}

#[derive(Default)]
enum Content {
    #[default]
    Empty,
    Text(Bytes),
    Stream(Incoming),
    Taped(Reading),
}

// === impl Body ===

impl Body {
    /// A text of our own.
    #[must_use]
    pub fn text(text: impl Into<Bytes>) -> Self {
        Self { content: Content::Text(text.into()), ..Self::default() }
    }

    /// Ties the upstream connection to the end of this body.
    pub(super) fn with_lease(mut self, lease: Lease) -> Self {
        self.lease = Some(lease);
        self.settle();
        self
    }

    /// Says how long the upstream took to answer.
    pub(super) fn with_wait(mut self, waited: Duration) -> Self {
        self.waited = Some(waited);
        self
    }

    /// How long the upstream took to answer; none for a text of our own.
    #[must_use]
    pub fn waited(&self) -> Option<Duration> {
        self.waited
    }

    /// Keeps `scope` until the body has ended or is dropped.
    #[must_use]
    pub fn with_scope(mut self, scope: Box<dyn Scope>) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Keeps what is read of it, so that it can be read once more.
    pub(super) fn taped(&mut self) -> Tape {
        if let Content::Taped(reading) = &self.content {
            return reading.tape();
        }
        let (tape, reading) = Tape::new(std::mem::take(self));
        *self = Self::from(reading);
        tape
    }

    pub(super) fn with_exchange(mut self, exchange: Exchange) -> Self {
        self.exchange = Some(exchange);
        self
    }

    /// Ends the request by `revoke` when its length is known and no byte comes for `limit`. A body of
    /// unknown length may be a stream that rests.
    #[must_use]
    pub fn hurried(mut self, revoke: Revoke, limit: Duration) -> Self {
        self.hurry = http_body::Body::size_hint(&self)
            .exact()
            .is_some_and(|bytes| bytes > 0)
            .then_some((revoke, limit));
        self
    }

    /// Gives out no more than one piece ahead of what the stream under it has taken.
    pub(super) fn pace(&mut self, unsent: &Unsent) {
        if matches!(self.content, Content::Stream(_) | Content::Taped(_)) {
            self.unsent = Some(unsent.begin());
        }
    }

    /// Ends with the trailers of a refusal when `revoke` is used.
    #[must_use]
    pub fn ending_with_trailers(mut self, revoke: Revoke) -> Self {
        self.revoke = Some(revoke);
        self
    }

    /// The trailers of a gRPC stream whose right was taken away (status 7, permission denied).
    fn revoked(&mut self) -> Option<Frame<Bytes>> {
        let reason = self.revoke.as_ref()?.reason()?;
        self.content = Content::Empty;
        self.revoke = None;
        // What the upstream still sends belongs to nobody: its connection is not used again.
        self.lease = None;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("7"));
        trailers.insert("grpc-message", HeaderValue::from_static(reason.as_str()));
        Some(Frame::trailers(trailers))
    }

    /// No byte of the body is there.
    fn hurry(&mut self, cx: &mut Context<'_>) {
        let Some((revoke, limit)) = &self.hurry else { return };
        if self.patience.get_or_insert_default().poll(cx, *limit).is_ready() {
            revoke.revoke(CloseReason::Timeout);
            self.hurry = None;
        }
    }

    fn said(&mut self, frame: &Frame<Bytes>) {
        if let (Some(data), Some(unsent)) = (frame.data_ref(), &self.unsent) {
            unsent.given(data.len());
        }
        if let (Some(trailers), Some(scope)) = (frame.trailers_ref(), &mut self.scope) {
            scope.trailers(trailers);
        }
    }

    /// Gives the upstream connection back as soon as nothing more can come from it.
    fn settle(&mut self) {
        if self.lease.is_some()
            && http_body::Body::is_end_stream(self)
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
    }
}

impl From<Incoming> for Body {
    fn from(stream: Incoming) -> Self {
        let content =
            if http_body::Body::is_end_stream(&stream) { Content::Empty } else { Content::Stream(stream) };
        Self { content, ..Self::default() }
    }
}

impl From<Reading> for Body {
    fn from(reading: Reading) -> Self {
        Self { content: Content::Taped(reading), ..Self::default() }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(trailers) = self.revoked() {
            self.said(&trailers);
            return Poll::Ready(Some(Ok(trailers)));
        }
        if let Some(unsent) = &self.unsent {
            ready!(unsent.poll_written(cx));
        }
        let frame = match &mut self.content {
            Content::Empty => None,
            Content::Text(text) => {
                let text = std::mem::take(text);
                self.content = Content::Empty;
                Some(Ok(Frame::data(text)))
            }
            Content::Stream(stream) => {
                let Poll::Ready(frame) = Pin::new(stream).poll_frame(cx) else {
                    self.hurry(cx);
                    return Poll::Pending;
                };
                if let Some(patience) = &mut self.patience {
                    patience.renew();
                }
                if frame.is_none() {
                    self.content = Content::Empty;
                }
                frame.map(|frame| frame.map(clean_trailers))
            }
            Content::Taped(reading) => ready!(reading.poll_frame(cx)),
        };
        if let Some(Ok(frame)) = &frame {
            self.said(frame);
        }
        self.settle();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Text(text) => text.is_empty(),
            Content::Stream(stream) => stream.is_end_stream(),
            Content::Taped(reading) => reading.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Text(text) => SizeHint::with_exact(text.len() as u64),
            Content::Stream(stream) => stream.size_hint(),
            Content::Taped(reading) => reading.size_hint(),
        }
    }
}

// === impl Scope ===

impl<T: Send> Scope for (RequestGuard, T) {
    fn trailers(&mut self, trailers: &HeaderMap) {
        self.0.ended(trailers);
    }
}

fn clean_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            headers::clean_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}
