//! SPIFFE IDs, trust domains and peer patterns, valid by construction.
//!
//! A value of these types satisfies every syntactic rule of the SPIFFE ID standard (section 2), so
//! nothing behind them has to check again: comparison is byte-exact, and what is compared is what
//! is logged. The parser is stricter than most: upper case in a trust domain is refused rather
//! than folded, because two spellings of one principal are two chances to disagree about it.
//! Only an operator's own configuration may be folded first ([`normalise_config`]).

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod error;
mod pattern;
mod spiffe_id;
mod trust_domain;

pub use error::{IdError, PatternError};
pub use pattern::{PeerPattern, SegmentPattern, TrustDomainPattern};
pub use spiffe_id::{SpiffeId, normalise_config};
pub use trust_domain::TrustDomain;

/// Longest SPIFFE ID in bytes, the whole URI (SPIFFE ID 2.3).
pub const MAX_ID_BYTES: usize = 2048;
/// Longest trust domain name in bytes (SPIFFE ID 2.3).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// Whether `byte` may stand in a path segment (SPIFFE ID 2.2).
fn is_segment_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// Checks one path segment (SPIFFE ID 2.2): not empty, not relative, only the allowed characters.
fn check_segment(segment: &str) -> Result<(), IdError> {
    match segment {
        "" => Err(IdError::EmptySegment),
        "." | ".." => Err(IdError::DotSegment),
        s if s.bytes().all(is_segment_byte) => Ok(()),
        s => Err(IdError::PathCharacter(bad_char(s, is_segment_byte))),
    }
}

/// The first character of `text` that `allowed` refuses.
fn bad_char(text: &str, allowed: impl Fn(u8) -> bool) -> char {
    text.chars().find(|c| !u8::try_from(*c).is_ok_and(|b| b.is_ascii() && allowed(b))).unwrap_or('\u{fffd}')
}
