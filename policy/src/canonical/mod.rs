//! Canonicalisation: a request has one meaning, or it is refused with a named reason.
//!
//! [`Canonical`] is the only source of what is matched, logged and forwarded, so the application,
//! the log and the matcher cannot disagree about which resource a request names.

mod host;
mod malformed;
mod path;

use std::{borrow::Cow, fmt};

pub use host::canonical_host;
pub use malformed::Malformed;
pub(crate) use path::{escape, is_pchar};

use crate::headers::{HeaderValues, has_token};

/// The most segments a path may have.
pub const MAX_SEGMENTS: usize = 64;

/// A request that has exactly one meaning.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Canonical<'a> {
    method: Cow<'a, str>,
    path: Cow<'a, str>,
    query: Option<Cow<'a, str>>,
    host: Option<Cow<'a, str>>,
    exchange: Exchange,
}

/// A request with a defective path that audit mode lets through as it came. Only
/// [`Policy::audited_raw`](crate::Policy::audited_raw) makes one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuditedRaw<'a> {
    pub(crate) method: Cow<'a, str>,
    pub(crate) path: Cow<'a, str>,
    pub(crate) query: Option<Cow<'a, str>>,
    pub(crate) host: Option<Cow<'a, str>>,
    pub(crate) exchange: Exchange,
    pub(crate) defect: Malformed,
}

/// What kind of exchange a request opens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exchange {
    /// Request and response.
    Plain,
    /// HTTP/2, `POST`, content-type `application/grpc`.
    Grpc,
    /// An HTTP/1.1 request for the WebSocket protocol (RFC 6455 section 4.1).
    WebSocket,
    /// `OPTIONS *`: about the server, not about any path.
    Asterisk,
}

/// The protocol version a request came in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

/// The parts of a request head, as an HTTP library gives them.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The version.
    pub version: Version,
    /// The method, as sent.
    pub method: &'a str,
    /// The scheme of an absolute-form target, or `:scheme`.
    pub scheme: Option<&'a str>,
    /// The authority of an absolute- or authority-form target, or `:authority`.
    pub authority: Option<&'a str>,
    /// The path without the query: `""` for an absolute-form target that has none, or `*`.
    pub path: &'a str,
    /// What follows the first `?`.
    pub query: Option<&'a str>,
    /// The `Host` field lines.
    pub host: HostLines<'a>,
}

/// How often `Host` was sent.
#[derive(Clone, Copy, Debug)]
pub enum HostLines<'a> {
    /// Not at all.
    None,
    /// Once, with this value.
    One(&'a [u8]),
    /// More often.
    Many,
}

/// Documented weakenings of a port (`mantlet.dev/http-options`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PathOptions {
    /// Merge repeated slashes and forward the merged path.
    pub merge_slashes: bool,
    /// Let `%2F` stand, as a part of its segment and never a separator.
    pub encoded_slash: bool,
}

// === impl Canonical ===

impl<'a> Canonical<'a> {
    /// Gives `head` its one meaning. Allocates only what is not canonical already.
    ///
    /// # Errors
    /// The first defect of target form, host, path and query, in this order.
    pub fn new(
        head: &RequestHead<'a>,
        headers: &dyn HeaderValues,
        options: PathOptions,
    ) -> Result<Self, Malformed> {
        let (form, host) = target_and_host(head)?;
        let (path, exchange) = match form {
            Form::Asterisk => (Cow::Borrowed("*"), Exchange::Asterisk),
            Form::Path(path) => (path::canonical_path(path, options)?, exchange(head, headers)),
        };
        let query = head.query.map(check_query).transpose()?;
        Ok(Self { method: Cow::Borrowed(head.method), path, query, host, exchange })
    }

    /// The path, as it is matched, logged and forwarded; `*` for `OPTIONS *`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The query, as it came. No rule looks at it.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// The host in canonical form. `None` when the request named none.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// The method, as it came.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// What kind of exchange this opens.
    #[must_use]
    pub fn exchange(&self) -> Exchange {
        self.exchange
    }

    /// The request target to forward, in origin-form (RFC 9112 section 3.2.1): path and query.
    #[must_use]
    pub fn target(&self) -> RequestTarget<'_> {
        RequestTarget { path: &self.path, query: self.query.as_deref() }
    }

    /// The same, owning its text.
    #[must_use]
    pub fn into_owned(self) -> Canonical<'static> {
        Canonical {
            method: owned(self.method),
            path: owned(self.path),
            query: self.query.map(owned),
            host: self.host.map(owned),
            exchange: self.exchange,
        }
    }
}

// === impl AuditedRaw ===

impl<'a> AuditedRaw<'a> {
    /// Takes what audit may let through: only the path is defective, everything else is checked.
    pub(crate) fn new(head: &RequestHead<'a>, headers: &dyn HeaderValues, defect: Malformed) -> Option<Self> {
        if !defect.is_path() {
            return None;
        }
        let (form, host) = target_and_host(head).ok()?;
        let Form::Path(path) = form else { return None };
        let query = head.query.map(check_query).transpose().ok()?;
        let (method, path) = (Cow::Borrowed(head.method), Cow::Borrowed(path));
        Some(Self { method, path, query, host, exchange: exchange(head, headers), defect })
    }

    /// What kind of exchange it opens: that does not depend on the path.
    #[must_use]
    pub fn exchange(&self) -> Exchange {
        self.exchange
    }

    /// What is wrong with the path.
    #[must_use]
    pub fn defect(&self) -> Malformed {
        self.defect
    }

    /// The method, as it came.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The path, as it came. Escape it before it is logged.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The query, as it came.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// The host in canonical form.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// The request target to forward: path and query as they came.
    #[must_use]
    pub fn target(&self) -> RequestTarget<'_> {
        RequestTarget { path: &self.path, query: self.query.as_deref() }
    }

    /// The same, owning its text.
    #[must_use]
    pub fn into_owned(self) -> AuditedRaw<'static> {
        AuditedRaw {
            method: owned(self.method),
            path: owned(self.path),
            query: self.query.map(owned),
            host: self.host.map(owned),
            exchange: self.exchange,
            defect: self.defect,
        }
    }
}

// === impl RequestTarget ===

/// An origin-form request target; print it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RequestTarget<'a> {
    path: &'a str,
    query: Option<&'a str>,
}

impl fmt::Display for RequestTarget<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path)?;
        match self.query {
            Some(query) => write!(f, "?{query}"),
            None => Ok(()),
        }
    }
}

/// What the target names.
enum Form<'a> {
    Path(&'a str),
    Asterisk,
}

fn owned(text: Cow<'_, str>) -> Cow<'static, str> {
    Cow::Owned(text.into_owned())
}

/// Target form and host, the parts that refuse in every mode.
fn target_and_host<'a>(head: &RequestHead<'a>) -> Result<(Form<'a>, Option<Cow<'a, str>>), Malformed> {
    if head.method.is_empty() || !head.method.bytes().all(is_token_byte) {
        return Err(Malformed::Method);
    }
    if head.method == "CONNECT" {
        return Err(Malformed::Connect);
    }
    let form = target_form(head)?;
    Ok((form, host(head)?))
}

fn target_form<'a>(head: &RequestHead<'a>) -> Result<Form<'a>, Malformed> {
    let options = head.method == "OPTIONS";
    if head.path == "*" {
        return if options && head.query.is_none() { Ok(Form::Asterisk) } else { Err(Malformed::Target) };
    }
    if head.version != Version::Http2 && head.authority.is_some() {
        // Absolute-form, or authority-form, which is for CONNECT alone.
        match head.scheme {
            Some(scheme) if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") => {}
            _ => return Err(Malformed::Target),
        }
        // `OPTIONS http://host` is asterisk-form (RFC 9112 section 3.2.4). Libraries print its empty
        // path as "/", so that is read the same way: it is about the server and matches no rule.
        if options && matches!(head.path, "" | "/") && head.query.is_none() {
            return Ok(Form::Asterisk);
        }
        return Ok(Form::Path(if head.path.is_empty() { "/" } else { head.path }));
    }
    if head.path.starts_with('/') { Ok(Form::Path(head.path)) } else { Err(Malformed::Target) }
}

fn host<'a>(head: &RequestHead<'a>) -> Result<Option<Cow<'a, str>>, Malformed> {
    let line = match head.host {
        HostLines::Many => return Err(Malformed::HostRepeated),
        HostLines::One(value) => {
            let value = std::str::from_utf8(value).map_err(|_| Malformed::Host)?;
            Some(canonical_host(value.trim_matches([' ', '\t']))?)
        }
        HostLines::None if head.version == Version::Http11 => return Err(Malformed::HostMissing),
        HostLines::None => None,
    };
    let authority = head.authority.map(canonical_host).transpose()?;
    match (authority, line) {
        (Some(authority), Some(line)) if authority != line => Err(Malformed::HostConflict),
        (authority, line) => Ok(authority.or(line)),
    }
}

fn exchange(head: &RequestHead<'_>, headers: &dyn HeaderValues) -> Exchange {
    match (head.version, head.method) {
        (Version::Http2, "POST") if is_grpc(headers) => Exchange::Grpc,
        (Version::Http11, "GET") if is_websocket(headers) => Exchange::WebSocket,
        _ => Exchange::Plain,
    }
}

/// `application/grpc`, exactly or followed by `+` or `;`, on one line. `application/grpc-web` is
/// plain HTTP: a browser reads its refusal.
fn is_grpc(headers: &dyn HeaderValues) -> bool {
    let (mut lines, mut grpc) = (0, false);
    headers.each("content-type", &mut |value| {
        lines += 1;
        grpc = value
            .strip_prefix(b"application/grpc".as_slice())
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')));
    });
    lines == 1 && grpc
}

/// RFC 6455 section 4.1: the `upgrade` token, `Upgrade: websocket` alone, and a key.
fn is_websocket(headers: &dyn HeaderValues) -> bool {
    let mut connection = false;
    headers.each("connection", &mut |value| connection |= has_token(value, b"upgrade"));
    if !connection {
        return false;
    }
    let (mut lines, mut websocket, mut key) = (0, false, false);
    headers.each("upgrade", &mut |value| {
        lines += 1;
        websocket = value.trim_ascii().eq_ignore_ascii_case(b"websocket");
    });
    headers.each("sec-websocket-key", &mut |_| key = true);
    lines == 1 && websocket && key
}

/// Query bytes pass as they came, except those that servers repair in different ways.
fn check_query(query: &str) -> Result<Cow<'_, str>, Malformed> {
    let clean = query.bytes().all(|byte| matches!(byte, 0x21..=0x7e) && !matches!(byte, b'"' | b'\\' | b'#'));
    if clean { Ok(Cow::Borrowed(query)) } else { Err(Malformed::BadQuery) }
}

/// RFC 9110 section 5.6.2.
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The canonical form of a path on its own, as policy texts and tests write it.
///
/// # Errors
/// The first defect.
pub fn canonicalise_path(path: &str, options: PathOptions) -> Result<Cow<'_, str>, Malformed> {
    path::canonical_path(path, options)
}
