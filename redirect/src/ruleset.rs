//! The rules of a pod.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::rule::{Chain, Elements, Hook, Kind, Match, Policy, Protocol, Rule, Set, State, Verdict};
use crate::{Cidr, Config, PortRange, Problem, Udp};

/// The name of the table; it is in the family `inet`, which has both versions of IP.
pub(crate) const TABLE: &str = "mantlet";

/// DNS passes on both transports: names are not what is captured.
const DNS: u16 = 53;
/// QUIC, where HTTP/3 is.
const QUIC: u16 = 443;

/// The names of the sets.
const IN_SKIP: &str = "in_skip";
const OUT_SKIP: &str = "out_skip";
const OUT_SKIP4: &str = "out_skip4";
const OUT_SKIP6: &str = "out_skip6";

/// A valid ruleset. Its `Display` is an nft script.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ruleset {
    pub(crate) sets: Vec<Set>,
    pub(crate) chains: Vec<Chain>,
}

// === impl Ruleset ===

impl Ruleset {
    /// The rules that `config` asks for.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn new(config: Config) -> Result<Self, Vec<Problem>> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(problems);
        }
        let chains = [nat(&config), filter(&config)].concat();
        let ports = |mut ranges: Vec<PortRange>, always| {
            ranges.push(PortRange::one(always));
            Elements::Ports(PortRange::merge(ranges))
        };
        let (v4, v6) =
            Cidr::merge(config.skip_outbound_cidrs).into_iter().partition(|network| network.is_ipv4());
        let sets = vec![
            Set { name: IN_SKIP, elements: ports(config.skip_inbound_ports, config.ports.health) },
            Set { name: OUT_SKIP, elements: ports(config.skip_outbound_ports, DNS) },
            Set { name: OUT_SKIP4, elements: Elements::V4(v4) },
            Set { name: OUT_SKIP6, elements: Elements::V6(v6) },
        ];
        Ok(Self { sets, chains })
    }
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A script is one transaction. Adding first makes the deletion valid where there is no table.
        writeln!(f, "table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{")?;
        self.sets.iter().try_for_each(|set| set.fmt(f))?;
        self.chains.iter().try_for_each(|chain| chain.fmt(f))?;
        f.write_str("}\n")
    }
}

/// Capture. These chains see the first packet of a flow only.
fn nat(config: &Config) -> Vec<Chain> {
    use Match::{FromLoopback, Is, NotLocal, TcpPortIn, ToLoopback, V4In, V6In};
    use Verdict::{Redirect, Return};
    let chain = |name, hook, rules| Chain { name, kind: Kind::Nat, hook, policy: Policy::Accept, rules };
    let inbound = vec![
        Rule::when([FromLoopback], Return),
        // What is forwarded, as to a container inside the pod, is not the pod's: `flt_fwd` ends it.
        Rule::when([NotLocal], Return),
        Rule::when([TcpPortIn(IN_SKIP)], Return),
        Rule::counted([Is(Protocol::Tcp)], Redirect(config.ports.inbound)),
    ];
    let outbound = vec![
        Rule::when(proxy(config), Return),
        Rule::when([ToLoopback], Return),
        Rule::when([TcpPortIn(OUT_SKIP)], Return),
        Rule::when([V4In(OUT_SKIP4)], Return),
        Rule::when([V6In(OUT_SKIP6)], Return),
        Rule::counted([Is(Protocol::Tcp)], Redirect(config.ports.outbound)),
    ];
    vec![chain("nat_pre", Hook::Prerouting, inbound), chain("nat_out", Hook::Output, outbound)]
}

/// What was neither captured nor exempted goes nowhere.
fn filter(config: &Config) -> Vec<Chain> {
    use Match::{
        FromLoopback, Is, IsNot, Redirected, State as Is_, TcpPort, TcpPortIn, ToLoopback, UdpPort, V4, V4In,
        V6, V6In,
    };
    use Verdict::{Accept, Drop, Prohibit, Reset};
    let chain = |name, hook, policy, rules| Chain { name, kind: Kind::Filter, hook, policy, rules };
    // Packets that conntrack calls invalid skip NAT: the other end would see them and reset.
    let input = vec![
        Rule::when([FromLoopback], Accept),
        Rule::when([IsNot(Protocol::Tcp)], Accept),
        Rule::counted([Is_(State::Invalid)], Drop),
        Rule::when([Is_(State::Open)], Accept),
        Rule::when([TcpPort(config.ports.inbound), Redirected], Accept),
        Rule::when([TcpPortIn(IN_SKIP)], Accept),
        Rule::counted([Is(Protocol::Tcp)], Reset),
    ];
    let mut output = vec![
        Rule::when([ToLoopback], Accept),
        Rule::when([Is(Protocol::Icmp)], Accept),
        Rule::when([Is(Protocol::Icmp6)], Accept),
    ];
    if config.udp == Udp::RejectQuic {
        output.push(Rule::counted([UdpPort(QUIC)], Prohibit));
    }
    let to_outbound = TcpPort(config.ports.outbound);
    output.extend([
        Rule::when([Is(Protocol::Udp)], Accept),
        Rule::when([Is_(State::Open)], Accept),
        // The outgoing interface is still the one from before the redirection, hence the status.
        Rule::when([Redirected, V4(Ipv4Addr::LOCALHOST), to_outbound], Accept),
        Rule::when([Redirected, V6(Ipv6Addr::LOCALHOST), to_outbound], Accept),
        Rule::when(proxy(config), Accept),
        Rule::counted([Is_(State::Invalid)], Drop),
        Rule::when([TcpPortIn(OUT_SKIP)], Accept),
        Rule::when([V4In(OUT_SKIP4)], Accept),
        Rule::when([V6In(OUT_SKIP6)], Accept),
        Rule::counted([Is(Protocol::Tcp)], Reset),
        Rule::counted([], Prohibit),
    ]);
    vec![
        chain("flt_in", Hook::Input, Policy::Accept, input),
        chain("flt_out", Hook::Output, Policy::Accept, output),
        chain("flt_fwd", Hook::Forward, Policy::Drop, vec![Rule::counted([], None)]),
    ]
}

/// The proxy itself: its user *and* its group.
fn proxy(config: &Config) -> [Match; 2] {
    [Match::User(config.proxy_uid), Match::Group(config.proxy_gid)]
}
