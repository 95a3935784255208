//! The attack cases of the policy pages (D), over raw sockets against the built sidecar.
//!
//! Peers here are no Mantlet: they say whatever they like, byte by byte, behind a good certificate.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod fixture;

mod detection;
mod floods;
mod frames;
mod framing;
mod headers;
mod identity;
mod paths;
mod reload;
mod telemetry;
mod upgrades;
