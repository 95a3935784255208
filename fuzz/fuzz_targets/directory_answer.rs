//! Whatever a directory answers: who is dialled was named with one identity of the own trust domain, and can
//! be dialled; what says nothing leaves what was known before.
#![no_main]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mantlet_id::TrustDomain;
use mantlet_identity::ExpectedPeer;
use mantlet_proto::directory::{Address, Answer, Endpoint, Meshed, NotMeshed, Unknown, answer::Says};
use mantlet_proxy::directory::fuzzing::{Is, Known};
use prost::Message;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// Bytes as they come.
    Raw(&'a [u8]),
    /// A message.
    Built(Built),
}

#[derive(Arbitrary, Debug)]
struct Built {
    /// About another address than the one that is followed.
    astray: bool,
    says: Said,
}

#[derive(Arbitrary, Debug)]
enum Said {
    Nothing,
    NotMeshed,
    Unknown,
    Meshed { keep_address: bool, endpoints: Vec<At> },
}

#[derive(Arbitrary, Debug)]
struct At {
    ip: Ip,
    port: u32,
    id: Id,
    protocol: i32,
}

#[derive(Arbitrary, Debug)]
enum Ip {
    V4(u8),
    V6(u8),
    Mapped(u8),
    Bytes(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
enum Id {
    Own(u8),
    Foreign,
    Text(String),
}

const FOLLOWED: ([u8; 4], u16) = ([10, 96, 0, 1], 80);

fuzz_target!(|inputs: Vec<Input<'_>>| {
    let own = TrustDomain::parse("td.test").expect("a trust domain");
    let followed = SocketAddr::from(FOLLOWED);
    let mut known = Known::default();
    known.follow(followed);
    let mut before = shown(&known.is(followed));
    for input in &inputs {
        let answer = match input {
            Input::Raw(bytes) => match Answer::decode(*bytes) {
                Ok(answer) => answer,
                Err(_) => continue,
            },
            Input::Built(built) => built.answer(),
        };
        let taken = known.take(&answer, &own);
        let is = known.is(followed);
        let about = answer.address.as_ref().is_some_and(|address| {
            address.ip == FOLLOWED.0 && address.port == u32::from(FOLLOWED.1)
        });
        if !(taken && about) {
            assert_eq!(shown(&is), before, "{answer:?}");
            continue;
        }
        match (&is, answer.says.as_ref().expect("it says something")) {
            (Is::NotMeshed, Says::NotMeshed(_)) | (Is::Unknown, Says::Unknown(_)) => {}
            (Is::Meshed(endpoints), Says::Meshed(said)) => sound(endpoints, said, followed),
            (is, said) => panic!("{is:?} for {said:?}"),
        }
        before = shown(&is);
    }
});

/// Where connections may go, and whom they expect there.
fn shown(is: &Is) -> String {
    match is {
        Is::Unknown => "unknown".to_owned(),
        Is::NotMeshed => "not meshed".to_owned(),
        Is::Meshed(endpoints) => {
            let all = endpoints.iter().map(|endpoint| (endpoint.addr, &endpoint.expected, endpoint.protocol));
            format!("{:?}", all.collect::<Vec<_>>())
        }
    }
}

fn sound(endpoints: &[mantlet_proxy::directory::Endpoint], said: &Meshed, followed: SocketAddr) {
    let named = |addr: SocketAddr, id: &str| {
        said.endpoints.iter().any(|endpoint| {
            let ip = match addr.ip() {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            (said.keep_address || (endpoint.ip == ip && endpoint.port == u32::from(addr.port())))
                && endpoint.spiffe_id == id
        })
    };
    let mut addresses = BTreeSet::new();
    for endpoint in endpoints {
        let ip = endpoint.addr.ip();
        assert!(addresses.insert(endpoint.addr), "{} twice", endpoint.addr);
        assert!(!ip.is_unspecified() && !ip.is_multicast() && ip == ip.to_canonical() && endpoint.addr.port() != 0);
        assert!(!said.keep_address || endpoint.addr == followed);
        let ExpectedPeer::OneOf(ids) = &endpoint.expected else { panic!("anybody at {}", endpoint.addr) };
        assert!(!ids.is_empty() && (said.keep_address || ids.len() == 1));
        for id in ids.iter() {
            assert_eq!(id.trust_domain().as_str(), "td.test");
            assert!(named(endpoint.addr, id.as_str()), "{id} at {}", endpoint.addr);
        }
    }
    assert_eq!(endpoints.is_empty(), said.endpoints.is_empty());
}

// === impl Built ===

impl Built {
    fn answer(&self) -> Answer {
        let port = if self.astray { 81 } else { FOLLOWED.1.into() };
        let says = match &self.says {
            Said::Nothing => None,
            Said::NotMeshed => Some(Says::NotMeshed(NotMeshed {})),
            Said::Unknown => Some(Says::Unknown(Unknown {})),
            Said::Meshed { keep_address, endpoints } => {
                let endpoints = endpoints.iter().map(At::endpoint).collect();
                Some(Says::Meshed(Meshed { endpoints, keep_address: *keep_address }))
            }
        };
        Answer { address: Some(Address { ip: FOLLOWED.0.to_vec(), port }), says }
    }
}

// === impl At ===

impl At {
    fn endpoint(&self) -> Endpoint {
        let ip = match &self.ip {
            Ip::V4(last) => vec![10, 0, 0, *last],
            Ip::V6(last) => [&[0xfd; 15][..], &[*last]].concat(),
            Ip::Mapped(last) => [&[0; 10][..], &[0xff, 0xff, 10, 0, 0, *last]].concat(),
            Ip::Bytes(bytes) => bytes.clone(),
        };
        let spiffe_id = match &self.id {
            Id::Own(n) => format!("spiffe://td.test/ns/shop/sa/{n}"),
            Id::Foreign => "spiffe://else.test/ns/shop/sa/orders".to_owned(),
            Id::Text(text) => text.clone(),
        };
        Endpoint { ip, port: self.port, spiffe_id, protocol: self.protocol }
    }
}
