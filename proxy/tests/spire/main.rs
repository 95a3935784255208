//! Sidecars with identities from a real SPIRE server and agent, between real peers.
//!
//! Each test has a server and an agent of its own. States are waited for, never slept for; lifetimes
//! are as short as SPIRE allows. Needs `TEST_PEERS` (testkit/peers/README.md).

#![allow(clippy::unwrap_used, missing_docs)]
#![allow(clippy::large_futures)]

mod chains;
mod envoy;
mod federation;
mod ghostunnel;
mod interop;
mod life;
mod mesh;
mod selection;
mod traffic;
