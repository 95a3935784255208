//! A cursor over one logical line. It only moves forward, so parsing is linear.

use super::text::{Span, is_blank};
use crate::diagnostic::{Code, Fault};

/// A fault and where it is.
pub(crate) type Located<T> = Result<T, (Span, Fault)>;

/// The reading position in a line.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'l> {
    text: &'l str,
    at: usize,
}

/// A piece of the line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word<'l> {
    pub(crate) text: &'l str,
    pub(crate) span: Span,
}

// === impl Cursor ===

impl<'l> Cursor<'l> {
    pub(crate) fn new(text: &'l str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'l str {
        self.text.get(self.at..).unwrap_or_default()
    }

    pub(crate) fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches(is_blank).len();
    }

    pub(crate) fn is_at_end(&mut self) -> bool {
        self.skip_blanks();
        self.rest().is_empty()
    }

    /// Takes the longest run of characters that satisfy `keep`. May be empty.
    pub(crate) fn take_while(&mut self, mut keep: impl FnMut(char) -> bool) -> Word<'l> {
        let rest = self.rest();
        let len = rest.find(|c| !keep(c)).unwrap_or(rest.len());
        self.take(len)
    }

    /// Takes `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> Word<'l> {
        let start = self.at;
        let text = self.rest().get(..len).unwrap_or_default();
        self.at += text.len();
        Word { text, span: Span { start, end: self.at } }
    }

    /// The next word, up to a blank. Empty at the end of the line.
    pub(crate) fn word(&mut self) -> Word<'l> {
        self.skip_blanks();
        self.take_while(|c| !is_blank(c))
    }

    /// The next word, without taking it.
    pub(crate) fn peek(&self) -> Word<'l> {
        self.clone().word()
    }

    pub(crate) fn peek_char(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// What follows, for looking ahead.
    pub(crate) fn ahead(&self) -> &'l str {
        self.rest()
    }

    /// Takes `keyword` if it is the next word.
    pub(crate) fn keyword(&mut self, keyword: &str) -> bool {
        let found = self.peek().text == keyword;
        if found {
            self.word();
        }
        found
    }

    /// Takes `c` if it is next.
    pub(crate) fn accept(&mut self, c: char) -> bool {
        let found = self.peek_char() == Some(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    /// After an item of a list: takes the comma, and blanks behind it.
    pub(crate) fn comma(&mut self) -> bool {
        let found = self.accept(',');
        if found {
            self.skip_blanks();
        }
        found
    }

    /// The fault of finding something else than `expected` next.
    pub(crate) fn unexpected(&self, expected: &str) -> (Span, Fault) {
        let mut ahead = self.clone();
        ahead.skip_blanks();
        let start = ahead.at;
        let found = ahead.word();
        let message = if found.text.is_empty() {
            "the line ends too early".to_owned()
        } else {
            format!("unexpected \"{}\"", found.text)
        };
        let fault = Fault::new(Code::Unexpected, message, format!("expected {expected}"));
        (Span { start, end: found.span.end.max(start) }, fault)
    }
}

// === impl Word ===

impl Word<'_> {
    /// A fault at this word.
    pub(crate) fn fault<T>(
        &self,
        code: Code,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Located<T> {
        Err((self.span, Fault::new(code, message, help)))
    }
}
