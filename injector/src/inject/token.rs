//! The secret part of the paths that probes are asked at.

use std::fmt;

/// What a caller of `/app-health/<token>/..` must know: it keeps other pods from running a pod's probes
/// and hooks. Everybody who may read the pod may read it.
#[derive(Clone, Eq, PartialEq)]
pub struct Token(String);

// === impl Token ===

impl Token {
    /// The token of these random bytes.
    #[must_use]
    pub fn new(random: [u8; 16]) -> Self {
        Self(random.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// A token that was written before: 32 digits from 0 to f.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (text.len() == 32 && text.bytes().all(digit)).then(|| Self(text.to_owned()))
    }

    /// As it stands in a path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let token = Token::new([0xa5; 16]);
        assert_eq!(Token::parse(token.as_str()), Some(token.clone()));
        assert_eq!(format!("{token:?}"), "Token(..)");
        for text in ["", "a5", &"A5".repeat(16), &"a5".repeat(17), "../../../../../../../../../../.."] {
            assert_eq!(Token::parse(text), None, "{text}");
        }
    }
}
