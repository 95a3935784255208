//! Panics: each is logged, and one in a task that everything else relies on ends the process.
//!
//! A panic in the task of a connection or a stream closes that one, and is counted as `internal`. Without the
//! task that follows the policy, though, the sidecar would go on with rules that are no longer meant, and
//! without the one that accepts it would be a listening socket that nobody serves. Nothing can be said about
//! such a process except that another one has to take its place.

use std::{backtrace::Backtrace, future::Future, io::Write, panic, process, thread};

use tokio::task::JoinHandle;
use tracing::error;

/// The process's exit code after a panic in a task that it cannot do without.
pub const EXIT_CODE: i32 = 70;

/// A piece of work that the process cannot do without, by name; ends the process when a panic drops it.
pub struct Vital(&'static str);

/// Spawns a task that the process cannot do without.
pub fn spawn<F>(name: &'static str, task: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(async move {
        let _vital = Vital::new(name);
        task.await
    })
}

/// Every panic becomes an event of the process log, with its backtrace where `RUST_BACKTRACE` asks for one.
pub fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let said = panic.payload();
        let message = match (said.downcast_ref::<&str>(), said.downcast_ref::<String>()) {
            (Some(text), _) => text,
            (None, Some(text)) => text.as_str(),
            (None, None) => "",
        };
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = thread::current();
        error!(event = "panicked", message, location, thread = thread.name(),
            backtrace = %Backtrace::capture());
    }));
}

/// Panics here, once, where a build for tests was told to: `TEST_PANIC=<place>`, or `<place>:<n>` for the n-th
/// time that the place is reached.
#[cfg(debug_assertions)]
#[allow(clippy::panic, reason = "that is what it is for")]
pub fn test_panic(place: &str) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static REACHED: AtomicU32 = AtomicU32::new(0);
    let Ok(asked) = std::env::var("TEST_PANIC") else { return };
    let (name, nth) = asked.split_once(':').unwrap_or((&asked, "1"));
    if name == place && nth.parse() == Ok(REACHED.fetch_add(1, Ordering::Relaxed) + 1) {
        panic::panic_any("asked for by TEST_PANIC");
    }
}

/// A build for production has no such place.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn test_panic(_place: &str) {}

// === impl Vital ===

impl Vital {
    /// Keep it for as long as the work goes on.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self(name)
    }
}

impl Drop for Vital {
    fn drop(&mut self) {
        if thread::panicking() {
            error!(
                event = "vital_task_panicked",
                task = self.0,
                next_step = "the process ends; start another"
            );
            // The log may be what is broken.
            let _ = writeln!(std::io::stderr(), "mantlet-proxy: {} panicked; the process ends", self.0);
            process::exit(EXIT_CODE);
        }
    }
}
