//! Ports: what `on` stands for, and which rules each port has.
//!
//! The rules of a port decide what it speaks. Nothing is detected: a client that stays silent or
//! splits its bytes must not be able to choose a weaker set of rules (CVE-2020-8660).

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Config,
    resolve::{Findings, Resolved, ResolvedRule},
};
use crate::{
    diagnostic::{Code, Diagnostic, Fault, did_you_mean},
    language::ast::Port,
};

/// The ports from `first` to `last` and the rules (by index) that all of them have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PortRules {
    pub(crate) first: u16,
    pub(crate) last: u16,
    pub(crate) rules: Vec<usize>,
}

/// Fills in [`ResolvedRule::ports`].
pub(super) fn resolve_ports(resolved: &mut Resolved, config: &Config<'_>, findings: &mut Findings) {
    let mut rules = std::mem::take(&mut resolved.rules);
    for rule in &mut rules {
        let mut ranges = Vec::new();
        for port in &rule.rule.ports {
            match &port.node {
                Port::Range(first, last) => ranges.push((*first, *last)),
                Port::Named(name) => match config.workload.port_named(name) {
                    Some(number) => ranges.push((number, number)),
                    None => findings.push(resolved.finding(rule, port.at, unknown_port(name, config))),
                },
            }
        }
        ranges.sort_unstable();
        ranges.dedup();
        rule.ports = ranges;
    }
    let opaque: Vec<(u16, u16)> =
        rules.iter().filter(|rule| !rule.rule.target.is_http()).flat_map(|rule| rule.ports.clone()).collect();
    let is_opaque = |port: u16| opaque.iter().any(|(first, last)| (*first..=*last).contains(&port));
    let declared: BTreeSet<u16> =
        config.workload.tcp_ports().map(|port| port.port).filter(|port| !is_opaque(*port)).collect();
    let named_by_http: Vec<(u16, u16)> = rules
        .iter()
        .filter(|rule| rule.rule.target.is_http() && !rule.is_guardrail(resolved))
        .flat_map(|rule| rule.ports.clone())
        .collect();
    for rule in rules.iter_mut().filter(|rule| rule.rule.ports.is_empty()) {
        if !rule.rule.target.is_http() {
            let fault = Fault::new(Code::TcpNeedsPort, "a tcp rule needs a port", "write \"to tcp on 5432\"");
            findings.push(resolved.finding(rule, rule.rule.verb.at, fault));
        } else if rule.is_guardrail(resolved) {
            // A mandatory deny without a port reaches every port that speaks HTTP at all; it must not
            // make one speak it.
            rule.ports =
                named_by_http.iter().copied().chain(declared.iter().map(|port| (*port, *port))).collect();
            rule.ports.sort_unstable();
            rule.ports.dedup();
        } else if declared.is_empty() {
            let help = "write \"on 8080\"";
            let fault =
                Fault::new(Code::NoPorts, "no container port is declared that this could be about", help);
            findings.push(resolved.finding(rule, rule.rule.verb.at, fault));
        } else {
            rule.ports = declared.iter().map(|port| (*port, *port)).collect();
        }
    }
    resolved.rules = rules;
}

fn unknown_port(name: &str, config: &Config<'_>) -> Fault {
    let names: Vec<&str> = config.workload.tcp_ports().filter_map(|port| port.name.as_deref()).collect();
    let help = match did_you_mean(name, names.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if names.is_empty() => "no container port has a name; write its number".to_owned(),
        None => format!("declared are {}", names.join(", ")),
    };
    Fault::new(Code::UnknownPort, format!("no TCP container port is called \"{name}\""), help)
}

/// Which rules each port has, as ranges of ports with the same rules, ascending.
pub(crate) fn port_rules(
    resolved: &Resolved,
    config: &Config<'_>,
) -> Result<Vec<PortRules>, Vec<Diagnostic>> {
    // Between two neighbouring boundaries all ports have the same rules.
    let mut starts: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    let mut ends: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (index, rule) in resolved.rules.iter().enumerate() {
        for (first, last) in &rule.ports {
            starts.entry(u32::from(*first)).or_default().push(index);
            ends.entry(u32::from(*last) + 1).or_default().push(index);
        }
    }
    let boundaries: BTreeSet<u32> = starts.keys().chain(ends.keys()).copied().collect();
    let mut open: BTreeMap<usize, usize> = BTreeMap::new();
    let (mut out, mut total) = (Vec::new(), 0);
    for (from, to) in boundaries.iter().zip(boundaries.iter().skip(1)) {
        for index in ends.get(from).into_iter().flatten() {
            if let Some(count) = open.get_mut(index) {
                *count -= 1;
                if *count == 0 {
                    open.remove(index);
                }
            }
        }
        for index in starts.get(from).into_iter().flatten() {
            *open.entry(*index).or_default() += 1;
        }
        if open.is_empty() {
            continue;
        }
        total += open.len();
        if total > config.limits.targets {
            let message = format!("port ranges overlap in more than {} ways", config.limits.targets);
            return Err(vec![Diagnostic::general(
                Code::Limit,
                "",
                message,
                "use fewer different ranges in \"on\"",
            )]);
        }
        let (Ok(first), Ok(last)) = (u16::try_from(*from), u16::try_from(to - 1)) else { continue };
        out.push(PortRules { first, last, rules: open.keys().copied().collect() });
    }
    check_protocols(resolved, &out)?;
    Ok(out)
}

/// One port is HTTP or opaque, never both.
fn check_protocols(resolved: &Resolved, ports: &[PortRules]) -> Result<(), Vec<Diagnostic>> {
    let mut findings = Findings::default();
    let mut reported = BTreeSet::new();
    for range in ports {
        let first_with = |http: bool| {
            let rules = range.rules.iter().filter_map(|index| Some((*index, resolved.rules.get(*index)?)));
            rules.into_iter().find(|(_, rule)| rule.rule.target.is_http() == http)
        };
        if let (Some((a, http)), Some((b, tcp))) = (first_with(true), first_with(false))
            && reported.insert((a, b))
        {
            findings.push(mixed(resolved, range.first, http, tcp));
        }
    }
    findings.into_result()
}

fn mixed(resolved: &Resolved, port: u16, http: &ResolvedRule, tcp: &ResolvedRule) -> Diagnostic {
    let place = |rule: &ResolvedRule, other: &ResolvedRule| match resolved.texts.get(rule.text) {
        Some((key, _)) if rule.text != other.text => format!("line {} of {key}", rule.rule.line()),
        _ => format!("line {}", rule.rule.line()),
    };
    let message = format!("port {port} is tcp in {} and http in {}", place(tcp, http), place(http, tcp));
    let later = if (http.text, http.rule.line()) > (tcp.text, tcp.rule.line()) { http } else { tcp };
    let at = later.rule.ports.first().map_or(later.rule.verb.at, |port| port.at);
    let help = "a port speaks one protocol; write \"on\" for the one that is meant";
    resolved.finding(later, at, Fault::new(Code::PortProtocol, message, help))
}
