//! What a sidecar under traffic exposes: complete, as described, bounded, and readable for the tools.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod bounded;
mod counted;
mod described;
mod observability;
