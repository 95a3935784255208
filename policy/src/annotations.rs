//! The file in which Kubernetes delivers annotations: `key="value"` per line, the value quoted as
//! Go's `%q` does it, no newline at the end.
//!
//! Values are unquoted completely and never split on raw text: an annotation of somebody else that
//! contains a line break and `mantlet.dev/policy=..` stays that annotation's value.

use std::{collections::BTreeMap, fmt};

/// Why a file is no annotation file, and in which line. It is refused whole: half a policy may lack
/// its denies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AnnotationsError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub kind: AnnotationsErrorKind,
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AnnotationsErrorKind {
    /// It is not `key="value"`.
    Form,
    /// The value does not end: the file was cut off.
    Truncated,
    /// Something follows the value.
    Trailing,
    /// A `\` sequence that Go does not write.
    Escape,
    /// The value is not UTF-8.
    Utf8,
    /// The key occurred before.
    Duplicate,
    /// The file is larger than [`MAX_BYTES`].
    TooLarge,
}

/// The largest file. Kubernetes limits all annotations of an object to 256 KiB; quoting makes at
/// most six bytes of one.
pub const MAX_BYTES: usize = 2 * 1024 * 1024;

/// Reads a whole file.
///
/// # Errors
/// The first line that is not as Kubernetes writes it.
pub fn parse(file: &[u8]) -> Result<BTreeMap<String, String>, AnnotationsError> {
    let mut annotations = BTreeMap::new();
    if file.len() > MAX_BYTES {
        return Err(AnnotationsError { line: 1, kind: AnnotationsErrorKind::TooLarge });
    }
    // No value has a raw line break in it, so this split is not one inside a value.
    for (index, line) in file.split(|byte| *byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let error = |kind| AnnotationsError { line: index + 1, kind };
        let (key, value) = parse_line(line).map_err(error)?;
        if annotations.insert(key, value).is_some() {
            return Err(error(AnnotationsErrorKind::Duplicate));
        }
    }
    Ok(annotations)
}

fn parse_line(line: &[u8]) -> Result<(String, String), AnnotationsErrorKind> {
    let at = line.iter().position(|byte| *byte == b'=').ok_or(AnnotationsErrorKind::Form)?;
    let (key, rest) = line.split_at_checked(at).ok_or(AnnotationsErrorKind::Form)?;
    let key = std::str::from_utf8(key).map_err(|_| AnnotationsErrorKind::Form)?;
    let quoted = rest.strip_prefix(b"=\"").ok_or(AnnotationsErrorKind::Form)?;
    if key.is_empty() {
        return Err(AnnotationsErrorKind::Form);
    }
    Ok((key.to_owned(), unquote(quoted)?))
}

/// The value in front of the closing quote, which must be the last byte.
fn unquote(quoted: &[u8]) -> Result<String, AnnotationsErrorKind> {
    let mut out = Vec::with_capacity(quoted.len());
    let mut rest = quoted;
    loop {
        let (&byte, after) = rest.split_first().ok_or(AnnotationsErrorKind::Truncated)?;
        rest = after;
        match byte {
            b'"' if rest.is_empty() => break,
            b'"' => return Err(AnnotationsErrorKind::Trailing),
            b'\\' => rest = unescape(rest, &mut out)?,
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).map_err(|_| AnnotationsErrorKind::Utf8)
}

/// Reads what follows a backslash and gives the rest.
fn unescape<'r>(rest: &'r [u8], out: &mut Vec<u8>) -> Result<&'r [u8], AnnotationsErrorKind> {
    let (&kind, rest) = rest.split_first().ok_or(AnnotationsErrorKind::Truncated)?;
    let simple = match kind {
        b'a' => 0x07,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        b'\\' | b'"' => kind,
        b'x' => {
            let (code, rest) = hex(rest, 2)?;
            out.push(u8::try_from(code).map_err(|_| AnnotationsErrorKind::Escape)?);
            return Ok(rest);
        }
        b'u' | b'U' => {
            let (code, rest) = hex(rest, if kind == b'u' { 4 } else { 8 })?;
            let c = char::from_u32(code).ok_or(AnnotationsErrorKind::Escape)?;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            return Ok(rest);
        }
        _ => return Err(AnnotationsErrorKind::Escape),
    };
    out.push(simple);
    Ok(rest)
}

fn hex(rest: &[u8], count: usize) -> Result<(u32, &[u8]), AnnotationsErrorKind> {
    let (digits, rest) = rest.split_at_checked(count).ok_or(AnnotationsErrorKind::Truncated)?;
    let code = digits.iter().try_fold(0_u32, |code, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        code.checked_mul(16)?.checked_add(digit)
    });
    code.map(|code| (code, rest)).ok_or(AnnotationsErrorKind::Escape)
}

// === impl AnnotationsError ===

impl fmt::Display for AnnotationsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            AnnotationsErrorKind::Form => "not key=\"value\"",
            AnnotationsErrorKind::Truncated => "cut off",
            AnnotationsErrorKind::Trailing => "something follows the value",
            AnnotationsErrorKind::Escape => "unknown escape",
            AnnotationsErrorKind::Utf8 => "not UTF-8",
            AnnotationsErrorKind::Duplicate => "the key occurs twice",
            AnnotationsErrorKind::TooLarge => "the file is larger than 2 MiB",
        };
        write!(f, "annotation file, line {}: {what}", self.line)
    }
}

impl std::error::Error for AnnotationsError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(value: &str) -> Result<String, AnnotationsErrorKind> {
        parse(format!("k={value}").as_bytes()).map(|map| map["k"].clone()).map_err(|error| error.kind)
    }

    #[test]
    fn values_are_unquoted_as_go_quotes_them() {
        assert_eq!(one(r#""""#).unwrap(), "");
        assert_eq!(one(r#""a\n\t\"\\b""#).unwrap(), "a\n\t\"\\b");
        assert_eq!(one(r#""\a\b\f\r\v\x41\u00e9\U0001f600é""#).unwrap(), "\u{7}\u{8}\u{c}\r\u{b}Aé😀é");
        assert_eq!(one(r#""\xc3\xa9""#).unwrap(), "é");
    }

    #[test]
    fn d64_a_value_cannot_become_another_annotation() {
        let file = "a=\"x\\\"\\nmantlet.dev/policy=\\\"allow plaintext(any) to * /**\"\nb=\"1\"";
        let map = parse(file.as_bytes()).unwrap();
        assert_eq!(map.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(map["a"], "x\"\nmantlet.dev/policy=\"allow plaintext(any) to * /**");
    }

    #[test]
    fn a_file_that_kubernetes_did_not_write_is_refused_whole() {
        use AnnotationsErrorKind::{Duplicate, Escape, Form, Trailing, Truncated, Utf8};
        for (file, kind) in [
            ("garbage", Form),
            ("k=v", Form),
            ("=\"v\"", Form),
            ("k=\"v", Truncated),
            ("k=\"v\\", Truncated),
            ("k=\"v\\x4", Truncated),
            ("k=\"v\"x", Trailing),
            ("k=\"a\"b\"", Trailing),
            ("k=\"\\q\"", Escape),
            ("k=\"\\xzz\"", Escape),
            ("k=\"\\ud800\"", Escape),
            ("k=\"\\Uffffffff\"", Escape),
            ("k=\"\\xff\"", Utf8),
            ("k=\"1\"\nk=\"2\"", Duplicate),
        ] {
            assert_eq!(parse(file.as_bytes()).unwrap_err().kind, kind, "{file}");
        }
        assert_eq!(parse(b"a=\"1\"\nb").unwrap_err().line, 2);
    }

    #[test]
    fn an_empty_file_is_no_annotations() {
        assert!(parse(b"").unwrap().is_empty());
    }
}
