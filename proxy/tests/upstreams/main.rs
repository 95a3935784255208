//! Where the outbound side goes: several endpoints behind one destination, names, and lines.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod balancing;
mod kept;
mod killed;
mod lines;
mod names;
mod repeats;
mod replica;
mod rolling;
mod timeouts;
