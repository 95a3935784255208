//! AdmissionReview, version `admission.k8s.io/v1`: the question.
//!
//! Only the envelope has types. The objects stay the bytes that they came as until somebody needs them: a field that
//! this program has never heard of survives, and an object that nobody looks at costs nothing.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, value::RawValue};

/// What the group and version must be, exactly.
pub(super) const API_VERSION: &str = "admission.k8s.io/v1";
/// What the kind must be.
pub(super) const KIND: &str = "AdmissionReview";

/// Longest `uid` that is echoed; those of Kubernetes have 36 characters.
const LONGEST_UID: usize = 256;
/// Longest name or namespace that is one.
const LONGEST_NAME: usize = 253;
/// Most bytes of one object. The API server reads requests of at most 3 MiB; what it adds by defaulting is not as
/// much again.
const LARGEST_OBJECT: usize = 4 << 20;

/// A question.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request<'a> {
    /// What the answer must repeat.
    pub(super) uid: String,
    /// What the object is, which is not always what the caller of the API server asked for.
    #[serde(borrow)]
    pub(super) kind: GroupVersionKind<'a>,
    /// `ephemeralcontainers`, `status`..., or nothing.
    #[serde(borrow, default)]
    pub(super) sub_resource: Option<Cow<'a, str>>,
    /// Empty or absent where the name is generated.
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    /// Where the object is or will be. The object itself need not say it.
    #[serde(borrow, default)]
    namespace: Option<Cow<'a, str>>,
    /// What is being done.
    pub(super) operation: Operation,
    /// Whether nothing is to be kept.
    #[serde(default)]
    dry_run: Option<bool>,
    #[serde(borrow, default)]
    object: Option<&'a RawValue>,
    #[serde(borrow, default)]
    old_object: Option<&'a RawValue>,
}

/// What an object is.
#[derive(Debug, Deserialize)]
pub(super) struct GroupVersionKind<'a> {
    #[serde(borrow, default)]
    pub(super) group: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) kind: Cow<'a, str>,
}

/// What is being done.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// Why a body is no question.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// It is no JSON document, or more than one.
    Json(serde_json::Error),
    /// It is another document, or lacks a part.
    Review(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    #[serde(borrow, default)]
    api_version: Cow<'a, str>,
    #[serde(borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    request: Option<&'a RawValue>,
}

/// Reads a question.
///
/// # Errors
/// What is wrong with it, in words that say what is expected.
pub(super) fn parse(body: &[u8]) -> Result<Request<'_>, Unreadable> {
    if body.is_empty() {
        return Err(Unreadable::Review("the body is empty".to_owned()));
    }
    let envelope: Envelope<'_> = serde_json::from_slice(body).map_err(|error| {
        // A document of another shape is no syntax error.
        match serde_json::from_slice::<IgnoredAny>(body) {
            Ok(_) => Unreadable::Review(error.to_string()),
            Err(error) => Unreadable::Json(error),
        }
    })?;
    if envelope.kind != KIND || envelope.api_version != API_VERSION {
        let shown = |text: &str| text.chars().take(64).collect::<String>().escape_debug().to_string();
        return Err(Unreadable::Review(format!(
            "this is \"{}\" of \"{}\"; expected {KIND} of {API_VERSION} (admissionReviewVersions: [v1])",
            shown(&envelope.kind),
            shown(&envelope.api_version),
        )));
    }
    let request =
        envelope.request.ok_or_else(|| Unreadable::Review("there is no request in it".to_owned()))?;
    let request: Request<'_> = serde_json::from_str(request.get())
        .map_err(|error| Unreadable::Review(format!("request: {error}")))?;
    if request.uid.is_empty() || request.uid.len() > LONGEST_UID {
        return Err(Unreadable::Review(format!("request.uid is not 1 to {LONGEST_UID} bytes long")));
    }
    if request.namespace().len() > LONGEST_NAME {
        return Err(Unreadable::Review(format!("request.namespace is longer than {LONGEST_NAME} bytes")));
    }
    for (name, object) in [("object", request.object), ("oldObject", request.old_object)] {
        if object.is_some_and(|object| object.get().len() > LARGEST_OBJECT) {
            return Err(Unreadable::Review(format!("request.{name} is larger than {LARGEST_OBJECT} bytes")));
        }
    }
    Ok(request)
}

// === impl Operation ===

impl Operation {
    /// As the API server calls it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

// === impl Request ===

impl Request<'_> {
    /// Whether nothing is to be kept.
    pub(super) fn is_dry_run(&self) -> bool {
        self.dry_run.unwrap_or(false)
    }

    /// Where the object is or will be; empty for what is in no namespace.
    pub(super) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    /// The object; `None` where there is none, as when it is deleted.
    ///
    /// # Errors
    /// It is nested beyond what any object is.
    pub(super) fn object(&self) -> Result<Option<Value>, Unreadable> {
        value(self.object)
    }

    /// What the object was before.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub(super) fn old_object(&self) -> Result<Option<Value>, Unreadable> {
        value(self.old_object)
    }

    /// A pod of the core group, whatever was asked for.
    pub(super) fn is_pod(&self) -> bool {
        self.kind.kind == "Pod" && self.kind.group.is_empty()
    }

    /// As people know the object. One whose name the API server will make up ends in `*`.
    pub(super) fn display_name(&self, object: Option<&Value>) -> String {
        let of = |pointer: &str| {
            object
                .and_then(|object| object.pointer(pointer))
                .and_then(Value::as_str)
                .filter(|name| !name.is_empty())
        };
        let named = self.name.as_deref().filter(|name| !name.is_empty()).or_else(|| of("/metadata/name"));
        let name = match named {
            Some(name) => name.to_owned(),
            None => format!("{}*", of("/metadata/generateName").unwrap_or_default()),
        };
        name.chars().take(LONGEST_NAME).collect()
    }
}

fn value(raw: Option<&RawValue>) -> Result<Option<Value>, Unreadable> {
    let parsed = raw.map(|raw| serde_json::from_str(raw.get())).transpose();
    parsed.map_err(|error| Unreadable::Review(format!("object: {error}")))
}

// === impl Unreadable ===

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => write!(f, "the body is not one JSON document: {error}"),
            Self::Review(problem) => write!(f, "not an admission review: {problem}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn review(request: &Value) -> Vec<u8> {
        json!({"apiVersion": API_VERSION, "kind": KIND, "request": request}).to_string().into_bytes()
    }

    fn problem(body: &[u8]) -> String {
        parse(body).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_needed_may_be_absent_or_null() {
        for extra in [json!({}), json!({"name": null, "namespace": null, "dryRun": null, "object": null})] {
            let mut request = json!({"uid": "u", "kind": {"kind": "Pod"}, "operation": "DELETE"});
            request.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let body = review(&request);
            let request = parse(&body).unwrap();
            assert!(request.is_pod() && !request.is_dry_run());
            assert_eq!((request.namespace(), request.object().unwrap()), ("", None));
        }
    }

    #[test]
    fn an_object_keeps_what_nobody_knows() {
        let object = json!({"spec": {"fieldOf2030": [1.25, {"a": null}]}});
        let body =
            review(&json!({"uid": "u", "kind": {"kind": "Pod"}, "operation": "CREATE", "object": object}));
        assert_eq!(parse(&body).unwrap().object().unwrap(), Some(object));
    }

    #[test]
    fn every_fault_of_a_body_is_named() {
        let one = review(&json!({"uid": "u", "kind": {"kind": "Pod"}, "operation": "CREATE"}));
        let two = [one.clone(), one].concat();
        assert!(problem(&two).contains("not one JSON document"), "{}", problem(&two));
        assert!(problem(b"{").contains("not one JSON document"));
        assert!(problem(b"").contains("empty"));
        assert!(problem(b"[]").contains("not an admission review"));
        let old = json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": KIND, "request": {}}).to_string();
        assert!(problem(old.as_bytes()).contains("v1beta1"), "{}", problem(old.as_bytes()));
        assert!(problem(&review(&json!(null))).contains("no request"));
        assert!(
            problem(&review(&json!({"uid": "", "kind": {"kind": "Pod"}, "operation": "CREATE"})))
                .contains("uid")
        );
        let patch = json!({"uid": "u", "kind": {"kind": "Pod"}, "operation": "PATCH"});
        assert!(problem(&review(&patch)).contains("PATCH"));
    }

    #[test]
    fn a_deeply_nested_object_is_refused_and_not_followed() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let body = format!(
            r#"{{"apiVersion":"{API_VERSION}","kind":"{KIND}","request":{{"uid":"u","kind":{{"kind":"Pod"}},"operation":"CREATE","object":{deep}}}}}"#
        );
        match parse(body.as_bytes()) {
            Ok(request) => assert!(request.object().is_err()),
            Err(error) => assert!(error.to_string().contains("recursion"), "{error}"),
        }
    }

    #[test]
    fn an_object_without_a_name_is_shown_by_what_its_name_begins_with() {
        let shown = |request: Value, object: Value| {
            let body = review(&request);
            parse(&body).unwrap().display_name(Some(&object))
        };
        let request = json!({"uid": "u", "kind": {"kind": "Pod"}, "operation": "CREATE", "name": ""});
        assert_eq!(shown(request.clone(), json!({"metadata": {"generateName": "web-"}})), "web-*");
        assert_eq!(shown(request.clone(), json!({"metadata": {"name": "web-1"}})), "web-1");
        assert_eq!(shown(request, json!({})), "*");
    }
}
