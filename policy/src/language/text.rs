//! Lines of a text: comments cut off, continued lines joined, and the way back to line and column.

use crate::diagnostic::Position;

/// One logical line: what is left of one or more physical lines.
#[derive(Debug)]
pub(crate) struct Line {
    text: String,
    /// For each physical line: where it starts in `text`, its number, and the columns in front of it.
    marks: Vec<Mark>,
}

#[derive(Debug)]
struct Mark {
    at: usize,
    number: u32,
    skipped: u32,
}

/// Bytes `start..end` of a logical line.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Splits `text` into logical lines. Blank lines and comments vanish; a line that ends in "," goes
/// on in the next one that is neither.
pub(crate) fn logical_lines(text: &str) -> impl Iterator<Item = Line> {
    let mut physical = (1u32..).zip(text.lines());
    std::iter::from_fn(move || {
        let mut line = Line { text: String::new(), marks: Vec::new() };
        for (number, raw) in physical.by_ref() {
            let content = strip_comment(raw).trim_end_matches(is_blank);
            let trimmed = content.trim_start_matches(is_blank);
            if trimmed.is_empty() {
                continue;
            }
            if !line.text.is_empty() {
                line.text.push(' ');
            }
            let skipped = content.get(..content.len() - trimmed.len()).map_or(0, |s| s.chars().count());
            line.marks.push(Mark {
                at: line.text.len(),
                number,
                skipped: u32::try_from(skipped).unwrap_or(0),
            });
            line.text.push_str(trimmed);
            if !trimmed.ends_with(',') {
                return Some(line);
            }
        }
        (!line.text.is_empty()).then_some(line)
    })
}

/// Blanks between words. Carriage returns count, so that a text with CRLF reads the same.
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r')
}

/// The line without its comment: `#` at the start or after a blank, outside quotes.
fn strip_comment(line: &str) -> &str {
    let (mut quoted, mut escaped, mut after_blank) = (false, false, true);
    for (at, c) in line.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '#' if after_blank && !quoted => return line.get(..at).unwrap_or(line),
            _ => {}
        }
        after_blank = is_blank(c);
    }
    line
}

// === impl Line ===

impl Line {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The number of the physical line in which it begins.
    pub(crate) fn number(&self) -> u32 {
        self.marks.first().map_or(0, |mark| mark.number)
    }

    /// Where `span` stands in the text that the line came from.
    pub(crate) fn position(&self, span: Span) -> Position {
        let index = self.marks.partition_point(|mark| mark.at <= span.start).saturating_sub(1);
        let Some(mark) = self.marks.get(index) else { return Position::default() };
        // A span that runs over the join is cut at the end of its first physical line.
        let line_end = self.marks.get(index + 1).map_or(self.text.len(), |next| next.at.saturating_sub(1));
        let chars = |from: usize, to: usize| {
            let count = self.text.get(from..to.max(from)).map_or(0, |s| s.chars().count());
            u32::try_from(count).unwrap_or(u32::MAX)
        };
        Position {
            line: mark.number,
            column: mark.skipped + chars(mark.at, span.start) + 1,
            width: chars(span.start, span.end.min(line_end)).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        logical_lines(text).map(|line| line.text).collect()
    }

    #[test]
    fn comments_vanish_but_not_inside_words_or_quotes() {
        assert_eq!(lines("# all\n a b # c\n\na#b\n\"x # y\" # z"), ["a b", "a#b", "\"x # y\""]);
    }

    #[test]
    fn a_comma_continues_over_comments() {
        assert_eq!(lines("a,   # one\n  # two\n   b\nc"), ["a, b", "c"]);
        assert_eq!(lines("a,"), ["a,"]);
    }

    #[test]
    fn positions_lead_back_through_joins() {
        let line = logical_lines("\n  allow a,\n     b to").next().unwrap();
        let at = line.text().find('b').unwrap();
        assert_eq!(line.position(Span { start: at, end: at + 1 }), Position { line: 3, column: 6, width: 1 });
        assert_eq!(line.position(Span { start: 0, end: 5 }), Position { line: 2, column: 3, width: 5 });
    }
}
