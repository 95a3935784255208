//! The runtime of a verb, and the signals that end it.

use std::future::Future;

use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;

/// Runs a verb on one thread. Children are spawned from this thread, which lives as long as the
/// process: a parent-death signal is tied to the thread that forked.
pub(crate) fn block_on<T>(verb: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::finding("cannot start the runtime").because(&error))?
        .block_on(verb)
}

/// Completes at the first SIGINT, SIGTERM or SIGHUP. The handlers stand when this returns, so a
/// signal that comes while something is still being set up ends it cleanly too.
pub(crate) fn termination() -> Result<impl Future<Output = ()>, Failure> {
    let listen =
        |kind| signal(kind).map_err(|error| Failure::finding("cannot listen for signals").because(&error));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    })
}
