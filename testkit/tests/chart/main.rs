//! The chart, as the real helm renders it and as the real API server takes it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

mod agreement;
mod edits;
mod files;
mod helm;
mod pods;
mod policy;
mod render;
mod schemas;
mod spire;
mod unreachable;

/// The chart itself.
fn chart() -> PathBuf {
    workspace().join("deploy/chart")
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
