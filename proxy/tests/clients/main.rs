//! Clients, servers and proxies of other makes, through built sidecars.
//!
//! Needs `TEST_PEERS` (testkit/peers/README.md), nghttp2's client and curl.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod curl;
mod envoy;
mod grpc;
mod h2spec;
mod nghttp2;
mod tunnel;
