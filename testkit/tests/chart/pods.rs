//! Pods as the tests send them to the API server.

use std::time::SystemTime;

use mantlet_injector::inject::{Config, Input, Namespace, Scope, Token, apply, inject};
use serde_json::{Value, json};

/// A pod with an app and no sidecar.
pub(crate) fn plain(namespace: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "api", "namespace": namespace, "labels": {"app": "api"}},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    })
}

/// The same pod as the injector makes it with this configuration.
pub(crate) fn injected_by(config: &Config, namespace: &str) -> Value {
    let mut pod = plain(namespace);
    let token = Token::new([7; 16]);
    let input = Input {
        object: &pod,
        namespace: &Namespace { name: namespace.to_owned(), ..Namespace::default() },
        config,
        token: &token,
        now: SystemTime::now(),
        scope: Scope::Asked,
    };
    let outcome = inject(&input);
    assert!(!outcome.operations().is_empty(), "{}", outcome.message());
    apply(&mut pod, outcome.operations()).unwrap();
    pod
}

/// The same pod as the injector makes it where nothing else is said.
pub(crate) fn injected(namespace: &str) -> Value {
    injected_by(&Config::embedded(), namespace)
}

/// With this in the place of what is there; `+` is a new element of a list.
pub(crate) fn with(mut pod: Value, changes: &[(&str, Value)]) -> Value {
    for (path, value) in changes {
        let mut at = &mut pod;
        for step in path.split('.') {
            // A key with dots in it is written with slashes: mantlet/dev~inject.
            let step =
                step.replace("mantlet/dev~", "mantlet.dev/").replace("kubernetes/io~", "kubernetes.io/");
            at = match (step.as_str(), step.parse::<usize>()) {
                ("+", _) => {
                    let items = at.as_array_mut().expect("a list");
                    items.push(Value::Null);
                    items.last_mut().expect("what was added")
                }
                (_, Ok(index)) => &mut at[index],
                _ => &mut at[step],
            };
        }
        *at = value.clone();
    }
    pod
}
