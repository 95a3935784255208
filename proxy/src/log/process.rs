//! The process log: what the sidecar says about itself, through `tracing`, on standard error.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// Starts the process log at `level` (`off`, `error`, `warn`, `info`, `debug`, `trace`): text for people when
/// standard error is a terminal, one JSON object per line otherwise. A second call in one process changes nothing.
pub fn start_process_log(level: &str) {
    let level: LevelFilter = level.parse().unwrap_or(LevelFilter::INFO);
    // Libraries at debug level print request heads, which hold secrets: theirs stays at warn.
    let filter = Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("mantlet", level);
    let format = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let layer = match io::stderr().is_terminal() {
        true => format.with_ansi(std::env::var_os("NO_COLOR").is_none()).boxed(),
        false => format.json().flatten_event(true).boxed(),
    };
    // An embedding program, or a test, may have its own subscriber already.
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
}
