//! The address of a Workload API (WE 4): `unix:` or `tcp:`, nothing else, no guessing.
//!
//! A wrong address is the commonest mistake of a first installation, so every error names the rule and,
//! where it can be known, the spelling that was probably meant.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// The name of the standard environment variable (WE 4).
pub const ENDPOINT_ENV: &str = "SPIFFE_ENDPOINT_SOCKET";

/// A Workload API to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A Unix socket. The path is resolved at every connect: the agent unlinks and recreates it.
    Unix(PathBuf),
    /// A TCP socket, without TLS (WE 3).
    Tcp(SocketAddr),
}

/// Why an address is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Nothing was given.
    #[error("the Workload API address is empty; write unix:///path/to/agent.sock")]
    Empty,
    /// No `scheme:` in front.
    #[error("{0:?} has no scheme; write {1}")]
    NoScheme(String, String),
    /// Another scheme than `unix` and `tcp`.
    #[error("scheme {0:?} is not allowed; a Workload API is at unix:///path or tcp://IP:PORT")]
    Scheme(String),
    /// A query or a fragment.
    #[error("{0:?} is not allowed in a Workload API address; write {1}")]
    Suffix(char, String),
    /// User info in front of a host.
    #[error("user info is not allowed in a Workload API address")]
    UserInfo,
    /// `unix://something/...`: the second slash made the first directory an authority.
    #[error("a unix address has no host, and this one names {0:?}; write {1}")]
    UnixAuthority(String, String),
    /// `unix:relative`.
    #[error("a unix address needs an absolute path; write {0}")]
    UnixRelative(String),
    /// `unix:`, `unix://` or `unix:///`.
    #[error("a unix address needs the path of a socket; write unix:///path/to/agent.sock")]
    UnixNoPath,
    /// A percent-escape that is none, or one that stands for NUL.
    #[error("the path has a bad percent-escape (RFC 3986 2.1)")]
    UnixEscape,
    /// `tcp:opaque`, `tcp://` and `tcp:///`.
    #[error("a tcp address needs an IP address and a port; write tcp://127.0.0.1:8000")]
    TcpNoHost,
    /// A host name instead of an IP address.
    #[error("{0:?} is not an IP address, and names are not allowed; write tcp://127.0.0.1:{1}")]
    TcpName(String, String),
    /// No port, or one out of range.
    #[error("a tcp address needs a port of 1 to 65535; write tcp://{0}:8000")]
    TcpPort(String),
    /// A path after the port.
    #[error("a tcp address has no path; write tcp://{0}")]
    TcpPath(String),
    /// `0.0.0.0` or `[::]`: an address to listen at, not one to connect to.
    #[error("{0} is an address to listen at; write tcp://127.0.0.1:{1}")]
    TcpUnspecified(IpAddr, u16),
    /// The environment variable is not UTF-8.
    #[error("{ENDPOINT_ENV} is not UTF-8")]
    NotUtf8,
    /// Neither configured nor in the environment.
    #[error("no Workload API address: set {ENDPOINT_ENV}=unix:///path/to/agent.sock")]
    NotSet,
}

// === impl Endpoint ===

impl Endpoint {
    /// Parses an address by WE 4.
    ///
    /// # Errors
    /// The rule that the address breaks, with the corrected form.
    pub fn parse(address: &str) -> Result<Self, EndpointError> {
        if address.is_empty() {
            return Err(EndpointError::Empty);
        }
        let Some((scheme, rest)) = address.split_once(':').filter(|(scheme, _)| is_scheme(scheme)) else {
            return Err(EndpointError::NoScheme(address.to_owned(), guess(address)));
        };
        // RFC 3986 3.1: schemes compare without case.
        let unix = scheme.eq_ignore_ascii_case("unix");
        if !unix && !scheme.eq_ignore_ascii_case("tcp") {
            if scheme.parse::<IpAddr>().is_ok() || scheme.eq_ignore_ascii_case("localhost") {
                return Err(EndpointError::NoScheme(address.to_owned(), guess(address)));
            }
            return Err(EndpointError::Scheme(scheme.to_owned()));
        }
        if let Some((kept, _)) = rest.split_once(['?', '#']) {
            let wrong =
                if rest.get(kept.len()..).is_some_and(|tail| tail.starts_with('?')) { '?' } else { '#' };
            return Err(EndpointError::Suffix(wrong, format!("{}:{kept}", scheme.to_ascii_lowercase())));
        }
        if unix { Self::parse_unix(rest) } else { Self::parse_tcp(rest) }
    }

    /// The configured address if there is one, else the value of [`ENDPOINT_ENV`] (WE 4). The lookup is an
    /// argument, so that nothing here reads the process environment.
    ///
    /// # Errors
    /// The rule that the address breaks, or that there is none.
    pub fn configured_or_env(
        configured: Option<&str>,
        env: impl FnOnce(&str) -> Option<std::ffi::OsString>,
    ) -> Result<Self, EndpointError> {
        if let Some(address) = configured {
            return Self::parse(address);
        }
        match env(ENDPOINT_ENV) {
            Some(value) => Self::parse(value.to_str().ok_or(EndpointError::NotUtf8)?),
            None => Err(EndpointError::NotSet),
        }
    }

    /// What to tell the operator about an address that is valid and probably not meant: the Workload API has
    /// no TLS and no client authentication, so it belongs on the same machine (WE 3).
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        match self {
            Self::Tcp(address) if !is_local(address.ip()) => Some(format!(
                "{address} is neither a loopback nor a link-local address; the Workload API carries private keys without TLS"
            )),
            _ => None,
        }
    }

    /// The path of the socket, if it is a Unix socket.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Tcp(_) => None,
        }
    }

    fn parse_unix(rest: &str) -> Result<Self, EndpointError> {
        let path = match rest.strip_prefix("//") {
            Some(after) => {
                let (authority, path) = match after.find('/') {
                    Some(at) => after.split_at(at),
                    None => (after, ""),
                };
                if authority.contains('@') {
                    return Err(EndpointError::UserInfo);
                }
                if !authority.is_empty() {
                    return Err(EndpointError::UnixAuthority(
                        authority.to_owned(),
                        format!("unix:///{after}"),
                    ));
                }
                path
            }
            None => rest,
        };
        if path.is_empty() || path == "/" {
            return Err(EndpointError::UnixNoPath);
        }
        if !path.starts_with('/') {
            return Err(EndpointError::UnixRelative(format!("unix:///{path}")));
        }
        percent_decode(path).map(Self::Unix)
    }

    fn parse_tcp(rest: &str) -> Result<Self, EndpointError> {
        let after = rest.strip_prefix("//").ok_or(EndpointError::TcpNoHost)?;
        let (authority, path) = match after.find('/') {
            Some(at) => after.split_at(at),
            None => (after, ""),
        };
        if authority.is_empty() {
            return Err(EndpointError::TcpNoHost);
        }
        if authority.contains('@') {
            return Err(EndpointError::UserInfo);
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => {
                let (host, tail) = bracketed.split_once(']').ok_or(EndpointError::TcpNoHost)?;
                (host, tail.strip_prefix(':'))
            }
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let ip: IpAddr = host.parse().map_err(|_| {
            EndpointError::TcpName(
                host.to_owned(),
                port.filter(|p| !p.is_empty()).unwrap_or("8000").to_owned(),
            )
        })?;
        // Brackets belong to IPv6 and to nothing else (RFC 3986 3.2.2).
        if ip.is_ipv6() != authority.starts_with('[') {
            return Err(EndpointError::TcpNoHost);
        }
        let shown = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
        let port = port
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|digits| digits.parse::<u16>().ok())
            .filter(|port| *port != 0)
            .ok_or_else(|| EndpointError::TcpPort(shown.clone()))?;
        if !path.is_empty() {
            return Err(EndpointError::TcpPath(format!("{shown}:{port}")));
        }
        if ip.is_unspecified() {
            return Err(EndpointError::TcpUnspecified(ip, port));
        }
        Ok(Self::Tcp(SocketAddr::new(ip, port)))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl std::str::FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(address: &str) -> Result<Self, EndpointError> {
        Self::parse(address)
    }
}

/// RFC 3986 3.1.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// What somebody who left out the scheme has probably meant.
fn guess(address: &str) -> String {
    if address.parse::<SocketAddr>().is_ok() {
        return format!("tcp://{address}");
    }
    match address.strip_prefix("localhost:") {
        Some(port) => format!("tcp://127.0.0.1:{port}"),
        None => format!("unix:///{}", address.trim_start_matches('/')),
    }
}

fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

/// RFC 3986 2.1, over the bytes of the path. NUL ends a path for the kernel, so it is refused.
fn percent_decode(path: &str) -> Result<PathBuf, EndpointError> {
    use std::os::unix::ffi::OsStringExt as _;

    let mut bytes = path.bytes();
    let mut out = Vec::with_capacity(path.len());
    while let Some(byte) = bytes.next() {
        let decoded = if byte == b'%' {
            match (bytes.next().and_then(hex), bytes.next().and_then(hex)) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err(EndpointError::UnixEscape),
            }
        } else {
            byte
        };
        if decoded == 0 {
            return Err(EndpointError::UnixEscape);
        }
        out.push(decoded);
    }
    Ok(PathBuf::from(std::ffi::OsString::from_vec(out)))
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}
