//! Interception ruleset of a pod: typed form, nft text, netlink.
//!
//! [`Config`] says what is captured, [`Ruleset::new`] refuses what must not be, and a [`Ruleset`] is
//! printed as an nft script: one table, `inet mantlet`, that is replaced in one transaction. Running it
//! again, as a restarted init container does, therefore changes nothing, and there is no moment
//! without rules. The text is a function of what is configured, not of the order it was written in.
//!
//! It fails closed. What is not captured, skipped or the proxy's own is rejected by the filter chains,
//! so a lost NAT rule ends connections instead of letting them out in the clear. The proxy is exempt by
//! its user *and* its group: either alone is something an application can be given.
//!
//! A pod gets the rules over netlink from `mantlet-init` ([`apply`]), so that its image needs no `nft`.
//! The text is for people and for tests: both are made of the same typed rules, and a test compares what
//! the kernel lists after either.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod cidr;
mod config;
mod failure;
mod netlink;
mod port_range;
mod privileges;
mod problem;
mod rule;
mod ruleset;

pub use cidr::Cidr;
pub use config::{Config, ProxyPorts, Udp};
pub use failure::{Failure, Feature};
pub use netlink::{Reply, apply, replies};
pub use port_range::PortRange;
pub use privileges::Privileges;
pub use problem::Problem;
pub use ruleset::Ruleset;

/// The items of a comma-separated list; every item that is wrong is reported, not the first.
fn parse_list<T>(text: &str, parse: impl Fn(&str) -> Result<T, Problem>) -> Result<Vec<T>, Vec<Problem>> {
    let (mut items, mut problems) = (Vec::new(), Vec::new());
    if text.trim().is_empty() {
        return Ok(items);
    }
    for item in text.split(',') {
        match parse(item.trim()) {
            Ok(item) => items.push(item),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(items) } else { Err(problems) }
}
