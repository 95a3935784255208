//! The parser: one pass over the lines, every error reported, nothing guessed.
//!
//! Each line is a regular language and the cursor never moves back, so time and memory are linear in
//! the text. A line with an error is left out and the rest is still read, so that one look shows
//! everything there is to mend.

use super::{
    ast::{Document, Group, Rule, Spanned, Verb},
    conditions::parse_conditions,
    cursor::{Cursor, Located, Word},
    peers::parse_peers,
    target::{parse_ports, parse_target},
    text::{Line, Span, logical_lines},
    time::Time,
};
use crate::{
    diagnostic::{Code, Diagnostic, Fault, Position, did_you_mean},
    limits::Limits,
};

/// Reported findings are cut here: a text that is wrong everywhere need not be quoted whole.
pub(crate) const MAX_FINDINGS: usize = 50;

/// What a line says.
enum Item {
    Group(Group),
    Rule(Box<Rule>),
}

/// Parses a policy text. `source` is the annotation key or file name, for messages.
///
/// # Errors
/// Every error that was found, at most 50.
pub fn parse(source: &str, text: &str, limits: &Limits) -> Result<Document, Vec<Diagnostic>> {
    let mut findings = Vec::new();
    if text.len() > limits.text_bytes {
        let message = format!("the text has {} bytes, {} are allowed", text.len(), limits.text_bytes);
        return Err(vec![Diagnostic::general(Code::Limit, source, message, "use patterns instead of lists")]);
    }
    for (number, line) in (1u32..).zip(text.lines()) {
        if line.len() > limits.line_bytes {
            let fault = Fault::new(
                Code::Limit,
                format!("the line has {} bytes, {} are allowed", line.len(), limits.line_bytes),
                "a line that ends in \",\" goes on in the next",
            );
            let position = Position { line: number, column: 1, width: 1 };
            return Err(vec![Diagnostic::at(source, text, position, fault)]);
        }
    }
    let mut document = Document::default();
    for line in logical_lines(text) {
        match parse_line(&line) {
            Ok(Item::Group(group)) => document.groups.push(group),
            Ok(Item::Rule(rule)) => document.rules.push(*rule),
            Err((span, fault)) => findings.push(Diagnostic::at(source, text, line.position(span), fault)),
        }
        if findings.len() >= MAX_FINDINGS {
            break;
        }
    }
    if findings.is_empty() { Ok(document) } else { Err(findings) }
}

/// The rule that begins in a line (from 1) of a text that parses.
pub(crate) fn rule_in_line(text: &str, number: u32) -> Option<Rule> {
    let line = logical_lines(text).find(|line| line.number() == number)?;
    match parse_line(&line) {
        Ok(Item::Rule(rule)) => Some(*rule),
        _ => None,
    }
}

fn parse_line(line: &Line) -> Located<Item> {
    let mut cursor = Cursor::new(line.text());
    let item = if cursor.keyword("group") {
        Item::Group(parse_group(&mut cursor, line)?)
    } else {
        Item::Rule(Box::new(parse_rule(&mut cursor, line)?))
    };
    Ok(item)
}

fn parse_group(cursor: &mut Cursor<'_>, line: &Line) -> Located<Group> {
    let word = cursor.word();
    let Some(name) = word.text.strip_prefix('@') else {
        let help = format!("write \"group @{} = ..\"", word.text);
        return word.fault(Code::Unexpected, "a group name starts with \"@\"", help);
    };
    check_name(word, name)?;
    let name = Spanned { node: name.to_owned(), at: line.position(word.span) };
    if !cursor.keyword("=") {
        return Err(cursor.unexpected("\"=\""));
    }
    let peers = parse_peers(cursor, line)?;
    end(cursor, "\",\" or the end of the line")?;
    Ok(Group { name, peers })
}

fn parse_rule(cursor: &mut Cursor<'_>, line: &Line) -> Located<Rule> {
    let audit = cursor.keyword("audit");
    let verb = parse_verb(cursor, line)?;
    let peers = parse_peers(cursor, line)?;
    let except = if cursor.keyword("except") { parse_peers(cursor, line)? } else { Vec::new() };
    if !cursor.keyword("to") {
        return Err(cursor.unexpected(if except.is_empty() {
            "\",\", \"except\" or \"to\""
        } else {
            "\",\" or \"to\""
        }));
    }
    let target = parse_target(cursor, line)?;
    let mut rule = Rule {
        audit,
        verb,
        peers,
        except,
        target,
        ports: vec![],
        conditions: vec![],
        until: None,
        name: None,
    };
    if cursor.keyword("on") {
        rule.ports = parse_ports(cursor, line)?;
    }
    if cursor.peek().text == "when" {
        let when = cursor.word();
        if !rule.target.is_http() {
            return when.fault(
                Code::Unexpected,
                "a tcp rule has no conditions",
                "remove \"when ..\": bytes have no headers",
            );
        }
        rule.conditions = parse_conditions(cursor, line)?;
    }
    if cursor.peek().text == "until" {
        let until = cursor.word();
        let time = parse_time(cursor, line)?;
        if rule.verb.node == Verb::Deny {
            return until.fault(
                Code::DenyUntil,
                "a deny has no end",
                "remove the line when it is no longer needed",
            );
        }
        rule.until = Some(time);
    }
    if cursor.keyword("as") {
        let word = cursor.word();
        check_name(word, word.text)?;
        rule.name = Some(Spanned { node: word.text.to_owned(), at: line.position(word.span) });
    }
    end(cursor, remaining_clauses(&rule))?;
    Ok(rule)
}

fn parse_verb(cursor: &mut Cursor<'_>, line: &Line) -> Located<Spanned<Verb>> {
    let word = cursor.word();
    let node = match word.text {
        "allow" => Verb::Allow,
        "deny" => Verb::Deny,
        unknown => {
            let help = match did_you_mean(unknown, ["allow", "deny", "audit", "group"]) {
                Some(verb) => format!("did you mean \"{verb}\"?"),
                None => "a line starts with allow, deny, audit allow, audit deny or group".to_owned(),
            };
            return word.fault(Code::UnknownVerb, format!("unknown verb \"{unknown}\""), help);
        }
    };
    Ok(Spanned { node, at: line.position(word.span) })
}

/// What may still follow, in the order of the grammar.
fn remaining_clauses(rule: &Rule) -> &'static str {
    match rule {
        Rule { name: Some(_), .. } => "the end of the line",
        Rule { until: Some(_), .. } => "\"as\" or the end of the line",
        Rule { conditions, .. } if !conditions.is_empty() => {
            "\"and\", \"until\", \"as\" or the end of the line"
        }
        Rule { ports, .. } if !ports.is_empty() => "\"when\", \"until\", \"as\" or the end of the line",
        _ => "\",\", \"on\", \"when\", \"until\", \"as\" or the end of the line",
    }
}

fn parse_time(cursor: &mut Cursor<'_>, line: &Line) -> Located<Spanned<Time>> {
    let word = cursor.word();
    match Time::parse(word.text) {
        Ok(node) => Ok(Spanned { node, at: line.position(word.span) }),
        Err(Code::TimeNeedsZone) => {
            let date = word.text.get(..10).unwrap_or_default();
            let clock = if word.text.len() > 10 { word.text.get(10..).unwrap_or_default() } else { "T18:00" };
            word.fault(
                Code::TimeNeedsZone,
                "a time needs an hour and a zone",
                format!("write \"{date}{clock}Z\""),
            )
        }
        Err(code) => word.fault(code, format!("\"{}\" is no time", word.text), "write \"2026-12-01T18:00Z\""),
    }
}

/// Checks the name of a group or rule.
pub(super) fn check_name(word: Word<'_>, name: &str) -> Located<()> {
    let mut chars = name.bytes();
    let begins = chars.next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let valid = chars.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if begins && valid && name.len() <= 40 {
        return Ok(());
    }
    let help = "names are 1 to 40 of a-z 0-9 -, and start with a letter or digit";
    word.fault(Code::Unexpected, format!("\"{name}\" is no name"), help)
}

/// A comma-separated list: `take` cuts an item off, `read` understands it.
pub(super) fn list<'l, T>(
    cursor: &mut Cursor<'l>,
    line: &Line,
    what: &str,
    take: impl Fn(&mut Cursor<'l>) -> Word<'l>,
    read: impl Fn(Word<'l>) -> Located<T>,
) -> Located<Vec<Spanned<T>>> {
    let mut items = Vec::new();
    cursor.skip_blanks();
    loop {
        let word = take(cursor);
        if word.text.is_empty() {
            return Err(cursor.unexpected(what));
        }
        items.push(Spanned { at: line.position(word.span), node: read(word)? });
        if !cursor.comma() {
            return Ok(items);
        }
    }
}

fn end(cursor: &mut Cursor<'_>, expected: &str) -> Located<()> {
    if cursor.is_at_end() {
        return Ok(());
    }
    let (span, mut fault): (Span, Fault) = cursor.unexpected(expected);
    let word = cursor.peek().text;
    if let Some(keyword) = did_you_mean(word, ["on", "when", "until", "as", "and", "except"]) {
        if keyword != word {
            fault.help = format!("did you mean \"{keyword}\"? {}", fault.help);
        } else if expected.contains(keyword) {
            fault.help = format!("the order is: on, when, until, as. {}", fault.help);
        }
    }
    Err((span, fault))
}
