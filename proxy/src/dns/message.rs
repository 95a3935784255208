//! Questions and answers on the wire (RFC 1035, 4).

use std::{
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
    time::Duration,
};

use domain::{
    base::{
        Message, MessageBuilder, Name, Rtype, ToName,
        iana::{Class, Rcode},
    },
    rdata::{A, Aaaa, Cname, Soa},
};

use super::{Answer, LookupError};

/// Addresses that are taken of one answer. More replicas than this are not dialled by one sidecar.
pub(super) const MOST_ADDRESSES: usize = 256;
/// Aliases that are followed in one answer.
const MOST_ALIASES: usize = 16;
/// How long an answer of "no such name" holds, where the zone says nothing sensible (RFC 2308, 5).
const NEGATIVE: Duration = Duration::from_secs(10);
const LONGEST_NEGATIVE: Duration = Duration::from_secs(60);

/// A question that was asked, to be held against what comes back.
pub(super) struct Question {
    message: Message<Vec<u8>>,
    name: Name<Vec<u8>>,
    rtype: Rtype,
}

type Owner = Name<Vec<u8>>;

/// What one server said.
#[derive(Debug)]
pub(super) enum Reply {
    /// This.
    Answer(Answer),
    /// The rest did not fit; it must be asked over TCP.
    Truncated,
}

// === impl Question ===

impl Question {
    /// Asks for the IPv4 or the IPv6 addresses of `name`.
    pub(super) fn new(id: u16, name: &str, v6: bool) -> Result<Self, LookupError> {
        let name = Name::<Vec<u8>>::from_str(name).map_err(|_| LookupError::Name)?;
        let rtype = if v6 { Rtype::AAAA } else { Rtype::A };
        let mut builder = MessageBuilder::new_vec();
        builder.header_mut().set_id(id);
        builder.header_mut().set_rd(true);
        let mut builder = builder.question();
        builder.push((&name, rtype, Class::IN)).map_err(|_| LookupError::Name)?;
        Ok(Self { message: builder.into_message(), name, rtype })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.message.as_slice()
    }

    /// What `bytes` say to this question. `None`: they are no answer to it, whoever sent them.
    pub(super) fn reply(&self, bytes: &[u8]) -> Option<Result<Reply, LookupError>> {
        let message = Message::from_octets(bytes).ok()?;
        if !message.is_answer(&self.message) {
            return None;
        }
        if message.header().tc() {
            return Some(Ok(Reply::Truncated));
        }
        Some(match message.header().rcode() {
            Rcode::NOERROR | Rcode::NXDOMAIN => {
                self.answer(&message).ok_or(LookupError::Malformed).map(Reply::Answer)
            }
            _ => Err(LookupError::ServerFailure),
        })
    }

    fn answer(&self, message: &Message<&[u8]>) -> Option<Answer> {
        let (owners, alias_ttl) = self.owners(message)?;
        let mut addresses: Vec<(IpAddr, u32)> = Vec::new();
        let section = message.answer().ok()?;
        let owned = |owner: &_| owners.iter().any(|name| name == owner);
        if self.rtype == Rtype::AAAA {
            for record in section.limit_to_in::<Aaaa>() {
                let record = record.ok()?;
                if owned(record.owner()) {
                    addresses.push((record.data().addr().into(), record.ttl().as_secs()));
                }
            }
        } else {
            for record in section.limit_to_in::<A>() {
                let record = record.ok()?;
                if owned(record.owner()) {
                    addresses.push((record.data().addr().into(), record.ttl().as_secs()));
                }
            }
        }
        addresses.retain(|(ip, _)| can_be_dialled(*ip));
        addresses.truncate(MOST_ADDRESSES);
        let ttl = addresses.iter().map(|(_, ttl)| *ttl).chain(alias_ttl).min();
        match (addresses.is_empty(), ttl) {
            (false, Some(ttl)) => Some(Answer {
                addresses: addresses.into_iter().map(|(ip, _)| ip).collect(),
                ttl: Duration::from_secs(ttl.into()),
            }),
            _ => Some(Answer { addresses: Vec::new(), ttl: negative_ttl(message) }),
        }
    }

    /// The name asked for and those it is an alias of, in the answer's own words, and the shortest TTL
    /// of the aliases. What stands in an answer about other names is nobody's business (RFC 2181, 5.4.1).
    fn owners(&self, message: &Message<&[u8]>) -> Option<(Vec<Owner>, Option<u32>)> {
        let mut owners = vec![self.name.clone()];
        let mut ttl = None;
        let mut found = true;
        while found && owners.len() <= MOST_ALIASES {
            found = false;
            for record in message.answer().ok()?.limit_to_in::<Cname<_>>() {
                let record = record.ok()?;
                let target: Name<Vec<u8>> = record.data().cname().try_to_name().ok()?;
                let follows = owners.last().is_some_and(|last| last == record.owner());
                if follows && !owners.contains(&target) {
                    let record_ttl = record.ttl().as_secs();
                    ttl = Some(ttl.map_or(record_ttl, |ttl: u32| ttl.min(record_ttl)));
                    owners.push(target);
                    found = true;
                    break;
                }
            }
        }
        Some((owners, ttl))
    }
}

/// Groups cannot be dialled, and the unspecified address would be the own host. An IPv4 address written as
/// an IPv6 one (RFC 4291, 2.5.5.2) would be dialled as IPv4, so it could be either in disguise; no server has
/// a reason to send one.
fn can_be_dialled(ip: IpAddr) -> bool {
    let mapped = matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    !mapped && !ip.is_unspecified() && !ip.is_multicast() && ip != Ipv4Addr::BROADCAST
}

/// How long "there is none" holds (RFC 2308, 5): never long, because the next Service may have the name.
fn negative_ttl(message: &Message<&[u8]>) -> Duration {
    let soa = || {
        let mut records = message.authority().ok()?.limit_to_in::<Soa<_>>();
        let record = records.next()?.ok()?;
        let seconds = record.ttl().as_secs().min(record.data().minimum().as_secs());
        Some(Duration::from_secs(seconds.into()))
    };
    soa().unwrap_or(NEGATIVE).min(LONGEST_NEGATIVE)
}
