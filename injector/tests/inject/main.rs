//! What injection makes of pods.

mod admission;
mod invariants;
mod manifests;
mod probes;
mod properties;
mod refusals;
mod support;
