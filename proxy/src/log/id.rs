//! Decision ids: what a refused caller is given and what an operator finds in the audit log.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::BuildHasher,
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

/// Crockford's base32: no I, L, O, U, so that an id survives being read over the telephone.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const LENGTH: usize = 26;
const LOW_40: u64 = (1 << 40) - 1;

/// The id of one decision: 26 characters that sort by time (the form of a ULID).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DecisionId([u8; LENGTH]);

/// Makes ids: time, a number drawn at start, a counter. Cheap, and unique between processes without asking anybody.
/// They are not secrets: whoever guesses one learns nothing by it.
#[derive(Debug)]
pub(super) struct Ids {
    process: u64,
    counter: AtomicU64,
}

// === impl DecisionId ===

impl DecisionId {
    /// The text form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }

    fn of(bits: u128) -> Self {
        let mut text = [b'0'; LENGTH];
        let mut rest = bits;
        for byte in text.iter_mut().rev() {
            let digit = usize::try_from(rest & 31).unwrap_or_default();
            *byte = ALPHABET.get(digit).copied().unwrap_or(b'0');
            rest >>= 5;
        }
        Self(text)
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Ids ===

impl Ids {
    pub(super) fn new() -> Self {
        // RandomState is seeded by the operating system: enough to tell processes apart.
        Self { process: RandomState::new().hash_one(std::process::id()) & LOW_40, counter: AtomicU64::new(0) }
    }

    pub(super) fn next(&self, now: SystemTime) -> DecisionId {
        let millis =
            now.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis()) & ((1 << 48) - 1);
        let count = self.counter.fetch_add(1, Ordering::Relaxed) & LOW_40;
        DecisionId::of(millis << 80 | u128::from(self.process) << 40 | u128::from(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ids_are_26_characters_of_crockford_base32() {
        assert_eq!(DecisionId::of(0).as_str(), "00000000000000000000000000");
        assert_eq!(DecisionId::of(u128::MAX).as_str(), "7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
        assert_eq!(DecisionId::of(32).as_str(), "00000000000000000000000010");
    }

    #[test]
    fn ids_are_unique_and_sort_by_time() {
        let (ids, others) = (Ids::new(), Ids::new());
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (a, b) = (ids.next(now), ids.next(now));
        assert!(a < b);
        assert!(b < ids.next(now + Duration::from_millis(1)));
        assert_ne!(others.next(now), others.next(now));
        assert_ne!(ids.process, others.process);
    }
}
