//! Adding the sidecar to a pod: pod in, JSON Patch operations out.
//!
//! Pure: no I/O, no cluster, no clock, no randomness. The time and the token of the probes are arguments,
//! so the webhook and the command line make the same bytes of the same pod.

#![allow(dead_code, reason = "used by the steps that make operations, which come next")]

mod config;
mod document;
mod operation;
mod outcome;
mod reason;
mod token;

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::Value;

pub use config::{Config, Mistakes};
pub use document::{
    AccessLog, ContainerResources, Directory, Document, Image, Images, LogLevel, Otherwise, Ports, Profile,
    PullPolicy, Resources, Unconfigured, Unknown, WorkloadApi,
};
pub use operation::{Inapplicable, Operation, Pointer, apply};
pub use outcome::{Decision, Outcome, Problem};
pub use reason::{Reason, Verdict};
pub use token::Token;

/// A pod, and what decides about it.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The pod, or a pod template: what has `metadata` and `spec`.
    pub object: &'a Value,
    /// Where it is created: at admission, the namespace of the request.
    pub namespace: &'a Namespace,
    /// The installation.
    pub config: &'a Config,
    /// Stands in the paths of the probes, if the pod has none yet.
    pub token: &'a Token,
    /// Now.
    pub now: SystemTime,
    /// Who is injected.
    pub scope: Scope,
}

/// A namespace.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Who is injected.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Scope {
    /// Whom the labels of pod and namespace say: at admission.
    #[default]
    Labels,
    /// Everyone that does not say no: the command line, which was asked for these very pods.
    Asked,
}
