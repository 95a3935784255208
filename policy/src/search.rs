//! Walking the tables of a port: what the rules say, before the mode does.

use std::{ops::ControlFlow, sync::Arc};

use crate::{
    canonical::{Canonical, Exchange},
    compile::{Compiled, CompiledRule, PortTable},
    decision::{Decision, HttpFacts, Reason, Verdict},
    language::ast::Verb,
    latch::{Latch, When},
    matcher::{
        condition::all_hold,
        set::Set,
        table::{Asked, RuleTable},
        trie::TooManyBranches,
    },
    view::ViewRules,
};

/// One request on its way through the tables.
pub(crate) struct Search<'s> {
    pub(crate) compiled: &'s Compiled,
    pub(crate) request: &'s Canonical<'s>,
    pub(crate) facts: &'s HttpFacts<'s>,
    pub(crate) when: When,
}

/// What a table says to a request.
struct Found<'s> {
    rule: &'s CompiledRule,
    route: Option<Arc<str>>,
}

// === impl Search ===

impl<'s> Search<'s> {
    /// The decision of the rules.
    pub(crate) fn decide(&self, table: &'s PortTable, view: &ViewRules) -> Result<Decision, TooManyBranches> {
        let (deny, _) = self.first(&table.deny, &view.deny, Verb::Deny)?;
        let decision = if let Some(found) = deny {
            Decision {
                rule: Some(Arc::clone(&found.rule.label)),
                route: found.route,
                ..Decision::new(Verdict::Deny, Reason::DenyRule)
            }
        } else {
            match self.first(&table.allow, &view.allow, Verb::Allow)? {
                (Some(found), _) => Decision { route: found.route, ..allowed(found.rule) },
                (None, true) => Decision::new(Verdict::Deny, Reason::Expired),
                (None, false) => Decision::new(Verdict::Deny, Reason::Default),
            }
        };
        let (audit_deny, _) = self.first(&table.audit_deny, &view.audit_deny, Verb::Deny)?;
        let (audit_allow, _) = self.first(&table.audit_allow, &view.audit_allow, Verb::Allow)?;
        let route = audit_deny.as_ref().and_then(|found| found.route.clone());
        let would_deny = decision.verdict == Verdict::Allow && audit_deny.is_some();
        let rules = (audit_deny.map(|found| found.rule), audit_allow.map(|found| found.rule));
        let mut decision = shadowed(decision, rules.0, rules.1);
        if would_deny {
            decision.route = route;
        }
        Ok(decision)
    }

    /// The first live rule that matches, and whether one that is over would have.
    fn first(
        &self,
        table: &'s RuleTable,
        view: &Set,
        verb: Verb,
    ) -> Result<(Option<Found<'s>>, bool), TooManyBranches> {
        if view.is_empty() {
            return Ok((None, false));
        }
        let asked = self.compiled.asked(self.request, verb);
        let mut expired = false;
        let found = table.find(view, asked, |number| {
            let Some(rule) = self.compiled.rule(table, number) else { return false };
            if !all_hold(&rule.conditions, verb, self.request.host(), self.facts.headers) {
                return false;
            }
            let over = rule.until.as_ref().is_some_and(|latch| self.when.is_past(latch));
            expired |= over;
            !over
        })?;
        let found = found.and_then(|(number, terminal)| {
            let rule = self.compiled.rule(table, number)?;
            Some(Found { rule, route: terminal.route.clone() })
        });
        Ok((found, expired))
    }
}

// === impl Compiled ===

impl Compiled {
    /// What a request has to show to the rules with this verb.
    pub(crate) fn asked<'r>(&self, request: &'r Canonical<'r>, verb: Verb) -> Asked<'r> {
        let deny = verb == Verb::Deny;
        let method = match request.exchange() {
            Exchange::WebSocket if deny => self.method("GET"),
            Exchange::WebSocket => None,
            _ => self.method(request.method()),
        };
        Asked { request, method, deny }
    }

    fn rule(&self, table: &RuleTable, number: u32) -> Option<&CompiledRule> {
        self.rules.get(*table.rules.get(number as usize)? as usize)
    }

    /// The number of a method that rules name.
    fn method(&self, name: &str) -> Option<u8> {
        let at = self.methods.iter().position(|method| **method == *name)?;
        u8::try_from(at).ok()
    }
}

fn allowed(rule: &CompiledRule) -> Decision {
    Decision {
        rule: Some(Arc::clone(&rule.label)),
        until: rule.until.as_ref().map(Latch::until),
        ..Decision::new(Verdict::Allow, Reason::Rule)
    }
}

/// The decision with what the audit rules say to it: an audited deny marks what passes, an audited
/// allow only counts.
fn shadowed(
    mut decision: Decision,
    audit_deny: Option<&CompiledRule>,
    audit_allow: Option<&CompiledRule>,
) -> Decision {
    if let Some(rule) = audit_deny
        && decision.verdict == Verdict::Allow
    {
        decision.verdict = Verdict::WouldDeny;
        decision.reason = Reason::DenyRule;
        decision.rule = Some(Arc::clone(&rule.label));
    }
    decision.audit_allow = audit_allow.map(|rule| Arc::clone(&rule.label));
    decision
}

/// The decision of the rules on a connection: who it is from is all there is.
pub(crate) fn decide_connection(
    compiled: &Compiled,
    table: &PortTable,
    rules: &ViewRules,
    when: When,
) -> Decision {
    let first_live = |table: &RuleTable, view: &Set| {
        let (mut found, mut expired) = (None, false);
        view.each(|number| match compiled.rule(table, number) {
            Some(rule) if rule.until.as_ref().is_some_and(|latch| when.is_past(latch)) => {
                expired = true;
                ControlFlow::Continue(())
            }
            rule => {
                found = rule;
                ControlFlow::Break(())
            }
        });
        (found, expired)
    };
    let decision = if let (Some(rule), _) = first_live(&table.deny, &rules.deny) {
        Decision { rule: Some(Arc::clone(&rule.label)), ..Decision::new(Verdict::Deny, Reason::DenyRule) }
    } else {
        match first_live(&table.allow, &rules.allow) {
            (Some(rule), _) => allowed(rule),
            (None, true) => Decision::new(Verdict::Deny, Reason::Expired),
            (None, false) => Decision::new(Verdict::Deny, Reason::Default),
        }
    };
    let audit_deny = first_live(&table.audit_deny, &rules.audit_deny).0;
    let audit_allow = first_live(&table.audit_allow, &rules.audit_allow).0;
    shadowed(decision, audit_deny, audit_allow)
}
