//! Waiting with an end.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// A limit on how long something may last. One timer is armed and looked at again when it fires;
/// what ends in time costs no timer operation.
#[derive(Default)]
pub(in crate::http) struct Patience {
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

// === impl Patience ===

impl Patience {
    /// What was waited for has come.
    pub(in crate::http) fn renew(&mut self) {
        self.since = None;
    }

    /// Ready when nothing has come for `limit`, since the first poll after the last [`Self::renew`].
    pub(in crate::http) fn poll(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        let deadline = *self.since.get_or_insert_with(Instant::now) + limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn patience_ends_after_its_limit_and_begins_anew_when_something_comes() {
        let mut patience = Patience::default();
        let begun = Instant::now();
        let short = Duration::from_secs(50);
        assert!(tokio::time::timeout(short, poll_fn(|cx| patience.poll(cx, LIMIT))).await.is_err());
        patience.renew();
        poll_fn(|cx| patience.poll(cx, LIMIT)).await;
        assert_eq!(begun.elapsed().as_secs(), 110);
    }
}
