//! The wire contract (docs/wire.md), held against the built sidecar over real sockets.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod alpn;
mod denial;
mod handshake;
mod identity_header;
mod lifecycle;
mod moving_in;
mod opaque;
mod options;
mod outbound;
mod plaintext;
mod pooling;
mod requests;
mod websocket;
