//! The life and death of identities and rights (docs/wire.md), with connections of every kind open
//! and under load: what a rotation, a bundle, an expiry, a policy or an agent that goes away does to
//! what is under way, and what it must leave alone.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod mesh;
mod traffic;

mod bundles;
mod clock;
mod destinations;
mod dev_agent;
mod last_word;
mod load;
mod missing;
mod own_identity;
mod peer_expiry;
mod reloads;
mod rights;
mod rotation;
