//! The policy language: one line, one rule. `docs/policy.md` is its reference.

pub mod ast;
mod conditions;
pub(crate) mod cursor;
mod parser;
mod peers;
mod print;
mod target;
pub(crate) mod text;
mod time;

pub use parser::parse;
pub(crate) use parser::{MAX_FINDINGS, rule_in_line};
pub use time::Time;
