//! What a sidecar has to go through: stops under load, hostile peers, broken networks. What was not hit
//! goes on as if nothing had been.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code)]
#[path = "../attack_cases/frames.rs"]
mod frames;

#[allow(dead_code)]
#[path = "../protocols/memory.rs"]
mod memory;

mod crowds;
mod limits;
mod panics;
mod resets;
mod stalled;
mod stop;
mod upstreams;
