//! Destinations that the cluster's directory knows.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../upstreams/replica.rs"]
#[allow(dead_code)]
mod replica;

mod answers;
mod changes;
mod defaults;
mod fixture;
mod load;
mod outage;
mod servers;
