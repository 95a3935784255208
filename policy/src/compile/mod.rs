//! From texts to the form that is asked: resolve what the texts refer to, check that the result is
//! bounded, build the tables.

mod build;
mod cost;
mod guard;
mod ports;
mod resolve;

use std::{sync::Arc, time::SystemTime};

pub(crate) use build::build;
pub(crate) use guard::is_any_namespace;
pub(crate) use ports::{PortRules, port_rules};
pub(crate) use resolve::{Resolved, ResolvedRule, resolve};

use crate::{
    guardrails::Guardrails,
    language::{
        Time,
        ast::{Condition, Verb},
    },
    latch::{Latch, Latches},
    limits::Limits,
    matcher::{
        peers::{ClassId, PeerIndex},
        table::{MethodKeys, RuleTable},
    },
    workload::{HttpOptions, Workload},
};

/// One text of a policy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Source<'a> {
    /// The annotation key, such as `mantlet.dev/policy.platform`, or a file name. Rules of a fragment
    /// are labelled with its name.
    pub key: &'a str,
    /// The text.
    pub text: &'a str,
}

/// Whether a policy refuses or only counts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// It refuses.
    #[default]
    Enforce,
    /// It counts until then, and refuses afterwards.
    AuditUntil(Time),
    /// It counts. For installations; an annotation has to name an end.
    Audit,
}

/// What a policy is compiled with.
#[derive(Clone, Debug)]
pub struct Config<'a> {
    /// What short forms and ports resolve against.
    pub workload: &'a Workload,
    /// How large the texts may be.
    pub limits: Limits,
    /// What the platform forbids.
    pub guardrails: &'a Guardrails,
    /// Whether it refuses.
    pub mode: Mode,
    /// What some ports are lax about.
    pub http_options: &'a HttpOptions,
    /// What has expired in this process.
    pub latches: &'a Latches,
    /// The time of compilation, for guardrails and for grants that are over already.
    pub now: SystemTime,
}

/// The compiled rules.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    pub(crate) peers: PeerIndex,
    /// Ascending, without overlap: the first and last port, and the table.
    pub(crate) ranges: Vec<(u16, u16, u32)>,
    pub(crate) tables: Vec<PortTable>,
    pub(crate) rules: Vec<CompiledRule>,
    /// The same rules, for whoever asks why.
    pub(crate) written: Box<[WrittenRule]>,
    /// The texts and their annotation keys or files.
    pub(crate) texts: Vec<(String, String)>,
    /// The methods that rules name; the index is the number.
    pub(crate) methods: Vec<Box<str>>,
}

/// The rules of ports that have the same ones.
#[derive(Debug, Default)]
pub(crate) struct PortTable {
    pub(crate) is_http: bool,
    pub(crate) allow: RuleTable,
    pub(crate) deny: RuleTable,
    pub(crate) audit_allow: RuleTable,
    pub(crate) audit_deny: RuleTable,
    /// Enforced allow rules with a plaintext peer.
    pub(crate) plaintext: Vec<u32>,
}

/// What of a rule is asked when peer, path and method match.
#[derive(Debug)]
pub(crate) struct CompiledRule {
    pub(crate) label: Arc<str>,
    pub(crate) conditions: Box<[Condition]>,
    pub(crate) until: Option<Latch>,
}

/// What the tables do not tell about a rule when it did not match, and where its words stand. Apart
/// from [`CompiledRule`]: a decision does not read it.
#[derive(Debug)]
pub(crate) struct WrittenRule {
    pub(crate) verb: Verb,
    pub(crate) audit: bool,
    /// The class of its peers.
    pub(crate) class: ClassId,
    /// What it says about the method; nothing, if it is about connections.
    pub(crate) methods: MethodKeys,
    /// First and last of each range.
    pub(crate) ports: Box<[(u16, u16)]>,
    /// Index into [`Compiled::texts`].
    pub(crate) text: usize,
    pub(crate) line: u32,
}

// === impl Compiled ===

impl Compiled {
    /// The number of the table of `port`.
    pub(crate) fn table_of(&self, port: u16) -> Option<u32> {
        let at = self.ranges.partition_point(|(first, ..)| *first <= port).checked_sub(1)?;
        self.ranges.get(at).filter(|(_, last, _)| port <= *last).map(|(_, _, table)| *table)
    }

    pub(crate) fn table(&self, number: u32) -> Option<&PortTable> {
        self.tables.get(number as usize)
    }
}
