//! A compiled policy: an immutable snapshot that answers who may do what.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use crate::{
    canonical::{AuditedRaw, Malformed, RequestHead},
    compile::{self, Compiled, Config, Mode, PortTable, Resolved, Source},
    decision::{Decision, HttpFacts, Peer, PortProtocol, Reason, Target, Verdict},
    diagnostic::Diagnostic,
    headers::{HeaderValues, NamedHeaders},
    language::{Time, ast::Condition},
    latch::{Latch, When},
    search::{Search, decide_connection},
    view::{PeerView, ViewRules},
    workload::{HttpOptions, PortOptions},
};

/// Numbers snapshots, so that a view is never used with another one than its own.
static SERIAL: AtomicU64 = AtomicU64::new(1);

/// What an installation gives a workload that has no policy.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Unconfigured {
    /// Everything is refused.
    #[default]
    Deny,
    /// Nothing is refused, everything is counted. Callers need an identity.
    Audit,
    /// The same, and callers without identity are let in too.
    Permissive,
}

/// What `mantlet_policy_info` and the command line call the mode.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ModeName {
    /// Refuses.
    Enforce,
    /// Counts.
    Audit,
    /// Counts, and lets callers without identity in.
    Permissive,
}

/// A policy, compiled. Immutable but for its latches: share it behind an `Arc` and replace it whole.
#[derive(Debug)]
pub struct Policy {
    serial: u64,
    hash: u64,
    mode: ActiveMode,
    rules: Rules,
    http_options: HttpOptions,
    headers: NamedHeaders,
}

#[derive(Debug)]
enum Rules {
    Compiled(Box<Compiled>),
    /// There are none, for this reason.
    None(Reason),
}

#[derive(Debug)]
enum ActiveMode {
    Enforce,
    Audit,
    AuditUntil(Latch),
    Permissive,
}

// === impl Policy ===

impl Policy {
    /// Compiles the texts of a policy. Order and division of the texts do not matter.
    ///
    /// # Errors
    /// Everything that is wrong, at most 50 findings. An error in one text makes the whole set
    /// invalid, because the rest may lack its denies.
    pub fn compile(sources: &[Source<'_>], config: &Config<'_>) -> Result<Self, Vec<Diagnostic>> {
        let resolved = compile::resolve(sources, config)?;
        let ports = compile::port_rules(&resolved, config)?;
        let (hash, headers) = (hash(&resolved, config), named_headers(&resolved));
        let compiled = compile::build(resolved, &ports, config)?;
        config.latches.prune();
        let mode = match config.mode {
            Mode::Enforce => ActiveMode::Enforce,
            Mode::Audit => ActiveMode::Audit,
            Mode::AuditUntil(until) => {
                let latch = config.latches.get(&format!("mode audit until {until}"), until);
                latch.is_over(Time::of(config.now));
                ActiveMode::AuditUntil(latch)
            }
        };
        let mut policy = Self::new(mode, Rules::Compiled(Box::new(compiled)));
        policy.hash = hash;
        policy.headers = headers;
        policy.http_options = config.http_options.clone();
        Ok(policy)
    }

    /// A policy that refuses everything, for a reason.
    #[must_use]
    pub fn deny_all(reason: Reason) -> Self {
        Self::new(ActiveMode::Enforce, Rules::None(reason))
    }

    /// The policy of a workload that has none.
    #[must_use]
    pub fn unconfigured(unconfigured: Unconfigured) -> Self {
        let mode = match unconfigured {
            Unconfigured::Deny => ActiveMode::Enforce,
            Unconfigured::Audit => ActiveMode::Audit,
            Unconfigured::Permissive => ActiveMode::Permissive,
        };
        Self::new(mode, Rules::None(Reason::NoPolicy))
    }

    fn new(mode: ActiveMode, rules: Rules) -> Self {
        Self {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            hash: 0,
            mode,
            rules,
            http_options: HttpOptions::default(),
            headers: NamedHeaders::default(),
        }
    }

    /// A number of this text and configuration: equal on all replicas, for spotting drift.
    #[must_use]
    pub fn hash(&self) -> String {
        format!("{:012x}", self.hash & 0xffff_ffff_ffff)
    }

    /// What the mode is called at `now`.
    #[must_use]
    pub fn mode(&self, now: SystemTime) -> ModeName {
        match &self.mode {
            ActiveMode::Permissive => ModeName::Permissive,
            _ if self.is_audit(When::Supposed(Time::of(now))) => ModeName::Audit,
            _ => ModeName::Enforce,
        }
    }

    /// How many rules there are.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        self.compiled().map_or(0, |compiled| compiled.rules.len())
    }

    /// The labels of all rules, in order.
    pub fn rule_labels(&self) -> impl Iterator<Item = &Arc<str>> {
        self.compiled().into_iter().flat_map(|compiled| &compiled.rules).map(|rule| &rule.label)
    }

    /// What `port` speaks.
    #[must_use]
    pub fn protocol(&self, port: u16) -> PortProtocol {
        match self.port_table(port) {
            Some(table) if table.is_http => PortProtocol::Http,
            Some(_) => PortProtocol::Opaque,
            None => PortProtocol::None,
        }
    }

    /// What every port speaks that has rules: first and last port, in order.
    pub fn protocols(&self) -> impl Iterator<Item = (u16, u16, PortProtocol)> {
        let ranges = self.compiled().map(|compiled| &compiled.ranges).into_iter().flatten();
        ranges.map(|(first, last, _)| (*first, *last, self.protocol(*first)))
    }

    /// Whether `port` accepts callers without identity at all. From which addresses is for
    /// [`Policy::view`] and the decision.
    #[must_use]
    pub fn accepts_plaintext(&self, port: u16) -> bool {
        if matches!(self.mode, ActiveMode::Permissive) {
            return true;
        }
        let Some((compiled, table)) = self.compiled().zip(self.port_table(port)) else { return false };
        table.plaintext.iter().filter_map(|index| compiled.rules.get(*index as usize)).any(|rule| {
            // A grant that is over no longer opens the port.
            rule.until.as_ref().is_none_or(|latch| !latch.has_passed())
        })
    }

    /// What `port` is lax about.
    #[must_use]
    pub fn port_options(&self, port: u16) -> PortOptions {
        self.http_options.of(port)
    }

    /// The headers that conditions read.
    #[must_use]
    pub fn named_headers(&self) -> &NamedHeaders {
        &self.headers
    }

    /// Whether this policy made `view`. If not, make a new one.
    #[must_use]
    pub fn owns(&self, view: &PeerView) -> bool {
        view.serial == self.serial
    }

    /// What `peer` may meet on `port`: once per connection and policy.
    #[must_use]
    pub fn view(&self, peer: Peer<'_>, port: u16) -> PeerView {
        let rules = self.compiled().and_then(|compiled| {
            let number = compiled.table_of(port)?;
            let table = compiled.table(number)?;
            let classes = compiled.peers.classes_of(peer);
            Some(ViewRules {
                table: number,
                allow: table.allow.rules_of(&classes),
                deny: table.deny.rules_of(&classes),
                audit_allow: table.audit_allow.rules_of(&classes),
                audit_deny: table.audit_deny.rules_of(&classes),
            })
        });
        PeerView { serial: self.serial, peer: peer.into(), port, rules }
    }

    /// Decides on an HTTP request. Does not allocate when `view` is this policy's own.
    #[must_use]
    pub fn decide_http(&self, view: &PeerView, facts: &HttpFacts<'_>, now: SystemTime) -> Decision {
        self.judge_http(view, facts, When::Now(Time::of(now)))
    }

    /// Decides on an opaque connection. Does not allocate when `view` is this policy's own.
    #[must_use]
    pub fn decide_tcp(&self, view: &PeerView, now: SystemTime) -> Decision {
        self.judge_tcp(view, When::Now(Time::of(now)))
    }

    pub(crate) fn judge_http(&self, view: &PeerView, facts: &HttpFacts<'_>, when: When) -> Decision {
        if !self.owns(view) {
            return self.judge_http(&self.view(view.peer(), view.port), facts, when);
        }
        let request = match facts.target {
            Target::Canonical(request) => request,
            Target::AuditedRaw(raw) => {
                return self.judged(Decision::malformed(Verdict::Deny, raw.defect), when);
            }
        };
        let Some((compiled, rules, table)) = self.rules_of(view).filter(|(.., table)| table.is_http) else {
            return self.judged(Decision::new(Verdict::Deny, self.default_reason()), when);
        };
        let search = Search { compiled, request, facts, when };
        let decision = search.decide(table, rules).unwrap_or_else(|_| {
            // Cannot happen: the compiler bounds the branches. If it did, nothing may pass.
            Decision::new(Verdict::Deny, Reason::PolicyInvalid)
        });
        self.judged(decision, when)
    }

    pub(crate) fn judge_tcp(&self, view: &PeerView, when: When) -> Decision {
        if !self.owns(view) {
            return self.judge_tcp(&self.view(view.peer(), view.port), when);
        }
        let Some((compiled, rules, table)) = self.rules_of(view).filter(|(.., table)| !table.is_http) else {
            return self.judged(Decision::new(Verdict::Deny, self.default_reason()), when);
        };
        let decision = decide_connection(compiled, table, rules, when);
        self.judged(decision, when)
    }

    /// What audit lets through although its path has no single meaning: the request as it came.
    /// `None` when the policy enforces, or when more than the path is wrong.
    #[must_use]
    pub fn audited_raw<'a>(
        &self,
        head: &RequestHead<'a>,
        headers: &dyn HeaderValues,
        defect: Malformed,
        now: SystemTime,
    ) -> Option<AuditedRaw<'a>> {
        if self.is_audit(When::Now(Time::of(now))) { AuditedRaw::new(head, headers, defect) } else { None }
    }

    /// Lets every grant expire that is over at `now`, and gives the time of the next one. Call it then,
    /// and judge again what is in flight: a clock that is set back later revives nothing.
    #[must_use]
    pub fn expire(&self, now: SystemTime) -> Option<SystemTime> {
        let now = Time::of(now);
        let mode = match &self.mode {
            ActiveMode::AuditUntil(latch) => Some(latch),
            _ => None,
        };
        let rules = self.compiled().into_iter().flat_map(|compiled| &compiled.rules);
        let latches = rules.filter_map(|rule| rule.until.as_ref()).chain(mode);
        latches.filter(|latch| !latch.is_over(now)).map(Latch::until).min().map(Time::system_time)
    }

    pub(crate) fn compiled(&self) -> Option<&Compiled> {
        match &self.rules {
            Rules::Compiled(compiled) => Some(compiled),
            Rules::None(_) => None,
        }
    }

    fn port_table(&self, port: u16) -> Option<&PortTable> {
        let compiled = self.compiled()?;
        compiled.table(compiled.table_of(port)?)
    }

    fn rules_of<'v>(&self, view: &'v PeerView) -> Option<(&Compiled, &'v ViewRules, &PortTable)> {
        let compiled = self.compiled()?;
        let rules = view.rules.as_ref()?;
        Some((compiled, rules, compiled.table(rules.table)?))
    }

    fn default_reason(&self) -> Reason {
        match self.rules {
            Rules::Compiled(_) => Reason::Default,
            Rules::None(reason) => reason,
        }
    }

    fn is_audit(&self, when: When) -> bool {
        match &self.mode {
            ActiveMode::Enforce => false,
            ActiveMode::Audit | ActiveMode::Permissive => true,
            ActiveMode::AuditUntil(latch) => !when.is_past(latch),
        }
    }

    /// The decision in this mode: an audit refuses nothing.
    fn judged(&self, mut decision: Decision, when: When) -> Decision {
        if decision.verdict == Verdict::Deny && self.is_audit(when) {
            decision.verdict = Verdict::WouldDeny;
        }
        decision
    }
}

fn named_headers(resolved: &Resolved) -> NamedHeaders {
    let mut named = NamedHeaders::default();
    let conditions = resolved.rules.iter().flat_map(|rule| &rule.rule.conditions);
    for condition in conditions {
        if let Condition::Header { name, .. } = &condition.node {
            named.insert(name);
        }
    }
    named
}

/// FNV-1a over everything that decides: stable over versions and machines.
fn hash(resolved: &Resolved, config: &Config<'_>) -> u64 {
    let mut texts: Vec<_> = resolved.texts.iter().collect();
    texts.sort_unstable();
    let mode = format!("{:?} {:?}", config.mode, config.http_options);
    let parts =
        texts.into_iter().flat_map(|(key, text)| [key.as_str(), text.as_str()]).chain([mode.as_str()]);
    let bytes = parts.flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
