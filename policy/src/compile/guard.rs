//! Guardrails, held against resolved rules: at admission and again at load.

use mantlet_id::{PeerPattern, SegmentPattern, TrustDomainPattern};

use super::{
    Config,
    resolve::{Findings, Resolved, ResolvedRule},
};
use crate::{
    diagnostic::{Code, Fault},
    language::{
        Time,
        ast::{Peer, Verb},
    },
    matcher::peers::Term,
};

/// Checks every allow. Denies only take away, so nothing forbids them.
pub(super) fn check(resolved: &Resolved, config: &Config<'_>, findings: &mut Findings) {
    for rule in resolved.rules.iter().filter(|rule| rule.rule.verb.node == Verb::Allow) {
        if let Some(term) = rule.peers.iter().find_map(|term| forbidden(term, config)) {
            let help = "ask whoever runs the installation";
            let at = position_of(rule, &term);
            findings.push(resolved.finding(
                rule,
                at,
                Fault::new(Code::Guardrail, format!("guardrail: {term}"), help),
            ));
        }
        if let (Some(max), Some(until)) = (config.guardrails.max_until, &rule.rule.until) {
            let seconds = i64::try_from(max.as_secs()).unwrap_or(i64::MAX);
            let latest = Time::from_unix(Time::of(config.now).unix().saturating_add(seconds));
            if until.node > latest {
                let message = format!("guardrail: max-until allows grants until {latest} at most");
                let fault =
                    Fault::new(Code::Guardrail, message, format!("write \"until {latest}\" or earlier"));
                findings.push(resolved.finding(rule, until.at, fault));
            }
        }
    }
}

/// Which guardrail forbids a peer.
fn forbidden(term: &Term, config: &Config<'_>) -> Option<String> {
    let guardrails = config.guardrails;
    match term {
        Term::PlaintextAny | Term::Plaintext(_) => {
            guardrails.forbid_plaintext.then(|| "plaintext is forbidden here".to_owned())
        }
        Term::Pattern(pattern) => {
            if guardrails.forbid_wildcard_namespace && is_any_namespace(pattern) {
                return Some("a wildcard for the namespace is forbidden here".to_owned());
            }
            let allowed = guardrails.trust_domains.as_ref()?;
            match pattern.trust_domain() {
                TrustDomainPattern::Exact(domain) if *domain == config.workload.trust_domain => None,
                TrustDomainPattern::Exact(domain) if allowed.contains(domain) => None,
                TrustDomainPattern::Exact(domain) => {
                    Some(format!("trust domain {domain} is not among those allowed"))
                }
                TrustDomainPattern::Any => Some("trust domains have to be named here".to_owned()),
            }
        }
    }
}

/// Whether a pattern admits workloads of more than one namespace of the form `/ns/NS/sa/SA` without
/// being the whole mesh: whoever can create a namespace can become one of them.
pub(crate) fn is_any_namespace(pattern: &PeerPattern) -> bool {
    match pattern.segments() {
        [] => false,
        [first] => pattern.has_tail() && first.matches("ns"),
        [first, namespace, ..] => first.matches("ns") && !matches!(namespace, SegmentPattern::Exact(_)),
    }
}

/// Where the peer stands that a message is about.
fn position_of(rule: &ResolvedRule, message: &str) -> crate::diagnostic::Position {
    let plaintext = message.starts_with("plaintext");
    let found = rule.rule.peers.iter().find(|peer| match &peer.node {
        Peer::Plaintext(_) => plaintext,
        Peer::Short(text) | Peer::Spiffe(text) => {
            !plaintext && (text.contains('*') || text.starts_with("spiffe://"))
        }
        _ => false,
    });
    found.map_or(rule.rule.verb.at, |peer| peer.at)
}
