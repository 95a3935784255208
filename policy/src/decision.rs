//! What the matcher answers.

use std::{fmt, net::IpAddr, sync::Arc, time::SystemTime};

use mantlet_id::SpiffeId;

use crate::{
    canonical::{AuditedRaw, Canonical, Malformed},
    headers::HeaderValues,
    language::Time,
};

/// The verdict on a request or connection.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Verdict {
    /// Goes on.
    Allow,
    /// Is refused.
    Deny,
    /// Goes on, and would be refused but for an audit.
    WouldDeny,
}

/// Why. Closed: metric label, log field, header and command line name the same.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Reason {
    /// An allow rule matched.
    Rule,
    /// None did.
    Default,
    /// A deny rule matched.
    DenyRule,
    /// Only a grant that is over would have matched.
    Expired,
    /// The request has no single meaning.
    Malformed,
    /// The sidecar has no identity of its own.
    NoIdentity,
    /// The workload has no policy.
    NoPolicy,
    /// The policy could not be read.
    PolicyInvalid,
}

/// The answer of the matcher.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// The reason.
    pub reason: Reason,
    /// The label of the rule that decided.
    pub rule: Option<Arc<str>>,
    /// The path pattern that matched, never a path: a bounded label.
    pub route: Option<Arc<str>>,
    /// The end of the grant that let it pass.
    pub until: Option<Time>,
    /// An `audit allow` rule that would let it pass. It only counts.
    pub audit_allow: Option<Arc<str>>,
    /// What is malformed, when that is the reason.
    pub malformed: Option<Malformed>,
}

/// Who asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Peer<'a> {
    /// An authenticated workload.
    Identity(&'a SpiffeId),
    /// A caller without identity, by the source address of its connection.
    Plaintext(IpAddr),
}

/// What a port speaks, which the rules on it decide.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum PortProtocol {
    /// HTTP: it has http or grpc rules.
    Http,
    /// Bytes: it has tcp rules.
    Opaque,
    /// It has no rules.
    None,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A request with one meaning.
    Canonical(&'a Canonical<'a>),
    /// A request with a defective path that audit lets through.
    AuditedRaw(&'a AuditedRaw<'a>),
}

/// What a request is judged by.
#[derive(Clone, Copy)]
pub struct HttpFacts<'a> {
    /// Method, path, host.
    pub target: Target<'a>,
    /// The header fields.
    pub headers: &'a dyn HeaderValues,
}

// === impl Verdict ===

impl Verdict {
    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::WouldDeny => "would_deny",
        }
    }

    /// Whether the request or connection goes on.
    #[must_use]
    pub fn passes(self) -> bool {
        self != Self::Deny
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Reason ===

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::Rule,
        Self::Default,
        Self::DenyRule,
        Self::Expired,
        Self::Malformed,
        Self::NoIdentity,
        Self::NoPolicy,
        Self::PolicyInvalid,
    ];

    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Default => "default",
            Self::DenyRule => "deny_rule",
            Self::Expired => "expired",
            Self::Malformed => "malformed",
            Self::NoIdentity => "no_identity",
            Self::NoPolicy => "no_policy",
            Self::PolicyInvalid => "policy_invalid",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Decision ===

impl Decision {
    /// A decision that no rule made.
    #[must_use]
    pub fn new(verdict: Verdict, reason: Reason) -> Self {
        Self { verdict, reason, rule: None, route: None, until: None, audit_allow: None, malformed: None }
    }

    /// The refusal of a request that has no single meaning.
    #[must_use]
    pub fn malformed(verdict: Verdict, malformed: Malformed) -> Self {
        Self { malformed: Some(malformed), ..Self::new(verdict, Reason::Malformed) }
    }

    /// When the grant ends, if it does.
    #[must_use]
    pub fn ends(&self) -> Option<SystemTime> {
        self.until.map(Time::system_time)
    }
}

// === impl HttpFacts ===

impl fmt::Debug for HttpFacts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpFacts").field("target", &self.target).finish_non_exhaustive()
    }
}
