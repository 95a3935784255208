//! For how long what was said about a destination holds.

use std::sync::Arc;

use tokio::sync::watch::Sender;

/// The word that a destination was given by: it holds until it is taken back, for all that go by it. Clones
/// are the same word.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    word: Arc<Sender<bool>>,
    /// That of somebody who comes first and has said nothing.
    under: Option<Arc<Sender<bool>>>,
}

// === impl Standing ===

impl Standing {
    /// Returns when the word is taken back: whoever went by it has to ask again.
    pub async fn over(&self) {
        // The senders live as long as `self`.
        let over = async |word: &Sender<bool>| drop(word.subscribe().wait_for(|ended| *ended).await);
        match &self.under {
            Some(under) => tokio::select! {
                () = over(&self.word) => {}
                () = over(under) => {}
            },
            None => over(&self.word).await,
        }
    }

    /// Whether [`over`](Self::over) would return at once.
    #[must_use]
    pub fn is_over(&self) -> bool {
        *self.word.borrow() || self.under.as_ref().is_some_and(|under| *under.borrow())
    }

    /// The same word, which `other` can take back besides.
    pub(super) fn under(self, other: Self) -> Self {
        Self { word: self.word, under: Some(other.word) }
    }

    pub(super) fn end(&self) {
        self.word.send_replace(true);
    }

    /// Whether anybody else goes by it.
    pub(super) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.word) > 1
    }
}
