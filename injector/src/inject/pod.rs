//! Reading a pod. Absent, null and empty are the same everywhere.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::outcome::Problem;
use super::reason::Reason;

/// The lists of containers that run something of the pod's owner, with what they are called in texts.
pub(super) const LISTS: [&str; 2] = ["initContainers", "containers"];

/// A pod or pod template whose shape is what Kubernetes would take, as far as it is looked at here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pod<'v> {
    pub(super) object: &'v Value,
}

/// A container, and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Container<'v> {
    pub(super) list: &'static str,
    pub(super) index: usize,
    pub(super) name: &'v str,
    pub(super) value: &'v Value,
}

/// A member that is there, and not null.
pub(super) fn member<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    value.get(name).filter(|value| !value.is_null())
}

/// A member that is a string.
pub(super) fn text<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    value.get(name).and_then(Value::as_str)
}

/// The items of a member that is a list; none if it is anything else.
pub(super) fn items<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

// === impl Pod ===

impl<'v> Pod<'v> {
    /// Looks at the shape of everything that is read or written later.
    pub(super) fn read(object: &'v Value) -> Result<Self, Vec<Problem>> {
        let mut wrong = Vec::new();
        if !object.is_object() {
            return Err(vec![Problem::new(Reason::Malformed, "the object is no pod")]);
        }
        let metadata = object.get("metadata").unwrap_or(&Value::Null);
        check_map(metadata, "metadata", &mut wrong);
        for name in ["labels", "annotations"] {
            let map = metadata.get(name).unwrap_or(&Value::Null);
            check_map(map, &format!("metadata.{name}"), &mut wrong);
            let entries = map.as_object().into_iter().flatten();
            for (key, _) in entries.filter(|(_, value)| !value.is_string()) {
                wrong.push(format!("metadata.{name}: {} is no string, quote it", key.escape_debug()));
            }
        }
        let spec = object.get("spec").unwrap_or(&Value::Null);
        match spec.as_object() {
            None => wrong.push("spec is missing".to_owned()),
            Some(spec) => check_spec(spec, &mut wrong),
        }
        if wrong.is_empty() {
            return Ok(Self { object });
        }
        Err(wrong.into_iter().map(|text| Problem::new(Reason::Malformed, text)).collect())
    }

    pub(super) fn spec(self) -> &'v Value {
        self.object.get("spec").unwrap_or(&Value::Null)
    }

    fn metadata(self) -> &'v Value {
        self.object.get("metadata").unwrap_or(&Value::Null)
    }

    pub(super) fn label(self, key: &str) -> Option<&'v str> {
        self.metadata().get("labels").and_then(|labels| text(labels, key))
    }

    pub(super) fn annotation(self, key: &str) -> Option<&'v str> {
        self.metadata().get("annotations").and_then(|annotations| text(annotations, key))
    }

    pub(super) fn labels(self) -> impl Iterator<Item = (&'v str, &'v str)> {
        strings(self.metadata().get("labels"))
    }

    pub(super) fn has(self, map: &str) -> bool {
        member(self.metadata(), map).is_some()
    }

    pub(super) fn has_metadata(self) -> bool {
        member(self.object, "metadata").is_some()
    }

    pub(super) fn containers(self) -> impl Iterator<Item = Container<'v>> {
        LISTS.into_iter().flat_map(move |list| self.containers_in(list))
    }

    pub(super) fn containers_in(self, list: &'static str) -> impl Iterator<Item = Container<'v>> {
        items(self.spec(), list).iter().enumerate().map(move |(index, value)| Container {
            list,
            index,
            name: text(value, "name").unwrap_or_default(),
            value,
        })
    }

    pub(super) fn volumes(self) -> &'v [Value] {
        items(self.spec(), "volumes")
    }
}

// === impl Container ===

impl Container<'_> {
    /// As texts call it.
    pub(super) fn shown(&self) -> String {
        let kind = if self.list == "containers" { "container" } else { "init container" };
        format!("{kind} \"{}\"", self.name)
    }
}

fn strings(map: Option<&Value>) -> impl Iterator<Item = (&str, &str)> {
    let entries = map.and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
}

fn check_map(value: &Value, name: &str, wrong: &mut Vec<String>) {
    if !value.is_object() && !value.is_null() {
        wrong.push(format!("{name} is no map"));
    }
}

fn check_spec(spec: &Map<String, Value>, wrong: &mut Vec<String>) {
    for name in ["initContainers", "containers", "ephemeralContainers", "volumes", "imagePullSecrets"] {
        match spec.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::Array(items)) if items.iter().all(Value::is_object) => {}
            Some(_) => wrong.push(format!("spec.{name} is no list of maps")),
        }
    }
    let mut names = BTreeSet::new();
    let containers = LISTS.iter().flat_map(|list| spec.get(*list).and_then(Value::as_array));
    for container in containers.flatten() {
        let name = text(container, "name").unwrap_or_default();
        // RFC 1123, as Kubernetes wants it. The name becomes part of a path.
        let label = (1..=63).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !label {
            wrong.push(format!("\"{}\" is no name for a container", shortened(name)));
        } else if !names.insert(name) {
            wrong.push(format!("two containers are called \"{name}\""));
        }
        let ports = container.get("ports").unwrap_or(&Value::Null);
        if !ports.is_null() && !ports.as_array().is_some_and(|ports| ports.iter().all(Value::is_object)) {
            wrong.push(format!("the ports of container \"{}\" are no list of maps", shortened(name)));
        }
        for field in ["startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "securityContext"] {
            let value = container.get(field).unwrap_or(&Value::Null);
            check_map(value, &format!("{field} of container \"{}\"", shortened(name)), wrong);
        }
    }
    if spec.get("containers").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        wrong.push("spec.containers is empty".to_owned());
    }
}

fn shortened(name: &str) -> String {
    name.chars().take(63).flat_map(char::escape_debug).collect()
}
