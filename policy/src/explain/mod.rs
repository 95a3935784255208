//! Why: the rule that decided, or the one that almost did and the clause that failed.
//!
//! The tables that decide also tell what is near. Of the rule that is shown, and of no other, the text
//! is read again. Asking changes nothing and ends no grant, whatever time is asked about.

mod near;

use std::{sync::Arc, time::SystemTime};

use self::near::{Near, RuleAt};
use crate::{
    Policy,
    canonical::{Canonical, Exchange},
    decision::{Decision, HttpFacts, Peer, Reason, Target},
    language::{
        Time,
        ast::{Condition, Peer as WrittenPeer, Rule, Spanned, Target as RuleTarget},
        rule_in_line,
    },
    latch::When,
    question::{Ask, Caller, Question},
    workload::Workload,
};

/// The answer to "why".
#[derive(Clone, Debug)]
pub struct Explanation {
    /// What was decided.
    pub decision: Decision,
    /// The rule that decided, or else the allow rule that came nearest.
    pub rule: Option<RuleReport>,
    /// A line that would let it pass, or the deny with the exception it needs.
    pub to_allow: Option<String>,
}

/// One rule held against the question.
#[derive(Clone, Debug)]
pub struct RuleReport {
    /// Its label.
    pub label: Arc<str>,
    /// The annotation key or file.
    pub source: String,
    /// Its line.
    pub line: u32,
    /// The rule in normal form.
    pub text: String,
    /// Whether it decided; otherwise it is the nearest miss.
    pub decided: bool,
    /// Its clauses.
    pub clauses: Vec<Clause>,
}

/// One clause of a rule held against the question.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Clause {
    /// `port`, `protocol`, `peer`, `path`, `method`, `header x`, `host` or `until`.
    pub what: String,
    /// What the question has.
    pub actual: String,
    /// What the rule wants.
    pub expected: String,
    /// Whether it fits.
    pub holds: bool,
}

/// Explains what `policy` answers to `question`, supposing it were `at`. `workload` is whose policy it
/// is: proposed lines are written as its owner would write them.
#[must_use]
pub fn explain(policy: &Policy, workload: &Workload, question: &Question, at: SystemTime) -> Explanation {
    let decision = question.decide(policy, at);
    let Some(compiled) = policy.compiled().filter(|_| decision.reason != Reason::Malformed) else {
        return Explanation { decision, rule: None, to_allow: None };
    };
    question.with_facts(policy, |facts| {
        let facts = facts.ok().flatten();
        let at = Time::of(at);
        let near = Near::new(compiled, question.caller.peer(), question.port, facts, When::Supposed(at));
        let held = Held { question, facts, at, texts: &compiled.texts, near, workload };
        let nearest = held.near.nearest();
        let shown = match &decision.rule {
            Some(label) => held.near.rules().find(|rule| rule.compiled.label == *label),
            None => nearest,
        };
        let written = shown.and_then(|rule| held.words(rule));
        let decided = decision.rule.is_some();
        let rule = shown.zip(written.as_ref()).map(|(rule, words)| held.report(rule, words, decided));
        let to_allow = match decision.reason {
            Reason::DenyRule => written.map(|words| held.exception(words)),
            Reason::Default | Reason::Expired => Some(held.grant(nearest)),
            _ => None,
        };
        Explanation { decision: decision.clone(), rule, to_allow }
    })
}

// === impl Policy ===

impl Policy {
    /// The allow rule that came nearest to letting a request, or without `facts` a connection, pass:
    /// what a log says of a refusal that no rule made. Looks at every rule; not for the path of a
    /// request.
    #[must_use]
    pub fn nearest_rule(
        &self,
        peer: Peer<'_>,
        port: u16,
        facts: Option<HttpFacts<'_>>,
        at: SystemTime,
    ) -> Option<Arc<str>> {
        if facts.is_some_and(|facts| matches!(facts.target, Target::AuditedRaw(_))) {
            // It has no single meaning to be held against a rule.
            return None;
        }
        let near = Near::new(self.compiled()?, peer, port, facts, When::Supposed(Time::of(at)));
        near.nearest().map(|rule| Arc::clone(&rule.compiled.label))
    }
}

/// A question, ready to be held against rules.
struct Held<'h> {
    question: &'h Question,
    facts: Option<HttpFacts<'h>>,
    at: Time,
    texts: &'h [(String, String)],
    near: Near<'h>,
    workload: &'h Workload,
}

// === impl Held ===

impl Held<'_> {
    /// The words of a rule, from the text that it stands in.
    fn words(&self, rule: RuleAt<'_>) -> Option<Rule> {
        let (_, text) = self.texts.get(rule.written.text)?;
        rule_in_line(text, rule.written.line)
    }

    fn report(&self, rule: RuleAt<'_>, words: &Rule, decided: bool) -> RuleReport {
        let mut clauses = self.clauses(rule, words);
        if decided {
            // It matched, whatever its verb reads otherwise than an allow would.
            clauses.iter_mut().for_each(|clause| clause.holds = true);
        }
        RuleReport {
            label: Arc::clone(&rule.compiled.label),
            source: self.texts.get(rule.written.text).map(|(key, _)| key.clone()).unwrap_or_default(),
            line: rule.written.line,
            text: words.to_string(),
            decided,
            clauses,
        }
    }

    fn clauses(&self, rule: RuleAt<'_>, words: &Rule) -> Vec<Clause> {
        let clause = |what: &str, actual: String, expected: String, holds: bool| Clause {
            what: what.to_owned(),
            actual,
            expected,
            holds,
        };
        let mut peers = join(&words.peers);
        if !words.except.is_empty() {
            peers.push_str(" except ");
            peers.push_str(&join(&words.except));
        }
        let near = &self.near;
        let port = self.question.port.to_string();
        let mut clauses = vec![
            clause("port", port, ranges(&rule.written.ports), near.port_fits(rule)),
            clause("peer", show_peer(self.question.caller.peer()), peers, near.peer_fits(rule)),
        ];
        match (near.request(), &words.target) {
            (None, RuleTarget::Tcp) => {}
            (Some(_), RuleTarget::Tcp) => {
                clauses.push(clause("protocol", "http".into(), "tcp".into(), false))
            }
            (None, _) => clauses.push(clause("protocol", "tcp".into(), "http".into(), false)),
            (Some(request), target) => {
                let (paths, methods) = match target {
                    RuleTarget::Http { methods, paths } => (join(paths), methods.to_string()),
                    RuleTarget::Grpc(rpcs) => (join(rpcs), "grpc".to_owned()),
                    RuleTarget::Tcp => Default::default(),
                };
                let websocket = request.exchange() == Exchange::WebSocket;
                let method = if websocket { "WEBSOCKET" } else { request.method() };
                clauses.push(clause("path", request.path().into(), paths, near.path_fits(rule)));
                clauses.push(clause("method", method.into(), methods, near.method_fits(rule)));
            }
        }
        for condition in &words.conditions {
            if let Some(facts) = &self.facts {
                let (what, actual) = self.actual(condition, facts);
                clauses.push(clause(&what, actual, condition.to_string(), near.condition_fits(condition)));
            }
        }
        if let Some(until) = &words.until {
            let expected = format!("before {}", until.node);
            clauses.push(clause("until", self.at.to_string(), expected, near.until_fits(rule)));
        }
        clauses
    }

    /// What a condition is about, and what the request has there.
    fn actual(&self, condition: &Condition, facts: &HttpFacts<'_>) -> (String, String) {
        match condition {
            Condition::Host(_) => {
                let host = self.near.request().and_then(Canonical::host);
                ("host".to_owned(), host.unwrap_or("(none)").to_owned())
            }
            Condition::Header { name, .. } => {
                let mut lines = Vec::new();
                facts.headers.each(name, &mut |value| {
                    lines.push(String::from_utf8_lossy(value).escape_debug().to_string())
                });
                let shown = if lines.is_empty() { "(absent)".to_owned() } else { lines.join(" | ") };
                (format!("header {name}"), shown)
            }
        }
    }

    /// The caller, as a rule would write it.
    fn written_peer(&self) -> String {
        match &self.question.caller {
            Caller::Identity(id) => match id.ns_sa() {
                Some((namespace, account)) if *id.trust_domain() == self.workload.trust_domain => {
                    let own = namespace == self.workload.namespace && !namespace.is_empty();
                    format!("{}/{account}", if own { "." } else { namespace })
                }
                _ => id.to_string(),
            },
            Caller::Plaintext(ip) => format!("plaintext({})", ipnet::IpNet::from(ip.to_canonical())),
        }
    }

    /// A line that allows exactly what was asked, or what the nearest pattern makes of its path.
    fn grant(&self, nearest: Option<RuleAt<'_>>) -> String {
        let peer = self.written_peer();
        let what = match &self.question.ask {
            Ask::Tcp => "tcp".to_owned(),
            Ask::Grpc(method) => format!("grpc {method}"),
            Ask::Http { method, .. } => {
                let path = self.near.request().map_or("/", Canonical::path);
                format!("{method} {}", self.pattern_for(path, nearest))
            }
        };
        format!("allow {peer} to {what} on {}", self.question.port)
    }

    /// The pattern of the nearest rule, if the path fits it and nothing below does; otherwise the path
    /// itself.
    fn pattern_for(&self, path: &str, nearest: Option<RuleAt<'_>>) -> String {
        let route =
            nearest.filter(|rule| !rule.written.methods.is_grpc()).and_then(|rule| self.near.route(rule));
        if let Some(route) = route {
            return route.to_owned();
        }
        let writable = |segment: &str| {
            let special = segment.contains(['*', '$']) || segment.ends_with(',') || segment.contains(".+");
            if special { "*".to_owned() } else { segment.to_owned() }
        };
        path.split('/').map(writable).collect::<Vec<_>>().join("/")
    }

    /// The deny that decided, with an exception for the caller.
    fn exception(&self, mut deny: Rule) -> String {
        // Only printed, so which kind of peer it is makes no difference.
        let node = WrittenPeer::Spiffe(self.written_peer());
        deny.except.push(Spanned { node, at: deny.verb.at });
        deny.to_string()
    }
}

fn show_peer(peer: Peer<'_>) -> String {
    match peer {
        Peer::Identity(id) => id.to_string(),
        Peer::Plaintext(ip) => format!("plaintext({ip})"),
    }
}

fn join<T: std::fmt::Display>(items: &[Spanned<T>]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn ranges(ports: &[(u16, u16)]) -> String {
    let show = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ports.iter().map(show).collect::<Vec<_>>().join(",")
}
