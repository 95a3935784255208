//! What an answer of the directory means. Whoever answers has proved to be the injector, and is not
//! believed beyond that: what does not say something that can be used says nothing at all.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use mantlet_id::{SpiffeId, TrustDomain};
use mantlet_identity::ExpectedPeer;
use mantlet_proto::directory::{self as wire, Protocol, answer};
use thiserror::Error;

use crate::{directory::EndpointProtocol, limits::DIRECTORY_ENDPOINTS};

/// What holds for an address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Says {
    /// These workloads, each with a sidecar.
    Meshed(Meshed),
    /// No workload of the mesh.
    NotMeshed,
    /// Nothing in the cluster has the address, as far as the directory knows.
    Unknown,
}

/// Where to, whom to expect, how to speak.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Meshed {
    /// Each address once; none while no workload is ready.
    pub(super) workloads: Vec<(SocketAddr, ExpectedPeer)>,
    /// How to speak to all of them; nothing while there are none.
    pub(super) protocol: Option<EndpointProtocol>,
}

/// Why an answer says nothing.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub(super) enum Malformed {
    /// It is about no address.
    #[error("an answer about no address")]
    Address,
    /// It says nothing.
    #[error("an answer that says nothing")]
    Empty,
    /// An endpoint cannot be dialled.
    #[error("an endpoint that cannot be dialled")]
    Endpoint,
    /// An endpoint has no identity, or one of another trust domain.
    #[error("an endpoint without an identity of the own trust domain")]
    Identity,
    /// Two identities are said to be at one address.
    #[error("two identities at one address")]
    Ambiguous,
    /// There are too many endpoints.
    #[error("too many endpoints")]
    TooMany,
}

/// The address that an answer is about.
///
/// # Errors
/// There is none.
pub(super) fn about(answer: &wire::Answer) -> Result<SocketAddr, Malformed> {
    let about = answer.address.as_ref().ok_or(Malformed::Address)?;
    socket(&about.ip, about.port).ok_or(Malformed::Address)
}

/// What an answer says about `asked`; identities other than those of the trust domain `own` are nobody's.
///
/// # Errors
/// It says nothing that can be used.
pub(super) fn says(answer: &wire::Answer, asked: SocketAddr, own: &TrustDomain) -> Result<Says, Malformed> {
    match answer.says.as_ref().ok_or(Malformed::Empty)? {
        answer::Says::Meshed(meshed) => self::meshed(meshed, asked, own).map(Says::Meshed),
        answer::Says::NotMeshed(_) => Ok(Says::NotMeshed),
        answer::Says::Unknown(_) => Ok(Says::Unknown),
    }
}

fn meshed(meshed: &wire::Meshed, asked: SocketAddr, own: &TrustDomain) -> Result<Meshed, Malformed> {
    if meshed.endpoints.len() > DIRECTORY_ENDPOINTS {
        return Err(Malformed::TooMany);
    }
    let protocol = common_protocol(meshed.endpoints.iter().map(wire::Endpoint::protocol));
    // Most endpoints of a destination have the same identity: it is understood once, and shared.
    let mut understood: HashMap<&str, SpiffeId> = HashMap::new();
    let mut at: BTreeMap<SocketAddr, SpiffeId> = BTreeMap::new();
    for endpoint in &meshed.endpoints {
        let addr = socket(&endpoint.ip, endpoint.port).ok_or(Malformed::Endpoint)?;
        let id = match understood.get(endpoint.spiffe_id.as_str()) {
            Some(id) => id.clone(),
            None => {
                let id = SpiffeId::parse(&endpoint.spiffe_id).map_err(|_| Malformed::Identity)?;
                if id.trust_domain() != own {
                    return Err(Malformed::Identity);
                }
                understood.insert(&endpoint.spiffe_id, id.clone());
                id
            }
        };
        if at.get(&addr).is_some_and(|other| *other != id) {
            return Err(Malformed::Ambiguous);
        }
        at.insert(addr, id);
    }
    let workloads = match meshed.keep_address {
        true if at.is_empty() => Vec::new(),
        true => vec![(asked, ExpectedPeer::one_of(at.into_values()))],
        false => {
            let mut expected: HashMap<SpiffeId, Arc<BTreeSet<SpiffeId>>> = HashMap::new();
            let mut one = |id: SpiffeId| {
                let only = || Arc::new(BTreeSet::from([id.clone()]));
                ExpectedPeer::OneOf(Arc::clone(expected.entry(id.clone()).or_insert_with(only)))
            };
            at.into_iter().map(|(addr, id)| (addr, one(id))).collect()
        }
    };
    Ok(Meshed { workloads, protocol })
}

/// What all have in common; where they differ, each is asked.
fn common_protocol(mut protocols: impl Iterator<Item = Protocol>) -> Option<EndpointProtocol> {
    let first = protocols.next()?;
    Some(match (first, protocols.all(|protocol| protocol == first)) {
        (Protocol::Http, true) => EndpointProtocol::Http,
        (Protocol::Opaque, true) => EndpointProtocol::Opaque,
        _ => EndpointProtocol::AskPeer,
    })
}

/// An address that can be dialled.
fn socket(ip: &[u8], port: u32) -> Option<SocketAddr> {
    let ip = match ip.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(ip).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(ip).ok()?),
    };
    let mapped = matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let nobody = ip.is_unspecified() || ip.is_multicast() || ip == Ipv4Addr::BROADCAST;
    let port = u16::try_from(port).ok().filter(|port| *port != 0)?;
    (!mapped && !nobody).then(|| SocketAddr::new(ip, port))
}

/// An address as a question names it.
#[must_use]
pub(super) fn address(of: SocketAddr) -> wire::Address {
    let ip = match of.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => Ipv6Addr::octets(&ip).to_vec(),
    };
    wire::Address { ip, port: of.port().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: &str = "10.96.0.7:80";

    fn endpoint(addr: &str, id: &str, protocol: Protocol) -> wire::Endpoint {
        let wire::Address { ip, port } = address(addr.parse().unwrap());
        wire::Endpoint { ip, port, spiffe_id: id.to_owned(), protocol: protocol.into() }
    }

    fn understood(endpoints: Vec<wire::Endpoint>, keep_address: bool) -> Result<Meshed, Malformed> {
        let asked = ASKED.parse().unwrap();
        let says = answer::Says::Meshed(wire::Meshed { endpoints, keep_address });
        let answer = wire::Answer { address: Some(address(asked)), says: Some(says) };
        assert_eq!(about(&answer), Ok(asked));
        match self::says(&answer, asked, &TrustDomain::parse("td.test").unwrap())? {
            Says::Meshed(meshed) => Ok(meshed),
            other => panic!("{other:?}"),
        }
    }

    fn id(text: &str) -> SpiffeId {
        SpiffeId::parse(text).unwrap()
    }

    const ORDERS: &str = "spiffe://td.test/ns/shop/sa/orders";
    const OTHER: &str = "spiffe://td.test/ns/shop/sa/other";

    #[test]
    fn each_endpoint_is_expected_to_have_its_own_identity() {
        let all = vec![
            endpoint("10.0.0.2:8080", OTHER, Protocol::Http),
            endpoint("10.0.0.1:8080", ORDERS, Protocol::Http),
            endpoint("[fd00::1]:8080", ORDERS, Protocol::Http),
            endpoint("10.0.0.1:8080", ORDERS, Protocol::Http),
        ];
        let one = |addr: &str, of: &str| (addr.parse().unwrap(), ExpectedPeer::one(id(of)));
        let meshed = understood(all, false).unwrap();
        let expected =
            [one("10.0.0.1:8080", ORDERS), one("10.0.0.2:8080", OTHER), one("[fd00::1]:8080", ORDERS)];
        assert_eq!(meshed.workloads, expected);
        assert_eq!(meshed.protocol, Some(EndpointProtocol::Http));
    }

    #[test]
    fn an_address_that_is_kept_may_lead_to_any_of_the_identities() {
        let all = || {
            vec![
                endpoint("10.0.0.1:8080", ORDERS, Protocol::Http),
                endpoint("10.0.0.2:8080", OTHER, Protocol::Http),
            ]
        };
        let meshed = understood(all(), true).unwrap();
        let any = ExpectedPeer::one_of([id(ORDERS), id(OTHER)]);
        assert_eq!(meshed.workloads, [(ASKED.parse().unwrap(), any)]);
        assert!(understood(Vec::new(), true).unwrap().workloads.is_empty(), "nobody is expected there");
    }

    #[test]
    fn endpoints_that_differ_are_asked_for_their_protocol() {
        use Protocol::{AskPeer, Http, Opaque};
        let of = |protocols: &[Protocol]| {
            let all = protocols.iter().enumerate();
            let all = all
                .map(|(n, protocol)| endpoint(&format!("10.0.0.{}:1", n + 1), ORDERS, *protocol))
                .collect();
            understood(all, false).unwrap().protocol
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[Http, Http]), Some(EndpointProtocol::Http));
        assert_eq!(of(&[Opaque]), Some(EndpointProtocol::Opaque));
        for mixed in [&[Http, Opaque][..], &[Http, AskPeer], &[AskPeer]] {
            assert_eq!(of(mixed), Some(EndpointProtocol::AskPeer));
        }
        let mut later = endpoint("10.0.0.1:1", ORDERS, Http);
        later.protocol = 99;
        assert_eq!(understood(vec![later], false).unwrap().protocol, Some(EndpointProtocol::AskPeer));
    }

    #[test]
    fn what_cannot_be_dialled_or_verified_spoils_the_answer() {
        let good = || endpoint("10.0.0.1:8080", ORDERS, Protocol::Http);
        let with = |change: &dyn Fn(&mut wire::Endpoint)| {
            let mut bad = good();
            change(&mut bad);
            understood(vec![good(), bad], false).unwrap_err()
        };
        for ip in [&[][..], &[1, 2, 3], &[0; 5], &[0; 16], &[0; 17], &[0; 4], &[255; 4], &[224, 0, 0, 1]] {
            assert_eq!(with(&|bad| bad.ip = ip.to_vec()), Malformed::Endpoint, "{ip:?}");
        }
        let mapped = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets();
        assert_eq!(with(&|bad| bad.ip = mapped.to_vec()), Malformed::Endpoint);
        for port in [0, 65_536, u32::MAX] {
            assert_eq!(with(&|bad| bad.port = port), Malformed::Endpoint, "{port}");
        }
        for name in
            ["", "orders", "spiffe://td.test", "spiffe://else.test/ns/shop/sa/orders", "spiffe://td.test/a#b"]
        {
            assert_eq!(with(&|bad| bad.spiffe_id = name.to_owned()), Malformed::Identity, "{name}");
        }
        assert_eq!(with(&|bad| bad.spiffe_id = OTHER.to_owned()), Malformed::Ambiguous);
        let many = (0..=DIRECTORY_ENDPOINTS).map(|n| {
            let n = u32::try_from(n).unwrap();
            wire::Endpoint { ip: (0x0a00_0001 + n).to_be_bytes().into(), ..good() }
        });
        assert_eq!(understood(many.collect(), false), Err(Malformed::TooMany));
    }

    #[test]
    fn an_answer_is_about_an_address_and_says_something() {
        let own = TrustDomain::parse("td.test").unwrap();
        let asked: SocketAddr = ASKED.parse().unwrap();
        assert_eq!(about(&wire::Answer::default()), Err(Malformed::Address));
        let answer = wire::Answer { address: Some(address(asked)), says: None };
        assert_eq!(says(&answer, asked, &own), Err(Malformed::Empty));
        let not_meshed = answer::Says::NotMeshed(wire::NotMeshed {});
        let answer = wire::Answer { says: Some(not_meshed), ..answer };
        assert_eq!(says(&answer, asked, &own), Ok(Says::NotMeshed));
    }
}
