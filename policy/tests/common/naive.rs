//! A second matcher, written from the meaning of the language alone: every rule, every clause, every
//! time. Slow and obvious. It shares the parser with the crate and nothing else.

use mantlet_policy::{
    canonical::{Canonical, Exchange},
    language::{
        Time,
        ast::{
            Condition, Document, HeaderTest, HostPattern, Methods, Path, Peer, Plaintext, Port, Rpc, Rule,
            Segment, Tail, Target, Value, Verb,
        },
    },
};

use super::Request;

const LOCAL: &str = "td.test";
const NAMESPACE: &str = "shop";
const DECLARED: &[(&str, u16)] = &[("http", 8080), ("grpc", 9090), ("pg", 5432)];

/// What the rules say: `allow policy:3`, `deny default`, ...
pub fn decide(
    document: &Document,
    caller: &str,
    request: Option<(&Request, &Canonical<'_>)>,
    port: u16,
    now: Time,
) -> String {
    let here: Vec<&Rule> =
        document.rules.iter().filter(|rule| ports(document, rule).contains(&port)).collect();
    let is_http = here.iter().any(|rule| rule.target.is_http());
    if is_http != request.is_some() {
        return "deny default".into();
    }
    let matching = |rule: &&&Rule| {
        peers(document, &rule.peers, caller)
            && !peers(document, &rule.except, caller)
            && request.is_none_or(|(request, canonical)| asks(rule, request, canonical))
    };
    let live = |rule: &Rule| rule.until.as_ref().is_none_or(|until| now < until.node);
    let find = |audit: bool, verb: Verb| {
        here.iter()
            .filter(|rule| rule.audit == audit && rule.verb.node == verb)
            .filter(matching)
            .find(|rule| live(rule))
    };
    let label = |rule: &Rule| match &rule.name {
        Some(name) => name.node.clone(),
        None => format!("policy:{}", rule.line()),
    };
    if let Some(rule) = find(false, Verb::Deny) {
        return format!("deny {}", label(rule));
    }
    if let Some(rule) = find(false, Verb::Allow) {
        return match find(true, Verb::Deny) {
            Some(audit) => format!("would_deny {}", label(audit)),
            None => format!("allow {}", label(rule)),
        };
    }
    let expired =
        here.iter().filter(|rule| !rule.audit && rule.verb.node == Verb::Allow).any(|rule| matching(&rule));
    if expired { "deny expired".into() } else { "deny default".into() }
}

/// The ports that a rule is about.
fn ports(document: &Document, rule: &Rule) -> Vec<u16> {
    let number = |name: &str| DECLARED.iter().find(|(n, _)| *n == name).unwrap().1;
    let listed = |rule: &Rule| -> Vec<u16> {
        let mut all = Vec::new();
        for port in &rule.ports {
            match &port.node {
                Port::Range(first, last) => all.extend(*first..=*last),
                Port::Named(name) => all.push(number(name)),
            }
        }
        all
    };
    if !rule.ports.is_empty() {
        return listed(rule);
    }
    let opaque: Vec<u16> =
        document.rules.iter().filter(|other| !other.target.is_http()).flat_map(listed).collect();
    DECLARED.iter().map(|(_, port)| *port).filter(|port| !opaque.contains(port)).collect()
}

fn peers(document: &Document, list: &[mantlet_policy::language::ast::Spanned<Peer>], caller: &str) -> bool {
    list.iter().any(|peer| is_peer(document, &peer.node, caller))
}

fn is_peer(document: &Document, peer: &Peer, caller: &str) -> bool {
    let ip = caller.parse::<std::net::IpAddr>().ok().map(|ip| ip.to_canonical());
    match peer {
        Peer::Group(name) => {
            let group = document.groups.iter().find(|group| group.name.node == *name).unwrap();
            peers(document, &group.peers, caller)
        }
        Peer::Plaintext(Plaintext::Any) => ip.is_some(),
        Peer::Plaintext(Plaintext::From(networks)) => {
            ip.is_some_and(|ip| networks.iter().any(|net| net.contains(&ip)))
        }
        _ if ip.is_some() => false,
        Peer::Mesh => id_matches(&format!("spiffe://{LOCAL}/**"), &full(caller)),
        Peer::Short(text) => id_matches(&full(text), &full(caller)),
        Peer::Spiffe(text) => id_matches(text, &full(caller)),
    }
}

fn full(short: &str) -> String {
    if short.starts_with("spiffe://") {
        return short.to_owned();
    }
    let (namespace, account) = short.split_once('/').unwrap();
    let namespace = if namespace == "." { NAMESPACE } else { namespace };
    format!("spiffe://{LOCAL}/ns/{namespace}/sa/{account}")
}

fn id_matches(pattern: &str, id: &str) -> bool {
    let pattern: Vec<&str> = pattern["spiffe://".len()..].split('/').collect();
    let id: Vec<&str> = id["spiffe://".len()..].split('/').collect();
    let segment = |(pattern, text): (&&str, &&str)| match pattern.strip_suffix('*') {
        Some(begin) => text.starts_with(begin),
        None => pattern == text,
    };
    match pattern.split_last() {
        Some((&"**", front)) => id.len() > front.len() && front.iter().zip(&id).all(segment),
        _ => id.len() == pattern.len() && pattern.iter().zip(&id).all(segment),
    }
}

fn asks(rule: &Rule, request: &Request, canonical: &Canonical<'_>) -> bool {
    let deny = rule.verb.node == Verb::Deny;
    let exchange = canonical.exchange();
    if exchange == Exchange::Asterisk {
        return false;
    }
    let what = match &rule.target {
        Target::Tcp => false,
        Target::Http { methods, paths } => {
            method(methods, canonical.method(), exchange, deny)
                && paths.iter().any(|p| path(&p.node, canonical.path(), deny))
        }
        Target::Grpc(rpcs) => {
            (deny || exchange == Exchange::Grpc)
                && rpcs.iter().any(|rpc| path(&rpc_path(&rpc.node), canonical.path(), deny))
        }
    };
    what && rule.conditions.iter().all(|c| condition(&c.node, request, canonical.host(), deny))
}

fn method(methods: &Methods, method: &str, exchange: Exchange, deny: bool) -> bool {
    let websocket = exchange == Exchange::WebSocket;
    match methods {
        Methods::Any => deny || (!websocket && method != "TRACE"),
        Methods::Only(names) => names.iter().any(|name| match (name.as_str(), websocket) {
            ("WEBSOCKET", websocket) => websocket,
            (name, true) => deny && name == method,
            (name, false) => name == method,
        }),
    }
}

fn rpc_path(rpc: &Rpc) -> Path {
    let service = match rpc.service.strip_suffix('*') {
        Some(package) => Segment::Prefix(package.into()),
        None => Segment::Literal(rpc.service.clone()),
    };
    let method = rpc.method.clone().map_or(Segment::Star, Segment::Literal);
    Path { segments: vec![service, method], tail: Tail::Exact }
}

fn path(pattern: &Path, path: &str, deny: bool) -> bool {
    let mut parts: Vec<String> =
        path.split('/').skip(1).map(|part| if deny { fold(part) } else { part.into() }).collect();
    let mut slash = false;
    if parts.last().is_some_and(String::is_empty) {
        parts.pop();
        slash = true;
    }
    let count = pattern.segments.len();
    let length = match pattern.tail {
        Tail::Subtree => parts.len() >= count,
        Tail::Exact | Tail::Slash if deny => parts.len() == count,
        Tail::Exact => parts.len() == count && !slash,
        Tail::Slash => parts.len() == count && slash,
    };
    let text = |text: &str| if deny { fold(text) } else { text.to_owned() };
    length
        && pattern.segments.iter().zip(&parts).all(|(pattern, part)| match pattern {
            Segment::Star | Segment::Named(_) => !part.is_empty(),
            Segment::Literal(literal) => text(literal) == *part,
            Segment::Prefix(begin) => part.starts_with(&text(begin)),
            Segment::Suffix(end) => part.ends_with(&text(end)),
        })
}

/// Letters in lower case, escapes of path characters decoded, parameters dropped.
pub fn fold(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let escaped =
            (c == '%').then(|| u8::from_str_radix(rest.get(1..3).unwrap_or("x"), 16).ok()).flatten();
        match escaped.map(char::from) {
            Some(d) if d.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@".contains(d) => {
                out.push(d);
                rest = &rest[3..];
            }
            _ => {
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    out.split(';').next().unwrap_or_default().to_ascii_lowercase()
}

fn condition(condition: &Condition, request: &Request, host: Option<&str>, deny: bool) -> bool {
    match condition {
        Condition::Host(hosts) => {
            host.map_or(deny, |host| hosts.iter().any(|pattern| is_host(pattern, host)))
        }
        Condition::Header { name, test } => {
            let lines: Vec<&str> =
                request.headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect();
            match test {
                HeaderTest::Present => !lines.is_empty(),
                HeaderTest::Absent => lines.is_empty(),
                HeaderTest::In(values) if deny => lines.iter().any(|line| {
                    let unreadable = line.chars().any(|c| !matches!(c, '\t' | ' '..='~'));
                    let naive = line.split(',').map(str::to_owned);
                    unreadable
                        || naive
                            .chain(quoted(line))
                            .any(|part| values.iter().any(|v| is_value_folded(v, part.trim())))
                }),
                HeaderTest::In(values) => match lines.as_slice() {
                    [line] => {
                        let readable = line.chars().all(|c| matches!(c, '\t' | ' '..='~'));
                        readable
                            && quoted(line).len() == 1
                            && values.iter().any(|value| is_value(value, line.trim()))
                    }
                    _ => false,
                },
            }
        }
    }
}

/// The parts between commas outside quotes.
fn quoted(line: &str) -> Vec<String> {
    let (mut parts, mut inside, mut escaped) = (vec![String::new()], false, false);
    for c in line.chars() {
        if c == ',' && !inside {
            parts.push(String::new());
            continue;
        }
        if escaped {
            escaped = false;
        } else if c == '\\' && inside {
            escaped = true;
        } else if c == '"' {
            inside = !inside;
        }
        parts.last_mut().unwrap().push(c);
    }
    parts
}

fn is_value(value: &Value, text: &str) -> bool {
    if value.prefix { text.starts_with(&value.text) } else { text == value.text }
}

fn is_value_folded(value: &Value, text: &str) -> bool {
    let folded = Value { text: value.text.to_ascii_lowercase(), prefix: value.prefix };
    is_value(&folded, &text.to_ascii_lowercase())
}

fn is_host(pattern: &HostPattern, host: &str) -> bool {
    if pattern.below {
        host.len() > pattern.name.len() + 1 && host.ends_with(&format!(".{}", pattern.name))
    } else {
        host == pattern.name
    }
}
