//! Handshakes in progress: so many at a time, and the newest comes in.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::limits::HANDSHAKES;

/// The handshakes in progress, the oldest first. When there are too many, the oldest ends: an honest one takes
/// milliseconds, so whoever opens many and leaves them open loses these, and keeps nobody out.
#[derive(Default)]
pub struct Handshakes(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    open: VecDeque<Open>,
    next: u64,
}

struct Open {
    number: u64,
    /// Dropped to end the handshake.
    _ends: oneshot::Sender<Infallible>,
}

/// A handshake's place, until it is dropped.
struct Turn<'a> {
    handshakes: &'a Handshakes,
    number: u64,
}

// === impl Handshakes ===

impl Handshakes {
    /// Does a handshake; `None` if newer ones needed its place.
    pub async fn carry<T>(&self, handshake: impl Future<Output = T>) -> Option<T> {
        let (_turn, displaced) = self.begin();
        tokio::select! {
            biased;
            done = pin!(handshake) => Some(done),
            _ = displaced => None,
        }
    }

    fn begin(&self) -> (Turn<'_>, oneshot::Receiver<Infallible>) {
        let (ends, displaced) = oneshot::channel();
        let mut queue = self.lock();
        let number = queue.next;
        queue.next = queue.next.wrapping_add(1);
        if queue.open.len() >= HANDSHAKES {
            queue.open.pop_front();
        }
        queue.open.push_back(Open { number, _ends: ends });
        (Turn { handshakes: self, number }, displaced)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Turn ===

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = self.handshakes.lock();
        // Numbers grow along the queue. One that was displaced is not in it.
        if let Ok(at) = queue.open.binary_search_by_key(&self.number, |open| open.number) {
            queue.open.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn the_oldest_ends_when_there_are_too_many_and_a_place_is_free_when_one_is_done() {
        let handshakes = Handshakes::default();
        let mut first = Box::pin(handshakes.carry(pending::<()>()));
        let mut rest: Vec<_> = (1..HANDSHAKES).map(|_| Box::pin(handshakes.carry(pending::<()>()))).collect();
        for stalled in std::iter::once(&mut first).chain(&mut rest) {
            assert!(look(stalled).await.is_none());
        }
        drop(rest.pop());
        assert_eq!(handshakes.carry(ready(7)).await, Some(7));
        assert!(look(&mut first).await.is_none(), "there was room");
        let mut more: Vec<_> = (0..2).map(|_| Box::pin(handshakes.carry(pending::<()>()))).collect();
        for stalled in &mut more {
            assert!(look(stalled).await.is_none());
        }
        assert_eq!(look(&mut first).await, Some(None));
        assert!(look(&mut rest[0]).await.is_none());
        assert_eq!(handshakes.carry(ready(7)).await, Some(7));
    }

    async fn look<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|cx| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(cx) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
