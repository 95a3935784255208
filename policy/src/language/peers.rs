//! Peers: `mesh`, `@group`, `plaintext(..)`, `ns/sa` and `spiffe://..`.

use ipnet::IpNet;
use mantlet_id::{IdError, PatternError, PeerPattern, TrustDomain};

use super::{
    ast::{Peer, Plaintext, Spanned},
    cursor::{Cursor, Located, Word},
    parser::{check_name, list},
    text::{Line, is_blank},
};
use crate::diagnostic::{Code, did_you_mean};

const KEYWORDS: [&str; 2] = ["mesh", "plaintext"];

/// `peer *( "," [SP] peer )`.
pub(super) fn parse_peers(cursor: &mut Cursor<'_>, line: &Line) -> Located<Vec<Spanned<Peer>>> {
    list(cursor, line, "a peer", take_peer, parse_peer)
}

/// Up to a blank or a comma outside parentheses.
fn take_peer<'l>(cursor: &mut Cursor<'l>) -> Word<'l> {
    let mut depth = 0_u32;
    cursor.take_while(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > 0 || !(is_blank(c) || c == ',')
    })
}

fn parse_peer(word: Word<'_>) -> Located<Peer> {
    let text = word.text;
    if text == "mesh" {
        return Ok(Peer::Mesh);
    }
    if let Some(name) = text.strip_prefix('@') {
        check_name(word, name)?;
        return Ok(Peer::Group(name.to_owned()));
    }
    if text == "plaintext" || text.starts_with("plaintext(") {
        return parse_plaintext(word);
    }
    if text.starts_with("spiffe://") {
        return parse_spiffe(word);
    }
    if text.get(..9).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe://")) {
        let help = format!("write \"spiffe://{}\"", text.get(9..).unwrap_or_default());
        return word.fault(Code::PeerForm, format!("peer \"{text}\" has its scheme in upper case"), help);
    }
    parse_short(word)
}

fn parse_plaintext(word: Word<'_>) -> Located<Peer> {
    let help = "write plaintext(any), or networks such as plaintext(10.0.0.0/8)";
    let inner = word.text.strip_prefix("plaintext(").and_then(|rest| rest.strip_suffix(')'));
    match inner {
        None | Some("") => word.fault(Code::PlaintextForm, "plaintext needs a CIDR or \"any\"", help),
        Some("any") => Ok(Peer::Plaintext(Plaintext::Any)),
        Some(networks) => {
            let mut parsed = Vec::new();
            for network in networks.split(',').map(|network| network.trim_matches(is_blank)) {
                match network.parse::<IpNet>() {
                    Ok(network) => parsed.push(network),
                    Err(_) => {
                        let help = match network.parse::<std::net::IpAddr>() {
                            Ok(address) => format!("write \"{}\"", IpNet::from(address)),
                            Err(_) => help.to_owned(),
                        };
                        return word.fault(Code::PlaintextForm, format!("\"{network}\" is no network"), help);
                    }
                }
            }
            for network in &parsed {
                if network.trunc() != *network {
                    let help = format!("write \"{}\"", network.trunc());
                    let message = format!("\"{network}\" has bits behind its prefix");
                    return word.fault(Code::PlaintextForm, message, help);
                }
            }
            Ok(Peer::Plaintext(Plaintext::From(parsed)))
        }
    }
}

fn parse_spiffe(word: Word<'_>) -> Located<Peer> {
    match PeerPattern::parse(word.text) {
        Ok(_) => Ok(Peer::Spiffe(word.text.to_owned())),
        Err(error) => pattern_fault(word, &error),
    }
}

fn parse_short(word: Word<'_>) -> Located<Peer> {
    let text = word.text;
    let Some((namespace, account)) = text.split_once('/') else {
        if let Some(keyword) = did_you_mean(text, KEYWORDS) {
            let help = format!("did you mean \"{keyword}\"?");
            return word.fault(Code::PeerForm, format!("peer \"{text}\" needs a namespace"), help);
        }
        let help = format!("write \"./{text}\" (this namespace) or \"web/{text}\"");
        return word.fault(Code::PeerForm, format!("peer \"{text}\" needs a namespace"), help);
    };
    if account.contains('/') {
        let help = format!("write namespace/service-account, or \"spiffe://<trust domain>/{text}\"");
        return word.fault(Code::PeerForm, format!("peer \"{text}\" has more than two parts"), help);
    }
    // The own namespace is put in later; any valid name will do for the check.
    let namespace = if namespace == "." { "own" } else { namespace };
    let Ok(domain) = TrustDomain::parse("local") else {
        return word.fault(Code::PeerForm, "peer cannot be read", "");
    };
    match PeerPattern::short(&domain, &format!("{namespace}/{account}")) {
        Ok(_) => Ok(Peer::Short(text.to_owned())),
        Err(error) => pattern_fault(word, &error),
    }
}

fn pattern_fault<T>(word: Word<'_>, error: &PatternError) -> Located<T> {
    let text = word.text;
    match error {
        PatternError::StarPlace => {
            let help = "\"*\" is a whole segment or the end of one, as in \"mobile-*/gateway\"";
            word.fault(Code::PeerStar, format!("misplaced \"*\" in \"{text}\""), help)
        }
        PatternError::TailPlace => {
            let help = "\"**\" is the last segment of a full spiffe:// pattern";
            word.fault(Code::PeerStar, format!("misplaced \"**\" in \"{text}\""), help)
        }
        PatternError::Id(IdError::UpperCase) => {
            let (fixed, _) = mantlet_id::normalise_config(text);
            word.fault(Code::TrustDomainCase, "trust domain must be lower case", format!("write \"{fixed}\""))
        }
        PatternError::Id(IdError::TrustDomainCharacter('*')) => {
            let help = "a trust domain is a name or \"*\" alone";
            word.fault(Code::PeerStar, format!("misplaced \"*\" in \"{text}\""), help)
        }
        PatternError::Id(IdError::NoPath | IdError::TrailingSlash) => {
            let help = format!("write \"{}/**\" for all of it", text.trim_end_matches('/'));
            word.fault(Code::PeerForm, format!("\"{text}\" names no workload"), help)
        }
        error => word.fault(
            Code::PeerForm,
            format!("peer \"{text}\": {error}"),
            "write namespace/service-account or a full spiffe:// id",
        ),
    }
}
