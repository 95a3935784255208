//! AdmissionReview, version `admission.k8s.io/v1`: the answer.

use serde::Serialize;
use serde_json::json;

use super::review::{API_VERSION, KIND};

/// Longest warning in bytes. The API server cuts at 256 and says that it did.
const LONGEST_WARNING: usize = 256;
/// Most bytes of warnings in all: what the API server passes on (kubernetes/apiserver, warning recorder).
const ALL_WARNINGS: usize = 4096;
/// Longest text of a refusal. People read it in a terminal.
const LONGEST_MESSAGE: usize = 32 << 10;

/// What is answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    refusal: Option<Refusal>,
    patch: Option<Vec<u8>>,
    warnings: Vec<String>,
    /// What the audit log of the API server keeps beside the request: result and reason.
    audit: Option<(&'static str, &'static str)>,
}

#[derive(Clone, Debug)]
struct Refusal {
    code: u16,
    reason: &'static str,
    message: String,
}

// === impl Answer ===

impl Answer {
    /// Yes, and nothing changes.
    pub(super) fn allow() -> Self {
        Self::default()
    }

    /// Yes, with these operations.
    pub(super) fn patch(operations: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self { patch: Some(serde_json::to_vec(operations)?), ..Self::default() })
    }

    /// No: what was written is wrong (422).
    pub(super) fn invalid(message: &str) -> Self {
        Self::refusal(422, "Invalid", message)
    }

    /// No: what was written is not allowed here (403).
    pub(super) fn forbidden(message: &str) -> Self {
        Self::refusal(403, "Forbidden", message)
    }

    fn refusal(code: u16, reason: &'static str, message: &str) -> Self {
        // Injection says who it is; so does every other refusal.
        let message = message.strip_prefix("mantlet: ").unwrap_or(message);
        let message = cut(&format!("mantlet: {message}"), LONGEST_MESSAGE);
        Self { refusal: Some(Refusal { code, reason, message }), ..Self::default() }
    }

    /// Adds what the user is shown beside a yes or no.
    pub(super) fn warn(mut self, warnings: impl IntoIterator<Item = String>) -> Self {
        self.warnings.extend(warnings);
        self
    }

    /// Adds what the audit log keeps.
    pub(super) fn audit(mut self, result: &'static str, reason: &'static str) -> Self {
        self.audit = Some((result, reason));
        self
    }

    /// The text of a refusal.
    pub(super) fn message(&self) -> Option<&str> {
        self.refusal.as_ref().map(|refusal| refusal.message.as_str())
    }

    /// The document that goes back.
    pub(super) fn into_json(self, uid: &str) -> Vec<u8> {
        let mut response = json!({"uid": uid, "allowed": self.refusal.is_none()});
        let mut set = |name: &str, value| {
            if let Some(fields) = response.as_object_mut() {
                fields.insert(name.to_owned(), value);
            }
        };
        if let Some(Refusal { code, reason, message }) = self.refusal {
            set("status", json!({"code": code, "reason": reason, "message": message}));
        }
        // Both or none: the API server refuses one without the other.
        if let Some(patch) = self.patch {
            set("patch", json!(k8s_openapi::ByteString(patch)));
            set("patchType", json!("JSONPatch"));
        }
        let warnings = fit(self.warnings);
        if !warnings.is_empty() {
            set("warnings", json!(warnings));
        }
        if let Some((result, reason)) = self.audit {
            set("auditAnnotations", json!({"result": result, "reason": reason}));
        }
        json!({"apiVersion": API_VERSION, "kind": KIND, "response": response}).to_string().into_bytes()
    }
}

/// As many of the warnings as the API server passes on, each as long as it may be. The last says how many are missing.
fn fit(warnings: Vec<String>) -> Vec<String> {
    let all = warnings.len();
    let mut left = ALL_WARNINGS - LONGEST_WARNING;
    let mut fitting = Vec::new();
    for warning in warnings {
        let warning = cut(&plain(&warning), LONGEST_WARNING);
        match left.checked_sub(warning.len()) {
            Some(rest) => left = rest,
            None => {
                fitting.push(format!("{} more; `mantlet policy check` shows all", all - fitting.len()));
                break;
            }
        }
        fitting.push(warning);
    }
    fitting
}

/// A warning travels in a header, in which control characters end it.
fn plain(text: &str) -> String {
    text.split(|c: char| c.is_control())
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// `text` in at most `limit` bytes, with a mark where something is missing.
fn cut(text: &str, limit: usize) -> String {
    const MARK: &str = "...";
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(limit.saturating_sub(MARK.len()));
    format!("{}{MARK}", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn response(answer: Answer) -> Value {
        let document: Value = serde_json::from_slice(&answer.into_json("the-uid")).unwrap();
        assert_eq!((&document["apiVersion"], &document["kind"]), (&json!(API_VERSION), &json!(KIND)));
        assert_eq!(document["response"]["uid"], "the-uid");
        document["response"].clone()
    }

    #[test]
    fn a_plain_yes_has_no_field_too_many() {
        assert_eq!(response(Answer::allow()), json!({"uid": "the-uid", "allowed": true}));
    }

    #[test]
    fn a_patch_and_its_type_come_together() {
        let answer = Answer::patch(&json!([{"op": "add"}])).unwrap().audit("injected", "injected");
        let response = response(answer);
        assert_eq!(response["patch"], "W3sib3AiOiJhZGQifV0=");
        assert_eq!(response["patchType"], "JSONPatch");
        assert_eq!(response["auditAnnotations"], json!({"result": "injected", "reason": "injected"}));
    }

    #[test]
    fn warnings_fit_in_what_the_api_server_passes_on_and_say_what_is_missing() {
        let long = "ä".repeat(300);
        let response = response(Answer::allow().warn((0..60).map(|n| format!("{n}\r\n {long}"))));
        let warnings: Vec<&str> = response["warnings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|warning| warning.as_str().unwrap())
            .collect();
        assert!(warnings.iter().all(|warning| warning.len() <= LONGEST_WARNING));
        assert!(warnings.iter().map(|warning| warning.len()).sum::<usize>() <= ALL_WARNINGS);
        assert!(!warnings.iter().any(|warning| warning.contains(char::is_control)));
        assert_eq!(*warnings.last().unwrap(), "45 more; `mantlet policy check` shows all");
        assert!(warnings[0].starts_with("0 ä") && warnings[0].ends_with("..."));
    }

    #[test]
    fn a_refusal_says_who_refuses_and_is_cut_where_nobody_reads_on() {
        let response = response(Answer::invalid(&"ä".repeat(40_000)));
        let message = response["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("mantlet: ä") && message.ends_with("..."));
        assert!(message.len() <= LONGEST_MESSAGE);
        assert_eq!(response["status"]["code"], 422);
        assert_eq!(response["allowed"], false);
    }
}
