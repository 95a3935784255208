//! The sidecar in a pod whose traffic the rules redirect to it: a network namespace, real sockets of
//! several users, the rules as `mantlet-init` installs them.

#![allow(clippy::unwrap_used, missing_docs)]

mod fixture;

mod inbound;
mod outbound;
mod probes;
mod refusals;
mod self_call;
mod self_check;
mod upstreams;
mod vanished;
