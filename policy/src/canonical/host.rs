//! The one form of a host: lower case, no port, no final dot.
//!
//! Comparing hosts with their case or port has let requests past policy (CVE-2021-39155).

use std::{borrow::Cow, net::Ipv6Addr};

use super::Malformed;

/// The canonical form of `host[:port]`. Borrowed when `raw` is it already.
///
/// # Errors
/// [`Malformed::Host`] for user info, an empty name or label, a zone id, a bad port, or any character
/// outside `A-Z a-z 0-9 . _ -` and bracketed IPv6 literals.
pub fn canonical_host(raw: &str) -> Result<Cow<'_, str>, Malformed> {
    if let Some(rest) = raw.strip_prefix('[') {
        let (literal, rest) = rest.split_once(']').ok_or(Malformed::Host)?;
        check_port(rest)?;
        let address: Ipv6Addr = literal.parse().map_err(|_| Malformed::Host)?;
        return Ok(Cow::Owned(format!("[{address}]")));
    }
    let (name, port) = raw.split_at(raw.find(':').unwrap_or(raw.len()));
    check_port(port)?;
    let name = name.strip_suffix('.').unwrap_or(name);
    if !name.bytes().all(is_host_byte) || name.split('.').any(str::is_empty) {
        return Err(Malformed::Host);
    }
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Ok(Cow::Owned(name.to_ascii_lowercase()));
    }
    Ok(Cow::Borrowed(name))
}

/// `""` or `:` and one to five digits that make a port.
fn check_port(rest: &str) -> Result<(), Malformed> {
    let Some(digits) = rest.strip_prefix(':') else {
        return if rest.is_empty() { Ok(()) } else { Err(Malformed::Host) };
    };
    let all_digits = !digits.is_empty() && digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit());
    if all_digits && digits.parse::<u16>().is_ok() { Ok(()) } else { Err(Malformed::Host) }
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d14_case_port_and_final_dot_do_not_make_another_host() {
        assert_eq!(canonical_host("API.Shop.:8080").unwrap(), "api.shop");
        assert_eq!(canonical_host("[::1]:80").unwrap(), "[::1]");
        assert_eq!(canonical_host("[0:0:0:0:0:0:0:1]").unwrap(), "[::1]");
        assert!(matches!(canonical_host("api.shop"), Ok(Cow::Borrowed("api.shop"))));
    }

    #[test]
    fn anything_with_two_readings_is_refused() {
        for raw in [
            "",
            ".",
            ":80",
            "a:",
            "a:x",
            "a:99999",
            "a:+80",
            "user@a",
            "a b",
            "a/b",
            "a,b",
            "é.test",
            "[::1%eth0]",
            "[::1",
            "[::1]x",
            "[]",
            "::1",
            "a..:b",
            "a..",
            ".a",
            "a..b",
            "a\t",
        ] {
            assert_eq!(canonical_host(raw), Err(Malformed::Host), "{raw:?}");
        }
    }
}
