//! Who is injected: labels, and what cannot be.

use mantlet_policy::registry;
use serde_json::Value;

use super::outcome::Problem;
use super::pod::{Pod, text};
use super::reason::Reason;
use super::{Input, Scope};

/// The label of pods and namespaces that asks for a sidecar.
pub const INJECT: &str = "mantlet.dev/inject";
const ENABLED: &str = "enabled";
const DISABLED: &str = "disabled";

/// What the labels, and the kind of pod, say.
#[derive(Debug)]
pub(super) enum Called {
    /// It is to be injected.
    Yes,
    /// It is not.
    No(Reason),
    /// It cannot be, and asks for it.
    Refused(Vec<Problem>),
}

pub(super) fn called(input: &Input<'_>, pod: Pod<'_>) -> Called {
    // Nobody can change these, so no word about them either.
    if pod.annotation("kubernetes.io/config.mirror").is_some() {
        return Called::No(Reason::MirrorPod);
    }
    let says = pod.label(INJECT);
    if says == Some(DISABLED) {
        return Called::No(Reason::OptOut);
    }
    let wrong = wrong_labels(pod);
    if !wrong.is_empty() {
        return Called::Refused(wrong);
    }
    let explicit = says == Some(ENABLED);
    let namespace = input.namespace;
    let asked = explicit
        || input.scope == Scope::Asked
        || namespace.labels.get(INJECT).is_some_and(|value| value == ENABLED);
    if !asked {
        return Called::No(Reason::NotEnabled);
    }
    let excluded = input.config.document().excluded_namespaces.contains(&namespace.name);
    let cannot = match pod.spec() {
        _ if excluded => Some((Reason::ExcludedNamespace, "another namespace")),
        spec if spec.get("hostNetwork").and_then(Value::as_bool) == Some(true) => {
            Some((Reason::HostNetwork, "a pod without hostNetwork"))
        }
        spec if is_windows(spec) => Some((Reason::Windows, "Linux")),
        _ => None,
    };
    match cannot {
        None => Called::Yes,
        // Who asks by name is told; a silent skip would look like a sidecar.
        Some((reason, instead)) if explicit => {
            let text = format!(
                "the pod says {INJECT}: {ENABLED}, but cannot have a sidecar: {} ({reason}); use {instead}, or \
                 say {INJECT}: {DISABLED}",
                reason.meaning()
            );
            Called::Refused(vec![Problem::new(Reason::CannotInject, text)])
        }
        Some((reason, _)) => Called::No(reason),
    }
}

fn wrong_labels(pod: Pod<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (key, value) in pod.labels().filter(|(key, _)| key.starts_with(registry::PREFIX)) {
        if let Err(finding) = registry::check_label(key) {
            problems.push(Problem::new(Reason::BadLabel, finding.to_string()));
        } else if key == INJECT && value != ENABLED && value != DISABLED {
            let text =
                format!("label {INJECT}: \"{}\" is neither {ENABLED} nor {DISABLED}", value.escape_debug());
            problems.push(Problem::new(Reason::BadLabel, text));
        }
    }
    problems
}

fn is_windows(spec: &Value) -> bool {
    spec.get("os").and_then(|os| text(os, "name")) == Some("windows")
        || spec.get("nodeSelector").and_then(|selector| text(selector, "kubernetes.io/os")) == Some("windows")
}
