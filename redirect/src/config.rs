//! What is captured, and what is not.

use crate::{Cidr, PortRange, Problem};

/// The interception of one pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// The user of the proxy. Its connections are not captured if the group is the proxy's too.
    pub proxy_uid: u32,
    /// The group of the proxy.
    pub proxy_gid: u32,
    /// Where the proxy listens.
    pub ports: ProxyPorts,
    /// Ports that reach the application as they are, beside the health port.
    pub skip_inbound_ports: Vec<PortRange>,
    /// Destination ports that are not captured, beside DNS.
    pub skip_outbound_ports: Vec<PortRange>,
    /// Destination networks that are not captured.
    pub skip_outbound_cidrs: Vec<Cidr>,
    /// What becomes of UDP.
    pub udp: Udp,
}

/// Where the proxy listens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ProxyPorts {
    /// What the pod dials, on the loopback addresses.
    pub outbound: u16,
    /// What is dialled in the pod.
    pub inbound: u16,
    /// Health and metrics, open without mTLS.
    pub health: u16,
    /// Administration, on the loopback address.
    pub admin: u16,
}

/// What becomes of UDP on the way out. It cannot be authenticated, only let pass or not.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Udp {
    /// It passes.
    #[default]
    Pass,
    /// QUIC (port 443) is rejected, so that clients of HTTP/3 fall back to what is captured.
    RejectQuic,
}

/// Entries of one list. The rules of a pod are one netlink batch, and thousands of exceptions are a
/// mistake somewhere else.
const MAX_ENTRIES: usize = 256;

/// Users that other software has: the usual first users of images, distroless, nobody, and the proxies
/// of other meshes. A container that happens to run as one of them would not be captured.
const TAKEN_IDS: [u32; 9] = [1000, 1001, 1337, 2102, 5678, 5995, 5996, 65532, 65534];

// === impl Config ===

impl Config {
    /// Everything is captured, except UDP and what the proxy itself dials.
    #[must_use]
    pub fn new(proxy_uid: u32, proxy_gid: u32) -> Self {
        Self {
            proxy_uid,
            proxy_gid,
            ports: ProxyPorts::default(),
            skip_inbound_ports: Vec::new(),
            skip_outbound_ports: Vec::new(),
            skip_outbound_cidrs: Vec::new(),
            udp: Udp::default(),
        }
    }

    /// All that is wrong with it.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (what, id) in [("user", self.proxy_uid), ("group", self.proxy_gid)] {
            // The last one is the kernel's "no id".
            if id == 0 || id == u32::MAX || TAKEN_IDS.contains(&id) {
                problems.push(Problem::TakenId { what, id });
            }
        }
        let mut before: Vec<(&'static str, u16)> = Vec::new();
        for (what, port) in self.ports.named() {
            if port == 0 {
                problems.push(Problem::NoProxyPort { what });
            } else if let Some((other, _)) = before.iter().find(|(_, other)| *other == port) {
                problems.push(Problem::SamePort { what, other, port });
            }
            before.push((what, port));
        }
        for (list, ranges) in [
            ("skip-inbound-ports", &self.skip_inbound_ports),
            ("skip-outbound-ports", &self.skip_outbound_ports),
        ] {
            if ranges.len() > MAX_ENTRIES {
                problems.push(Problem::TooMany { list, entries: ranges.len(), most: MAX_ENTRIES });
            }
            for range in ranges {
                let mine = self.ports.named();
                // The health port is open anyway, and other pods' health ports are what metrics come from.
                let mine = mine.iter().filter(|(what, port)| *what != "health" && range.contains(*port));
                problems.extend(mine.map(|(what, port)| Problem::ProxyPort {
                    list,
                    range: *range,
                    what,
                    port: *port,
                }));
            }
        }
        if self.skip_outbound_cidrs.len() > MAX_ENTRIES {
            let entries = self.skip_outbound_cidrs.len();
            problems.push(Problem::TooMany { list: "skip-outbound-cidrs", entries, most: MAX_ENTRIES });
        }
        problems
    }
}

// === impl ProxyPorts ===

impl ProxyPorts {
    fn named(&self) -> [(&'static str, u16); 4] {
        [
            ("outbound", self.outbound),
            ("inbound", self.inbound),
            ("health", self.health),
            ("admin", self.admin),
        ]
    }
}

impl Default for ProxyPorts {
    fn default() -> Self {
        Self { outbound: 24140, inbound: 24143, health: 24190, admin: 24191 }
    }
}
