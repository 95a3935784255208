//! An injector in a cluster with one namespace that asks for sidecars.

use serde_json::{Value, json};

use crate::api::Api;
use crate::client::{Caller, patched};
use crate::injector::Injector;
use crate::pods::create;

/// An injector with a namespace `shop` that asks for sidecars, and a connection to it.
pub(crate) struct Stage {
    pub(crate) api: Api,
    pub(crate) injector: Injector,
    pub(crate) caller: Caller,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with("{}").await
    }

    pub(crate) async fn with(document: &str) -> Self {
        let api = Api::start().await;
        api.namespace("shop", json!({"mantlet.dev/inject": "enabled"}));
        let injector = Injector::with(&api, document, &[]).await;
        let caller = injector.caller(&api).await;
        Self { api, injector, caller }
    }

    pub(crate) async fn mutate(&mut self, object: &Value) -> Value {
        self.caller.review("/mutate", &create(object)).await
    }

    /// The pod after its creation.
    pub(crate) async fn injected(&mut self, object: &Value) -> Value {
        let response = self.mutate(object).await;
        assert_eq!(response["allowed"], true, "{response}");
        assert!(response["patch"].is_string(), "{response}");
        patched(object, &response)
    }

    /// The text of a refusal of `object`.
    pub(crate) async fn refused(&mut self, object: &Value) -> String {
        let response = self.mutate(object).await;
        assert_eq!(response["allowed"], false, "{response}");
        assert!(response.get("patch").is_none());
        message(&response)
    }
}

pub(crate) fn message(response: &Value) -> String {
    let message = response["status"]["message"].as_str().unwrap_or_else(|| panic!("{response}")).to_owned();
    assert!(message.starts_with("mantlet: ") && !message.contains("mantlet: mantlet:"), "{message}");
    message
}

/// Whether both containers of ours are in a pod, in front.
pub(crate) fn has_sidecar(pod: &Value) -> bool {
    let names: Vec<&str> = pod["spec"]["initContainers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|container| container["name"].as_str())
        .collect();
    names.starts_with(&["mantlet-init", "mantlet-proxy"])
}

pub(crate) fn ours(pod: &Value) -> Vec<Value> {
    let all = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    all.filter(|container| container["name"].as_str().unwrap().starts_with("mantlet-")).cloned().collect()
}

pub(crate) fn set(object: &Value, pointer: &str, value: Value) -> Value {
    let mut object = object.clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    object.pointer_mut(parent).unwrap()[key] = value;
    object
}
