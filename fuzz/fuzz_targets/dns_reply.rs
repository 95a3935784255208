//! Of a reply, a question takes the addresses that belong to its name, and those alone; whatever else is
//! in the bytes, what it takes can be dialled, is bounded, and was answered to this very question.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mantlet_proxy::dns::{Answer, LookupError, fuzzing::reply};

const ID: u16 = 0x0102;
/// The name asked for is the first of the [`name`]s.
const NAME: &str = "n0.test";
const NAMES: u8 = 24;
const MOST_RECORDS: usize = 600;

const A: u16 = 1;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const IN: u16 = 1;
const CHAOS: u16 = 3;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// Bytes as they come.
    Raw { v6: bool, bytes: &'a [u8] },
    /// A well-formed reply, and what is done to it then.
    Built { reply: Built, edits: Vec<(u16, Edit)> },
}

#[derive(Arbitrary, Debug)]
struct Built {
    v6: bool,
    no_such_name: bool,
    answer: Vec<Record>,
    additional: Vec<Record>,
    /// TTL of the SOA record and the minimum in it.
    soa: Option<(u32, u32)>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Record {
    owner: u8,
    /// The owner is written in capitals.
    capitals: bool,
    /// A class that nobody asked for.
    chaos: bool,
    ttl: u32,
    data: Data,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Data {
    /// So many addresses more after this one.
    V4(u32, u8),
    V6(u128, u8),
    /// An IPv4 address in the clothes of an IPv6 one.
    Mapped(u32),
    Alias(u8),
    Text(u8),
}

#[derive(Arbitrary, Debug)]
enum Edit {
    Byte(u8),
    Insert(u8),
    Remove,
    Truncate,
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Raw { v6, bytes } => check(v6, bytes),
    Input::Built { reply: mut built, edits } => {
        built.answer = each_address(&built.answer);
        let mut bytes = built.encode();
        let found = reply(ID, NAME, built.v6, &bytes).expect("an answer to the question");
        assert_eq!(found.expect("well-formed").expect("whole"), built.expected());
        check(built.v6, &bytes);
        for (place, edit) in edits.iter().take(8) {
            let place = usize::from(*place) % bytes.len().max(1);
            match edit {
                Edit::Byte(byte) if place < bytes.len() => bytes[place] = *byte,
                Edit::Insert(byte) => bytes.insert(place, *byte),
                Edit::Remove if place < bytes.len() => drop(bytes.remove(place)),
                Edit::Truncate => bytes.truncate(place),
                _ => {}
            }
        }
        check(built.v6, &bytes);
    }
});

/// What holds for all bytes.
fn check(v6: bool, bytes: &[u8]) {
    let Some(outcome) = reply(ID, NAME, v6, bytes) else { return };
    assert_eq!(bytes[..2], ID.to_be_bytes());
    assert!(bytes[2] & 0x80 != 0, "a question is no answer");
    assert!(reply(ID ^ 1, NAME, v6, bytes).is_none(), "the id of another question");
    assert!(reply(ID, "n1.test", v6, bytes).is_none(), "the name of another question");
    assert!(reply(ID, NAME, !v6, bytes).is_none(), "the type of another question");

    let (truncated, code) = (bytes[2] & 0x02 != 0, bytes[3] & 0x0f);
    match outcome {
        Ok(None) => assert!(truncated),
        Ok(Some(answer)) => {
            assert!(!truncated && matches!(code, 0 | 3));
            sound(v6, bytes, &answer);
        }
        Err(LookupError::Malformed) => assert!(!truncated && matches!(code, 0 | 3)),
        Err(LookupError::ServerFailure) => assert!(!truncated && !matches!(code, 0 | 3)),
        Err(error) => panic!("{error:?} is nothing that a server says"),
    }
}

fn sound(v6: bool, bytes: &[u8], answer: &Answer) {
    let records = u16::from_be_bytes([bytes[6], bytes[7]]);
    assert!(answer.addresses.len() <= usize::from(records).min(256));
    for ip in &answer.addresses {
        assert_eq!(ip.is_ipv6(), v6);
        assert!(can_be_dialled(*ip), "{ip}");
        let there = match ip {
            IpAddr::V4(ip) => bytes.windows(4).any(|part| part == ip.octets()),
            IpAddr::V6(ip) => bytes.windows(16).any(|part| part == ip.octets()),
        };
        assert!(there, "{ip} stands nowhere in the reply");
    }
    let most = if answer.addresses.is_empty() { 60 } else { u32::MAX.into() };
    assert!(answer.ttl <= Duration::from_secs(most), "{:?}", answer.ttl);
}

fn can_be_dialled(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast() && ip.to_ipv4_mapped().is_none(),
    }
}

/// One record for each address, at most [`MOST_RECORDS`].
fn each_address(records: &[Record]) -> Vec<Record> {
    let each = records.iter().flat_map(|record| {
        let more = if let Data::V4(_, more) | Data::V6(_, more) = record.data { more } else { 0 };
        (0..=more).map(|step| match record.data {
            Data::V4(first, _) => Record { data: Data::V4(first.wrapping_add(step.into()), 0), ..*record },
            Data::V6(first, _) => Record { data: Data::V6(first.wrapping_add(step.into()), 0), ..*record },
            _ => *record,
        })
    });
    each.take(MOST_RECORDS).collect()
}

// === impl Built ===

impl Built {
    /// The reply on the wire (RFC 1035, 4).
    fn encode(&self) -> Vec<u8> {
        let additional = &self.additional[..self.additional.len().min(8)];
        let rtype = if self.v6 { AAAA } else { A };
        let flags = 0x8180 | if self.no_such_name { 3 } else { 0 };
        let counts = [1, self.answer.len(), usize::from(self.soa.is_some()), additional.len()];
        let mut bytes = [ID.to_be_bytes(), u16::to_be_bytes(flags)].concat();
        bytes.extend(counts.iter().flat_map(|count| (*count as u16).to_be_bytes()));
        bytes.extend([name(0, false), rtype.to_be_bytes().into(), IN.to_be_bytes().into()].concat());
        for record in &self.answer {
            bytes.extend(record.encode());
        }
        if let Some((ttl, minimum)) = self.soa {
            // Two names, serial, refresh, retry, expire, minimum.
            let data = [vec![0xc0, 12, 0xc0, 12], vec![0; 16], minimum.to_be_bytes().into()].concat();
            bytes.extend(encode(&[0xc0, 12], SOA, IN, ttl, &data));
        }
        for record in additional {
            bytes.extend(record.encode());
        }
        bytes
    }

    /// What the reply says about [`NAME`].
    fn expected(&self) -> Answer {
        let asked: Vec<_> = self.answer.iter().filter(|record| !record.chaos).collect();
        let (mut owners, mut ttls) = (vec![0], Vec::new());
        // The name and sixteen aliases.
        while owners.len() < 17 {
            let next = asked.iter().find_map(|record| match record.data {
                Data::Alias(target) if Some(&record.owner()) == owners.last() => {
                    let target = target % NAMES;
                    (!owners.contains(&target)).then_some((target, record.ttl))
                }
                _ => None,
            });
            let Some((target, ttl)) = next else { break };
            owners.push(target);
            ttls.push(ttl);
        }
        let mut addresses = Vec::new();
        for record in asked.iter().filter(|record| owners.contains(&record.owner())) {
            let ip = match record.data {
                Data::V4(bits, _) if !self.v6 => IpAddr::V4(Ipv4Addr::from(bits)),
                Data::V6(bits, _) if self.v6 => IpAddr::V6(Ipv6Addr::from(bits)),
                _ => continue,
            };
            if can_be_dialled(ip) && addresses.len() < 256 {
                addresses.push(ip);
                ttls.push(record.ttl);
            }
        }
        let none = self.soa.map_or(10, |(ttl, minimum)| ttl.min(minimum).min(60));
        let ttl = if addresses.is_empty() { none } else { ttls.into_iter().min().unwrap_or(none) };
        Answer { addresses, ttl: Duration::from_secs(ttl.into()) }
    }
}

// === impl Record ===

impl Record {
    fn owner(&self) -> u8 {
        self.owner % NAMES
    }

    fn encode(&self) -> Vec<u8> {
        // The name in the question may be pointed at.
        let owner = match self.owner() {
            0 if !self.capitals => vec![0xc0, 12],
            number => name(number, self.capitals),
        };
        let (rtype, data) = match self.data {
            Data::V4(bits, _) => (A, bits.to_be_bytes().to_vec()),
            Data::V6(bits, _) => (AAAA, bits.to_be_bytes().to_vec()),
            Data::Mapped(bits) => (AAAA, Ipv4Addr::from(bits).to_ipv6_mapped().octets().to_vec()),
            Data::Alias(target) => (CNAME, name(target % NAMES, self.capitals)),
            Data::Text(length) => (TXT, [vec![length], vec![b'x'; length.into()]].concat()),
        };
        encode(&owner, rtype, if self.chaos { CHAOS } else { IN }, self.ttl, &data)
    }
}

fn encode(owner: &[u8], rtype: u16, class: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u16).to_be_bytes();
    [owner, &rtype.to_be_bytes(), &class.to_be_bytes(), &ttl.to_be_bytes(), &length, data].concat()
}

/// `n<number>.test` on the wire.
fn name(number: u8, capitals: bool) -> Vec<u8> {
    let first = format!("n{number}");
    let mut name = [&[first.len() as u8], first.as_bytes(), b"\x04test\x00"].concat();
    if capitals {
        name.make_ascii_uppercase();
    }
    name
}
