//! What a policy text says, before it is resolved against a workload.

use std::ops::Deref;

use ipnet::IpNet;

use super::time::Time;
use crate::diagnostic::Position;

/// A parsed policy text.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Document {
    /// Its groups, in order.
    pub groups: Vec<Group>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// A value and where it was written. Two are equal when their values are: that a text was laid out
/// differently changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct Spanned<T> {
    /// The value.
    pub node: T,
    /// Where.
    pub at: Position,
}

/// `group @name = peers`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Group {
    /// Without the `@`.
    pub name: Spanned<String>,
    /// Its members; groups do not nest.
    pub peers: Vec<Spanned<Peer>>,
}

/// One rule.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// `audit`: only counts.
    pub audit: bool,
    /// Allow or deny.
    pub verb: Spanned<Verb>,
    /// To whom it applies.
    pub peers: Vec<Spanned<Peer>>,
    /// `except`: to whom it does not.
    pub except: Vec<Spanned<Peer>>,
    /// `to`: what they do.
    pub target: Target,
    /// `on`; empty stands for every declared port.
    pub ports: Vec<Spanned<Port>>,
    /// `when`: all of them have to hold.
    pub conditions: Vec<Spanned<Condition>>,
    /// `until`: the first second in which it is over.
    pub until: Option<Spanned<Time>>,
    /// `as`.
    pub name: Option<Spanned<String>>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Verb {
    /// Lets pass.
    Allow,
    /// Refuses, whatever else allows.
    Deny,
}

/// Whom a rule is about.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Peer {
    /// Every identity of the local trust domain.
    Mesh,
    /// The members of a group.
    Group(String),
    /// Callers without identity, by source address.
    Plaintext(Plaintext),
    /// `namespace/service-account` in the local trust domain; `.` is the own namespace.
    Short(String),
    /// A full SPIFFE ID or pattern.
    Spiffe(String),
}

/// Source addresses of callers without identity.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Plaintext {
    /// From anywhere.
    Any,
    /// From these networks.
    From(Vec<IpNet>),
}

/// What a rule's peers do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Target {
    /// HTTP methods on paths.
    Http {
        /// The methods.
        methods: Methods,
        /// The paths.
        paths: Vec<Spanned<Path>>,
    },
    /// gRPC methods.
    Grpc(Vec<Spanned<Rpc>>),
    /// The bytes of a connection.
    Tcp,
}

/// Which methods.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Methods {
    /// `*`.
    Any,
    /// These. `WEBSOCKET` is one of them.
    Only(Vec<String>),
}

/// A path pattern.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Path {
    /// Its segments.
    pub segments: Vec<Segment>,
    /// How it ends.
    pub tail: Tail,
}

/// How a path pattern ends.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Tail {
    /// With its last segment.
    Exact,
    /// With a slash.
    Slash,
    /// With `/**`: the path itself and everything below.
    Subtree,
}

/// One segment of a path pattern.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Segment {
    /// Exactly this text, in canonical form.
    Literal(String),
    /// `*`: any one segment.
    Star,
    /// `{name}`: the same, with a name for the reader.
    Named(String),
    /// `text*`.
    Prefix(String),
    /// `*text`.
    Suffix(String),
}

/// `package.Service/Method`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Rpc {
    /// The full name of the service; ends in `.*` for a whole package.
    pub service: String,
    /// The method; `None` is `*`.
    pub method: Option<String>,
}

/// A container port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Port {
    /// From the first to the last, both included.
    Range(u16, u16),
    /// The declared port of this name.
    Named(String),
}

/// One condition.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Condition {
    /// On a header field.
    Header {
        /// Its name, lower case.
        name: String,
        /// What has to hold.
        test: HeaderTest,
    },
    /// On the host of the request: one of these.
    Host(Vec<HostPattern>),
}

/// What has to hold of a header field.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HeaderTest {
    /// Its value is one of these. `=` is the same with one.
    In(Vec<Value>),
    /// It was sent.
    Present,
    /// It was not.
    Absent,
}

/// A value that a header field may have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Value {
    /// The text, or its beginning.
    pub text: String,
    /// Whether it is the beginning only, written with a final `*`.
    pub prefix: bool,
}

/// A host that a request may name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostPattern {
    /// The canonical host; what follows `*.` if it is a wildcard.
    pub name: String,
    /// `*.`: any name below.
    pub below: bool,
}

// === impl Spanned ===

impl<T> Deref for Spanned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.node
    }
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.node == other.node
    }
}

impl<T: Eq> Eq for Spanned<T> {}

// === impl Rule ===

impl Rule {
    /// The line it starts in.
    #[must_use]
    pub fn line(&self) -> u32 {
        self.verb.at.line
    }
}

// === impl Verb ===

impl Verb {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

// === impl Target ===

impl Target {
    /// Whether it speaks HTTP, gRPC included.
    #[must_use]
    pub fn is_http(&self) -> bool {
        !matches!(self, Self::Tcp)
    }
}
