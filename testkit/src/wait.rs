//! Waiting that says what it waited for.

use std::future::Future;
use std::time::Duration;

/// Longer than anything takes on a busy machine: reaching it is a defect, never a slow run.
const PATIENCE: Duration = Duration::from_secs(30);

/// Awaits `what`; after 30 s the test fails and names it.
///
/// # Panics
/// When the time is over.
pub async fn within<F: Future>(what: impl AsRef<str>, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {} s for: {}", PATIENCE.as_secs(), what.as_ref()),
    }
}

/// Asks again and again until there is an answer, for what can only be polled (a scrape, a file);
/// after 30 s the test fails and names it.
///
/// # Panics
/// When the time is over.
pub async fn eventually<T>(what: impl AsRef<str>, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}
