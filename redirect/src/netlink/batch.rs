//! A ruleset as one batch: the kernel takes all of it or nothing, in one step.

use super::{expression, message::Message};
use crate::Ruleset;
use crate::rule::{Chain, Elements, Hook, Kind, Policy, Set};
use crate::ruleset::TABLE;

/// `NFPROTO_INET`: both versions of IP.
const INET: u8 = 1;
/// `NFNL_SUBSYS_NFTABLES`.
const NFTABLES: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN` and `_END`.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NFT_MSG_*`.
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENTS: u16 = 12;
/// `NLM_F_*`.
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// `NFT_SET_INTERVAL`, and the element that an interval ends before.
const INTERVAL: u32 = 0x4;
const INTERVAL_END: u32 = 1;
/// So many intervals at most in one message: an attribute cannot be longer than 64 KiB.
const INTERVALS_PER_MESSAGE: usize = 200;

/// A batch, and what each of its messages asks for.
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    /// By sequence number.
    pub(super) steps: Vec<Step>,
}

/// What one message asks for.
pub(super) struct Step {
    pub(super) what: String,
    /// What the kernel must have for it, by the name of the expression or of the chain's type.
    pub(super) needs: Option<&'static str>,
}

// === impl Batch ===

impl Batch {
    /// Replaces whatever table of ours there is by this one. Adding it first makes the deletion valid
    /// where there is none.
    pub(super) fn replace(ruleset: &Ruleset) -> Self {
        let table = |what: &str, kind, flags| {
            let mut message = message(what, kind, flags);
            message.text(1, TABLE);
            (message, Some("inet"))
        };
        let mut messages = vec![
            table("the table", NEW_TABLE, CREATE),
            table("replacing the table", DELETE_TABLE, 0),
            table("the table", NEW_TABLE, CREATE),
        ];
        for (id, set) in (1..).zip(&ruleset.sets) {
            messages.push((new_set(set, id), None));
            messages.extend(elements(set, id).into_iter().map(|message| (message, None)));
        }
        for chain in &ruleset.chains {
            messages.push((new_chain(chain), matches!(chain.kind, Kind::Nat).then_some("nat")));
        }
        for chain in &ruleset.chains {
            for rule in &chain.rules {
                let mut message =
                    message(format!("the rule \"{rule}\" of {}", chain.name), NEW_RULE, CREATE | APPEND);
                message.text(1, TABLE);
                message.text(2, chain.name);
                message.nest(4, |list| expression::rule(list, rule));
                messages.push((message, expression::special(rule)));
            }
        }
        Self::of(messages)
    }

    fn of(messages: Vec<(Message, Option<&'static str>)>) -> Self {
        let edge = |kind| (Message::new("the batch", kind, REQUEST, 0, NFTABLES), None);
        let mut batch = Self { bytes: Vec::new(), steps: Vec::new() };
        let whole = [edge(BATCH_BEGIN)].into_iter().chain(messages).chain([edge(BATCH_END)]);
        for (sequence, (message, needs)) in (0..).zip(whole) {
            batch.steps.push(Step { what: message.what.clone(), needs });
            batch.bytes.extend(message.finish(sequence));
        }
        batch
    }
}

/// Every message is acknowledged: what has no answer was not done.
fn message(what: impl Into<String>, kind: u16, flags: u16) -> Message {
    Message::new(what, NFTABLES << 8 | kind, REQUEST | ACKNOWLEDGE | flags, INET, 0)
}

fn new_set(set: &Set, id: u32) -> Message {
    // nft's numbers of the types, by which it lists them, and their lengths.
    let (kind, length) = match &set.elements {
        Elements::Ports(_) => (13, 2),
        Elements::V4(_) => (7, 4),
        Elements::V6(_) => (8, 16),
    };
    let mut message = message(format!("the set {}", set.name), NEW_SET, CREATE);
    message.text(1, TABLE);
    message.text(2, set.name);
    message.number(3, INTERVAL);
    message.number(4, kind);
    message.number(5, length);
    message.number(10, id);
    message
}

fn elements(set: &Set, id: u32) -> Vec<Message> {
    let intervals: Vec<(Vec<u8>, Option<Vec<u8>>)> = match &set.elements {
        Elements::Ports(ranges) => ranges.iter().map(|range| range.interval()).collect(),
        Elements::V4(networks) | Elements::V6(networks) => {
            networks.iter().map(|network| network.interval()).collect()
        }
    };
    let messages = intervals.chunks(INTERVALS_PER_MESSAGE).map(|chunk| {
        let mut message = message(format!("the elements of {}", set.name), NEW_ELEMENTS, CREATE);
        message.text(1, TABLE);
        message.text(2, set.name);
        message.number(4, id);
        message.nest(3, |list| {
            for (first, after) in chunk {
                element(list, first, None);
                if let Some(after) = after {
                    element(list, after, Some(INTERVAL_END));
                }
            }
        });
        message
    });
    messages.collect()
}

fn element(list: &mut Message, key: &[u8], flags: Option<u32>) {
    list.nest(1, |element| {
        element.nest(1, |value| value.bytes(1, key));
        if let Some(flags) = flags {
            element.number(3, flags);
        }
    });
}

fn new_chain(chain: &Chain) -> Message {
    let hook = match chain.hook {
        Hook::Prerouting => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
    };
    let mut message = message(format!("the chain {}", chain.name), NEW_CHAIN, CREATE);
    message.text(1, TABLE);
    message.text(3, chain.name);
    message.nest(4, |place| {
        place.number(1, hook);
        place.bytes(2, &chain.priority().to_be_bytes());
    });
    message.number(
        5,
        match chain.policy {
            Policy::Drop => 0,
            Policy::Accept => 1,
        },
    );
    message.text(
        7,
        match chain.kind {
            Kind::Nat => "nat",
            Kind::Filter => "filter",
        },
    );
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn a_rule_depends_on_one_kernel_feature_at_most() {
        // Then the refusal of a rule names the feature that is missing.
        for chain in Ruleset::new(Config::new(14021, 14021)).unwrap().chains {
            for rule in chain.rules {
                let text = rule.to_string();
                let special = ["fib", "ct", "redirect", "reject"];
                let count = text.split(' ').filter(|word| special.contains(word)).count();
                assert_eq!(count.min(1), usize::from(expression::special(&rule).is_some()), "{text}");
            }
        }
    }

    #[test]
    fn every_message_has_a_sequence_number_and_words() {
        let batch = Batch::replace(&Ruleset::new(Config::new(14021, 14021)).unwrap());
        let (mut rest, mut sequence) = (batch.bytes.as_slice(), 0_u32);
        while !rest.is_empty() {
            let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            assert_eq!(rest[8..12], sequence.to_ne_bytes());
            (rest, sequence) = (&rest[length..], sequence + 1);
        }
        assert_eq!(sequence as usize, batch.steps.len());
        assert!(batch.bytes.len() < 16 * 1024, "{}", batch.bytes.len());
    }
}
