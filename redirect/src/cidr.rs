//! Networks of both families.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Problem, parse_list};

/// A network: an address without host bits, and the length of its prefix.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

// === impl Cidr ===

impl Cidr {
    /// The network of `prefix` bits at `address`.
    ///
    /// # Errors
    /// A prefix longer than the address; host bits, as one of the two numbers is then a mistake; IPv4
    /// in IPv6 form, which no packet ever has.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, Problem> {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if prefix > longest {
            return Err(Problem::Prefix { address, prefix, longest });
        }
        if let IpAddr::V6(six) = address
            && six.to_ipv4_mapped().is_some()
        {
            return Err(Problem::MappedAddress(six));
        }
        let network = Self { address: network(address, prefix), prefix };
        if network.address != address {
            return Err(Problem::HostBits { address, network });
        }
        Ok(network)
    }

    /// `10.0.0.0/8`, `fd00::/8`, or an address, which stands for itself alone.
    ///
    /// # Errors
    /// Anything else, and what [`Cidr::new`] refuses.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let not = || Problem::NotANetwork(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| not())?;
        let prefix = match prefix {
            Some(prefix) if prefix.bytes().all(|byte| byte.is_ascii_digit()) => {
                prefix.parse().map_err(|_| not())?
            }
            Some(_) => return Err(not()),
            None if address.is_ipv4() => 32,
            None => 128,
        };
        Self::new(address, prefix)
    }

    /// A comma-separated list; empty is a list of none.
    ///
    /// # Errors
    /// One for every item that is no network.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, Vec<Problem>> {
        parse_list(text, Self::parse)
    }

    /// Whether it is one of IPv4.
    #[must_use]
    pub fn is_ipv4(self) -> bool {
        self.address.is_ipv4()
    }

    fn contains(self, other: Self) -> bool {
        self.is_ipv4() == other.is_ipv4()
            && self.prefix <= other.prefix
            && network(other.address, self.prefix) == self.address
    }

    /// As the kernel stores it: the first address, and the first one behind it, if there is one.
    pub(crate) fn interval(self) -> (Vec<u8>, Option<Vec<u8>>) {
        let prefix = u32::from(self.prefix);
        match self.address {
            IpAddr::V4(four) => {
                let size = 1_u32.checked_shl(32_u32.saturating_sub(prefix));
                let after = size.and_then(|size| four.to_bits().checked_add(size));
                (four.octets().to_vec(), after.map(|after| after.to_be_bytes().to_vec()))
            }
            IpAddr::V6(six) => {
                let size = 1_u128.checked_shl(128_u32.saturating_sub(prefix));
                let after = size.and_then(|size| six.to_bits().checked_add(size));
                (six.octets().to_vec(), after.map(|after| after.to_be_bytes().to_vec()))
            }
        }
    }

    /// The same addresses in order, without networks inside others: the kernel refuses intervals that
    /// overlap.
    pub(crate) fn merge(mut networks: Vec<Self>) -> Vec<Self> {
        // The wider of two networks at one address comes first.
        networks.sort_unstable();
        let mut merged: Vec<Self> = Vec::with_capacity(networks.len());
        for network in networks {
            if !merged.last().is_some_and(|before| before.contains(network)) {
                merged.push(network);
            }
        }
        merged
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// `address` without its host bits.
fn network(address: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    // A shift by the whole width is what a prefix of 0 asks for: nothing is left.
    match address {
        IpAddr::V4(four) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix)).unwrap_or(0);
            Ipv4Addr::from_bits(four.to_bits() & mask).into()
        }
        IpAddr::V6(six) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefix)).unwrap_or(0);
            Ipv6Addr::from_bits(six.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        Cidr::merge(Cidr::parse_list(text).unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn networks_inside_others_are_left_out() {
        assert_eq!(
            shown("fd00:1::/32, 10.1.0.0/16,10.0.0.0/8,192.0.2.7, fd00::/8,10.1.0.0/16,11.0.0.0/8"),
            ["10.0.0.0/8", "11.0.0.0/8", "192.0.2.7/32", "fd00::/8"]
        );
        assert_eq!(shown("0.0.0.0/0,::/0,10.0.0.0/8,fd00::1"), ["0.0.0.0/0", "::/0"]);
    }

    #[test]
    fn an_interval_ends_before_the_first_address_behind_it() {
        let interval = |text: &str| Cidr::parse(text).unwrap().interval();
        assert_eq!(interval("10.0.0.0/8"), (vec![10, 0, 0, 0], Some(vec![11, 0, 0, 0])));
        assert_eq!(interval("192.0.2.255"), (vec![192, 0, 2, 255], Some(vec![192, 0, 3, 0])));
        for (text, length) in [("0.0.0.0/0", 4), ("::/0", 16)] {
            assert_eq!(interval(text), (vec![0; length], None));
        }
        assert_eq!(interval("255.255.255.255").1, None);
        assert_eq!(interval("ffff::/16").1, None);
    }

    #[test]
    fn every_bad_item_is_reported() {
        let not = |text: &str| Problem::NotANetwork(text.to_owned());
        let problems = Cidr::parse_list(
            "db.example,10.0.0.0/8,10.0.0.0/,10.0.0.0/+8,10.0.0.0/33,fd00::/129,10.0.0.1/8,::ffff:10.0.0.0/104,",
        )
        .unwrap_err();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let expected = [
            not("db.example"),
            not("10.0.0.0/"),
            not("10.0.0.0/+8"),
            Problem::Prefix { address: address("10.0.0.0"), prefix: 33, longest: 32 },
            Problem::Prefix { address: address("fd00::"), prefix: 129, longest: 128 },
            Problem::HostBits { address: address("10.0.0.1"), network: Cidr::parse("10.0.0.0/8").unwrap() },
            Problem::MappedAddress("::ffff:10.0.0.0".parse().unwrap()),
            not(""),
        ];
        assert_eq!(problems, expected);
    }
}
