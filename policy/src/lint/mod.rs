//! Warnings: what is legal and probably not meant.

mod cover;

use std::collections::HashMap;

use mantlet_id::{PeerPattern, SegmentPattern, TrustDomainPattern};

use crate::{
    Policy,
    compile::{self, Config, Resolved, ResolvedRule, Source, is_any_namespace},
    diagnostic::{Code, Diagnostic, Fault, Position},
    language::{
        Time,
        ast::{Condition, HeaderTest, Port, Verb},
    },
    matcher::peers::Term,
    workload::Transport,
};

/// Above this number of rules only literal repetitions are looked for: comparing each with each would
/// take longer than an admission may.
const MAX_COMPARED: usize = 1024;

/// What a check of a policy found.
#[derive(Debug, Default)]
pub struct Report {
    /// Errors: the policy cannot be used.
    pub errors: Vec<Diagnostic>,
    /// Warnings.
    pub warnings: Vec<Diagnostic>,
}

/// Checks a policy as admission does: everything that [`Policy::compile`] refuses, and what is
/// probably not meant.
#[must_use]
pub fn check(sources: &[Source<'_>], config: &Config<'_>) -> Report {
    let mut report = Report::default();
    if let Err(errors) = Policy::compile(sources, config) {
        report.errors = errors;
        return report;
    }
    let Ok(resolved) = compile::resolve(sources, config) else { return report };
    let mut lint = Lint { resolved: &resolved, config, warnings: Vec::new() };
    if sources.is_empty() {
        let help = "write mantlet.dev/policy; a pod without it admits nobody";
        let message = "no policy: everything is denied";
        lint.warnings.push(Diagnostic::general(Code::NoPolicy, "", message, help));
    }
    lint.ports_of_the_pod();
    for rule in &resolved.rules {
        lint.rule(rule);
    }
    if resolved.rules.len() <= MAX_COMPARED {
        lint.pairs();
    } else {
        lint.repetitions();
    }
    let Lint { mut warnings, .. } = lint;
    warnings.sort_by(|a, b| (&a.source, a.position, a.code).cmp(&(&b.source, b.position, b.code)));
    report.warnings = warnings;
    report
}

struct Lint<'l> {
    resolved: &'l Resolved,
    config: &'l Config<'l>,
    warnings: Vec<Diagnostic>,
}

// === impl Lint ===

impl Lint<'_> {
    fn warn(
        &mut self,
        rule: &ResolvedRule,
        at: Position,
        code: Code,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.warnings.push(self.resolved.finding(rule, at, Fault::new(code, message, help)));
    }

    fn ports_of_the_pod(&mut self) {
        for port in &self.config.workload.ports {
            if port.transport == Transport::Udp {
                let message = format!("UDP port {} is not captured", port.port);
                self.warnings.push(Diagnostic::general(
                    Code::UdpPort,
                    "",
                    message,
                    "anyone who reaches the pod reaches it",
                ));
            }
        }
    }

    fn rule(&mut self, rule: &ResolvedRule) {
        let at = rule.rule.verb.at;
        self.ports(rule);
        if let Some(until) = &rule.rule.until
            && until.node <= Time::of(self.config.now)
        {
            self.warn(
                rule,
                until.at,
                Code::Expired,
                format!("the grant ended {}", until.node),
                "remove the line",
            );
        }
        if rule.rule.verb.node == Verb::Deny {
            self.deny(rule);
            return;
        }
        for condition in &rule.rule.conditions {
            if let Condition::Header { name, test: HeaderTest::Absent } = &condition.node {
                let message = format!("the grant holds because \"{name}\" is missing");
                self.warn(
                    rule,
                    condition.at,
                    Code::AbsentHeader,
                    message,
                    "a caller can leave any header out; prefer \"present\"",
                );
            }
        }
        self.wide_peers(rule);
        if rule.peers.iter().any(|term| !matches!(term, Term::Pattern(_))) {
            self.warn(
                rule,
                at,
                Code::Plaintext,
                "callers without identity are let in",
                "anyone at these addresses is anyone",
            );
            if !rule.rule.target.is_http() {
                let help = "the first byte decides: a server that speaks first, or the application's own TLS, cannot work";
                self.warn(rule, at, Code::PlaintextOpaque, "plaintext on an opaque port", help);
            }
        }
    }

    fn ports(&mut self, rule: &ResolvedRule) {
        let declared: Vec<u16> = self.config.workload.tcp_ports().map(|port| port.port).collect();
        if declared.is_empty() {
            return;
        }
        for port in &rule.rule.ports {
            if let Port::Range(first, last) = port.node
                && !declared.iter().any(|port| (first..=last).contains(port))
            {
                let list: Vec<String> = declared.iter().map(u16::to_string).collect();
                let message = format!("no container declares port {}", port.node);
                self.warn(
                    rule,
                    port.at,
                    Code::UndeclaredPort,
                    message,
                    format!("declared are {}", list.join(", ")),
                );
            }
        }
    }

    fn wide_peers(&mut self, rule: &ResolvedRule) {
        let local = &self.config.workload.trust_domain;
        for term in &rule.peers {
            let Term::Pattern(pattern) = term else { continue };
            let position = rule.rule.peers.iter().find(|peer| match &peer.node {
                crate::language::ast::Peer::Short(text) => {
                    PeerPattern::short(local, text).is_ok_and(|p| p == *pattern)
                }
                crate::language::ast::Peer::Spiffe(text) => {
                    PeerPattern::parse(text).is_ok_and(|p| p == *pattern)
                }
                _ => false,
            });
            let at = position.map_or(rule.rule.verb.at, |peer| peer.at);
            let foreign = match pattern.trust_domain() {
                TrustDomainPattern::Any => true,
                TrustDomainPattern::Exact(domain) => domain != local && has_wildcard(pattern),
            };
            if foreign {
                let message = format!("\"{pattern}\" is a wildcard over foreign trust domains");
                self.warn(rule, at, Code::ForeignWildcard, message, "whoever runs them decides who that is");
            } else if is_any_namespace(pattern) {
                let message = format!("anyone who can create a namespace satisfies \"{pattern}\"");
                self.warn(rule, at, Code::AnyNamespace, message, "name the namespaces");
            }
        }
    }

    fn deny(&mut self, rule: &ResolvedRule) {
        let local = &self.config.workload.trust_domain;
        let mesh = PeerPattern::all_of(local);
        if !rule.peers.iter().any(|term| matches!(term, Term::Pattern(pattern) if *pattern == mesh)) {
            return;
        }
        let covers_more = rule.peers.iter().any(|term| !is_local(term, local));
        let admitted = self.resolved.rules.iter().find(|other| {
            other.rule.verb.node == Verb::Allow
                && other.peers.iter().any(|term| !is_local(term, local))
                && other.ports.iter().any(|(a, b)| rule.ports.iter().any(|(c, d)| a <= d && c <= b))
        });
        if let (false, Some(other)) = (covers_more, admitted) {
            let message = format!("\"mesh\" does not cover the callers that {} admits here", other.label);
            let help = "add \"spiffe://*/**\" or \"plaintext(any)\" to the deny if they are meant";
            self.warn(rule, rule.rule.verb.at, Code::DenyNotForeign, message, help);
        }
    }

    /// Rules that others make useless.
    fn pairs(&mut self) {
        let rules = &self.resolved.rules;
        for (index, narrow) in rules.iter().enumerate() {
            let shadow = rules.iter().enumerate().find(|(other, wide)| {
                *other != index
                    && wide.rule.verb.node == narrow.rule.verb.node
                    && wide.rule.audit == narrow.rule.audit
                    && cover::covers(wide, narrow)
                    && (*other < index || !cover::covers(narrow, wide))
            });
            if let Some((_, wide)) = shadow {
                let message = format!("{} can never add anything to {}", narrow.label, wide.label);
                self.warn(narrow, narrow.rule.verb.at, Code::Shadowed, message, "remove one of them");
            }
            if narrow.rule.verb.node == Verb::Deny || narrow.rule.audit {
                continue;
            }
            let deny = rules.iter().find(|wide| {
                wide.rule.verb.node == Verb::Deny && !wide.rule.audit && cover::covers(wide, narrow)
            });
            if let Some(deny) = deny {
                let message = format!("{} is denied entirely by {}", narrow.label, deny.label);
                self.warn(
                    narrow,
                    narrow.rule.verb.at,
                    Code::DeniedEntirely,
                    message,
                    "remove one of them, or add an \"except\"",
                );
            }
        }
    }

    /// Rules that are there twice, word for word.
    fn repetitions(&mut self) {
        let mut seen: HashMap<String, &ResolvedRule> = HashMap::new();
        let resolved = self.resolved;
        for rule in &resolved.rules {
            let mut nameless = rule.rule.clone();
            nameless.name = None;
            let key = format!("{} {nameless}", rule.text);
            if let Some(first) = seen.get(&key) {
                let message = format!("{} can never add anything to {}", rule.label, first.label);
                self.warn(rule, rule.rule.verb.at, Code::Shadowed, message, "remove one of them");
            } else {
                seen.insert(key, rule);
            }
        }
    }
}

fn is_local(term: &Term, local: &mantlet_id::TrustDomain) -> bool {
    matches!(term, Term::Pattern(pattern) if *pattern.trust_domain() == TrustDomainPattern::Exact(local.clone()))
}

fn has_wildcard(pattern: &PeerPattern) -> bool {
    pattern.has_tail()
        || pattern.segments().iter().any(|segment| !matches!(segment, SegmentPattern::Exact(_)))
}
