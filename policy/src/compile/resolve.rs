//! Resolving: groups, short forms, labels, and the limits that span all texts.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use mantlet_id::PeerPattern;

use super::{Config, Source, guard, ports::resolve_ports};
use crate::{
    diagnostic::{Code, Diagnostic, Fault, Position, did_you_mean},
    language::{
        MAX_FINDINGS,
        ast::{Document, Peer, Plaintext, Rule, Spanned},
        parse,
    },
    matcher::peers::Term,
};

/// The source name of mandatory denies.
pub(crate) const GUARDRAIL: &str = "guardrail";

/// All texts, resolved against the workload.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    pub(crate) texts: Vec<(String, String)>,
    pub(crate) rules: Vec<ResolvedRule>,
}

/// A rule and what its words stand for.
#[derive(Debug)]
pub(crate) struct ResolvedRule {
    /// Index into [`Resolved::texts`].
    pub(crate) text: usize,
    pub(crate) rule: Rule,
    pub(crate) label: Arc<str>,
    pub(crate) peers: Vec<Term>,
    pub(crate) except: Vec<Term>,
    /// First and last of each range.
    pub(crate) ports: Vec<(u16, u16)>,
}

/// Collects findings, up to a number that a person can read.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    list: Vec<Diagnostic>,
}

/// Parses and resolves `sources`, the guardrails' denies included.
pub(crate) fn resolve(sources: &[Source<'_>], config: &Config<'_>) -> Result<Resolved, Vec<Diagnostic>> {
    let total: usize = sources.iter().map(|source| source.text.len()).sum();
    if total > config.limits.text_bytes {
        let message = format!("the texts have {total} bytes, {} are allowed", config.limits.text_bytes);
        return Err(vec![Diagnostic::general(Code::Limit, "", message, "use patterns instead of lists")]);
    }
    let mut findings = Findings::default();
    let mut documents = Vec::new();
    let guardrail = Source { key: GUARDRAIL, text: &config.guardrails.denies };
    for source in sources.iter().copied().chain((!guardrail.text.is_empty()).then_some(guardrail)) {
        match parse(source.key, source.text, &config.limits) {
            Ok(document) => documents.push((source, document)),
            Err(list) => list.into_iter().for_each(|finding| findings.push(finding)),
        }
    }
    if !findings.list.is_empty() {
        return Err(findings.list);
    }
    check_counts(&documents, config, &mut findings);
    let mut resolved = Resolved::default();
    for (source, document) in documents {
        resolve_document(source, document, config, &mut resolved, &mut findings);
    }
    resolve_ports(&mut resolved, config, &mut findings);
    guard::check(&resolved, config, &mut findings);
    if findings.list.is_empty() { Ok(resolved) } else { Err(findings.list) }
}

/// Rules, groups and peers of all texts together.
fn check_counts(documents: &[(Source<'_>, Document)], config: &Config<'_>, findings: &mut Findings) {
    let (mut rules, mut groups, mut peers) = (0, 0, 0);
    for (source, document) in documents {
        let mut over = |count: &mut usize, added: usize, limit: usize, what: &str, at: Position| {
            let before = *count;
            *count += added;
            if before <= limit && *count > limit {
                let message = format!("more than {limit} {what}");
                let help = "join rules with patterns and groups, or split the workload";
                findings.push(Diagnostic::at(
                    source.key,
                    source.text,
                    at,
                    Fault::new(Code::Limit, message, help),
                ));
            }
        };
        for group in &document.groups {
            over(&mut groups, 1, config.limits.groups, "groups", group.name.at);
            over(&mut peers, group.peers.len(), config.limits.peers, "peers", group.name.at);
        }
        for rule in &document.rules {
            over(&mut rules, 1, config.limits.rules, "rules", rule.verb.at);
            over(
                &mut peers,
                rule.peers.len() + rule.except.len(),
                config.limits.peers,
                "peers",
                rule.verb.at,
            );
        }
    }
}

fn resolve_document(
    source: Source<'_>,
    document: Document,
    config: &Config<'_>,
    resolved: &mut Resolved,
    findings: &mut Findings,
) {
    let text = resolved.texts.len();
    resolved.texts.push((source.key.to_owned(), source.text.to_owned()));
    let mut fault = |at, fault| findings.push(Diagnostic::at(source.key, source.text, at, fault));
    let mut groups: HashMap<&str, Vec<Term>> = HashMap::new();
    for group in &document.groups {
        if groups.contains_key(group.name.as_str()) {
            fault(group.name.at, duplicate("group", &group.name));
            continue;
        }
        let mut members = Vec::new();
        for peer in &group.peers {
            match &peer.node {
                Peer::Group(_) => {
                    let help = "write its members";
                    fault(peer.at, Fault::new(Code::UnknownGroup, "groups do not nest", help));
                }
                _ => match terms(peer, &HashMap::new(), config) {
                    Ok(terms) => members.extend(terms),
                    Err(found) => fault(peer.at, found),
                },
            }
        }
        groups.insert(group.name.as_str(), members);
    }
    let mut names = HashSet::new();
    for rule in document.rules {
        if let Some(name) = &rule.name
            && !names.insert(name.node.clone())
        {
            fault(name.at, duplicate("rule", name));
        }
        let mut all = |peers: &[Spanned<Peer>]| {
            let mut out = Vec::new();
            for peer in peers {
                match terms(peer, &groups, config) {
                    Ok(terms) => out.extend(terms),
                    Err(found) => fault(peer.at, found),
                }
            }
            out
        };
        let (peers, except) = (all(&rule.peers), all(&rule.except));
        let label = label(source.key, &rule);
        resolved.rules.push(ResolvedRule { text, rule, label, peers, except, ports: Vec::new() });
    }
}

fn duplicate(what: &str, name: &str) -> Fault {
    let help = "names are unique in their annotation; choose another";
    Fault::new(Code::DuplicateName, format!("a second {what} is called \"{name}\""), help)
}

/// What a peer stands for.
fn terms(peer: &Peer, groups: &HashMap<&str, Vec<Term>>, config: &Config<'_>) -> Result<Vec<Term>, Fault> {
    let domain = &config.workload.trust_domain;
    let pattern = |parsed: Result<PeerPattern, mantlet_id::PatternError>| match parsed {
        Ok(pattern) => Ok(vec![Term::Pattern(pattern)]),
        Err(error) => Err(Fault::new(Code::PeerForm, format!("peer \"{peer}\": {error}"), "")),
    };
    match peer {
        Peer::Mesh => Ok(vec![Term::Pattern(PeerPattern::all_of(domain))]),
        Peer::Plaintext(Plaintext::Any) => Ok(vec![Term::PlaintextAny]),
        Peer::Plaintext(Plaintext::From(networks)) => {
            Ok(networks.iter().map(|net| Term::Plaintext(*net)).collect())
        }
        Peer::Spiffe(text) => pattern(PeerPattern::parse(text)),
        Peer::Short(text) => match text.strip_prefix("./") {
            Some(_) if config.workload.namespace.is_empty() => {
                let help = "name the namespace";
                Err(Fault::new(
                    Code::PeerForm,
                    format!("peer \"{text}\": there is no own namespace here"),
                    help,
                ))
            }
            Some(account) => {
                pattern(PeerPattern::short(domain, &format!("{}/{account}", config.workload.namespace)))
            }
            None => pattern(PeerPattern::short(domain, text)),
        },
        Peer::Group(name) => groups.get(name.as_str()).cloned().ok_or_else(|| {
            let help = match did_you_mean(name, groups.keys().copied()) {
                Some(near) => format!("did you mean \"@{near}\"?"),
                None => format!("write \"group @{name} = ..\" in this annotation"),
            };
            Fault::new(Code::UnknownGroup, format!("there is no group \"@{name}\""), help)
        }),
    }
}

/// What metrics and logs call a rule: its name or its line, with the fragment in front.
fn label(key: &str, rule: &Rule) -> Arc<str> {
    let short = key.strip_prefix("mantlet.dev/").unwrap_or(key);
    let fragment = match short {
        GUARDRAIL => Some(GUARDRAIL),
        short => short.strip_prefix("policy."),
    };
    match (&rule.name, fragment) {
        (Some(name), None) => name.node.as_str().into(),
        (Some(name), Some(fragment)) => format!("{fragment}.{}", name.node).into(),
        (None, Some(GUARDRAIL)) => format!("{GUARDRAIL}:{}", rule.line()).into(),
        (None, Some(fragment)) => format!("policy.{fragment}:{}", rule.line()).into(),
        (None, None) => format!("policy:{}", rule.line()).into(),
    }
}

// === impl Resolved ===

impl Resolved {
    /// A finding at a place of the text that `rule` stands in.
    pub(crate) fn finding(&self, rule: &ResolvedRule, at: Position, fault: Fault) -> Diagnostic {
        let (key, text) = self.texts.get(rule.text).map_or(("", ""), |(key, text)| (key, text));
        Diagnostic::at(key, text, at, fault)
    }
}

// === impl ResolvedRule ===

impl ResolvedRule {
    /// Whether the installation demands it.
    pub(crate) fn is_guardrail(&self, resolved: &Resolved) -> bool {
        resolved.texts.get(self.text).is_some_and(|(key, _)| key == GUARDRAIL)
    }
}

// === impl Findings ===

impl Findings {
    pub(crate) fn push(&mut self, finding: Diagnostic) {
        if self.list.len() < MAX_FINDINGS {
            self.list.push(finding);
        }
    }

    pub(crate) fn into_result(self) -> Result<(), Vec<Diagnostic>> {
        if self.list.is_empty() { Ok(()) } else { Err(self.list) }
    }
}
