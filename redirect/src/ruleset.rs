//! The rules, as nft text.

use std::fmt::{self, Display as _};

use crate::{Cidr, Config, PortRange, Problem, Udp};

/// DNS passes on both transports: names are not what is captured.
const DNS: u16 = 53;

/// A valid ruleset. Its `Display` is an nft script.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ruleset {
    uid: u32,
    gid: u32,
    inbound: u16,
    outbound: u16,
    udp: Udp,
    in_skip: Vec<PortRange>,
    out_skip: Vec<PortRange>,
    out_skip4: Vec<Cidr>,
    out_skip6: Vec<Cidr>,
}

/// A set of intervals, as nft declares it.
struct Set<'s, T>(&'static str, &'static str, &'s [T]);

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
        let ports = |mut ranges: Vec<PortRange>, always| {
            ranges.push(PortRange::one(always));
            PortRange::merge(ranges)
        };
        let (out_skip4, out_skip6) =
            Cidr::merge(config.skip_outbound_cidrs).into_iter().partition(|network| network.is_ipv4());
        Ok(Self {
            uid: config.proxy_uid,
            gid: config.proxy_gid,
            inbound: config.ports.inbound,
            outbound: config.ports.outbound,
            udp: config.udp,
            in_skip: ports(config.skip_inbound_ports, config.ports.health),
            out_skip: ports(config.skip_outbound_ports, DNS),
            out_skip4,
            out_skip6,
        })
    }

    fn sets(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Set("in_skip", "inet_service", &self.in_skip).fmt(f)?;
        Set("out_skip", "inet_service", &self.out_skip).fmt(f)?;
        Set("out_skip4", "ipv4_addr", &self.out_skip4).fmt(f)?;
        Set("out_skip6", "ipv6_addr", &self.out_skip6).fmt(f)
    }

    /// Capture. These chains see the first packet of a flow only.
    fn nat(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uid, gid, inbound, outbound, .. } = self;
        // What is forwarded, as to a container inside the pod, is not the pod's: `flt_fwd` ends it.
        chain(
            f,
            "nat_pre",
            "nat hook prerouting priority dstnat; policy accept",
            &[
                "iifname \"lo\" return",
                "fib daddr type != local return",
                "tcp dport @in_skip return",
                &format!("meta l4proto tcp counter redirect to :{inbound}"),
            ],
        )?;
        // nft 1.0 does not know the name `dstnat` in the output hook.
        chain(
            f,
            "nat_out",
            "nat hook output priority -100; policy accept",
            &[
                &format!("meta skuid {uid} meta skgid {gid} return"),
                "oifname \"lo\" return",
                "tcp dport @out_skip return",
                "ip daddr @out_skip4 return",
                "ip6 daddr @out_skip6 return",
                &format!("meta l4proto tcp counter redirect to :{outbound}"),
            ],
        )
    }

    /// What was neither captured nor exempted goes nowhere.
    fn filter(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uid, gid, inbound, outbound, .. } = self;
        // Packets that conntrack calls invalid skip NAT: the other end would see them and reset.
        chain(
            f,
            "flt_in",
            "filter hook input priority filter; policy accept",
            &[
                "iifname \"lo\" accept",
                "meta l4proto != tcp accept",
                "ct state invalid counter drop",
                "ct state established,related accept",
                &format!("tcp dport {inbound} ct status dnat accept"),
                "tcp dport @in_skip accept",
                "counter reject with tcp reset",
            ],
        )?;
        // The outgoing interface is still the one from before the redirection, hence `ct status dnat`.
        let to_v4 = format!("ct status dnat ip daddr 127.0.0.1 tcp dport {outbound} accept");
        let to_v6 = format!("ct status dnat ip6 daddr ::1 tcp dport {outbound} accept");
        let proxy = format!("meta skuid {uid} meta skgid {gid} accept");
        let mut rules = vec!["oifname \"lo\" accept", "meta l4proto { icmp, ipv6-icmp } accept"];
        if self.udp == Udp::RejectQuic {
            rules.push("udp dport 443 counter reject with icmpx admin-prohibited");
        }
        rules.extend([
            "meta l4proto udp accept",
            "ct state established,related accept",
            &to_v4,
            &to_v6,
            &proxy,
            "ct state invalid counter drop",
            "tcp dport @out_skip accept",
            "ip daddr @out_skip4 accept",
            "ip6 daddr @out_skip6 accept",
            "meta l4proto tcp counter reject with tcp reset",
            "counter reject with icmpx admin-prohibited",
        ]);
        chain(f, "flt_out", "filter hook output priority filter; policy accept", &rules)?;
        chain(f, "flt_fwd", "filter hook forward priority filter; policy drop", &["counter"])
    }
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A script is one transaction. Adding first makes the deletion valid where there is no table.
        f.write_str("table inet mantlet\ndelete table inet mantlet\ntable inet mantlet {\n")?;
        self.sets(f)?;
        self.nat(f)?;
        self.filter(f)?;
        f.write_str("}\n")
    }
}

// === impl Set ===

impl<T: fmt::Display> fmt::Display for Set<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name, kind, elements) = self;
        write!(f, "    set {name} {{\n        type {kind}; flags interval;\n")?;
        // `elements = { }` is a syntax error.
        if !elements.is_empty() {
            let elements: Vec<String> = elements.iter().map(ToString::to_string).collect();
            writeln!(f, "        elements = {{ {} }}", elements.join(", "))?;
        }
        f.write_str("    }\n")
    }
}

fn chain(f: &mut fmt::Formatter<'_>, name: &str, hook: &str, rules: &[&str]) -> fmt::Result {
    write!(f, "    chain {name} {{\n        type {hook};\n")?;
    rules.iter().try_for_each(|rule| writeln!(f, "        {rule}"))?;
    f.write_str("    }\n")
}
