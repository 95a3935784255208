//! `when`: conditions on headers and on the host.

use super::{
    ast::{Condition, HeaderTest, HostPattern, Spanned, Value},
    cursor::{Cursor, Located, Word},
    text::{Line, Span, is_blank},
};
use crate::{
    canonical::canonical_host,
    diagnostic::{Code, Fault, did_you_mean},
    headers::{is_plain_name, is_readable, is_reserved},
};

/// `cond *( SP "and" SP cond )`.
pub(super) fn parse_conditions(cursor: &mut Cursor<'_>, line: &Line) -> Located<Vec<Spanned<Condition>>> {
    let mut conditions = Vec::new();
    loop {
        let kind = cursor.word();
        let node = match kind.text {
            "header" => parse_header(cursor)?,
            "host" => Condition::Host(parse_alternatives(cursor, "\"=\" or \"in\"", parse_host)?),
            other => {
                let help = match did_you_mean(other, ["header", "host"]) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => "expected \"header\" or \"host\"".to_owned(),
                };
                return kind.fault(Code::Unexpected, format!("unknown condition \"{other}\""), help);
            }
        };
        conditions.push(Spanned { node, at: line.position(kind.span) });
        if !cursor.keyword("and") {
            return Ok(conditions);
        }
    }
}

fn parse_header(cursor: &mut Cursor<'_>) -> Located<Condition> {
    let word = cursor.word();
    let name = word.text.to_ascii_lowercase();
    if is_reserved(&name) {
        let help = if name == "host" {
            "write \"when host = ..\""
        } else {
            "it is hop-by-hop, or set by the proxy itself"
        };
        return word.fault(
            Code::ReservedHeader,
            format!("header \"{name}\" cannot be used in a policy"),
            help,
        );
    }
    if !is_plain_name(&name) {
        let fixed: String = name.chars().map(|c| if matches!(c, '_' | '.') { '-' } else { c }).collect();
        let help = format!("write \"{fixed}\": servers read both as one");
        return word.fault(
            Code::HeaderName,
            format!("header name \"{}\" has an alias or no name", word.text),
            help,
        );
    }
    let test = if cursor.keyword("present") {
        HeaderTest::Present
    } else if cursor.keyword("absent") {
        HeaderTest::Absent
    } else {
        HeaderTest::In(parse_alternatives(cursor, "\"=\", \"in\", \"present\" or \"absent\"", parse_value)?)
    };
    Ok(Condition::Header { name, test })
}

/// `= item` or `in (item, item)`.
fn parse_alternatives<T>(
    cursor: &mut Cursor<'_>,
    expected: &str,
    item: impl Fn(&mut Cursor<'_>) -> Located<T>,
) -> Located<Vec<T>> {
    if cursor.keyword("=") {
        cursor.skip_blanks();
        return Ok(vec![item(cursor)?]);
    }
    if !matches!(cursor.peek().text, "in") && !cursor.peek().text.starts_with("in(") {
        return Err(cursor.unexpected(expected));
    }
    cursor.skip_blanks();
    cursor.take(2);
    cursor.skip_blanks();
    if !cursor.accept('(') {
        return Err(cursor.unexpected("\"(\""));
    }
    let mut items = Vec::new();
    loop {
        cursor.skip_blanks();
        items.push(item(cursor)?);
        cursor.skip_blanks();
        if !cursor.comma() {
            break;
        }
    }
    if cursor.accept(')') { Ok(items) } else { Err(cursor.unexpected("\",\" or \")\"")) }
}

fn parse_value(cursor: &mut Cursor<'_>) -> Located<Value> {
    if cursor.peek_char() == Some('"') {
        return parse_quoted(cursor);
    }
    let word = take_bare(cursor);
    if word.text.is_empty() {
        return Err(cursor.unexpected("a value"));
    }
    check_readable(word, word.text)?;
    Ok(match word.text.strip_suffix('*') {
        Some(begin) => Value { text: begin.to_owned(), prefix: true },
        None => Value { text: word.text.to_owned(), prefix: false },
    })
}

/// `"..."` with `\"`, `\\` and `\*`; a final `*` that is not escaped makes it a beginning.
fn parse_quoted(cursor: &mut Cursor<'_>) -> Located<Value> {
    let open = cursor.take(1);
    let (mut text, mut prefix, mut escaped, mut closed) = (String::new(), false, false, false);
    let body = cursor.take_while(|c| {
        if closed {
            return false;
        }
        match c {
            _ if escaped => {
                escaped = false;
                prefix = false;
                text.push(c);
            }
            '\\' => escaped = true,
            '"' => closed = true,
            c => {
                prefix = c == '*';
                text.push(c);
            }
        }
        true
    });
    let span = Span { start: open.span.start, end: body.span.end };
    if !closed {
        return Err((
            span,
            Fault::new(Code::Unexpected, "the quote is not closed", "write \" at the end of the value"),
        ));
    }
    if prefix {
        text.pop();
    }
    check_readable(Word { text: "", span }, &text)?;
    if text.trim_matches(is_blank).len() != text.len() {
        let fault = Fault::new(Code::Unexpected, "blanks at the ends of a value never match", "remove them");
        return Err((span, fault));
    }
    Ok(Value { text, prefix })
}

fn check_readable(word: Word<'_>, value: &str) -> Located<()> {
    if is_readable(value.as_bytes()) {
        return Ok(());
    }
    word.fault(
        Code::Unexpected,
        "a value has visible ASCII characters only",
        "other values are refused in requests",
    )
}

fn parse_host(cursor: &mut Cursor<'_>) -> Located<HostPattern> {
    let word = take_bare(cursor);
    let (name, below) = match word.text.strip_prefix("*.") {
        Some(name) => (name, true),
        None => (word.text, false),
    };
    match canonical_host(name) {
        Ok(canonical) if canonical == name.to_ascii_lowercase() => {
            Ok(HostPattern { name: canonical.into_owned(), below })
        }
        Ok(canonical) => {
            let star = if below { "*." } else { "" };
            let help = format!("write \"{star}{canonical}\"");
            word.fault(Code::Unexpected, "a host is compared without port and final dot", help)
        }
        Err(_) if word.text.is_empty() => Err(cursor.unexpected("a host")),
        Err(_) => {
            let help = "write a name such as api.shop, *.shop, or an address";
            word.fault(Code::Unexpected, format!("\"{}\" is no host", word.text), help)
        }
    }
}

fn take_bare<'l>(cursor: &mut Cursor<'l>) -> Word<'l> {
    cursor.take_while(|c| !is_blank(c) && !matches!(c, '"' | ',' | '(' | ')'))
}
