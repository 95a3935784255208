//! What injection makes of pods.

mod admission;
mod support;
