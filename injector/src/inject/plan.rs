//! What is added to a pod that has no sidecar.

use mantlet_policy::Code;
use mantlet_policy::probes::Probes;
use serde_json::{Map, Value, json};

use super::containers::{INIT, PROXY, Parts};
use super::handlers::{Rewritten, rewrite};
use super::operation::{Operation, Pointer};
use super::outcome::{Decision, Problem};
use super::pod::{LISTS, Pod, items, text};
use super::reason::Reason;
use super::refuse::refuse;
use super::remove::{DEFAULT_CONTAINER, INJECTED, index_of};
use super::same::{has_volume, keep_resources, same_container};
use super::stamp::{INJECTED_BY, Stamp};
use super::{Input, Token, Unconfigured};
use crate::Subject;
use crate::template;

/// The most that is added to one pod. Objects are stored in etcd, which takes 1.5 MiB; nothing that is
/// meant comes near this.
const MAX_BYTES: usize = 64 * 1024;

/// What is added to a pod.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pod: Pod<'a>,
    operations: Vec<Operation>,
    /// Where in the init containers ours stand.
    place: usize,
    volumes: Vec<Value>,
}

// === impl Plan ===

impl<'a> Plan<'a> {
    /// Plans for `pod`, or says everything that is wrong with it.
    pub(super) fn new(
        input: &Input<'_>,
        pod: Pod<'a>,
        token: &Token,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Vec<Problem>> {
        let config = input.config;
        let document = config.document();
        let template = template::of_pod(pod.object).map_err(unreadable)?;
        let ports = template.ports.clone();
        let installation = config.installation(&input.namespace.name);
        let subject = Subject::of_template(template, &installation).injected(document.proxy_ports());
        let report = subject.report(input.now);
        let mut problems: Vec<Problem> = report
            .errors
            .iter()
            .map(|error| Problem::new(Reason::PolicyInvalid, error.to_string()))
            .collect();
        problems.extend(refuse(pod, input.namespace, config, warnings));
        let admission = subject.admission();
        let rewritten = rewrite(pod, &admission, document.ports.health, token.as_str());
        problems.extend(rewritten.problems.iter().cloned());
        if !problems.is_empty() {
            return Err(problems);
        }
        // "Everything is denied" is not true where the installation gives such pods something else.
        let denied = document.unconfigured == Unconfigured::Deny;
        let findings = report.warnings.iter().filter(|finding| denied || finding.code != Code::NoPolicy);
        warnings.extend(findings.map(mantlet_policy::Diagnostic::one_line));
        warnings.extend(rewritten.warnings.iter().cloned());
        let probes = told(&rewritten, token).map_err(|text| vec![Problem::new(Reason::TooLarge, text)])?;
        let parts = Parts { config, admission: &admission, ports: &ports, probes, pod };
        let after =
            pod.containers_in("initContainers").filter(|c| admission.init_after.iter().any(|n| n == c.name));
        let place = after.map(|container| container.index + 1).max().unwrap_or(0);
        let mut plan = Self { pod, operations: rewritten.operations, place, volumes: parts.volumes() };
        let containers = parts.containers();
        plan.insert_all("initContainers", place, &containers);
        let volumes = plan.volumes.clone();
        plan.insert_all("volumes", pod.volumes().len(), &volumes);
        let stamp = plan.stamp(input, &document.image_pull_secrets);
        plan.metadata(&stamp);
        Ok(plan)
    }

    pub(super) fn operations(&self) -> &[Operation] {
        &self.operations
    }

    pub(super) fn place(&self) -> usize {
        self.place
    }

    /// The decision to do it, after `before`.
    pub(super) fn decision(self, reason: Reason, before: Vec<Operation>) -> Result<Decision, Vec<Problem>> {
        let added: usize = self.operations.iter().map(|operation| json!(operation).to_string().len()).sum();
        if added > MAX_BYTES {
            let text = format!(
                "{added} bytes would be added, {MAX_BYTES} are possible: shorten the probes, ports or guardrails"
            );
            return Err(vec![Problem::new(Reason::TooLarge, text)]);
        }
        let mut operations = before;
        operations.extend(self.operations);
        Ok(Decision::Injected { reason, operations })
    }

    /// Keeps what was filled into our containers in `object`.
    pub(super) fn keep_resources(&mut self, object: &Value) {
        let found = object.pointer("/spec/initContainers").unwrap_or(&Value::Null);
        let named =
            |name: &str| found.as_array().into_iter().flatten().find(|c| text(c, "name") == Some(name));
        let add = self.operations.iter_mut().filter_map(|operation| match operation {
            Operation::Add { value, .. } => Some(value),
            _ => None,
        });
        let containers = add.flat_map(|value| match value {
            Value::Array(items) => items.iter_mut().collect::<Vec<_>>(),
            other => vec![other],
        });
        for container in containers {
            let name = text(container, "name").filter(|name| *name == INIT || *name == PROXY);
            if let Some(found) = name.and_then(named) {
                keep_resources(container, found);
            }
        }
    }

    /// Whether `found` has everything that `expected`, a pod with this plan applied, has.
    pub(super) fn is_in(&self, expected: &Value, found: &Value) -> bool {
        let spec = |object: &'_ Value| object.get("spec").cloned().unwrap_or_default();
        let (wanted, there) = (spec(expected), spec(found));
        let [init_list, list] = LISTS;
        let ours = [INIT, PROXY].iter().all(|name| {
            let at = |object, spec| Some(items(spec, init_list).get(index_of(object, name)?)?.clone());
            let (Some(wanted), Some(there)) = (at(expected, &wanted), at(found, &there)) else {
                return false;
            };
            same_container(&wanted, &there)
        });
        // Theirs differ in their handlers alone, if somebody has added some.
        let theirs = |spec: &Value| -> Vec<Value> {
            let all = items(spec, init_list).iter().chain(items(spec, list));
            all.filter(|c| !matches!(text(c, "name"), Some(INIT | PROXY))).cloned().collect()
        };
        let metadata = |object: &Value| {
            let metadata = object.get("metadata");
            let entry = |map: &str, key: &str| {
                metadata.and_then(|m| m.get(map)).and_then(|m| text(m, key)).map(str::to_owned)
            };
            (
                entry("labels", INJECTED),
                entry("annotations", INJECTED_BY),
                entry("annotations", DEFAULT_CONTAINER),
            )
        };
        let secrets = |spec: &Value| items(spec, "imagePullSecrets").to_vec();
        ours && theirs(&wanted) == theirs(&there)
            && self.volumes.iter().all(|volume| has_volume(&there, volume))
            && metadata(expected) == metadata(found)
            && secrets(&wanted) == secrets(&there)
    }

    /// Adds `values` to a list of the spec, which may not be there.
    fn insert_all(&mut self, list: &str, at: usize, values: &[Value]) {
        let place = Pointer::of(&["spec", list]);
        if values.is_empty() {
            return;
        }
        if items(self.pod.spec(), list).is_empty() {
            self.operations.push(Operation::add(place, values.to_vec()));
            return;
        }
        for (index, value) in (at..).zip(values) {
            self.operations.push(Operation::add(place.item(index), value.clone()));
        }
    }

    /// Adds what may be there already, and says so in the stamp.
    fn stamp(&mut self, input: &Input<'_>, secrets: &[String]) -> Stamp {
        let there = items(self.pod.spec(), "imagePullSecrets");
        let missing = secrets.iter().filter(|name| !there.iter().any(|s| text(s, "name") == Some(name)));
        let mut missing: Vec<String> = missing.cloned().collect();
        missing.dedup();
        let values: Vec<Value> = missing.iter().map(|name| json!({ "name": name })).collect();
        self.insert_all("imagePullSecrets", there.len(), &values);
        let default_container = self.pod.annotation(DEFAULT_CONTAINER).is_none();
        Stamp::new(input.config, default_container, missing)
    }

    fn metadata(&mut self, stamp: &Stamp) {
        let mut annotations = vec![(INJECTED_BY, stamp.text())];
        if stamp.default_container {
            let first = self.pod.containers_in("containers").next();
            annotations.extend(first.map(|first| (DEFAULT_CONTAINER, first.name.to_owned())));
        }
        let added = [("labels", vec![(INJECTED, "true".to_owned())]), ("annotations", annotations)];
        let whole = |entries: &[(&str, String)]| {
            let entries = entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone().into()));
            Value::Object(entries.collect::<Map<_, _>>())
        };
        if !self.pod.has_metadata() {
            let maps = added.iter().map(|(map, entries)| ((*map).to_owned(), whole(entries)));
            let value = Value::Object(maps.collect());
            self.operations.push(Operation::add(Pointer::of(&["metadata"]), value));
            return;
        }
        for (map, entries) in &added {
            let place = Pointer::of(&["metadata", map]);
            if !self.pod.has(map) {
                self.operations.push(Operation::add(place, whole(entries)));
                continue;
            }
            for (key, value) in entries {
                self.operations.push(Operation::add(place.child(key), value.clone()));
            }
        }
    }
}

/// A pod that is not called for stays as it is, unless its owner has written a policy that nobody would
/// enforce.
pub(super) fn left_alone(input: &Input<'_>, pod: Pod<'_>, reason: Reason) -> Result<Decision, Vec<Problem>> {
    if reason == Reason::HostNetwork {
        let template = template::of_pod(pod.object).map_err(unreadable)?;
        let subject = Subject::of_template(template, &input.config.installation(&input.namespace.name));
        let errors = subject.report(input.now).errors;
        let captured = errors.iter().filter(|error| error.code == Code::HostNetwork);
        let problems: Vec<Problem> =
            captured.map(|error| Problem::new(Reason::PolicyInvalid, error.to_string())).collect();
        if !problems.is_empty() {
            return Err(problems);
        }
    }
    Ok(Decision::Skipped(reason))
}

/// `MANTLET_PROBES`; none without probes.
fn told(rewritten: &Rewritten, token: &Token) -> Result<Option<String>, String> {
    if rewritten.probes.is_empty() {
        return Ok(None);
    }
    let probes = Probes { token: token.as_str().to_owned(), probes: rewritten.probes.clone() };
    serde_json::to_string(&probes).map(Some).map_err(|error| error.to_string())
}

fn unreadable(error: crate::Unreadable) -> Vec<Problem> {
    vec![Problem::new(Reason::Malformed, error.to_string())]
}
