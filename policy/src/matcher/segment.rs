//! Path segments as the trie compares them: as they are for allow, folded for deny.

/// One segment of a path.
pub(crate) trait Segment: Copy {
    /// Its hash. Equal segments have equal hashes.
    fn hash(self) -> u32;
    /// Whether it is `text`.
    fn is(self, text: &[u8]) -> bool;
    /// Whether it begins so.
    fn starts_with(self, text: &[u8]) -> bool;
    /// Whether it ends so.
    fn ends_with(self, text: &[u8]) -> bool;
}

/// A segment as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strict<'a>(pub(crate) &'a str);

/// A segment in which everything that servers treat alike is alike: letters have lower case, every
/// escape of a path character is decoded, and what follows a `;` is gone. A deny that compared bytes
/// would be passed by `/Admin`, `/%40admin` or `/admin;x`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Folded<'a>(pub(crate) &'a str);

/// FNV-1a. The table is built from the operator's patterns and requests only look up, so no key is
/// needed: nobody but the operator can make buckets collide.
pub(crate) fn hash_bytes(bytes: impl Iterator<Item = u8>) -> u32 {
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    (hash ^ (hash >> 32)) as u32
}

/// The folded form of a pattern's text.
pub(crate) fn fold(text: &str) -> String {
    // Folding maps ASCII to ASCII and patterns are ASCII.
    folded(text).map(char::from).collect()
}

fn folded(text: &str) -> impl Iterator<Item = u8> + Clone {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (&first, after) = rest.split_first()?;
        rest = after;
        let mut byte = first;
        if byte == b'%'
            && let Some((escaped, next)) = crate::canonical::escape(after)
            && crate::canonical::is_pchar(escaped)
        {
            byte = escaped;
            rest = next;
        }
        if byte == b';' {
            rest = &[];
            return None;
        }
        Some(byte.to_ascii_lowercase())
    })
}

// === impl Strict ===

impl Segment for Strict<'_> {
    fn hash(self) -> u32 {
        hash_bytes(self.0.bytes())
    }

    fn is(self, text: &[u8]) -> bool {
        self.0.as_bytes() == text
    }

    fn starts_with(self, text: &[u8]) -> bool {
        self.0.as_bytes().starts_with(text)
    }

    fn ends_with(self, text: &[u8]) -> bool {
        self.0.as_bytes().ends_with(text)
    }
}

// === impl Folded ===

impl Segment for Folded<'_> {
    fn hash(self) -> u32 {
        hash_bytes(folded(self.0))
    }

    fn is(self, text: &[u8]) -> bool {
        folded(self.0).eq(text.iter().copied())
    }

    fn starts_with(self, text: &[u8]) -> bool {
        let mut bytes = folded(self.0);
        text.iter().all(|byte| bytes.next() == Some(*byte))
    }

    fn ends_with(self, text: &[u8]) -> bool {
        let bytes = folded(self.0);
        let len = bytes.clone().count();
        len >= text.len() && bytes.skip(len - text.len()).eq(text.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_makes_alike_what_servers_treat_alike() {
        for (text, expected) in [
            ("Admin", "admin"),
            ("%40admin", "@admin"),
            ("x%3Acancel", "x:cancel"),
            ("a;v=1", "a"),
            ("a%3Bb", "a"),
            ("A%2Fb%E2", "a%2fb%e2"),
        ] {
            assert_eq!(fold(text), expected);
            assert!(Folded(text).is(expected.as_bytes()));
            assert_eq!(Folded(text).hash(), Strict(expected).hash());
            assert!(
                Folded(text).starts_with(expected.as_bytes()) && Folded(text).ends_with(expected.as_bytes())
            );
        }
    }
}
