//! Rules as the kernel's expressions: load something into a register, compare it, decide
//! (linux/netfilter/nf_tables.h). The order and the implied comparisons are those that nft makes of the
//! same text, so that nft lists both alike.

use super::message::Message;
use crate::rule::{Match, Protocol, Rule, State, Verdict};

/// `NFT_REG_1`; one register is enough, because nothing is kept from one match to the next.
const REGISTER: u32 = 1;
/// `NFT_REG_VERDICT`.
const VERDICT: u32 = 0;
/// The size of an interface's name (`IFNAMSIZ`): a whole name is compared with its padding.
const NAME: usize = 16;

/// Keys of `meta`.
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_SKUID: u32 = 10;
const META_SKGID: u32 = 11;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
/// Keys of `ct`.
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
/// `NF_CT_STATE_BIT`s and `IPS_DST_NAT`.
const INVALID: u32 = 1;
const ESTABLISHED_RELATED: u32 = 6;
const DST_NAT: u32 = 32;
/// `payload` looks into the network or into the transport header.
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const V4: u8 = 2;
const V6: u8 = 10;
/// `RTN_LOCAL`.
const LOCAL: u32 = 2;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`: it is the port that changes.
const PORT_GIVEN: u32 = 2;

#[derive(Clone, Copy)]
enum Compare {
    Equal = 0,
    NotEqual = 1,
}

/// Writes the expressions of `rule`.
pub(super) fn rule(message: &mut Message, rule: &Rule) {
    rule.matches.iter().for_each(|matched| condition(message, *matched));
    if rule.counter {
        expression(message, "counter", |_| {});
    }
    if let Some(given) = rule.verdict {
        verdict(message, given);
    }
}

/// The one expression of a rule that not every kernel has.
pub(super) fn special(rule: &Rule) -> Option<&'static str> {
    let matched = rule.matches.iter().find_map(|matched| match matched {
        Match::NotLocal => Some("fib"),
        Match::State(_) | Match::Redirected => Some("ct"),
        _ => None,
    });
    matched.or(match rule.verdict {
        Some(Verdict::Redirect(_)) => Some("redir"),
        Some(Verdict::Reset | Verdict::Prohibit) => Some("reject"),
        _ => None,
    })
}

fn condition(message: &mut Message, matched: Match) {
    use Compare::{Equal, NotEqual};
    match matched {
        Match::FromLoopback => meta(message, META_IIFNAME, Equal, &loopback()),
        Match::ToLoopback => meta(message, META_OIFNAME, Equal, &loopback()),
        Match::NotLocal => {
            expression(message, "fib", |data| {
                data.number(1, REGISTER);
                // The type of the destination's address.
                data.number(2, 3);
                data.number(3, 2);
            });
            compare(message, NotEqual, &LOCAL.to_ne_bytes());
        }
        Match::Is(protocol) => meta(message, META_L4PROTO, Equal, &[protocol.number()]),
        Match::IsNot(protocol) => meta(message, META_L4PROTO, NotEqual, &[protocol.number()]),
        Match::TcpPort(port) => {
            destination_port(message, Protocol::Tcp);
            compare(message, Equal, &port.to_be_bytes());
        }
        Match::UdpPort(port) => {
            destination_port(message, Protocol::Udp);
            compare(message, Equal, &port.to_be_bytes());
        }
        Match::TcpPortIn(set) => {
            destination_port(message, Protocol::Tcp);
            lookup(message, set);
        }
        Match::V4(address) => {
            destination_v4(message);
            compare(message, Equal, &address.octets());
        }
        Match::V6(address) => {
            destination_v6(message);
            compare(message, Equal, &address.octets());
        }
        Match::V4In(set) => {
            destination_v4(message);
            lookup(message, set);
        }
        Match::V6In(set) => {
            destination_v6(message);
            lookup(message, set);
        }
        Match::State(State::Invalid) => tracking(message, CT_STATE, INVALID),
        Match::State(State::Open) => tracking(message, CT_STATE, ESTABLISHED_RELATED),
        Match::Redirected => tracking(message, CT_STATUS, DST_NAT),
        Match::User(id) => meta(message, META_SKUID, Equal, &id.to_ne_bytes()),
        Match::Group(id) => meta(message, META_SKGID, Equal, &id.to_ne_bytes()),
    }
}

fn verdict(message: &mut Message, verdict: Verdict) {
    let plain = |message: &mut Message, code: i32| {
        expression(message, "immediate", |data| {
            data.number(1, VERDICT);
            data.nest(2, |value| value.nest(2, |verdict| verdict.bytes(1, &code.to_be_bytes())));
        });
    };
    let reject = |message: &mut Message, kind: u32, code: u8| {
        expression(message, "reject", |data| {
            data.number(1, kind);
            data.bytes(2, &[code]);
        });
    };
    match verdict {
        Verdict::Drop => plain(message, 0),
        Verdict::Accept => plain(message, 1),
        Verdict::Return => plain(message, -5),
        Verdict::Redirect(port) => {
            expression(message, "immediate", |data| {
                data.number(1, REGISTER);
                data.nest(2, |value| value.bytes(1, &port.to_be_bytes()));
            });
            expression(message, "redir", |data| {
                data.number(1, REGISTER);
                data.number(3, PORT_GIVEN);
            });
        }
        // `NFT_REJECT_TCP_RST`; and `NFT_REJECT_ICMPX_UNREACH` with the code that both families share.
        Verdict::Reset => reject(message, 1, 0),
        Verdict::Prohibit => reject(message, 2, 3),
    }
}

fn destination_port(message: &mut Message, protocol: Protocol) {
    meta(message, META_L4PROTO, Compare::Equal, &[protocol.number()]);
    payload(message, TRANSPORT, 2, 2);
}

fn destination_v4(message: &mut Message) {
    meta(message, META_NFPROTO, Compare::Equal, &[V4]);
    payload(message, NETWORK, 16, 4);
}

fn destination_v6(message: &mut Message) {
    meta(message, META_NFPROTO, Compare::Equal, &[V6]);
    payload(message, NETWORK, 24, 16);
}

fn meta(message: &mut Message, key: u32, how: Compare, value: &[u8]) {
    expression(message, "meta", |data| {
        data.number(1, REGISTER);
        data.number(2, key);
    });
    compare(message, how, value);
}

/// Whether one of the bits is set.
fn tracking(message: &mut Message, key: u32, bits: u32) {
    let length = 4;
    expression(message, "ct", |data| {
        data.number(1, REGISTER);
        data.number(2, key);
    });
    expression(message, "bitwise", |data| {
        data.number(1, REGISTER);
        data.number(2, REGISTER);
        data.number(3, length);
        data.nest(4, |mask| mask.bytes(1, &bits.to_ne_bytes()));
        data.nest(5, |xor| xor.bytes(1, &[0; 4]));
    });
    compare(message, Compare::NotEqual, &[0; 4]);
}

fn payload(message: &mut Message, base: u32, offset: u32, length: u32) {
    expression(message, "payload", |data| {
        data.number(1, REGISTER);
        data.number(2, base);
        data.number(3, offset);
        data.number(4, length);
    });
}

fn compare(message: &mut Message, how: Compare, value: &[u8]) {
    expression(message, "cmp", |data| {
        data.number(1, REGISTER);
        data.number(2, how as u32);
        data.nest(3, |data| data.bytes(1, value));
    });
}

fn lookup(message: &mut Message, set: &str) {
    expression(message, "lookup", |data| {
        data.text(1, set);
        data.number(2, REGISTER);
    });
}

/// One item of the list of expressions: its name and its data.
fn expression(message: &mut Message, name: &str, data: impl FnOnce(&mut Message)) {
    message.nest(1, |item| {
        item.text(1, name);
        item.nest(2, data);
    });
}

fn loopback() -> [u8; NAME] {
    let mut name = [0; NAME];
    name.iter_mut().zip(*b"lo").for_each(|(byte, letter)| *byte = letter);
    name
}
