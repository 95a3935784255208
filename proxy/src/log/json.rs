//! One line of JSON, written field by field.
//!
//! Not serde: the order of the fields is part of what people read, and every string, also the attacker's, goes
//! through one escape that leaves no control character and no character that turns the direction of writing.

use std::{fmt::Write as _, net::SocketAddr, time::SystemTime};

use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// A value of a field.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// Text, escaped when written.
    Text(&'a str),
    /// A number.
    Number(u64),
    /// Yes or no.
    Bool(bool),
    /// An address.
    Address(SocketAddr),
    /// Nothing to say.
    Null,
}

/// A line under construction.
#[derive(Debug)]
pub(super) struct Line(String);

// === impl Line ===

impl Line {
    /// Begins a line of a stream; `schema` is its name and version, and changes only by addition.
    pub(super) fn new(now: SystemTime, stream: &str, schema: &str) -> Self {
        let mut line = Self(String::with_capacity(512));
        line.0.push_str("{\"time\":\"");
        let time = OffsetDateTime::from(now).format(&TIME).unwrap_or_default();
        line.0.push_str(&time);
        line.0.push('"');
        line.field("stream", stream).field("schema", schema);
        line
    }

    /// Adds a field; `name` is a constant of ours.
    pub(super) fn field<'a>(&mut self, name: &str, value: impl Into<Value<'a>>) -> &mut Self {
        let _ = write!(self.0, ",\"{name}\":");
        match value.into() {
            Value::Text(text) => self.string(text),
            Value::Number(number) => drop(write!(self.0, "{number}")),
            Value::Bool(bool) => drop(write!(self.0, "{bool}")),
            Value::Address(address) => drop(write!(self.0, "\"{address}\"")),
            Value::Null => self.0.push_str("null"),
        }
        self
    }

    /// Adds a field if there is something to say.
    pub(super) fn optional<'a, T: Into<Value<'a>>>(&mut self, name: &str, value: Option<T>) -> &mut Self {
        match value {
            Some(value) => self.field(name, value),
            None => self,
        }
    }

    /// How much of it is written.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// `,"name":value`, to be put into a finished line.
    pub(super) fn piece<'a>(name: &str, value: impl Into<Value<'a>>) -> String {
        let mut piece = Self(String::new());
        piece.field(name, value);
        piece.0
    }

    pub(super) fn finish(mut self) -> String {
        self.0.push_str("}\n");
        self.0
    }

    fn string(&mut self, text: &str) {
        self.0.push('"');
        for c in text.chars() {
            match c {
                '"' => self.0.push_str("\\\""),
                '\\' => self.0.push_str("\\\\"),
                '\n' => self.0.push_str("\\n"),
                c if c.is_control() || turns(c) => drop(write!(self.0, "\\u{:04x}", u32::from(c))),
                c => self.0.push(c),
            }
        }
        self.0.push('"');
    }
}

/// Line separators that JSON does not escape, and the bidirectional controls of CVE-2021-42574.
fn turns(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// `text` cut to at most `limit` bytes, at a character's edge.
pub(super) fn cut(text: &str, limit: usize) -> &str {
    text.get(..text.floor_char_boundary(limit)).unwrap_or(text)
}

// === impl Value ===

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Value<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u16> for Value<'_> {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

impl From<bool> for Value<'_> {
    fn from(bool: bool) -> Self {
        Self::Bool(bool)
    }
}

impl From<SocketAddr> for Value<'_> {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn a_line_is_one_line_of_json_whatever_the_caller_sent() {
        let hostile: String =
            (0..0x300u32).filter_map(char::from_u32).chain("\u{202e}\u{2028}\u{feff}\"\\".chars()).collect();
        let mut line =
            Line::new(UNIX_EPOCH + Duration::from_millis(1_700_000_000_123), "audit", "mantlet.audit/v1");
        line.field("path", hostile.as_str()).field("none", None::<&str>).optional("absent", None::<u64>);
        line.field("n", 7u64).field("b", true).field("a", "127.0.0.1:1".parse::<SocketAddr>().unwrap());
        let text = line.finish();
        let body = text.strip_suffix('\n').unwrap();
        assert!(!body.chars().any(|c| c.is_control() || turns(c)));
        let value: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(value["time"], "2023-11-14T22:13:20.123Z");
        assert_eq!(value["path"], hostile);
        assert_eq!(value["none"], serde_json::Value::Null);
        assert!(value.get("absent").is_none());
        assert_eq!(value["a"], "127.0.0.1:1");
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        assert_eq!(cut("abc", 512), "abc");
        assert_eq!(cut("aäb", 2), "a");
        assert_eq!(cut("aäb", 3), "aä");
    }
}
