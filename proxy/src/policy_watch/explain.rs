//! What the policy in force says to a request that nobody made, and why. Pure: it changes and counts nothing.

use std::time::{Duration, SystemTime};

use mantlet_id::SpiffeId;
use mantlet_policy::{Ask, Caller, Decision, Explanation, Question, RuleReport, Workload};
use serde::Deserialize;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::PolicySnapshot;

/// The question.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// `ns/sa`, `./sa`, `spiffe://..` or `plaintext(address)`.
    peer: String,
    /// The app's port.
    port: u16,
    /// An HTTP method, or WEBSOCKET. Without it, and without `grpc`, a connection is meant.
    method: Option<String>,
    /// With its query.
    path: Option<String>,
    /// `package.Service/Method`.
    grpc: Option<String>,
    host: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// Seconds since 1970 to judge at; now, if left out.
    at: Option<u32>,
}

pub(super) fn explain(snapshot: &PolicySnapshot, question: &Value, now: SystemTime) -> Result<Value, String> {
    let asked = Asked::deserialize(question).map_err(|error| format!("the question: {error}"))?;
    let now = asked.at.map_or(now, |at| SystemTime::UNIX_EPOCH + Duration::from_secs(at.into()));
    let question = question_of(asked, snapshot.workload.as_ref())?;
    let explanation = match &snapshot.workload {
        Some(workload) => mantlet_policy::explain(&snapshot.policy, workload, &question, now),
        None => {
            let decision = question.decide(&snapshot.policy, now);
            Explanation { decision, rule: None, to_allow: None }
        }
    };
    Ok(answer(snapshot, &explanation, now))
}

fn question_of(asked: Asked, workload: Option<&Workload>) -> Result<Question, String> {
    let caller = match workload {
        Some(workload) => Caller::parse(&asked.peer, workload)?,
        None => {
            let wrong =
                |error| format!("{:?}: {error}; without a policy only full ids have a meaning", asked.peer);
            Caller::Identity(SpiffeId::parse(&asked.peer).map_err(wrong)?)
        }
    };
    let ask = match (asked.method, asked.path, asked.grpc) {
        (None, None, None) => Ask::Tcp,
        (None, None, Some(method)) => Ask::Grpc(method),
        (Some(method), Some(target), None) => Ask::Http { method, target },
        _ => {
            return Err(
                "ask with method and path, or with grpc, or with none of them for a connection".to_owned()
            );
        }
    };
    let headers = asked.headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    Ok(Question { caller, ask, port: asked.port, host: asked.host, headers })
}

fn answer(snapshot: &PolicySnapshot, explanation: &Explanation, now: SystemTime) -> Value {
    let Decision { verdict, reason, rule, route, malformed, .. } = &explanation.decision;
    json!({
        "schema": "mantlet.explain/v1",
        "decision": verdict.as_str(),
        "reason": reason.as_str(),
        "rule": rule.as_deref(),
        "route": route.as_deref(),
        "malformed": malformed.map(|defect| defect.as_str()),
        "until": explanation.decision.ends().and_then(|end| OffsetDateTime::from(end).format(&Rfc3339).ok()),
        "held_against": explanation.rule.as_ref().map(report),
        "to_allow": explanation.to_allow,
        "mode": snapshot.mode(now),
        "generation": snapshot.generation,
        "hash": snapshot.policy.hash(),
    })
}

/// The rule that decided, or the nearest miss, clause by clause.
fn report(report: &RuleReport) -> Value {
    let clauses = report.clauses.iter().map(|clause| {
        json!({
            "what": clause.what,
            "actual": clause.actual,
            "expected": clause.expected,
            "holds": clause.holds,
        })
    });
    json!({
        "rule": &*report.label,
        "source": report.source,
        "line": report.line,
        "text": report.text,
        "decided": report.decided,
        "clauses": clauses.collect::<Vec<_>>(),
    })
}
