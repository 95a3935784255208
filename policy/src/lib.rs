//! The Mantlet policy and upstreams languages: parser, compiler, matcher, canonicalisation.
//!
//! Pure: no I/O, no clock (the time is an argument), no runtime. What the injector admits is what the
//! proxy enforces, because both ask this crate.
//!
//! - [`Policy::compile`] turns annotation texts into an immutable snapshot.
//! - [`canonical::Canonical::new`] gives a request its one meaning, or a reason to refuse it.
//! - [`Policy::view`] finds, once per connection, the rules that are about a caller;
//!   [`Policy::decide_http`] and [`Policy::decide_tcp`] answer. Default deny: an empty policy admits
//!   nobody. The cost of a decision does not grow with the number of rules.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod annotations;
pub mod canonical;
mod compile;
mod decision;
mod diagnostic;
pub mod expect;
mod explain;
mod guardrails;
pub mod headers;
pub mod language;
mod latch;
mod limits;
mod lint;
mod matcher;
mod policy;
pub mod probes;
mod question;
pub mod registry;
mod search;
pub mod upstreams;
mod view;
mod workload;

pub use compile::{Config, Mode, Source};
pub use decision::{Decision, HttpFacts, Peer, PortProtocol, Reason, Target, Verdict};
pub use diagnostic::{Code, Diagnostic, Position};
pub use explain::{Clause, Explanation, RuleReport, explain};
pub use guardrails::Guardrails;
pub use latch::Latches;
pub use limits::Limits;
pub use lint::{Report, check};
pub use policy::{ModeName, Policy, Unconfigured};
pub use question::{Ask, Caller, Question};
pub use view::PeerView;
pub use workload::{HttpOptions, NamedPort, PortOptions, Transport, Workload};
