//! `/v1/events`: what happens, as server-sent events (WHATWG HTML, 9.2), until the reader leaves or is too slow.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::Frame;
use tokio::{
    sync::Notify,
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};

use crate::activity::Watcher;

/// A comment is sent this often, so that a reader that is gone is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A reader that is too slow has this long to take what is on its way to it.
const GRACE: Duration = Duration::from_secs(2);
/// The first line: a reader knows at once that it is heard.
const HELLO: &str = ": watching\n\n";
const BEAT: &str = ":\n\n";
const TOO_SLOW: &str = "event: dropped\ndata: {\"cause\":\"too slow\"}\n\n";

/// The body of the answer.
pub(super) struct Events {
    watcher: Watcher,
    beat: Interval,
    first: VecDeque<&'static str>,
    over: bool,
}

/// Ends a connection whose reader was too slow.
#[derive(Clone, Default)]
pub(super) struct Cut(pub(super) Arc<Notify>);

// === impl Events ===

impl Events {
    pub(super) fn new(watcher: Watcher) -> Self {
        let mut beat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { watcher, beat, first: VecDeque::from([HELLO]), over: false }
    }
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = |text: &str| Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(text.as_bytes())))));
        if let Some(first) = self.first.pop_front() {
            return frame(first);
        }
        if self.over {
            return Poll::Ready(None);
        }
        match self.watcher.poll_recv(context) {
            Poll::Ready(Some(text)) => frame(&text),
            Poll::Ready(None) => {
                self.over = true;
                frame(TOO_SLOW)
            }
            Poll::Pending => match self.beat.poll_tick(context) {
                Poll::Ready(_) => frame(BEAT),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

// === impl Cut ===

impl Cut {
    /// Completes when the connection is to be ended; never, for one that watches nothing.
    pub(super) async fn due(&self) {
        self.0.notified().await;
        tokio::time::sleep(GRACE).await;
    }
}
