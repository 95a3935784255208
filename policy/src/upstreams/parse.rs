//! The parser: one pass, every error reported.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use mantlet_id::{PeerPattern, SpiffeId};

use super::{
    Upstream, UpstreamProtocol,
    table::{Entry, Place, Upstreams},
};
use crate::{
    diagnostic::{Code, Diagnostic, Fault, did_you_mean},
    language::{
        MAX_FINDINGS,
        cursor::{Cursor, Located, Word},
        text::{Line, is_blank, logical_lines},
    },
    limits::Limits,
    workload::Workload,
};

/// Parses an upstreams text. Short forms resolve against `workload`.
///
/// # Errors
/// Every error that was found, at most 50.
pub fn parse(
    source: &str,
    text: &str,
    workload: &Workload,
    limits: &Limits,
) -> Result<Upstreams, Vec<Diagnostic>> {
    if text.len() > limits.text_bytes {
        let message = format!("the text has {} bytes, {} are allowed", text.len(), limits.text_bytes);
        let help = "use networks instead of lists";
        return Err(vec![Diagnostic::general(Code::UpstreamLimit, source, message, help)]);
    }
    let (mut upstreams, mut findings, mut count) = (Upstreams::default(), Vec::new(), 0);
    for line in logical_lines(text) {
        count += 1;
        let added = parse_line(&line, workload).and_then(|(dest, place, entry)| {
            if count > limits.rules {
                let message = format!("more than {} lines", limits.rules);
                return dest.fault(Code::UpstreamLimit, message, "use networks instead of lists");
            }
            upstreams.add(place, entry).or_else(|other| {
                let message = format!("\"{}\" is said otherwise in line {other}", dest.text);
                dest.fault(Code::UpstreamConflict, message, "keep one of them")
            })
        });
        if let Err((span, fault)) = added {
            findings.push(Diagnostic::at(source, text, line.position(span), fault));
            if findings.len() >= MAX_FINDINGS {
                break;
            }
        }
    }
    if findings.is_empty() { Ok(upstreams) } else { Err(findings) }
}

fn parse_line<'l>(line: &'l Line, workload: &Workload) -> Located<(Word<'l>, Place, Entry)> {
    let mut cursor = Cursor::new(line.text());
    let dest = cursor.word();
    let (place, first, last) = parse_destination(dest)?;
    let verb = cursor.word();
    let upstream = match verb.text {
        "is" => {
            if place == Place::Any {
                let help = "write \"* refuse\" or \"* passthrough\"";
                return verb.fault(Code::UpstreamDefault, "identities cannot be a default", help);
            }
            parse_mesh(&mut cursor, workload)?
        }
        "passthrough" => Upstream::Passthrough { http: parse_passthrough_as(&mut cursor)? },
        "refuse" => Upstream::Refuse,
        other => {
            let help = match (other, did_you_mean(other, ["is", "passthrough", "refuse"])) {
                ("plaintext" | "direct", _) => {
                    "write \"passthrough\": the application may well speak its own TLS".into()
                }
                (_, Some(near)) => format!("did you mean \"{near}\"?"),
                _ => "write \"is <identity>\", \"passthrough\" or \"refuse\"".to_owned(),
            };
            let message = match other {
                "" => "the line ends too early".to_owned(),
                other => format!("unexpected \"{other}\""),
            };
            return verb.fault(Code::UpstreamVerb, message, help);
        }
    };
    if !cursor.is_at_end() {
        let rest = cursor.word();
        return rest.fault(
            Code::UpstreamTrailing,
            format!("unexpected \"{}\"", rest.text),
            "the line should end here",
        );
    }
    let number = line.position(dest.span).line;
    Ok((dest, place, Entry { first, last, upstream, line: number }))
}

fn parse_passthrough_as(cursor: &mut Cursor<'_>) -> Located<bool> {
    if !cursor.keyword("as") {
        return Ok(false);
    }
    let word = cursor.word();
    if word.text == "http" {
        return Ok(true);
    }
    let help = "write \"passthrough\": the bytes go on as they are, whatever they are";
    word.fault(Code::UpstreamProtocol, format!("passthrough cannot be \"{}\"", word.text), help)
}

fn parse_mesh(cursor: &mut Cursor<'_>, workload: &Workload) -> Located<Upstream> {
    let mut ids = std::collections::BTreeSet::new();
    cursor.skip_blanks();
    loop {
        let word = cursor.take_while(|c| !is_blank(c) && c != ',');
        ids.insert(parse_id(word, workload)?);
        if !cursor.comma() {
            break;
        }
    }
    let mut protocol = None;
    if cursor.keyword("as") {
        let word = cursor.word();
        protocol = Some(match word.text {
            "http" => UpstreamProtocol::Http,
            "tcp" | "postgres" | "mysql" | "redis" => UpstreamProtocol::Opaque,
            other => {
                let known = ["http", "tcp", "postgres", "mysql", "redis"];
                let help = match did_you_mean(other, known) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => format!("there are {}", known.join(", ")),
                };
                return word.fault(Code::UpstreamProtocol, format!("unknown protocol \"{other}\""), help);
            }
        });
    }
    Ok(Upstream::Mesh { ids: Arc::new(ids), protocol })
}

fn parse_id(word: Word<'_>, workload: &Workload) -> Located<SpiffeId> {
    identity(word.text, workload).or_else(|(message, help)| word.fault(Code::UpstreamIdentity, message, help))
}

/// One identity as people write it, or what is wrong with it and how to put it right.
pub(super) fn identity(text: &str, workload: &Workload) -> Result<SpiffeId, (String, &'static str)> {
    let help = "write namespace/service-account, ./service-account or a full spiffe:// id";
    if text.is_empty() {
        return Err(("an identity is missing".to_owned(), help));
    }
    if text.contains('*') {
        let help = "list the identities; a wildcard would believe whoever answers";
        return Err((format!("\"{text}\" has a wildcard"), help));
    }
    let parsed = if text.starts_with("spiffe://") {
        PeerPattern::parse(text)
    } else {
        match text.strip_prefix("./") {
            Some(_) if workload.namespace.is_empty() => {
                return Err(("there is no own namespace here".to_owned(), "name the namespace"));
            }
            Some(account) => {
                PeerPattern::short(&workload.trust_domain, &format!("{}/{account}", workload.namespace))
            }
            None => PeerPattern::short(&workload.trust_domain, text),
        }
    };
    match parsed.as_ref().map(PeerPattern::exact) {
        Ok(Some(id)) => Ok(id),
        Ok(None) => Err((format!("\"{text}\" is no single identity"), help)),
        Err(error) => Err((format!("\"{text}\": {error}"), help)),
    }
}

/// `host:ports`, or `*`.
fn parse_destination(word: Word<'_>) -> Located<(Place, u16, u16)> {
    let text = word.text;
    if text == "*" {
        return Ok((Place::Any, 1, u16::MAX));
    }
    let shape = "write name:port, address:port, network:port or \"*\"";
    let Some((host, ports)) = text.rsplit_once(':') else {
        return word.fault(
            Code::UpstreamDestination,
            format!("\"{text}\" has no port"),
            format!("write \"{text}:8080\" or \"{text}:*\""),
        );
    };
    if ports.contains(']') {
        return word.fault(
            Code::UpstreamDestination,
            format!("\"{text}\" has no port"),
            format!("write \"{text}:8080\""),
        );
    }
    let place = if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        match parse_network(inner) {
            Some(network @ IpNet::V6(_)) => place_of(word, network)?,
            _ => {
                return word.fault(
                    Code::UpstreamDestination,
                    format!("\"{inner}\" is no IPv6 address"),
                    shape,
                );
            }
        }
    } else if host.contains(':') {
        let help = if host.parse::<Ipv6Addr>().is_ok() || parse_network(text).is_some() {
            format!("write \"[{host}]:{ports}\"")
        } else {
            shape.to_owned()
        };
        return word.fault(Code::UpstreamDestination, format!("\"{text}\" is no destination"), help);
    } else if let Some(network) = parse_network(host) {
        place_of(word, network)?
    } else {
        Place::Name(parse_name(word, host)?)
    };
    let (first, last) = parse_ports(word, ports)?;
    Ok((place, first, last))
}

fn parse_network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn place_of(word: Word<'_>, network: IpNet) -> Located<Place> {
    if network.trunc() == network {
        return Ok(Place::Network(network));
    }
    let help = format!("write \"{}\"", network.trunc());
    word.fault(Code::UpstreamDestination, format!("\"{network}\" has bits behind its prefix"), help)
}

fn parse_name(word: Word<'_>, name: &str) -> Located<String> {
    if name.contains('*') {
        let help = "wildcard names cannot be resolved; list names or a network";
        return word.fault(Code::UpstreamWildcardName, format!("\"{name}\" has a wildcard"), help);
    }
    let folded = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let label = |label: &str| {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(valid)
    };
    // A name of digits and dots alone is an address that somebody mistyped.
    let is_number = folded.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if folded.len() <= 253 && folded.split('.').all(label) && !is_number {
        return Ok(folded);
    }
    let help = "write a DNS name, an address or a network";
    word.fault(Code::UpstreamDestination, format!("\"{name}\" is no name and no address"), help)
}

fn parse_ports(word: Word<'_>, text: &str) -> Located<(u16, u16)> {
    if text == "*" {
        return Ok((1, u16::MAX));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first_port), Ok(last_port))
            if digits(first) && digits(last) && 0 < first_port && first_port <= last_port =>
        {
            Ok((first_port, last_port))
        }
        _ => {
            let fault = Fault::new(
                Code::UpstreamPort,
                format!("\"{text}\" is no port"),
                "write 8080, 8000-8010 or *",
            );
            Err((word.span, fault))
        }
    }
}
