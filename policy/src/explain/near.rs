//! How far the rules are from one question: the tables tell which of them fit the path, and the rest
//! is a comparison or two for each.

use std::ops::ControlFlow;

use crate::{
    canonical::Canonical,
    compile::{Compiled, CompiledRule, PortTable, WrittenRule},
    decision::{HttpFacts, Peer, Target},
    language::ast::{Condition, Verb},
    latch::When,
    matcher::{
        condition::holds,
        peers::ClassId,
        table::{Asked, Terminal},
    },
};

/// Another port or protocol is further away than another peer and another path together, and each of
/// these than what a caller changes from request to request.
const OTHER_PORT: usize = 9;
const OTHER_PEER: usize = 4;
const OTHER_PATH: usize = 4;

/// A question, ready to be held against the allow rules of a policy.
pub(super) struct Near<'q> {
    compiled: &'q Compiled,
    port: u16,
    /// The classes of peers that the caller is in, ascending.
    classes: Vec<ClassId>,
    facts: Option<HttpFacts<'q>>,
    asked: Option<Asked<'q>>,
    /// The allow rules that fit the path: one bit each.
    on_path: Vec<u64>,
    when: When,
}

/// A rule of a compiled policy.
#[derive(Clone, Copy)]
pub(super) struct RuleAt<'q> {
    index: usize,
    pub(super) compiled: &'q CompiledRule,
    pub(super) written: &'q WrittenRule,
}

// === impl Near ===

impl<'q> Near<'q> {
    /// `facts` are those of a request; none for a connection.
    pub(super) fn new(
        compiled: &'q Compiled,
        peer: Peer<'_>,
        port: u16,
        facts: Option<HttpFacts<'q>>,
        when: When,
    ) -> Self {
        let request = facts.and_then(|facts| match facts.target {
            Target::Canonical(canonical) => Some(canonical),
            Target::AuditedRaw(_) => None,
        });
        let asked = request.map(|request| compiled.asked(request, Verb::Allow));
        let classes = compiled.peers.classes_of(peer);
        let mut near = Self { compiled, port, classes, facts, asked, on_path: Vec::new(), when };
        near.on_path = near.rules_on_path();
        near
    }

    /// The request, if it is one.
    pub(super) fn request(&self) -> Option<&'q Canonical<'q>> {
        self.asked.map(|asked| asked.request)
    }

    /// All rules, in order.
    pub(super) fn rules(&self) -> impl Iterator<Item = RuleAt<'q>> + use<'q> {
        let both = self.compiled.rules.iter().zip(&self.compiled.written);
        both.enumerate().map(|(index, (compiled, written))| RuleAt { index, compiled, written })
    }

    /// The enforced allow rule that lacks least, the first of those that lack as much.
    pub(super) fn nearest(&self) -> Option<RuleAt<'q>> {
        let (mut nearest, mut least) = (None, usize::MAX);
        for rule in self.rules() {
            if rule.written.verb == Verb::Allow && !rule.written.audit {
                let distance = self.distance(rule, least);
                if distance < least {
                    (nearest, least) = (Some(rule), distance);
                }
            }
        }
        nearest
    }

    /// How much of a rule does not fit. Conditions are asked only while it is less than `enough`.
    fn distance(&self, rule: RuleAt<'_>, enough: usize) -> usize {
        let cost = |fits: bool, cost: usize| if fits { 0 } else { cost };
        let mut missing = cost(self.port_fits(rule), OTHER_PORT)
            + cost(self.protocol_fits(rule), OTHER_PORT)
            + cost(self.peer_fits(rule), OTHER_PEER);
        if self.protocol_fits(rule) && self.asked.is_some() {
            missing += cost(self.path_fits(rule), OTHER_PATH) + cost(self.method_fits(rule), 1);
        }
        if missing < enough {
            let failing = |condition: &&Condition| !self.condition_fits(condition);
            missing += rule.compiled.conditions.iter().filter(failing).count();
            missing += cost(self.until_fits(rule), 1);
        }
        missing
    }

    pub(super) fn port_fits(&self, rule: RuleAt<'_>) -> bool {
        rule.written.ports.iter().any(|(first, last)| (*first..=*last).contains(&self.port))
    }

    pub(super) fn protocol_fits(&self, rule: RuleAt<'_>) -> bool {
        rule.written.methods.is_http() == self.asked.is_some()
    }

    pub(super) fn peer_fits(&self, rule: RuleAt<'_>) -> bool {
        self.classes.binary_search(&rule.written.class).is_ok()
    }

    pub(super) fn path_fits(&self, rule: RuleAt<'_>) -> bool {
        self.on_path.get(rule.index / 64).is_some_and(|word| word >> (rule.index % 64) & 1 == 1)
    }

    pub(super) fn method_fits(&self, rule: RuleAt<'_>) -> bool {
        self.asked.is_some_and(|asked| rule.written.methods.cover(asked))
    }

    /// Bytes have no headers: conditions are about requests alone.
    pub(super) fn condition_fits(&self, condition: &Condition) -> bool {
        let Some(facts) = self.facts else { return true };
        holds(condition, Verb::Allow, self.request().and_then(Canonical::host), facts.headers)
    }

    pub(super) fn until_fits(&self, rule: RuleAt<'_>) -> bool {
        rule.compiled.until.as_ref().is_none_or(|latch| !self.when.is_past(latch))
    }

    /// The pattern by which a rule fits the path, unless it fits everything below as well.
    pub(super) fn route(&self, rule: RuleAt<'_>) -> Option<&'q str> {
        let mut found = None;
        self.walk(|table, terminal| {
            let Some(route) = terminal.route.as_deref().filter(|route| !route.ends_with("/**")) else {
                return;
            };
            let number = table.allow.rules.iter().position(|index| *index as usize == rule.index);
            let number = number.and_then(|number| u32::try_from(number).ok());
            if number.is_some_and(|number| terminal.entries.iter().any(|(_, set)| set.contains(number))) {
                found = Some(route);
            }
        });
        found
    }

    fn rules_on_path(&self) -> Vec<u64> {
        let mut bits = vec![0_u64; self.compiled.rules.len().div_ceil(64)];
        self.walk(|table, terminal| {
            for (_, set) in &terminal.entries {
                set.each(|number| {
                    let index = table.allow.rules.get(number as usize).map_or(0, |index| *index as usize);
                    if let Some(word) = bits.get_mut(index / 64) {
                        *word |= 1 << (index % 64);
                    }
                    ControlFlow::Continue(())
                });
            }
        });
        bits
    }

    /// Every pattern of an allow that fits the path, on whatever port.
    fn walk(&self, mut visit: impl FnMut(&'q PortTable, &'q Terminal)) {
        let Some(asked) = self.asked else { return };
        for table in self.compiled.tables.iter().filter(|table| table.is_http) {
            // Too many branches cannot happen to a policy that compiled; then nothing is near.
            let _ = table.allow.on_path(asked, |terminal| visit(table, terminal));
        }
    }
}
