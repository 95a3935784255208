//! What a rule is about: methods and paths, gRPC methods, bytes; and on which ports.

use super::{
    ast::{Methods, Path, Port, Rpc, Segment, Spanned, Tail, Target},
    cursor::{Cursor, Located, Word},
    parser::list,
    text::{Line, is_blank},
};
use crate::{
    canonical::{Malformed, PathOptions, canonicalise_path, is_pchar},
    diagnostic::Code,
};

/// `methods SP paths`, `grpc rpcs` or `tcp`.
pub(super) fn parse_target(cursor: &mut Cursor<'_>, line: &Line) -> Located<Target> {
    if cursor.keyword("tcp") {
        return Ok(Target::Tcp);
    }
    if cursor.keyword("grpc") {
        return Ok(Target::Grpc(list(cursor, line, "a service/Method", take_item, parse_rpc)?));
    }
    let first = cursor.peek();
    if first.text.starts_with('/') {
        let help = format!("write \"GET {0}\" or \"* {0}\"", first.text);
        return first.fault(Code::MethodMissing, "a path needs a method in front", help);
    }
    let methods = parse_methods(cursor, line)?;
    let paths = list(cursor, line, "a path", take_path, parse_path)?;
    Ok(Target::Http { methods, paths })
}

fn parse_methods(cursor: &mut Cursor<'_>, line: &Line) -> Located<Methods> {
    if cursor.keyword("*") {
        return Ok(Methods::Any);
    }
    let methods = list(cursor, line, "a method, \"grpc\" or \"tcp\"", take_item, parse_method)?;
    Ok(Methods::Only(methods.into_iter().map(|method| method.node).collect()))
}

fn parse_method(word: Word<'_>) -> Located<String> {
    let text = word.text;
    if text == "CONNECT" {
        return word.fault(Code::MethodCase, "CONNECT is never allowed", "remove it: nothing is tunnelled");
    }
    if text.bytes().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_' | b'0'..=b'9')) {
        return Ok(text.to_owned());
    }
    let upper = text.to_ascii_uppercase();
    if text.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return word.fault(
            Code::MethodCase,
            format!("method \"{text}\" is not upper case"),
            format!("write \"{upper}\""),
        );
    }
    let help = "write methods such as GET,HEAD or \"*\", then a path; or \"grpc service/Method\"; or \"tcp\"";
    word.fault(Code::MethodCase, format!("\"{text}\" is no method"), help)
}

/// Up to a blank or a comma.
fn take_item<'l>(cursor: &mut Cursor<'l>) -> Word<'l> {
    cursor.take_while(|c| !is_blank(c) && c != ',')
}

/// Up to a blank, or a comma with another path or nothing behind it: a path may contain commas.
fn take_path<'l>(cursor: &mut Cursor<'l>) -> Word<'l> {
    let ahead = cursor.ahead();
    let end = ahead.char_indices().find(|(at, c)| {
        is_blank(*c)
            || (*c == ','
                && ahead.get(at + 1..).is_none_or(|s| s.is_empty() || s.starts_with(['/', ' ', '\t'])))
    });
    cursor.take(end.map_or(ahead.len(), |(at, _)| at))
}

fn parse_path(word: Word<'_>) -> Located<Path> {
    let text = word.text;
    if looks_like_regex(text) {
        let help = "use \"*\" or \"{id}\" for one segment and \"/**\" for everything below";
        return word.fault(Code::Regex, format!("\"{text}\" looks like a regular expression"), help);
    }
    let Some(rest) = text.strip_prefix('/') else {
        let help = format!("write \"/{text}\"");
        return word.fault(Code::PathNotCanonical, format!("path \"{text}\" must start with \"/\""), help);
    };
    let (rest, tail) = match (rest, rest.strip_suffix("/**")) {
        ("", _) => return Ok(Path { segments: Vec::new(), tail: Tail::Slash }),
        ("**", _) => return Ok(Path { segments: Vec::new(), tail: Tail::Subtree }),
        (_, Some(front)) => (front, Tail::Subtree),
        (_, None) => match rest.strip_suffix('/') {
            Some(front) => (front, Tail::Slash),
            None => (rest, Tail::Exact),
        },
    };
    let segments: Vec<Segment> =
        rest.split('/').map(|segment| parse_segment(word, segment)).collect::<Result<_, _>>()?;
    let path = Path { segments, tail };
    check_canonical(word, &path)?;
    Ok(path)
}

/// The literal parts have to be written as requests are matched. Otherwise two rules could look
/// different and mean the same, or one could look as if it protected something and never match.
fn check_canonical(word: Word<'_>, path: &Path) -> Located<()> {
    // Wildcards are replaced by a letter, which is canonical and neither hides nor makes a defect.
    let mut probe = String::new();
    for segment in &path.segments {
        probe.push('/');
        match segment {
            Segment::Literal(text) => probe.push_str(text),
            Segment::Star | Segment::Named(_) => probe.push('x'),
            Segment::Prefix(text) => probe.extend([text, "x"]),
            Segment::Suffix(text) => probe.extend(["x", text]),
        }
    }
    if path.segments.is_empty() || path.tail == Tail::Slash {
        probe.push('/');
    }
    // Only a port with `encoded-slash` ever sees `%2F`; on any other the pattern just never matches.
    let options = PathOptions { encoded_slash: true, merge_slashes: false };
    match canonicalise_path(&probe, options) {
        Ok(canonical) if canonical == probe => Ok(()),
        Ok(_) => {
            let canonical = canonical_spelling(word.text);
            let help = format!("write \"{canonical}\"");
            word.fault(Code::PathNotCanonical, format!("path \"{}\" is not canonical", word.text), help)
        }
        Err(defect) => {
            let help = match defect {
                Malformed::EmptySegment => {
                    "requests with \"//\" are refused; write single slashes".to_owned()
                }
                Malformed::DotSegment => {
                    "requests with \"..\" are refused; write the path they lead to".to_owned()
                }
                defect => format!("no request can have this path: it is refused as {defect}"),
            };
            word.fault(Code::PathNotCanonical, format!("path \"{}\": {}", word.text, defect.explain()), help)
        }
    }
}

/// The text with each of its segments in canonical form, wildcards kept.
fn canonical_spelling(text: &str) -> String {
    let options = PathOptions { encoded_slash: true, merge_slashes: false };
    let mut out = String::new();
    for segment in text.split('/').skip(1) {
        let slashed = format!("/{segment}");
        match canonicalise_path(&slashed, options) {
            Ok(canonical) => out.push_str(&canonical),
            Err(_) => out.push_str(&slashed),
        }
    }
    out
}

fn parse_segment(word: Word<'_>, segment: &str) -> Located<Segment> {
    if let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        let valid = (1..=40).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if valid {
            return Ok(Segment::Named(name.to_owned()));
        }
        let help = "the name in {..} is 1 to 40 of A-Z a-z 0-9 - _";
        return word.fault(Code::Unexpected, format!("\"{segment}\" is no placeholder"), help);
    }
    if segment.contains(['{', '}']) {
        let help = "a placeholder is a whole segment, as in /orders/{id}";
        return word.fault(Code::Unexpected, format!("\"{segment}\" mixes text and placeholder"), help);
    }
    if segment.bytes().any(|byte| byte == b';' || !(is_pchar(byte) || byte == b'%')) {
        let help = "write it percent-encoded; \";\" is refused in requests";
        return word.fault(
            Code::PathNotCanonical,
            format!("\"{segment}\" has a character that no path has"),
            help,
        );
    }
    match (segment.split_once('*'), segment) {
        (None, _) => Ok(Segment::Literal(segment.to_owned())),
        (Some(("", "")), _) => Ok(Segment::Star),
        (Some((begin, "")), _) => Ok(Segment::Prefix(begin.to_owned())),
        (Some(("", end)), _) if !end.contains('*') => Ok(Segment::Suffix(end.to_owned())),
        (Some(("", "*")), "**") => {
            word.fault(Code::Unexpected, "\"**\" is only allowed at the end", "use \"*\" for one segment")
        }
        _ => {
            let help = "write it at the beginning or the end of a segment, once";
            word.fault(Code::Unexpected, format!("misplaced \"*\" in \"{segment}\""), help)
        }
    }
}

/// Whether somebody meant a regular expression, which would match nothing as a literal.
fn looks_like_regex(text: &str) -> bool {
    let alternatives = text.find('(').is_some_and(|at| text.get(at..).is_some_and(|rest| rest.contains('|')));
    text.contains(".*")
        || text.contains(".+")
        || text.contains('[')
        || alternatives
        || text.starts_with('^')
        || text.ends_with('$')
}

fn parse_rpc(word: Word<'_>) -> Located<Rpc> {
    let text = word.text;
    let shape = "write \"package.Service/Method\", \"package.Service/*\" or \"package.*/*\"";
    let bad = |message: String| word.fault(Code::Unexpected, message, shape);
    let Some((service, method)) = text.trim_start_matches('/').split_once('/') else {
        return bad(format!("\"{text}\" has no method"));
    };
    if text.starts_with('/') {
        return word.fault(
            Code::Unexpected,
            "a gRPC method has no slash in front",
            format!("write \"{service}/{method}\""),
        );
    }
    let identifiers = service.strip_suffix(".*").unwrap_or(service);
    let is_identifier = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if !identifiers.split('.').all(is_identifier) {
        return bad(format!("\"{service}\" is no service"));
    }
    match method {
        "*" => Ok(Rpc { service: service.to_owned(), method: None }),
        name if is_identifier(name) => Ok(Rpc { service: service.to_owned(), method: Some(name.to_owned()) }),
        name => bad(format!("\"{name}\" is no method")),
    }
}

/// `port *( "," port )`.
pub(super) fn parse_ports(cursor: &mut Cursor<'_>, line: &Line) -> Located<Vec<Spanned<Port>>> {
    list(cursor, line, "a port", take_item, parse_port)
}

fn parse_port(word: Word<'_>) -> Located<Port> {
    let text = word.text;
    if text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
    {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        return match (first.parse::<u16>(), last.parse::<u16>()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(Port::Range(first, last)),
            _ => word.fault(
                Code::Unexpected,
                format!("\"{text}\" is no port"),
                "ports are 1 to 65535, ranges 8000-8010",
            ),
        };
    }
    // Kubernetes: an IANA service name, at most 15 of a-z 0-9 -.
    let valid = (1..=15).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if valid {
        return Ok(Port::Named(text.to_owned()));
    }
    word.fault(
        Code::Unexpected,
        format!("\"{text}\" is no port"),
        "write a number, a range or the name of a container port",
    )
}
