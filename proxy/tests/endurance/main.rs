//! What a sidecar has to go through: stops under load, hostile peers, broken networks. What was not hit
//! goes on as if nothing had been.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod stop;
