//! The one form of a path, or the reason why it has none.
//!
//! Proxies and servers disagree about `//`, `;`, `..`, `%2F`, `\` and double escapes, and every
//! disagreement has been an authorization bypass (CVE-2021-31920, CVE-2021-29492, CVE-2021-39156,
//! CVE-2025-46821). Nothing is repaired here that a server behind us would read differently:
//! unreserved characters are decoded and hexadecimal digits get upper case, which RFC 3986 section
//! 6.2.2 calls equivalent; everything else that has two readings is refused.

use std::borrow::Cow;

use super::{MAX_SEGMENTS, Malformed, PathOptions};

/// What a byte of a path is.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Class {
    /// `/` or a character of a segment.
    Plain,
    /// `%`.
    Percent,
    /// `;`.
    Semicolon,
    /// Never allowed.
    Bad,
}

const CLASSES: [Class; 256] = classes();

/// The canonical form of `path`, which must start with `/`. Borrowed when `path` is it already.
///
/// # Errors
/// The first defect in reading order; defects of segments come after defects of bytes.
pub(super) fn canonical_path(path: &str, options: PathOptions) -> Result<Cow<'_, str>, Malformed> {
    if !path.starts_with('/') {
        return Err(Malformed::Target);
    }
    let decoded =
        if scan(path.as_bytes(), options)? { Cow::Owned(decode(path)) } else { Cow::Borrowed(path) };
    let merged = if options.merge_slashes && decoded.contains("//") {
        Cow::Owned(merge_slashes(&decoded))
    } else {
        decoded
    };
    check_segments(&merged)?;
    Ok(merged)
}

/// Checks every byte. `Ok(true)` if an escape has to be rewritten.
fn scan(path: &[u8], options: PathOptions) -> Result<bool, Malformed> {
    let mut rewrite = false;
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        match class(byte) {
            Class::Plain => rest = after,
            Class::Semicolon => return Err(Malformed::PathParams),
            Class::Bad => return Err(Malformed::BadChar),
            Class::Percent => {
                let (escaped, next) = escape(after).ok_or(Malformed::BadEscape)?;
                match escaped {
                    0x00..=0x1f | 0x7f => return Err(Malformed::Control),
                    b'/' if !options.encoded_slash => return Err(Malformed::EncodedSlash),
                    b'\\' => return Err(Malformed::EncodedSlash),
                    b'%' if starts_with_hex(next) => return Err(Malformed::DoubleEncoding),
                    b';' => return Err(Malformed::PathParams),
                    0x80.. => {
                        rest = utf8_run(escaped, next).ok_or(Malformed::BadUtf8)?;
                        rewrite |= has_lower_hex(rest, after);
                        continue;
                    }
                    _ => {}
                }
                rewrite |= is_unreserved(escaped) || has_lower_hex(next, after);
                rest = next;
            }
        }
    }
    Ok(rewrite)
}

/// Rewrites the escapes of a scanned path.
fn decode(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (plain, escaped) = rest.split_at(at);
        out.push_str(plain);
        let (digits, after) = escaped.split_at_checked(3).unwrap_or((escaped, ""));
        match escape(digits.as_bytes().get(1..).unwrap_or_default()) {
            Some((byte, _)) if is_unreserved(byte) => out.push(char::from(byte)),
            _ => out.extend(digits.chars().map(|c| c.to_ascii_uppercase())),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}

fn check_segments(path: &str) -> Result<(), Malformed> {
    let mut segments = path.strip_prefix('/').unwrap_or(path).split('/').peekable();
    let mut count = 0;
    while let Some(segment) = segments.next() {
        count += 1;
        match segment {
            _ if is_dot(segment) => return Err(Malformed::DotSegment),
            "" if segments.peek().is_some() => return Err(Malformed::EmptySegment),
            _ if count > MAX_SEGMENTS => return Err(Malformed::TooManySegments),
            _ => {}
        }
    }
    Ok(())
}

/// Also between escaped slashes, which only `encoded-slash` lets stand: a server that decodes them
/// would walk.
fn is_dot(segment: &str) -> bool {
    segment.split("%2F").any(|part| matches!(part, "." | ".."))
}

/// The rest after the multi-byte character whose first byte, `lead`, was escaped. `None` unless the
/// escapes that follow complete exactly one character of UTF-8.
fn utf8_run(lead: u8, mut rest: &[u8]) -> Option<&[u8]> {
    let len = match lead {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return None,
    };
    let mut bytes = [lead, 0, 0, 0];
    for slot in bytes.get_mut(1..len)? {
        let (byte, next) = escape(rest.strip_prefix(b"%")?)?;
        *slot = byte;
        rest = next;
    }
    std::str::from_utf8(bytes.get(..len)?).ok().map(|_| rest)
}

/// The byte that two hexadecimal digits stand for, and what follows them.
pub(crate) fn escape(digits: &[u8]) -> Option<(u8, &[u8])> {
    let (&high, rest) = digits.split_first()?;
    let (&low, rest) = rest.split_first()?;
    Some((hex(high)? << 4 | hex(low)?, rest))
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn starts_with_hex(rest: &[u8]) -> bool {
    escape(rest).is_some()
}

/// Whether the bytes of `from` in front of its suffix `to` have a lower-case letter; they are
/// escapes only.
fn has_lower_hex(to: &[u8], from: &[u8]) -> bool {
    let taken = from.len().saturating_sub(to.len());
    from.get(..taken).unwrap_or_default().iter().any(u8::is_ascii_lowercase)
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 section 3.3, without the escapes.
pub(crate) fn is_pchar(byte: u8) -> bool {
    matches!(class(byte), Class::Plain | Class::Semicolon) && byte != b'/'
}

fn class(byte: u8) -> Class {
    CLASSES.get(usize::from(byte)).copied().unwrap_or(Class::Bad)
}

const fn classes() -> [Class; 256] {
    let mut table = [Class::Bad; 256];
    let mut byte: usize = 0;
    while byte < 256 {
        // RFC 3986: unreserved, sub-delims, ":" and "@".
        let class = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => Class::Plain,
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' => Class::Plain,
            b'+' | b',' | b'=' | b':' | b'@' | b'/' => Class::Plain,
            b';' => Class::Semicolon,
            b'%' => Class::Percent,
            _ => Class::Bad,
        };
        #[allow(clippy::indexing_slicing)] // constant evaluation; the loop ends at the table's end
        {
            table[byte] = class;
        }
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(path: &str) -> Result<String, &'static str> {
        let options = PathOptions::default();
        canonical_path(path, options).map(Cow::into_owned).map_err(Malformed::as_str)
    }

    #[test]
    fn a_canonical_path_is_borrowed() {
        for path in ["/", "/a", "/a/", "/a%20b/c", "/orders/a*b", "/%E2%82%AC", "/a:b@c,d=e"] {
            assert!(
                matches!(canonical_path(path, PathOptions::default()), Ok(Cow::Borrowed(p)) if p == path),
                "{path}"
            );
        }
    }

    #[test]
    fn unreserved_escapes_are_decoded_once_and_hex_gets_upper_case() {
        assert_eq!(canonical("/%61dmin/x"), Ok("/admin/x".into()));
        assert_eq!(canonical("/%7euser/%2d%2E%5F"), Ok("/~user/-._".into()));
        assert_eq!(canonical("/a%3ab%c3%a9"), Ok("/a%3Ab%C3%A9".into()));
        assert_eq!(canonical("/100%25"), Ok("/100%25".into()));
        assert_eq!(canonical("/100%25x1"), Ok("/100%25x1".into()));
    }

    #[test]
    fn what_servers_read_differently_is_refused_by_name() {
        for (path, reason) in [
            ("/orders/../admin/x", "dot-segment"),
            ("/public/%2e%2e/admin", "dot-segment"),
            ("/a/.", "dot-segment"),
            ("/a/.%2E", "dot-segment"),
            ("/orders/..%2fadmin", "encoded-slash"),
            ("/a%5cb", "encoded-slash"),
            ("//admin/x", "empty-segment"),
            ("/a//", "empty-segment"),
            ("//", "empty-segment"),
            ("/admin;v=1/x", "path-params"),
            ("/admin%3bv=1/x", "path-params"),
            ("/..;/admin", "path-params"),
            ("/orders%00/x", "control"),
            ("/a%0d%0a", "control"),
            ("/a%7f", "control"),
            ("/%2561dmin", "double-encoding"),
            ("/%252e%252e/x", "double-encoding"),
            ("/a%", "bad-escape"),
            ("/a%4", "bad-escape"),
            ("/a%zz", "bad-escape"),
            ("/a%u0041", "bad-escape"),
            ("/a\\b", "bad-char"),
            ("/a b", "bad-char"),
            ("/a#b", "bad-char"),
            ("/a|b", "bad-char"),
            ("/a\"b", "bad-char"),
            ("/{a}", "bad-char"),
            ("/é", "bad-char"),
            ("/a\u{7f}", "bad-char"),
            ("/%ff", "bad-utf8"),
            ("/%c0%af", "bad-utf8"),
            ("/%c3x", "bad-utf8"),
            ("/%c3%41", "bad-utf8"),
            ("/%ed%a0%80", "bad-utf8"),
            ("a", "target"),
            ("", "target"),
        ] {
            assert_eq!(canonical(path), Err(reason), "{path}");
        }
    }

    #[test]
    fn sixty_four_segments_are_the_most() {
        assert!(canonical(&"/a".repeat(64)).is_ok());
        assert_eq!(canonical(&"/a".repeat(65)), Err("too-many-segments"));
    }

    #[test]
    fn merge_slashes_merges_and_still_refuses_dots() {
        let options = PathOptions { merge_slashes: true, ..PathOptions::default() };
        let merge = |path| canonical_path(path, options).map(Cow::into_owned);
        assert_eq!(merge("//a///b//"), Ok("/a/b/".into()));
        assert_eq!(merge("//"), Ok("/".into()));
        assert_eq!(merge("/a//../b"), Err(Malformed::DotSegment));
    }

    #[test]
    fn encoded_slash_keeps_it_inside_its_segment_and_still_refuses_backslash() {
        let options = PathOptions { encoded_slash: true, ..PathOptions::default() };
        let keep = |path| canonical_path(path, options).map(Cow::into_owned);
        assert_eq!(keep("/@scope%2fname"), Ok("/@scope%2Fname".into()));
        assert_eq!(keep("/a%5cb"), Err(Malformed::EncodedSlash));
        assert_eq!(keep("/a/..%2fb"), Err(Malformed::DotSegment));
    }
}
