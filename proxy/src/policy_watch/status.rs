//! How the loads of the policy went.

use std::time::SystemTime;

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::PolicySnapshot;

/// The state of loading, beside the policy in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyStatus {
    /// Whether what stands in the file now is in force: the staleness metric.
    pub last_reload_ok: bool,
    /// Why not, with place and help: several lines.
    pub error: Option<String>,
    /// Loads that were taken over.
    pub accepted: u64,
    /// Loads that were not.
    pub rejected: u64,
    /// When the last load was judged.
    pub since: SystemTime,
}

// === impl PolicyStatus ===

impl PolicyStatus {
    pub(super) fn starting(now: SystemTime) -> Self {
        Self { last_reload_ok: false, error: None, accepted: 0, rejected: 0, since: now }
    }

    /// After a load, of a new policy or of the one in force.
    pub(super) fn succeeded(&self, is_new: bool, now: SystemTime) -> Self {
        Self {
            last_reload_ok: true,
            error: None,
            accepted: self.accepted + u64::from(is_new),
            rejected: self.rejected,
            since: now,
        }
    }

    pub(super) fn failed(&self, error: &str, now: SystemTime) -> Self {
        Self {
            last_reload_ok: false,
            error: Some(error.to_owned()),
            rejected: self.rejected + 1,
            since: now,
            ..self.clone()
        }
    }
}

pub(super) fn describe(snapshot: &PolicySnapshot, status: &PolicyStatus, now: SystemTime) -> Value {
    let rules: Vec<&str> = snapshot.policy.rule_labels().map(|label| &**label).collect();
    json!({
        "schema": "mantlet.policy/v1",
        "generation": snapshot.generation,
        "hash": snapshot.policy.hash(),
        "mode": snapshot.mode(now),
        "source": snapshot.origin.as_str(),
        "since": time(snapshot.since),
        "rules": rules,
        "last_reload": {
            "ok": status.last_reload_ok,
            "at": time(status.since),
            "error": status.error,
            "accepted": status.accepted,
            "rejected": status.rejected,
        },
    })
}

fn time(at: SystemTime) -> Option<String> {
    OffsetDateTime::from(at).format(&Rfc3339).ok()
}
