//! The rules at work: a pod in a network namespace of its own, real sockets of several users, and the
//! built `mantlet-init`. The kernel's counters and what arrives are the judges.
//!
//! A program in place of the sidecar says where a connection wanted to go; that is all that is asked of
//! a sidecar here. The sidecar itself is in the tests of its own crate.

#![allow(clippy::unwrap_used, missing_docs)]

mod fixture;

mod failures;
mod inbound;
mod listing;
mod odd_packets;
mod ordinary;
mod outbound;
mod places;
mod replacing;
mod verify;
