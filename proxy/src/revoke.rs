//! Ending one request or connection from outside.
//!
//! A right can be taken away while its work is under way: a policy edit, an expired grant, a trust
//! bundle without the authority that vouched for the peer. What carries the work, an HTTP/2
//! stream's task or a whole connection, runs inside [`revocable`]; whoever judges holds the
//! [`Revoke`] and can end it at any moment. Dropping the future is what ends it: RST_STREAM for a
//! stream and a closed socket for a connection, also when the peer has stopped reading. A wrapper
//! around the body could not do that, because nobody polls a body whose window is closed.
//!
//! Where the peer can be told, it is: a request without an answer gets one, and a gRPC stream that has
//! begun ends with trailers. Either has half a second, then it is dropped like the rest.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    task::futures::TaskLocalFuture,
    time::{Sleep, sleep},
};

use crate::metrics::CloseReason;

/// How long work that can tell its peer has for it.
const FAREWELL: Duration = Duration::from_millis(500);

tokio::task_local! {
    static CURRENT: Revoke;
}

/// Ends the [`revocable`] work that it belongs to. Cheap to clone.
#[derive(Clone, Default)]
pub struct Revoke(Arc<Mutex<State>>);

pin_project_lite::pin_project! {
    /// Work that ends at the latest when it is revoked.
    pub struct Revocable<F> {
        #[pin]
        work: TaskLocalFuture<Revoke, F>,
        revoke: Revoke,
        farewell: Option<Pin<Box<Sleep>>>,
    }
}

/// How far the work has come, as far as its end depends on it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Progress {
    /// Nothing that the peer could be told in.
    #[default]
    Mute,
    /// A request has no answer yet.
    Unanswered,
    /// A response is on its way that can still say how it ended.
    Answering,
}

#[derive(Default)]
struct State {
    progress: Progress,
    reason: Option<CloseReason>,
    waker: Option<Waker>,
}

/// Runs `work` so that it can be ended; inside it, [`Revoke::current`] is the handle.
/// The result is `Err` with the reason if the work was revoked before it was done.
pub fn revocable<F: Future>(work: F) -> Revocable<F> {
    let revoke = Revoke::default();
    Revocable { work: CURRENT.scope(revoke.clone(), work), revoke, farewell: None }
}

// === impl Revoke ===

impl Revoke {
    /// The handle of the work that the calling code is part of; one that ends nothing when there
    /// is none.
    #[must_use]
    pub fn current() -> Self {
        CURRENT.try_with(Self::clone).unwrap_or_default()
    }

    /// Ends the work. The first reason stays.
    pub fn revoke(&self, reason: CloseReason) {
        let waker = {
            let mut state = self.lock();
            state.reason.get_or_insert(reason);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends the work if no response has begun.
    pub fn revoke_unanswered(&self, reason: CloseReason) {
        if self.lock().progress == Progress::Unanswered {
            self.revoke(reason);
        }
    }

    /// A request begins. An HTTP/1 connection carries one after the other.
    pub fn request_begins(&self) {
        self.lock().progress = Progress::Unanswered;
    }

    /// Its response begins; `can_tell` when that can still say that the right was taken away.
    pub fn response_begins(&self, can_tell: bool) {
        self.lock().progress = if can_tell { Progress::Answering } else { Progress::Mute };
    }

    /// Resolves when the work is revoked. For the work itself: whoever revokes wakes it.
    pub async fn revoked(&self) -> CloseReason {
        std::future::poll_fn(|_| self.reason().map_or(Poll::Pending, Poll::Ready)).await
    }

    /// Why the work was ended, if it was.
    #[must_use]
    pub fn reason(&self) -> Option<CloseReason> {
        self.lock().reason
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Revocable ===

impl<F> Revocable<F> {
    /// The handle that ends the work.
    pub fn handle(&self) -> Revoke {
        self.revoke.clone()
    }
}

impl<F: Future> Future for Revocable<F> {
    type Output = Result<F::Output, CloseReason>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let revoked = {
            let mut state = this.revoke.lock();
            if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                state.waker = Some(cx.waker().clone());
            }
            state.reason.map(|reason| (reason, state.progress))
        };
        if let Some((reason, progress)) = revoked {
            if progress == Progress::Mute {
                return Poll::Ready(Err(reason));
            }
            let limit = this.farewell.get_or_insert_with(|| Box::pin(sleep(FAREWELL)));
            if limit.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(reason));
            }
        }
        this.work.poll(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts work that never ends by itself, and gives its handle.
    async fn endless() -> (Revoke, tokio::task::JoinHandle<Result<(), CloseReason>>) {
        let (give, take) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(revocable(async move {
            let _ = give.send(Revoke::current());
            std::future::pending::<()>().await;
        }));
        (take.await.unwrap(), task)
    }

    #[tokio::test]
    async fn revoked_work_ends_while_it_waits_for_something_that_never_comes() {
        let (revoke, task) = endless().await;
        revoke.revoke(CloseReason::Policy);
        revoke.revoke(CloseReason::Drain);
        assert_eq!(task.await.unwrap(), Err(CloseReason::Policy), "the first reason stays");
    }

    #[tokio::test]
    async fn work_that_nobody_revokes_ends_by_itself() {
        assert_eq!(revocable(async { 7 }).await, Ok(7));
        Revoke::current().revoke(CloseReason::Policy);
    }

    #[tokio::test(start_paused = true)]
    async fn a_grpc_stream_that_cannot_write_its_trailers_ends_all_the_same() {
        let (revoke, task) = endless().await;
        revoke.response_begins(true);
        let begun = tokio::time::Instant::now();
        revoke.revoke(CloseReason::Expired);
        assert_eq!(task.await.unwrap(), Err(CloseReason::Expired));
        assert_eq!(begun.elapsed().as_millis() / 10, FAREWELL.as_millis() / 10);
    }

    #[tokio::test]
    async fn only_unanswered_work_ends_when_only_that_is_meant() {
        let (revoke, task) = endless().await;
        revoke.response_begins(false);
        revoke.revoke_unanswered(CloseReason::PeerExpired);
        assert_eq!(revoke.reason(), None);
        revoke.request_begins();
        revoke.revoke_unanswered(CloseReason::PeerExpired);
        assert_eq!(task.await.unwrap(), Err(CloseReason::PeerExpired));
    }
}
