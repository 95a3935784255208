//! For how long what was said about a destination holds.

use std::sync::Arc;

use tokio::sync::watch::Sender;

/// The word that a destination was given by: it holds until it is taken back, for all that go by it. Clones
/// are the same word.
#[derive(Clone, Debug, Default)]
pub struct Standing(Arc<Sender<bool>>);

// === impl Standing ===

impl Standing {
    /// Returns when the word is taken back: whoever went by it has to ask again.
    pub async fn over(&self) {
        // The sender lives as long as `self`.
        let _ = self.0.subscribe().wait_for(|ended| *ended).await;
    }

    /// Whether [`over`](Self::over) would return at once.
    #[must_use]
    pub fn is_over(&self) -> bool {
        *self.0.borrow()
    }

    pub(super) fn end(&self) {
        self.0.send_replace(true);
    }

    /// Whether anybody else goes by it.
    pub(super) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}
