//! The process log: what the sidecar says about itself, through `tracing`, on standard error.

use std::{
    io::{self, IsTerminal},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer, Registry, filter::Targets, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

/// The level of the process log, while the process runs.
#[derive(Clone)]
pub struct LogLevel {
    configured: LevelFilter,
    handle: reload::Handle<Targets, Registry>,
    /// Counts changes, so that the end of one does not undo a later one.
    changes: Arc<AtomicU64>,
}

/// A change of the level that has not ended.
#[derive(Debug)]
pub struct LevelChange(u64);

/// Starts the process log at `level` (`off`, `error`, `warn`, `info`, `debug`, `trace`): text for people when
/// standard error is a terminal, one JSON object per line otherwise. A second call in one process changes nothing.
pub fn start_process_log(level: &str) -> LogLevel {
    let level: LevelFilter = level.parse().unwrap_or(LevelFilter::INFO);
    let (filter, handle) = reload::Layer::new(filter(level));
    let format = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let layer = match io::stderr().is_terminal() {
        true => format.with_ansi(std::env::var_os("NO_COLOR").is_none()).boxed(),
        false => format.json().flatten_event(true).boxed(),
    };
    // An embedding program, or a test, may have its own subscriber already.
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
    LogLevel { configured: level, handle, changes: Arc::default() }
}

/// Libraries at debug level print request heads, which hold secrets: theirs stays at warn.
fn filter(level: LevelFilter) -> Targets {
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("mantlet", level)
}

// === impl LogLevel ===

impl LogLevel {
    /// Sets the level until [`Self::revert`] is called with what this returns; `None` if it is no level.
    #[must_use]
    pub fn set(&self, level: &str) -> Option<LevelChange> {
        let level: LevelFilter = level.parse().ok()?;
        let number = self.changes.fetch_add(1, Ordering::Relaxed) + 1;
        self.handle.reload(filter(level)).ok()?;
        Some(LevelChange(number))
    }

    /// Goes back to the configured level, unless there was a later change; says whether it did.
    pub fn revert(&self, change: &LevelChange) -> bool {
        self.changes.load(Ordering::Relaxed) == change.0
            && self.handle.reload(filter(self.configured)).is_ok()
    }

    /// The configured level.
    #[must_use]
    pub fn configured(&self) -> String {
        self.configured.to_string()
    }
}
