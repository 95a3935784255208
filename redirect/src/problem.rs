//! What must not be, and what to write instead.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::{Cidr, PortRange};

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Problem {
    /// Neither a port nor a range.
    NotAPort(String),
    /// A range whose end is before its start.
    Backwards {
        /// The start.
        first: u16,
        /// The end.
        last: u16,
    },
    /// Neither a network nor an address.
    NotANetwork(String),
    /// More bits than the address has.
    Prefix {
        /// The address.
        address: IpAddr,
        /// The prefix.
        prefix: u8,
        /// The longest there is.
        longest: u8,
    },
    /// An address inside a network in place of the network.
    HostBits {
        /// The address.
        address: IpAddr,
        /// The network it is in.
        network: Cidr,
    },
    /// IPv4 in IPv6 form.
    MappedAddress(Ipv6Addr),
    /// A user or group that others run as.
    TakenId {
        /// `user` or `group`.
        what: &'static str,
        /// Its number.
        id: u32,
    },
    /// A listener of the proxy without a port.
    NoProxyPort {
        /// Which.
        what: &'static str,
    },
    /// Two listeners of the proxy on one port.
    SamePort {
        /// One of them.
        what: &'static str,
        /// The other.
        other: &'static str,
        /// The port.
        port: u16,
    },
    /// An exception for a listener of the proxy itself.
    ProxyPort {
        /// The list it is in.
        list: &'static str,
        /// The entry.
        range: PortRange,
        /// The listener.
        what: &'static str,
        /// Its port.
        port: u16,
    },
    /// A list that is too long.
    TooMany {
        /// Which.
        list: &'static str,
        /// Its length.
        entries: usize,
        /// What it may be.
        most: usize,
    },
}

// === impl Problem ===

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAPort(text) => {
                write!(f, "\"{}\" is no port: write 8080 or 9000-9100, from 1 to 65535", text.escape_debug())
            }
            Self::Backwards { first, last } => {
                write!(f, "the range {first}-{last} runs backwards: write {last}-{first}")
            }
            Self::NotANetwork(text) => {
                write!(f, "\"{}\" is no network: write 10.0.0.0/8 or fd00::/8", text.escape_debug())
            }
            Self::Prefix { address, prefix, longest } => {
                write!(f, "{address}/{prefix}: the prefix of such an address has at most {longest} bits")
            }
            Self::HostBits { address, network } => {
                write!(f, "{address} is an address in {network}: write {network}, or the address alone")
            }
            Self::MappedAddress(address) => {
                write!(f, "{address} is IPv4 in IPv6 form, which packets never have: write it as IPv4")
            }
            Self::TakenId { what, id } => {
                write!(f, "the proxy cannot have {what} {id}: others run as it, and would not be captured")
            }
            Self::NoProxyPort { what } => write!(f, "the {what} listener needs a port other than 0"),
            Self::SamePort { what, other, port } => {
                write!(f, "the {what} and the {other} listener cannot both have port {port}")
            }
            Self::ProxyPort { list, range, what, port } => {
                write!(f, "{list}: {range} has the proxy's {what} port {port} in it: leave it out")
            }
            Self::TooMany { list, entries, most } => {
                write!(f, "{list} has {entries} entries, {most} are possible: write ranges or wider networks")
            }
        }
    }
}

impl std::error::Error for Problem {}
