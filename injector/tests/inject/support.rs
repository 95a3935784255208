//! Pods, and what becomes of them.

use std::time::{Duration, SystemTime};

use mantlet_injector::inject::{Config, Document, Input, Namespace, Outcome, Scope, Token, inject};
use serde_json::Value;

/// What a pod is injected with.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) namespace: Namespace,
    pub(crate) config: Config,
    pub(crate) token: Token,
    pub(crate) scope: Scope,
}

impl Default for Surroundings {
    fn default() -> Self {
        let labels = [("mantlet.dev/inject".to_owned(), "enabled".to_owned())].into();
        Self {
            namespace: Namespace { name: "shop".to_owned(), labels },
            config: Config::embedded(),
            token: Token::new([0xa5; 16]),
            scope: Scope::Labels,
        }
    }
}

impl Surroundings {
    pub(crate) fn with(change: impl FnOnce(&mut Document)) -> Self {
        let mut document = Document::default();
        change(&mut document);
        Self { config: Config::new(document).expect("a configuration"), ..Self::default() }
    }

    pub(crate) fn inject(&self, pod: &Value) -> Outcome {
        inject(&Input {
            object: pod,
            namespace: &self.namespace,
            config: &self.config,
            token: &self.token,
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            scope: self.scope,
        })
    }

    /// The pod with the sidecar, as an independent implementation of JSON Patch makes it.
    pub(crate) fn injected(&self, pod: &Value) -> Value {
        let outcome = self.inject(pod);
        patched(pod, &outcome)
    }
}

/// `pod` after the operations of `outcome`.
pub(crate) fn patched(pod: &Value, outcome: &Outcome) -> Value {
    assert_eq!(outcome.verdict().as_str(), "injected", "{}", outcome.message());
    let patch = serde_json::to_value(outcome.operations()).expect("operations are JSON");
    let patch: json_patch::Patch = serde_json::from_value(patch).expect("operations are a patch");
    let mut injected = pod.clone();
    json_patch::patch(&mut injected, &patch).expect("the patch applies");
    injected
}

/// A pod with one container, and what `spec` says.
pub(crate) fn pod(spec: Value) -> Value {
    let mut pod = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "api", "labels": {}, "annotations": {}},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    });
    for (name, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][name] = value.clone();
    }
    pod
}
