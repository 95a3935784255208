//! Why: the rule that decided, or the one that almost did and the clause that failed.
//!
//! Reads the texts again instead of keeping them: nobody asks often, and a running sidecar has better
//! uses for the memory.

use std::{sync::Arc, time::SystemTime};

use crate::{
    Policy,
    canonical::{Canonical, Exchange},
    compile::{self, Config, Resolved, ResolvedRule, Source},
    decision::{Decision, HttpFacts, Peer, Reason, Target},
    diagnostic::Diagnostic,
    language::{
        Time,
        ast::{
            Condition, Methods, Path, Peer as WrittenPeer, Segment, Spanned, Tail, Target as RuleTarget, Verb,
        },
    },
    matcher::{
        condition::holds,
        segment::{Folded, Segment as _, Strict, fold},
    },
    question::{Ask, Caller, Question},
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
    /// `port`, `peer`, `path`, `method`, `header x`, `host` or `until`.
    pub what: String,
    /// What the question has.
    pub actual: String,
    /// What the rule wants.
    pub expected: String,
    /// Whether it fits.
    pub holds: bool,
}

/// Explains what `policy`, compiled from `sources`, answers to `question`.
///
/// # Errors
/// What is wrong with the texts.
pub fn explain(
    policy: &Policy,
    sources: &[Source<'_>],
    config: &Config<'_>,
    question: &Question,
    now: SystemTime,
) -> Result<Explanation, Vec<Diagnostic>> {
    let resolved = compile::resolve(sources, config)?;
    let decision = question.decide(policy, now);
    if decision.reason == Reason::Malformed {
        return Ok(Explanation { decision, rule: None, to_allow: None });
    }
    question.with_facts(policy, |facts| {
        let facts = facts.ok().flatten();
        let held = Held { question, facts, now: Time::of(now), resolved: &resolved };
        let rule = match &decision.rule {
            Some(label) => {
                resolved.rules.iter().find(|rule| rule.label == *label).map(|rule| held.report(rule, true))
            }
            None => held.nearest().map(|rule| held.report(rule, false)),
        };
        let to_allow = match decision.reason {
            Reason::DenyRule => held.exception(decision.rule.as_deref(), config),
            Reason::Default | Reason::Expired | Reason::NoPolicy => Some(held.grant(config)),
            _ => None,
        };
        Ok(Explanation { decision: decision.clone(), rule, to_allow })
    })
}

/// A question, ready to be held against rules.
struct Held<'h> {
    question: &'h Question,
    facts: Option<HttpFacts<'h>>,
    now: Time,
    resolved: &'h Resolved,
}

// === impl Held ===

impl Held<'_> {
    fn canonical(&self) -> Option<&Canonical<'_>> {
        match self.facts.as_ref()?.target {
            Target::Canonical(canonical) => Some(canonical),
            Target::AuditedRaw(_) => None,
        }
    }

    /// The enforced allow that fails least: a foreign port or path is further away than a method.
    fn nearest(&self) -> Option<&ResolvedRule> {
        let allows =
            self.resolved.rules.iter().filter(|rule| rule.rule.verb.node == Verb::Allow && !rule.rule.audit);
        let distance = |rule: &&ResolvedRule| -> u32 {
            let missing = self.clauses(rule).into_iter().filter(|clause| !clause.holds);
            missing
                .map(|clause| match clause.what.as_str() {
                    "port" | "protocol" => 8,
                    "peer" => 4,
                    "path" => 4,
                    _ => 1,
                })
                .sum()
        };
        allows.min_by_key(distance)
    }

    fn report(&self, rule: &ResolvedRule, decided: bool) -> RuleReport {
        let source = self.resolved.texts.get(rule.text).map_or_else(String::new, |(key, _)| key.clone());
        RuleReport {
            label: Arc::clone(&rule.label),
            source,
            line: rule.rule.line(),
            text: rule.rule.to_string(),
            decided,
            clauses: self.clauses(rule),
        }
    }

    fn clauses(&self, rule: &ResolvedRule) -> Vec<Clause> {
        let port = self.question.port;
        let mut clauses = vec![
            Clause {
                what: "port".into(),
                actual: port.to_string(),
                expected: ranges(&rule.ports),
                holds: rule.ports.iter().any(|(first, last)| (*first..=*last).contains(&port)),
            },
            self.peer_clause(rule),
        ];
        let verb = rule.rule.verb.node;
        match (&rule.rule.target, self.canonical()) {
            (RuleTarget::Tcp, None) => {}
            (RuleTarget::Tcp, Some(_)) => clauses.push(protocol_clause("http", "tcp")),
            (_, None) => clauses.push(protocol_clause("tcp", "http")),
            (target, Some(request)) => clauses.extend(http_clauses(target, request, verb)),
        }
        if let Some(facts) = &self.facts {
            let host = self.canonical().and_then(Canonical::host);
            for condition in &rule.rule.conditions {
                clauses.push(condition_clause(condition, verb, host, facts));
            }
        }
        if let Some(until) = &rule.rule.until {
            clauses.push(Clause {
                what: "until".into(),
                actual: self.now.to_string(),
                expected: format!("before {}", until.node),
                holds: self.now < until.node,
            });
        }
        clauses
    }

    fn peer_clause(&self, rule: &ResolvedRule) -> Clause {
        let peer = self.question.caller.peer();
        let included = rule.peers.iter().any(|term| term.matches(peer));
        let excepted = rule.except.iter().any(|term| term.matches(peer));
        let mut expected = join(&rule.rule.peers);
        if !rule.rule.except.is_empty() {
            expected.push_str(" except ");
            expected.push_str(&join(&rule.rule.except));
        }
        Clause { what: "peer".into(), actual: show_peer(peer), expected, holds: included && !excepted }
    }

    /// The caller, as a rule would write it.
    fn written_peer(&self, config: &Config<'_>) -> String {
        match &self.question.caller {
            Caller::Identity(id) => match id.ns_sa() {
                Some((namespace, account)) if *id.trust_domain() == config.workload.trust_domain => {
                    let own = namespace == config.workload.namespace && !namespace.is_empty();
                    format!("{}/{account}", if own { "." } else { namespace })
                }
                _ => id.to_string(),
            },
            Caller::Plaintext(ip) => format!("plaintext({})", ipnet::IpNet::from(ip.to_canonical())),
        }
    }

    /// A line that allows exactly what was asked, or what the nearest pattern makes of its path.
    fn grant(&self, config: &Config<'_>) -> String {
        let peer = self.written_peer(config);
        let what = match &self.question.ask {
            Ask::Tcp => "tcp".to_owned(),
            Ask::Grpc(method) => format!("grpc {method}"),
            Ask::Http { method, .. } => {
                let path = self.canonical().map_or("/", Canonical::path);
                format!("{method} {}", self.pattern_for(path))
            }
        };
        format!("allow {peer} to {what} on {}", self.question.port)
    }

    /// The pattern of the nearest rule, if the path fits it and nothing below does; otherwise the path
    /// itself.
    fn pattern_for(&self, path: &str) -> String {
        if let Some(rule) = self.nearest()
            && let RuleTarget::Http { paths, .. } = &rule.rule.target
            && let Some(pattern) = paths
                .iter()
                .find(|pattern| pattern.tail != Tail::Subtree && path_matches(pattern, path, Verb::Allow))
        {
            return pattern.to_string();
        }
        let writable = |segment: &str| {
            let special = segment.contains(['*', '$']) || segment.ends_with(',') || segment.contains(".+");
            if special { "*".to_owned() } else { segment.to_owned() }
        };
        path.split('/').map(writable).collect::<Vec<_>>().join("/")
    }

    /// The deny that decided, with an exception for the caller.
    fn exception(&self, label: Option<&str>, config: &Config<'_>) -> Option<String> {
        let rule = self.resolved.rules.iter().find(|rule| Some(&*rule.label) == label)?;
        let mut changed = rule.rule.clone();
        // Only printed, so which kind of peer it is makes no difference.
        let node = WrittenPeer::Spiffe(self.written_peer(config));
        changed.except.push(Spanned { node, at: rule.rule.verb.at });
        Some(changed.to_string())
    }
}

fn protocol_clause(actual: &str, expected: &str) -> Clause {
    Clause { what: "protocol".into(), actual: actual.into(), expected: expected.into(), holds: false }
}

fn http_clauses(target: &RuleTarget, request: &Canonical<'_>, verb: Verb) -> Vec<Clause> {
    let method = match request.exchange() {
        Exchange::WebSocket => "WEBSOCKET",
        _ => request.method(),
    };
    let deny = verb == Verb::Deny;
    let server = request.exchange() == Exchange::Asterisk;
    let (path, method_holds, methods) = match target {
        RuleTarget::Tcp => return Vec::new(),
        RuleTarget::Http { methods, paths } => {
            let holds = match methods {
                Methods::Any => deny || !matches!(method, "WEBSOCKET" | "TRACE"),
                Methods::Only(names) => names
                    .iter()
                    .any(|name| name == method || (deny && method == "WEBSOCKET" && name == "GET")),
            };
            let fits = paths.iter().any(|pattern| path_matches(pattern, request.path(), verb));
            ((join(paths), fits), holds, methods.to_string())
        }
        RuleTarget::Grpc(rpcs) => {
            let fits =
                rpcs.iter().any(|rpc| rpc_matches(&rpc.service, rpc.method.as_deref(), request.path(), deny));
            ((join(rpcs), fits), deny || request.exchange() == Exchange::Grpc, "grpc".to_owned())
        }
    };
    vec![
        Clause {
            what: "path".into(),
            actual: request.path().into(),
            expected: path.0,
            holds: path.1 && !server,
        },
        Clause { what: "method".into(), actual: method.into(), expected: methods, holds: method_holds },
    ]
}

fn condition_clause(condition: &Condition, verb: Verb, host: Option<&str>, facts: &HttpFacts<'_>) -> Clause {
    let (what, actual) = match condition {
        Condition::Host(_) => ("host".to_owned(), host.unwrap_or("(none)").to_owned()),
        Condition::Header { name, .. } => {
            let mut lines = Vec::new();
            facts.headers.each(name, &mut |value| {
                lines.push(String::from_utf8_lossy(value).escape_debug().to_string())
            });
            let shown = if lines.is_empty() { "(absent)".to_owned() } else { lines.join(" | ") };
            (format!("header {name}"), shown)
        }
    };
    Clause {
        what,
        actual,
        expected: condition.to_string(),
        holds: holds(condition, verb, host, facts.headers),
    }
}

/// Whether a pattern fits a canonical path: one at a time, as the language is defined.
fn path_matches(pattern: &Path, path: &str, verb: Verb) -> bool {
    let deny = verb == Verb::Deny;
    let inner = path.strip_prefix('/').unwrap_or(path);
    let (inner, slash) = match inner.strip_suffix('/') {
        Some(front) => (front, true),
        None => (inner, inner.is_empty()),
    };
    let segments: Vec<&str> = if inner.is_empty() { Vec::new() } else { inner.split('/').collect() };
    let length = match pattern.tail {
        Tail::Subtree => segments.len() >= pattern.segments.len(),
        tail => {
            let wants_slash = tail == Tail::Slash;
            segments.len() == pattern.segments.len() && (deny || slash == wants_slash)
        }
    };
    length
        && pattern
            .segments
            .iter()
            .zip(segments)
            .all(|(pattern, segment)| segment_matches(pattern, segment, deny))
}

fn segment_matches(pattern: &Segment, segment: &str, deny: bool) -> bool {
    let fits = |text: &str, how: fn(&str, &str) -> bool| {
        if deny { how(&fold(segment), &fold(text)) } else { how(segment, text) }
    };
    match pattern {
        Segment::Star | Segment::Named(_) => true,
        Segment::Literal(text) => fits(text, |segment, text| segment == text),
        Segment::Prefix(text) => fits(text, |segment, text| segment.starts_with(text)),
        Segment::Suffix(text) => fits(text, |segment, text| segment.ends_with(text)),
    }
}

fn rpc_matches(service: &str, method: Option<&str>, path: &str, deny: bool) -> bool {
    let inner = path.strip_prefix('/').unwrap_or(path);
    let inner = if deny { inner.strip_suffix('/').unwrap_or(inner) } else { inner };
    let Some((asked_service, asked_method)) = inner.split_once('/') else { return false };
    if asked_method.contains('/') || asked_method.is_empty() {
        return false;
    }
    let is = |asked: &str, text: &str| {
        if deny { Folded(asked).is(fold(text).as_bytes()) } else { Strict(asked).is(text.as_bytes()) }
    };
    let service_fits = match service.strip_suffix('*') {
        Some(package) if deny => Folded(asked_service).starts_with(fold(package).as_bytes()),
        Some(package) => asked_service.starts_with(package),
        None => is(asked_service, service),
    };
    service_fits && method.is_none_or(|method| is(asked_method, method))
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
