//! Every protocol that a sidecar carries, edge by edge, between built sidecars over real sockets.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod bodies;
mod edges;
mod grpc;
mod idle;
mod matrix;
mod memory;
mod paced;
mod trailers;
