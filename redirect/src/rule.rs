//! What a rule can say: the one form that the text and the netlink messages are made of.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{Cidr, PortRange};

/// A set of intervals.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Set {
    pub(crate) name: &'static str,
    pub(crate) elements: Elements,
}

/// What a set holds, in order and without overlaps.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Elements {
    Ports(Vec<PortRange>),
    V4(Vec<Cidr>),
    V6(Vec<Cidr>),
}

/// A base chain: where in the kernel it hangs, and its rules.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) hook: Hook,
    /// What becomes of a packet that no rule decides about.
    pub(crate) policy: Policy,
    pub(crate) rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Nat,
    Filter,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Policy {
    Accept,
    Drop,
}

/// Every match must hold; then it is counted, if it counts, and the verdict is given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Rule {
    pub(crate) matches: Vec<Match>,
    pub(crate) counter: bool,
    /// None: the rule only counts.
    pub(crate) verdict: Option<Verdict>,
}

/// One condition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Match {
    /// It came in over loopback.
    FromLoopback,
    /// It leaves over loopback.
    ToLoopback,
    /// Its destination is no address of this network namespace.
    NotLocal,
    Is(Protocol),
    IsNot(Protocol),
    TcpPort(u16),
    UdpPort(u16),
    /// The TCP destination port is in the set.
    TcpPortIn(&'static str),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    /// The destination is in the set.
    V4In(&'static str),
    V6In(&'static str),
    State(State),
    /// The connection's destination was rewritten.
    Redirected,
    User(u32),
    Group(u32),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Protocol {
    Icmp,
    Tcp,
    Udp,
    Icmp6,
}

/// What connection tracking makes of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    Invalid,
    Open,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    /// What the chain's policy says.
    Return,
    /// To this port of this host.
    Redirect(u16),
    /// Answered by a TCP reset.
    Reset,
    /// Answered by ICMP: administratively prohibited.
    Prohibit,
}

// === impl Rule ===

impl Rule {
    pub(crate) fn when(matches: impl Into<Vec<Match>>, verdict: Verdict) -> Self {
        Self { matches: matches.into(), counter: false, verdict: Some(verdict) }
    }

    pub(crate) fn counted(matches: impl Into<Vec<Match>>, verdict: impl Into<Option<Verdict>>) -> Self {
        Self { matches: matches.into(), counter: true, verdict: verdict.into() }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = self.matches.iter().map(ToString::to_string).collect();
        words.extend(self.counter.then(|| "counter".to_owned()));
        words.extend(self.verdict.map(|verdict| verdict.to_string()));
        f.write_str(&words.join(" "))
    }
}

// === impl Match ===

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FromLoopback => f.write_str("iifname \"lo\""),
            Self::ToLoopback => f.write_str("oifname \"lo\""),
            Self::NotLocal => f.write_str("fib daddr type != local"),
            Self::Is(protocol) => write!(f, "meta l4proto {protocol}"),
            Self::IsNot(protocol) => write!(f, "meta l4proto != {protocol}"),
            Self::TcpPort(port) => write!(f, "tcp dport {port}"),
            Self::UdpPort(port) => write!(f, "udp dport {port}"),
            Self::TcpPortIn(set) => write!(f, "tcp dport @{set}"),
            Self::V4(address) => write!(f, "ip daddr {address}"),
            Self::V6(address) => write!(f, "ip6 daddr {address}"),
            Self::V4In(set) => write!(f, "ip daddr @{set}"),
            Self::V6In(set) => write!(f, "ip6 daddr @{set}"),
            Self::State(State::Invalid) => f.write_str("ct state invalid"),
            Self::State(State::Open) => f.write_str("ct state established,related"),
            Self::Redirected => f.write_str("ct status dnat"),
            Self::User(id) => write!(f, "meta skuid {id}"),
            Self::Group(id) => write!(f, "meta skgid {id}"),
        }
    }
}

// === impl Protocol ===

impl Protocol {
    /// Its number in the IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Icmp => 1,
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Icmp6 => 58,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Icmp => "icmp",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp6 => "ipv6-icmp",
        })
    }
}

// === impl Verdict ===

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Redirect(port) => write!(f, "redirect to :{port}"),
            Self::Reset => f.write_str("reject with tcp reset"),
            Self::Prohibit => f.write_str("reject with icmpx admin-prohibited"),
        }
    }
}

// === impl Chain ===

impl Chain {
    /// Where it stands among the other chains of its hook: destination rewriting comes before filters.
    pub(crate) fn priority(&self) -> i32 {
        match self.kind {
            Kind::Nat => -100,
            Kind::Filter => 0,
        }
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, priority) = match (self.kind, self.hook) {
            (Kind::Nat, Hook::Prerouting) => ("nat", "dstnat"),
            // nft 1.0 does not know the name `dstnat` in the output hook.
            (Kind::Nat, _) => ("nat", "-100"),
            (Kind::Filter, _) => ("filter", "filter"),
        };
        let hook = match self.hook {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
        };
        let policy = match self.policy {
            Policy::Accept => "accept",
            Policy::Drop => "drop",
        };
        writeln!(f, "    chain {} {{", self.name)?;
        writeln!(f, "        type {kind} hook {hook} priority {priority}; policy {policy};")?;
        self.rules.iter().try_for_each(|rule| writeln!(f, "        {rule}"))?;
        f.write_str("    }\n")
    }
}

// === impl Set ===

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn shown<T: ToString>(elements: &[T]) -> String {
            elements.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        }
        let (kind, elements) = match &self.elements {
            Elements::Ports(ranges) => ("inet_service", shown(ranges)),
            Elements::V4(networks) => ("ipv4_addr", shown(networks)),
            Elements::V6(networks) => ("ipv6_addr", shown(networks)),
        };
        write!(f, "    set {} {{\n        type {kind}; flags interval;\n", self.name)?;
        // `elements = { }` is a syntax error.
        if !elements.is_empty() {
            writeln!(f, "        elements = {{ {elements} }}")?;
        }
        f.write_str("    }\n")
    }
}
