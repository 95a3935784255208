//! Header fields: how the matcher reads them, and which names nobody but the proxy may use.

use std::collections::BTreeSet;

use crate::canonical::{Malformed, is_token_byte};

/// The header fields of a request. The proxy implements it for its own map.
pub trait HeaderValues {
    /// Calls `f` with the value of each field line called `name`, which is lower case.
    fn each(&self, name: &str, f: &mut dyn FnMut(&[u8]));

    /// Whether the values of `name` are at hand. A request in flight keeps only those that the policy
    /// named when it was admitted; a name that a later policy adds satisfies no allow condition and
    /// every deny condition.
    fn kept(&self, name: &str) -> bool {
        let _ = name;
        true
    }
}

/// A list of fields, for tests and tools. Names are lower case.
impl<N: AsRef<str>, V: AsRef<[u8]>> HeaderValues for Vec<(N, V)> {
    fn each(&self, name: &str, f: &mut dyn FnMut(&[u8])) {
        self.iter().filter(|(n, _)| n.as_ref() == name).for_each(|(_, value)| f(value.as_ref()));
    }
}

/// No header fields at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHeaders;

impl HeaderValues for NoHeaders {
    fn each(&self, _: &str, _: &mut dyn FnMut(&[u8])) {}
}

/// The names that a policy's conditions read, and the checks that follow from being read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NamedHeaders {
    names: BTreeSet<Box<str>>,
}

/// Headers that the proxy sets from the TLS handshake: removed from every request, never trusted.
pub const OWNED: [&str; 1] = ["x-forwarded-client-cert"];
/// The prefix of the rest of them.
pub const OWNED_PREFIX: &str = "x-mantlet-";

/// Hop-by-hop fields (RFC 9110 section 7.6.1) and those whose meaning is fixed before any rule.
const RESERVED: [&str; 13] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "host",
    "content-length",
    "expect",
];

/// What `Connection` may not name besides owned and policy-named headers: dropping one of these on
/// the way would change what the request means (CVE-2024-45410).
const CORE: [&str; 5] = ["host", "authorization", "cookie", "transfer-encoding", "content-length"];

// === impl NamedHeaders ===

impl NamedHeaders {
    pub(crate) fn insert(&mut self, name: &str) {
        self.names.insert(name.into());
    }

    /// The names, lower case, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    /// Whether a condition reads `name` (lower case).
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Whether no condition reads any header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Checks one field line of a request. `name` is lower case.
    ///
    /// # Errors
    /// - [`Malformed::HeaderAlias`]: `x_tenant` next to a policy that reads `x-tenant`. Servers that
    ///   map names to variables read both as one (CVE-2026-88011).
    /// - [`Malformed::HeaderValue`]: an unreadable value must not turn into "no match"
    ///   (CVE-2026-73552).
    /// - [`Malformed::ConnectionHeader`]: see [`NamedHeaders::check_connection`].
    pub fn check_field(&self, name: &str, value: &[u8]) -> Result<(), Malformed> {
        if name.bytes().any(|byte| matches!(byte, b'_' | b'.')) {
            let plain: String = name.chars().map(|c| if matches!(c, '_' | '.') { '-' } else { c }).collect();
            if is_owned(&plain) || self.contains(&plain) {
                return Err(Malformed::HeaderAlias);
            }
        }
        if name == "connection" {
            self.check_connection(value)?;
        }
        if self.contains(name) && !is_readable(value) {
            return Err(Malformed::HeaderValue);
        }
        Ok(())
    }

    /// Checks what a `Connection` field names.
    ///
    /// # Errors
    /// [`Malformed::ConnectionHeader`] if it names an owned, policy-named or core header: the next hop
    /// would drop it (CVE-2021-32813).
    pub fn check_connection(&self, value: &[u8]) -> Result<(), Malformed> {
        for token in value.split(|byte| *byte == b',') {
            let token = String::from_utf8_lossy(token.trim_ascii()).to_ascii_lowercase();
            if is_owned(&token) || self.contains(&token) || is_core(&token) {
                return Err(Malformed::ConnectionHeader);
            }
        }
        Ok(())
    }
}

/// Whether the proxy sets `name` (lower case) itself.
#[must_use]
pub fn is_owned(name: &str) -> bool {
    OWNED.contains(&name) || name.starts_with(OWNED_PREFIX)
}

/// Whether no policy may read `name` (lower case).
pub(crate) fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || is_owned(name) || name.starts_with("proxy-")
}

fn is_core(name: &str) -> bool {
    CORE.contains(&name) || name.starts_with("content-")
}

/// Whether `name` can be written in a policy: a token without `_` and `.`, which aliases use.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| is_token_byte(byte) && !matches!(byte, b'_' | b'.'))
}

/// Visible ASCII, with blanks and tabs inside.
pub(crate) fn is_readable(value: &[u8]) -> bool {
    value.iter().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e))
}

/// Whether the comma-separated list `value` has `token`, in any case.
pub(crate) fn has_token(value: &[u8], token: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|element| element.trim_ascii().eq_ignore_ascii_case(token))
}

/// Calls `f` with each element of `value`, split at commas outside quotes; trimmed.
pub(crate) fn quoted_elements<'v>(value: &'v [u8], f: &mut dyn FnMut(&'v [u8])) {
    let (mut quoted, mut escaped, mut start) = (false, false, 0);
    for (at, byte) in value.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                f(trim(value.get(start..at).unwrap_or_default()));
                start = at + 1;
            }
            _ => {}
        }
    }
    f(trim(value.get(start..).unwrap_or_default()));
}

/// Without blanks and tabs at the ends: optional whitespace of RFC 9110 section 5.6.3, no more.
pub(crate) fn trim(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !blank(byte)).map_or(start, |at| at + 1);
    value.get(start..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named() -> NamedHeaders {
        let mut named = NamedHeaders::default();
        named.insert("x-tenant");
        named
    }

    #[test]
    fn d18_an_alias_of_a_policy_header_is_refused() {
        for name in
            ["x_tenant", "x.tenant", "x_forwarded_client_cert", "x-forwarded_client-cert", "x_mantlet_proto"]
        {
            assert_eq!(named().check_field(name, b"acme"), Err(Malformed::HeaderAlias), "{name}");
        }
        assert_eq!(named().check_field("x_other", b"acme"), Ok(()));
        assert_eq!(named().check_field("x-tenant", b"acme"), Ok(()));
    }

    #[test]
    fn d20_connection_cannot_drop_a_header_that_matters() {
        for value in [
            "close, x-forwarded-client-cert",
            "X-Tenant",
            "cookie",
            "Content-Type",
            "host",
            "x-mantlet-proto",
        ] {
            let refused = Err(Malformed::ConnectionHeader);
            assert_eq!(named().check_field("connection", value.as_bytes()), refused, "{value}");
        }
        assert_eq!(named().check_field("connection", b"keep-alive, Upgrade, x-own"), Ok(()));
    }

    #[test]
    fn d21_an_unreadable_value_of_a_policy_header_is_refused() {
        assert_eq!(named().check_field("x-tenant", b"acm\xe9"), Err(Malformed::HeaderValue));
        assert_eq!(named().check_field("x-tenant", b"a\tb c"), Ok(()));
        assert_eq!(named().check_field("x-other", b"acm\xe9"), Ok(()));
    }

    #[test]
    fn commas_inside_quotes_do_not_split() {
        let mut seen = Vec::new();
        quoted_elements(b" a , \"b,\\\"c\" ,d", &mut |element| seen.push(element));
        assert_eq!(seen, [b"a".as_slice(), b"\"b,\\\"c\"", b"d"]);
    }
}
