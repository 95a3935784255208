//! Counts per edge of the graph of who talks to whom.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::HeaderValue;
use mantlet_policy::{Reason, Verdict};
use serde_json::{Value, json};

use super::events::time;
use crate::metrics::{CloseReason, Direction, Text};

/// Edges that are told apart; what comes later is counted under [`Text::other`]. Peers are bounded already, rules
/// by the policy, so only a policy that changes its rules' names all day comes near.
const EDGES: usize = 1024;

/// Every edge that was seen since the start.
#[derive(Debug)]
pub struct Edges {
    since: SystemTime,
    known: Mutex<HashMap<Subject, Arc<Edge>>>,
}

/// What tells one edge from another. Every part is bounded: words, rules, and labels of verified peers.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Subject {
    /// Who called: a peer us, or we a peer.
    pub direction: Direction,
    /// The other side; `-` without an identity.
    pub peer: Text,
    /// Whether it was carried by mutual TLS.
    pub mtls: bool,
    /// `http` counts requests, `tcp` connections.
    pub layer: &'static str,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a request or connection.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Outcome {
    /// We decided.
    Decided(Verdict, Reason, Option<Arc<str>>),
    /// A peer that we called carried it, or refused it for the reason that it gave.
    Answered(Result<(), Option<Reason>>),
    /// Nobody told of a decision: it failed, or its bytes were carried until this.
    Ended(CloseReason),
}

/// One edge's counts; keep the handle where it is used more than once.
#[derive(Debug, Default)]
pub struct Edge {
    count: AtomicU64,
    /// Milliseconds since 1970.
    last: AtomicU64,
}

// === impl Edges ===

impl Edges {
    /// The counts of an edge.
    pub fn edge(&self, mut subject: Subject) -> Arc<Edge> {
        let mut known = self.lock();
        if known.len() >= EDGES && !known.contains_key(&subject) {
            subject.peer = Text::other();
            if let Outcome::Decided(_, _, rule) = &mut subject.outcome {
                *rule = None;
            }
        }
        Arc::clone(known.entry(subject).or_default())
    }

    /// `/v1/edges`; `own` is the identity of this workload. The most frequent edge comes first.
    #[must_use]
    pub fn describe(&self, own: Option<&str>) -> Value {
        let mut rows: Vec<_> =
            self.lock().iter().map(|(subject, edge)| (subject.clone(), Arc::clone(edge))).collect();
        rows.sort_by_key(|(subject, edge)| {
            (std::cmp::Reverse(edge.count()), subject.direction, subject.peer.as_str().to_owned())
        });
        let edges = rows.iter().map(|(subject, edge)| {
            let outcome = &subject.outcome;
            json!({
                "direction": subject.direction.as_str(),
                "peer": Some(subject.peer.as_str()).filter(|peer| *peer != "-"),
                "mtls": subject.mtls,
                "layer": subject.layer,
                "decision": outcome.decision(),
                "reason": outcome.reason(),
                "rule": outcome.rule(),
                "close": outcome.close(),
                "count": edge.count(),
                "last_seen": time(UNIX_EPOCH + Duration::from_millis(edge.last.load(Ordering::Relaxed))),
            })
        });
        json!({
            "schema": "mantlet.edges/v1",
            "self": own,
            "since": time(self.since),
            "edges": edges.collect::<Vec<_>>(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Subject, Arc<Edge>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Edges {
    fn default() -> Self {
        Self { since: SystemTime::now(), known: Mutex::default() }
    }
}

// === impl Edge ===

impl Edge {
    /// One more, now.
    pub fn seen(&self, now: SystemTime) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let millis = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        self.last.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

// === impl Outcome ===

impl Outcome {
    /// What a peer made of a request: `denied` is its header `x-mantlet-denied`, if there is one. Of what it says
    /// only a word of the vocabulary is kept.
    #[must_use]
    pub fn answered(denied: Option<&HeaderValue>) -> Self {
        let Some(denied) = denied else { return Self::Answered(Ok(())) };
        let word = denied.to_str().ok().and_then(|text| text.split([';', '(']).next()).map(str::trim);
        Self::Answered(Err(Reason::ALL.into_iter().find(|reason| Some(reason.as_str()) == word)))
    }

    fn decision(&self) -> Option<&'static str> {
        match self {
            Self::Decided(verdict, ..) => Some(verdict.as_str()),
            Self::Answered(Ok(())) => Some(Verdict::Allow.as_str()),
            Self::Answered(Err(_)) => Some(Verdict::Deny.as_str()),
            Self::Ended(_) => None,
        }
    }

    fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Decided(_, reason, _) | Self::Answered(Err(Some(reason))) => Some(reason.as_str()),
            _ => None,
        }
    }

    fn rule(&self) -> Option<&str> {
        match self {
            Self::Decided(_, _, rule) => rule.as_deref(),
            _ => None,
        }
    }

    fn close(&self) -> Option<&'static str> {
        match self {
            Self::Ended(close) => Some(close.as_str()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(peer: &str, rule: &str) -> Subject {
        Subject {
            direction: Direction::Inbound,
            peer: Text::from(peer),
            mtls: true,
            layer: "http",
            outcome: Outcome::Decided(Verdict::Allow, Reason::Rule, Some(rule.into())),
        }
    }

    #[test]
    fn edges_are_counted_apart_and_the_most_frequent_comes_first() {
        let edges = Edges::default();
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        edges.edge(subject("spiffe://a.test/x", "one")).seen(now);
        edges.edge(subject("spiffe://a.test/y", "two")).seen(now);
        edges.edge(subject("spiffe://a.test/y", "two")).seen(now);
        let failed = Subject { outcome: Outcome::Ended(CloseReason::Connect), ..subject("-", "") };
        edges.edge(Subject { direction: Direction::Outbound, ..failed }).seen(now);
        let shown = edges.describe(Some("spiffe://a.test/api"));
        assert_eq!(shown["self"], "spiffe://a.test/api");
        let first = json!({
            "direction": "inbound", "peer": "spiffe://a.test/y", "mtls": true, "layer": "http",
            "decision": "allow", "reason": "rule", "rule": "two", "close": null, "count": 2,
            "last_seen": "2027-01-15T08:00:00Z",
        });
        assert_eq!(shown["edges"][0], first);
        assert_eq!(shown["edges"][2]["close"], "connect");
        assert_eq!(shown["edges"][2]["peer"], Value::Null);
    }

    #[test]
    fn of_a_peer_s_refusal_only_words_of_the_vocabulary_are_kept() {
        let answered = |text: &'static str| Outcome::answered(Some(&HeaderValue::from_static(text)));
        assert_eq!(Outcome::answered(None).decision(), Some("allow"));
        assert_eq!(answered("malformed(dot-segment); id=01").reason(), Some("malformed"));
        assert_eq!(answered("default; id=01").reason(), Some("default"));
        let foreign = answered("whatever; id=01");
        assert_eq!((foreign.decision(), foreign.reason()), (Some("deny"), None));
    }

    #[test]
    fn a_policy_that_renames_its_rules_all_day_takes_bounded_memory_and_loses_no_count() {
        let edges = Edges::default();
        for number in 0..3 * EDGES {
            edges.edge(subject("spiffe://a.test/x", &number.to_string())).seen(SystemTime::now());
        }
        assert!(edges.lock().len() <= EDGES + 1);
        let shown = edges.describe(None);
        let counts = shown["edges"].as_array().unwrap().iter().filter_map(|edge| edge["count"].as_u64());
        assert_eq!(counts.sum::<u64>(), 3 * EDGES as u64);
    }
}
