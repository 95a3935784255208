//! Whether the sidecar in a pod is what would be injected.
//!
//! Whoever writes a pod may write our containers into it, annotation and all: only the comparison of
//! every field says what they are. What Kubernetes and other webhooks fill into every container of a pod
//! is not a difference: requests and limits that we do not set, service account tokens, variables.

use std::collections::BTreeSet;

use serde_json::Value;

use super::pod::{items, text};

/// Where what is mounted for others is expected.
const SECRETS: &str = "/var/run/secrets/";
/// Variables that would change what the sidecar does, or what code it runs.
const RESERVED: [&str; 6] = ["MANTLET_", "SPIFFE_", "KUBERNETES_SERVICE_", "LD_", "TEST_", "GLIBC_"];

/// Whether `found` does what `expected` does.
pub(super) fn same_container(expected: &Value, found: &Value) -> bool {
    let (Some(expected), Some(found)) = (expected.as_object(), found.as_object()) else { return false };
    let names: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    names.into_iter().all(|name| {
        let null = &Value::Null;
        let (expected, found) = (expected.get(name).unwrap_or(null), found.get(name).unwrap_or(null));
        match name.as_str() {
            "resources" => same_resources(expected, found),
            "env" => same_items(expected, found, "name", |name| {
                !RESERVED.iter().any(|reserved| name.starts_with(reserved))
            }),
            "volumeMounts" => same_items(expected, found, "mountPath", |path| {
                path.starts_with(SECRETS) && !path.split('/').any(|part| part == "..")
            }),
            "securityContext" => same_context(expected, found),
            _ => expected == found,
        }
    })
}

/// Amounts may be written in another way, and more may be set than we do.
fn same_resources(expected: &Value, found: &Value) -> bool {
    ["requests", "limits"].iter().all(|list| {
        let wanted = expected.get(list).and_then(Value::as_object).into_iter().flatten();
        wanted.into_iter().all(|(name, _)| found.get(list).is_some_and(|found| found.get(name).is_some()))
    })
}

/// Every expected item is there, and every other one may be.
fn same_items(expected: &Value, found: &Value, key: &str, may_be: impl Fn(&str) -> bool) -> bool {
    let (expected, found) = (list(expected), list(found));
    let key_of = |item: &Value| text(item, key).map(str::to_owned);
    let is_expected = |item: &&Value| expected.contains(*item);
    let others = found.iter().filter(|item| !is_expected(item));
    let mut others = others.map(key_of);
    let keys: BTreeSet<Option<String>> = found.iter().map(key_of).collect();
    // A key that is there twice means something else than the one that we compare.
    keys.len() == found.len()
        && expected.iter().all(|item| found.contains(item))
        && others.all(|key| key.is_some_and(|key| may_be(&key)))
}

/// The API server may fill in the default of `procMount`.
fn same_context(expected: &Value, found: &Value) -> bool {
    let mut found = found.clone();
    if let Some(members) = found.as_object_mut()
        && members.get("procMount").and_then(Value::as_str) == Some("Default")
    {
        members.remove("procMount");
    }
    *expected == found
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Puts what was filled into the resources of `from` into those of `container` as well: the limits of a
/// namespace want it there, and nobody fills it in twice.
pub(super) fn keep_resources(container: &mut Value, from: &Value) {
    for list in ["requests", "limits"] {
        let filled =
            from.get("resources").and_then(|resources| resources.get(list)).and_then(Value::as_object);
        let ours = container.pointer_mut(&format!("/resources/{list}")).and_then(Value::as_object_mut);
        if let (Some(filled), Some(ours)) = (filled, ours) {
            for (name, amount) in filled {
                ours.entry(name.clone()).or_insert_with(|| amount.clone());
            }
        }
    }
}

/// Whether all of `expected` is in `found`: volumes, with what Kubernetes fills in.
pub(super) fn has_volume(spec: &Value, expected: &Value) -> bool {
    items(spec, "volumes").iter().any(|volume| volume == expected)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container() -> Value {
        json!({
            "name": "x",
            "image": "a:1",
            "env": [{"name": "MANTLET_A", "value": "1"}],
            "resources": {"requests": {"cpu": "1000m"}, "limits": {"memory": "1Mi"}},
            "securityContext": {"privileged": false},
            "volumeMounts": [{"name": "v", "mountPath": "/run/mantlet/v"}],
        })
    }

    fn with(pointer: &str, value: Value) -> Value {
        let mut changed = container();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        match changed.pointer_mut(parent).unwrap() {
            Value::Object(members) => drop(members.insert(name.to_owned(), value)),
            Value::Array(items) => items.push(value),
            _ => panic!("{pointer}"),
        }
        changed
    }

    #[test]
    fn what_others_fill_in_is_no_difference() {
        for same in [
            container(),
            with("/resources/requests/cpu", json!("1")),
            with("/resources/limits/cpu", json!("2")),
            with("/env/-", json!({"name": "AWS_ROLE_ARN", "value": "x"})),
            with(
                "/volumeMounts/-",
                json!({"name": "t", "mountPath": "/var/run/secrets/x", "readOnly": true}),
            ),
            with("/securityContext/procMount", json!("Default")),
        ] {
            assert!(same_container(&container(), &same), "{same}");
        }
    }

    #[test]
    fn everything_else_is_a_difference() {
        for other in [
            with("/image", json!("evil:1")),
            with("/command", json!(["/x"])),
            with("/envFrom", json!([{"configMapRef": {"name": "x"}}])),
            with("/env/-", json!({"name": "MANTLET_A", "value": "1"})),
            with("/env/-", json!({"name": "MANTLET_B", "value": "1"})),
            with("/env/-", json!({"name": "LD_PRELOAD", "value": "/x.so"})),
            with("/env/-", json!({"value": "1"})),
            with("/env", json!([])),
            with("/env/0", json!({"name": "MANTLET_A", "value": "2"})),
            with("/resources/requests", json!({})),
            with("/securityContext/privileged", json!(true)),
            with("/securityContext/runAsUser", json!(0)),
            with("/securityContext/procMount", json!("Unmasked")),
            with("/volumeMounts/-", json!({"name": "t", "mountPath": "/mantlet-proxy"})),
            with("/volumeMounts/-", json!({"name": "t", "mountPath": "/var/run/secrets/../../mantlet"})),
            with("/lifecycle", json!({})),
            json!(null),
        ] {
            assert!(!same_container(&container(), &other), "{other}");
        }
    }

    #[test]
    fn what_was_filled_in_is_kept() {
        let mut ours = container();
        let filled = with("/resources/limits/cpu", json!("2"));
        keep_resources(&mut ours, &filled);
        assert_eq!(
            ours["resources"],
            json!({"requests": {"cpu": "1000m"}, "limits": {"cpu": "2", "memory": "1Mi"}})
        );
    }
}
