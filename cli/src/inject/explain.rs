//! What became of each pod template, in words.

use mantlet_injector::Place;
use mantlet_injector::inject::{Decision, INJECT, Operation, Scope};
use serde_json::{Value, json};

use super::Injected;
use super::manifests::Manifests;
use crate::output::Output;

/// As people refer to it.
pub(super) fn name(place: &Place, namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("{} {namespace}/{}", place.kind, place.name),
        None => format!("{} {}", place.kind, place.name),
    }
}

/// Everything, on standard output.
pub(super) fn show(all: &[Injected], manifests: &Manifests, json: bool, output: &Output) {
    if json {
        let templates: Vec<Value> = all.iter().map(to_json).collect();
        output.line(&json!({ "templates": templates }).to_string());
        return;
    }
    for one in all {
        let Injected { place, outcome, .. } = one;
        let style = output.out;
        let mark = match (&outcome.decision, outcome.warnings.is_empty()) {
            (Decision::Denied(_), _) => style.cross(),
            (Decision::Skipped(_), _) => style.dim(style.symbol("–", "-")),
            (Decision::Injected { .. }, false) => style.warn(style.symbol("‼", "!")),
            (Decision::Injected { .. }, true) => style.tick(),
        };
        let name = name(place, Some(&one.namespace.name));
        let (verdict, reason) = (outcome.verdict(), outcome.reason());
        let title = match verdict.as_str() == reason.as_str() {
            true => verdict.to_string(),
            false => format!("{verdict}, {reason}"),
        };
        output.line(&format!("{mark} {name}: {title}"));
        output.line(&format!("  {}", asked(one, manifests.at(one.document, place))));
        match &outcome.decision {
            Decision::Denied(problems) => {
                for line in problems.iter().flat_map(|problem| problem.text.lines()) {
                    output.line(&format!("  {line}"));
                }
            }
            Decision::Skipped(reason) => output.line(&format!("  {}", reason.meaning())),
            Decision::Injected { reason, operations } => {
                output.line(&format!("  {}{}", reason.meaning(), handlers(operations)));
            }
        }
        for warning in &outcome.warnings {
            output.line(&format!("  warning: {warning}"));
        }
    }
}

/// What a reader of the result must know, on standard error.
pub(super) fn notes(all: &[Injected], output: &Output) {
    for Injected { place, outcome, .. } in all {
        let name = name(place, place.namespace.as_deref());
        match &outcome.decision {
            Decision::Denied(problems) => {
                output.note(&format!("{} {name}: denied, {}", output.err.cross(), outcome.reason()));
                for line in problems.iter().flat_map(|problem| problem.text.lines()) {
                    output.note(&format!("  {line}"));
                }
            }
            Decision::Skipped(reason) => {
                output.note(&format!(
                    "{} {name}: skipped, {reason}: {}",
                    output.err.dim("-"),
                    reason.meaning()
                ));
            }
            Decision::Injected { .. } => {}
        }
        for warning in &outcome.warnings {
            output.note(&format!("{} {name}: {warning}", output.err.warn(output.err.symbol("‼", "!"))));
        }
    }
}

/// Who asks for the sidecar, and who does not.
fn asked(one: &Injected, pod: &Value) -> String {
    let said = |value: Option<&str>| match value {
        None => "says nothing".to_owned(),
        Some(value @ ("enabled" | "disabled")) => format!("says {value}"),
        Some(value) => format!("says \"{}\", which is neither enabled nor disabled", value.escape_debug()),
    };
    let pod = pod.pointer("/metadata/labels").and_then(|labels| labels.get(INJECT)).and_then(Value::as_str);
    let pod = format!("the pod {}", said(pod));
    match one.scope {
        Scope::Asked => format!("{INJECT}: {pod}; you asked for it"),
        Scope::Labels => {
            let namespace = one.namespace.labels.get(INJECT).map(String::as_str);
            format!("{INJECT}: namespace {} {}, {pod}", one.namespace.name, said(namespace))
        }
    }
}

/// How many probes and hooks go to the sidecar.
fn handlers(operations: &[Operation]) -> String {
    let is_handler = |operation: &&Operation| match operation {
        Operation::Add { path, .. } | Operation::Replace { path, .. } => path.as_str().ends_with("/httpGet"),
        Operation::Remove { .. } | Operation::Move { .. } => false,
    };
    match operations.iter().filter(is_handler).count() {
        0 => String::new(),
        1 => ", and 1 probe or hook goes to it".to_owned(),
        count => format!(", and {count} probes and hooks go to it"),
    }
}

fn to_json(one: &Injected) -> Value {
    let Injected { place, namespace, outcome, .. } = one;
    let problems = match &outcome.decision {
        Decision::Denied(problems) => problems
            .iter()
            .map(|problem| json!({"reason": problem.reason.as_str(), "text": problem.text}))
            .collect(),
        Decision::Skipped(_) | Decision::Injected { .. } => Vec::new(),
    };
    json!({
        "kind": place.kind,
        "namespace": namespace.name,
        "name": place.name,
        "result": outcome.verdict().as_str(),
        "reason": outcome.reason().as_str(),
        "meaning": outcome.reason().meaning(),
        "problems": problems,
        "warnings": outcome.warnings,
        "operations": outcome.operations(),
    })
}
