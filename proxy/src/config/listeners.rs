//! Explicit listeners: `LISTEN=UPSTREAM` and `LISTEN=UPSTREAM[,UPSTREAM..] is IDS [as PROTOCOL]`, the same words as in
//! the upstreams language.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
};

use mantlet_id::{SpiffeId, TrustDomain, normalise_config};

use super::values::{Checked, address};

/// Accepts mesh connections and forwards to the app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundListener {
    /// Where peers connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The app.
    pub upstream: SocketAddr,
}

/// Accepts the app's connections and carries them to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundListener {
    /// Where the app connects; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the peer is; never empty. Of several, whichever is best at the moment is taken.
    pub upstreams: Vec<UpstreamAddr>,
    /// Who must be there.
    pub peer: Peer,
}

/// Who must be at an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// One of these.
    Is {
        /// Whom the peer must prove to be; never empty.
        ids: BTreeSet<SpiffeId>,
        /// `None`: the peer is asked.
        protocol: Option<UpstreamProtocol>,
    },
    /// Whoever the lines of the upstreams language say, for a client that wanted to go to this address.
    ByLines(SocketAddr),
}

/// Where a peer is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum UpstreamAddr {
    /// A fixed address.
    Ip(SocketAddr),
    /// A name, resolved when it is used.
    Name {
        /// Lower-case DNS name without a trailing dot.
        host: String,
        /// Port, never 0.
        port: u16,
    },
}

/// A host without its port.
#[derive(Debug, Clone)]
pub(super) enum Host {
    Ip(IpAddr),
    Name(String),
}

/// What is spoken on an outbound listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    /// HTTP/1.1 or HTTP/2, per request.
    Http,
    /// Bytes; `postgres`, `mysql` and `redis` mean this and document intent.
    Opaque,
}

/// What short identities (`shop/web`, `./web`) resolve against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Home<'a> {
    pub(super) trust_domain: Option<&'a TrustDomain>,
    pub(super) namespace: Option<&'a str>,
}

pub(super) fn inbound(text: &str) -> Checked<InboundListener> {
    let (listen, upstream) = text.split_once('=').ok_or("no = between LISTEN and UPSTREAM")?;
    let upstream = address(upstream.trim()).map_err(|problem| format!("UPSTREAM: {problem}"))?;
    if upstream.port() == 0 {
        return Err("UPSTREAM: port 0 is nowhere".to_owned());
    }
    Ok(InboundListener { listen: listen_address(listen)?, upstream })
}

pub(super) fn outbound(text: &str, home: Home<'_>) -> Checked<OutboundListener> {
    let (listen, rest) = text.split_once('=').ok_or("no = between LISTEN and UPSTREAM")?;
    let listen = listen_address(listen)?;
    let (upstreams, rest) = split_word(rest.trim());
    let upstreams = upstreams.split(',').map(upstream_address).collect::<Checked<Vec<_>>>()?;
    let (is, rest) = split_word(rest);
    if is.is_empty() {
        return match upstreams.as_slice() {
            [UpstreamAddr::Ip(addr)] => {
                let peer = Peer::ByLines(*addr);
                Ok(OutboundListener { listen, upstreams, peer })
            }
            _ => Err("without is IDS, UPSTREAM is one IP address, which the upstreams file says more of"
                .to_owned()),
        };
    }
    if is != "is" {
        return Err("UPSTREAM must be followed by: is IDS (there is no \"anyone\")".to_owned());
    }
    // `ids = id *( "," [SP] id )`: a blank inside the list stands only behind a comma.
    let words: Vec<&str> = rest.split_ascii_whitespace().collect();
    let (ids, protocol) = match words.as_slice() {
        [ids @ .., "as", protocol] => (ids, Some(upstream_protocol(protocol)?)),
        [_, .., "as"] => return Err("nothing behind as".to_owned()),
        ids => (ids, None),
    };
    let ids = identities(&ids.join(" "), home)?;
    Ok(OutboundListener { listen, upstreams, peer: Peer::Is { ids, protocol } })
}

fn split_word(text: &str) -> (&str, &str) {
    match text.split_once(|c: char| c.is_ascii_whitespace()) {
        Some((word, rest)) => (word, rest.trim_start()),
        None => (text, ""),
    }
}

fn listen_address(text: &str) -> Checked<SocketAddr> {
    address(text.trim()).map_err(|problem| format!("LISTEN: {problem}"))
}

fn upstream_address(text: &str) -> Checked<UpstreamAddr> {
    host_port(text).map_err(|problem| format!("UPSTREAM: {problem}"))
}

pub(super) fn host_port(text: &str) -> Checked<UpstreamAddr> {
    if let Ok(ip) = address(text) {
        return match ip.port() {
            0 => Err("port 0 is nowhere".to_owned()),
            _ => Ok(UpstreamAddr::Ip(ip)),
        };
    }
    let (name, port) = text.rsplit_once(':').ok_or("no port")?;
    let port = match port.parse::<u16>() {
        Ok(port) if port != 0 => port,
        _ => return Err("the port is not a number from 1 to 65535".to_owned()),
    };
    let name = dns_name(name).ok_or("neither an IP address nor a DNS name")?;
    Ok(UpstreamAddr::Name { host: name, port })
}

/// An address or a name, whose port stands elsewhere.
pub(super) fn host(text: &str) -> Checked<Host> {
    match text.parse() {
        Ok(ip) => Ok(Host::Ip(ip)),
        Err(_) => {
            dns_name(text).map(Host::Name).ok_or_else(|| "neither an IP address nor a DNS name".to_owned())
        }
    }
}

/// In lower case and without a trailing dot.
fn dns_name(name: &str) -> Option<String> {
    let host = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A name whose last label is a number is a mistyped IPv4 address (WHATWG URL 3.5).
    let numeric_end = host.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    (host.len() <= 253 && !numeric_end && host.split('.').all(label)).then_some(host)
}

fn upstream_protocol(word: &str) -> Checked<UpstreamProtocol> {
    match word {
        "http" => Ok(UpstreamProtocol::Http),
        "tcp" | "postgres" | "mysql" | "redis" => Ok(UpstreamProtocol::Opaque),
        _ => Err(format!("unknown protocol {word:?} behind as")),
    }
}

fn identities(text: &str, home: Home<'_>) -> Checked<BTreeSet<SpiffeId>> {
    if text.is_empty() {
        return Err("no identity behind is".to_owned());
    }
    text.split(',').map(|id| identity(id.strip_prefix(' ').unwrap_or(id), home)).collect()
}

fn identity(id: &str, home: Home<'_>) -> Checked<SpiffeId> {
    let wrong = |error: mantlet_id::IdError| format!("identity {id:?}: {error}");
    if id.contains('*') {
        return Err(format!("identity {id:?}: no wildcards here, list the identities"));
    }
    if id.contains("://") {
        return SpiffeId::parse(&normalise_config(id).0).map_err(wrong);
    }
    let (namespace, account) = id.split_once('/').ok_or_else(|| {
        format!("identity {id:?} is neither namespace/account nor ./account nor spiffe://...")
    })?;
    let namespace = match (namespace, home.namespace) {
        (".", Some(namespace)) => namespace,
        (".", None) => return Err(format!("identity {id:?} needs --namespace")),
        (namespace, _) => namespace,
    };
    let trust_domain = home.trust_domain.ok_or_else(|| format!("identity {id:?} needs --trust-domain"))?;
    SpiffeId::workload(trust_domain, namespace, account).map_err(wrong)
}

// === impl OutboundListener ===

impl OutboundListener {
    /// The upstreams, as they are written.
    #[must_use]
    pub fn shown(&self) -> String {
        self.upstreams.iter().map(UpstreamAddr::to_string).collect::<Vec<_>>().join(",")
    }
}

// === impl Host ===

impl Host {
    pub(super) fn at(self, port: u16) -> UpstreamAddr {
        match self {
            Self::Ip(ip) => UpstreamAddr::Ip(SocketAddr::new(ip, port)),
            Self::Name(host) => UpstreamAddr::Name { host, port },
        }
    }
}

// === impl UpstreamAddr ===

impl fmt::Display for UpstreamAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl UpstreamAddr {
    /// The port that peers and policies know the upstream by.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Ip(address) => address.port(),
            Self::Name { port, .. } => *port,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Checked<OutboundListener> {
        let domain = TrustDomain::parse("prod.test").unwrap();
        outbound(text, Home { trust_domain: Some(&domain), namespace: Some("shop") })
    }

    fn protocol(listener: &OutboundListener) -> Option<UpstreamProtocol> {
        match &listener.peer {
            Peer::Is { protocol, .. } => *protocol,
            Peer::ByLines(_) => panic!("by lines"),
        }
    }

    #[test]
    fn several_upstreams_stand_in_a_list_and_lines_decide_about_one_address_alone() {
        let parsed = parse("127.0.0.1:0=10.0.0.1:80,orders.shop:81 is shop/orders").unwrap();
        assert_eq!(parsed.shown(), "10.0.0.1:80,orders.shop:81");
        assert_eq!(
            parse("127.0.0.1:0=10.0.0.1:80").unwrap().peer,
            Peer::ByLines("10.0.0.1:80".parse().unwrap())
        );
        for text in ["127.0.0.1:0=10.0.0.1:80,10.0.0.2:80", "127.0.0.1:0=orders.shop:80"] {
            assert!(parse(text).unwrap_err().contains("one IP address"), "{text}");
        }
        assert!(parse("127.0.0.1:0=10.0.0.1:80, is shop/orders").is_err());
    }

    #[test]
    fn an_outbound_listener_names_upstream_identities_and_protocol() {
        let parsed =
            parse("127.0.0.1:0=Orders.shop.:8080 is shop/orders, ./self,spiffe://Other.Test/x as http")
                .unwrap();
        assert_eq!(parsed.shown(), "orders.shop:8080");
        let Peer::Is { ids, .. } = &parsed.peer else { panic!("identities") };
        assert_eq!(protocol(&parsed), Some(UpstreamProtocol::Http));
        let ids: Vec<&str> = ids.iter().map(SpiffeId::as_str).collect();
        assert_eq!(
            ids,
            [
                "spiffe://other.test/x",
                "spiffe://prod.test/ns/shop/sa/orders",
                "spiffe://prod.test/ns/shop/sa/self"
            ]
        );
        for word in ["tcp", "postgres", "mysql", "redis"] {
            let parsed = parse(&format!("127.0.0.1:0=10.0.0.1:5432 is data/db as {word}")).unwrap();
            assert_eq!(protocol(&parsed), Some(UpstreamProtocol::Opaque));
        }
        assert_eq!(protocol(&parse("127.0.0.1:0=[::1]:5432 is data/db").unwrap()), None);
    }

    #[test]
    fn an_outbound_listener_without_exactly_one_meaning_is_refused() {
        for (text, part) in [
            ("127.0.0.1:1", "no ="),
            ("127.0.0.1=h:1 is a/b", "LISTEN"),
            ("127.0.0.1:1=h is a/b", "no port"),
            ("127.0.0.1:1=h:0 is a/b", "port"),
            ("127.0.0.1:1=127.0.0:80 is a/b", "neither an IP"),
            ("127.0.0.1:1=h_:80x is a/b", "port"),
            ("127.0.0.1:1=-h:80 is a/b", "neither an IP"),
            ("127.0.0.1:1=h:80", "one IP address"),
            ("127.0.0.1:1=h:80 as http", "is IDS"),
            ("127.0.0.1:1=h:80 is", "no identity"),
            ("127.0.0.1:1=h:80 is as http", "no identity"),
            ("127.0.0.1:1=h:80 is a/b as", "nothing behind as"),
            ("127.0.0.1:1=h:80 is a/b as ftp", "unknown protocol"),
            ("127.0.0.1:1=h:80 is a/*", "wildcards"),
            ("127.0.0.1:1=h:80 is a/b c/d", "identity"),
            ("127.0.0.1:1=h:80 is a/b,", "identity"),
            ("127.0.0.1:1=h:80 is mesh", "neither"),
            ("127.0.0.1:1=h:80 is spiffe://prod.test", "identity"),
            ("127.0.0.1:1=h:80 is a/b/c", "identity"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn short_identities_say_which_key_they_miss() {
        let home = Home { trust_domain: None, namespace: None };
        assert!(outbound("127.0.0.1:1=h:80 is a/b", home).unwrap_err().contains("--trust-domain"));
        assert!(outbound("127.0.0.1:1=h:80 is ./b", home).unwrap_err().contains("--namespace"));
        assert!(outbound("127.0.0.1:1=h:80 is spiffe://x/y", home).is_ok());
    }

    #[test]
    fn an_inbound_listener_forwards_to_an_address() {
        assert!(inbound("127.0.0.1:0=127.0.0.1:80").is_ok());
        for text in ["127.0.0.1:0", "127.0.0.1:0=app:80", "127.0.0.1:0=127.0.0.1:0", "x=127.0.0.1:80"] {
            assert!(inbound(text).is_err(), "{text}");
        }
    }
}
