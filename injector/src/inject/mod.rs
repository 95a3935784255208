//! Adding the sidecar to a pod: pod in, JSON Patch operations out.
//!
//! Pure: no I/O, no cluster, no clock, no randomness. The time and the token of the probes are arguments,
//! so the webhook and the command line make the same bytes of the same pod.
//!
//! [`inject`] asks in this order: is it a pod ([`Reason::Malformed`]); is it called for (labels, and what
//! cannot have a sidecar); is there a sidecar already, which then is taken out first; what is wrong with
//! it, all of it; and at last what is added. A pod that asks by name and cannot be injected is denied, not
//! skipped: a silent skip looks like a sidecar.

mod config;
mod containers;
mod document;
mod handlers;
mod operation;
mod outcome;
mod plan;
mod pod;
mod reason;
mod refuse;
mod remove;
mod same;
mod scope;
mod stamp;
mod token;

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::Value;

use self::plan::Plan;
use self::pod::Pod;
use self::remove::{Present, index_of, present};
use self::scope::Called;

pub use config::{Config, Mistakes};
pub use containers::{INIT, PROXY};
pub use document::{
    AccessLog, ContainerResources, Directory, Document, Image, Images, LogLevel, Otherwise, Ports, Profile,
    PullPolicy, Resources, Unconfigured, Unknown, WorkloadApi,
};
pub use operation::{Inapplicable, Operation, Pointer, apply};
pub use outcome::{Decision, Outcome, Problem};
pub use reason::{Reason, Verdict};
pub use refuse::refuse_ephemeral;
pub use remove::{INJECTED, uninject};
pub use scope::INJECT;
pub use stamp::INJECTED_BY;
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

/// What becomes of a pod.
#[must_use]
pub fn inject(input: &Input<'_>) -> Outcome {
    let mut warnings = Vec::new();
    let decision = decide(input, &mut warnings).unwrap_or_else(Decision::Denied);
    Outcome::new(decision, warnings)
}

fn decide(input: &Input<'_>, warnings: &mut Vec<String>) -> Result<Decision, Vec<Problem>> {
    let pod = Pod::read(input.object)?;
    match scope::called(input, pod) {
        Called::Yes => {}
        Called::No(reason) => return plan::left_alone(input, pod, reason),
        Called::Refused(problems) => return Err(problems),
    }
    let Some(present) = present(pod)? else {
        let plan = Plan::new(input, pod, input.token, warnings)?;
        return plan.decision(Reason::Injected, Vec::new());
    };
    // As the pod was before: what is in it now is compared with what would be made of that.
    let mut base = input.object.clone();
    let broken = |_| vec![Problem::new(Reason::Tampered, "the sidecar in the pod cannot be taken out")];
    apply(&mut base, &present.operations).map_err(broken)?;
    let token = present.token.clone().unwrap_or_else(|| input.token.clone());
    let mut plan = Plan::new(input, Pod::read(&base)?, &token, warnings)?;
    if !is_current(input, &present, &plan, &base) {
        plan.keep_resources(input.object);
        return plan.decision(Reason::Updated, present.operations);
    }
    let moves = moves(input.object, plan.place());
    if moves.is_empty() {
        return Ok(Decision::Skipped(Reason::AlreadyInjected));
    }
    Ok(Decision::Injected { reason: Reason::Reordered, operations: moves })
}

/// Whether what is in the pod is what would be put there.
fn is_current(input: &Input<'_>, present: &Present, plan: &Plan<'_>, base: &Value) -> bool {
    let mut expected = base.clone();
    if !present.stamp.is_of(input.config) || apply(&mut expected, plan.operations()).is_err() {
        return false;
    }
    plan.is_in(&expected, input.object)
}

/// Moves our containers to `place` among the others, which keep their order.
fn moves(object: &Value, place: usize) -> Vec<Operation> {
    let list = Pointer::of(&["spec", "initContainers"]);
    let (Some(init), Some(proxy)) = (index_of(object, INIT), index_of(object, PROXY)) else {
        return Vec::new();
    };
    if (init, proxy) == (place, place + 1) {
        return Vec::new();
    }
    let last = object
        .pointer(list.as_str())
        .and_then(Value::as_array)
        .map_or(0, |list| list.len().saturating_sub(1));
    let step = |from: usize, to: usize| Operation::Move { from: list.item(from), path: list.item(to) };
    // Both to the end first: then the others are counted without them.
    let proxy = if proxy > init { proxy - 1 } else { proxy };
    vec![step(init, last), step(proxy, last), step(last - 1, place), step(last, place + 1)]
}
