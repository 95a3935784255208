//! The sidecar for pods: what is added to them, and their annotations, checked with the crates that the
//! sidecar and its init container work with.
//!
//! [`inject`](inject::inject) says what becomes of a pod: the operations that add the sidecar, or why there
//! are none.
//!
//! [`check`] is what admission says about an object: every error and warning of its pod templates, as
//! [`mantlet_policy`] finds them, with annotation key, place, code and the way to put it right. A pod
//! and every kind that has a pod template are read alike, so that a bad annotation fails where it is
//! written, not in the pod that a controller makes of it later. `mantlet policy check` asks the same
//! code: what passes there passes at admission.
//!
//! Both are pure: no I/O, no cluster, no clock (the time is an argument). With the feature `server` there
//! is the rest of what a cluster runs: the admission webhook that serves both, its certificate, and the
//! program `mantlet-injector`.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod admission;
#[cfg(feature = "server")]
mod app;
#[cfg(feature = "server")]
mod certificates;
#[cfg(feature = "server")]
mod config;
#[cfg(feature = "server")]
mod directory_server;
#[cfg(feature = "server")]
mod events;
#[cfg(fuzzing)]
#[allow(clippy::indexing_slicing)]
pub mod fuzzing;
#[cfg(feature = "server")]
mod health;
pub mod inject;
#[cfg(feature = "server")]
mod kubernetes;
#[cfg(feature = "server")]
mod listener;
#[cfg(feature = "server")]
mod log;
pub mod metrics;
mod subject;
mod template;
#[cfg(feature = "server")]
mod webhook;

use std::time::SystemTime;

use mantlet_id::TrustDomain;
use mantlet_policy::{Guardrails, Report};
use serde_json::Value;

#[cfg(feature = "server")]
pub use app::main;
#[cfg(feature = "server")]
pub use config::document as configuration_document;
pub use subject::{Ready, Subject};
pub use template::{Mighty, Place, Template, Unreadable, places, templates};
#[cfg(feature = "server")]
pub use webhook::{MUTATE, VALIDATE};

/// What an object is checked against, whatever it says itself.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The trust domain of `ns/sa` and `mesh`.
    pub trust_domain: TrustDomain,
    /// The namespace of objects that do not name theirs: at admission, the one of the request.
    pub namespace: String,
    /// What no annotation may do.
    pub guardrails: Guardrails,
}

/// Everything that is wrong or strange with the pod templates of `object`; nothing, when it has none.
///
/// # Errors
/// An object that cannot be read: then nothing is known about it.
pub fn check(object: &Value, installation: &Installation, now: SystemTime) -> Result<Report, Unreadable> {
    let mut all = Report::default();
    for template in templates(object)? {
        let report = Subject::of_template(template, installation).report(now);
        all.errors.extend(report.errors);
        all.warnings.extend(report.warnings);
    }
    Ok(all)
}
