//! What a stream asks, one question at a time, as fast as the directory takes them.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use mantlet_proto::directory::Question;
use tonic::codegen::tokio_stream::Stream;

use super::Shared;

/// The questions of one stream to the directory, until there is a newer stream.
pub(super) struct Questions {
    pub(super) shared: Arc<Shared>,
    pub(super) stream: u64,
}

impl Stream for Questions {
    type Item = Question;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Question>> {
        match self.shared.book().next(self.stream, cx.waker()) {
            Ok(Some(question)) => Poll::Ready(Some(question)),
            Ok(None) => Poll::Pending,
            Err(()) => Poll::Ready(None),
        }
    }
}
