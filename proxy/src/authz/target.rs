//! How the policy reads a request.

use std::time::SystemTime;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    header::{CONNECTION, CONTENT_TYPE, HOST, SEC_WEBSOCKET_KEY, TRANSFER_ENCODING, UPGRADE},
    uri::{Authority, PathAndQuery},
};
use mantlet_policy::{
    Policy, Target,
    canonical::{self, AuditedRaw, Canonical, Exchange, HostLines, Malformed, RequestHead},
    headers::{HeaderValues, NamedHeaders},
};

use crate::limits::{HEAD_BYTES, HEAD_FIELDS, TARGET_BYTES};

/// What a field costs beyond its bytes (RFC 9113, 6.5.2), on HTTP/1 too: one limit for both. What was
/// repeated cheaply on the wire (RFC 7541 table entries) counts as what it decodes to (CVE-2026-47774).
const FIELD_OVERHEAD: usize = 32;

/// Fields that decide what kind of exchange a request opens.
const STRUCTURAL: [HeaderName; 5] = [HOST, CONTENT_TYPE, CONNECTION, UPGRADE, SEC_WEBSOCKET_KEY];

/// What a request in flight is judged again by: its head, with the values of the fields that the
/// policy could see. The target is made canonical again each time, under the options of the policy
/// that judges.
#[derive(Debug)]
pub struct Facts {
    method: Method,
    uri: Uri,
    version: Version,
    fields: Vec<(HeaderName, HeaderValue)>,
    named: NamedHeaders,
}

/// The policy's view of a header map.
pub(super) struct Headers<'a>(pub(super) &'a HeaderMap);

/// What a request means: exactly one thing, or, in audit, what it says as it stands.
pub(super) enum Meaning<'a> {
    Canonical(Canonical<'a>),
    Audited(AuditedRaw<'a>),
}

/// The meaning of a request on `port`.
///
/// # Errors
/// It has none, or more than one.
pub(super) fn meaning<'a, B>(
    request: &'a Request<B>,
    rules: &Policy,
    port: u16,
    now: SystemTime,
) -> Result<Meaning<'a>, Malformed> {
    let headers = request.headers();
    within_limits(request)?;
    one_framing(request)?;
    let mut hosts = headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
    let head = head(request.method(), request.uri(), request.version(), &mut hosts);
    let meaning = Meaning::of(&head, &Headers(headers), rules, port, now)?;
    for (name, value) in headers {
        rules.named_headers().check_field(name.as_str(), value.as_bytes())?;
    }
    Ok(meaning)
}

/// The HTTP libraries have limits of their own, but each counts in its own way.
fn within_limits<B>(request: &Request<B>) -> Result<(), Malformed> {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > TARGET_BYTES {
        return Err(Malformed::TargetTooLong);
    }
    let authority = request.uri().authority().map_or(0, |authority| authority.as_str().len());
    let pseudo = if request.version() == Version::HTTP_2 { 4 } else { 0 };
    let fields = request.headers().len() + pseudo;
    let bytes = |sum: usize, (name, value): (&HeaderName, &HeaderValue)| {
        sum + name.as_str().len() + value.len() + FIELD_OVERHEAD
    };
    let bytes = request.headers().iter().fold(target + authority + pseudo * FIELD_OVERHEAD, bytes);
    if fields > HEAD_FIELDS || bytes > HEAD_BYTES { Err(Malformed::HeadTooLarge) } else { Ok(()) }
}

/// `Transfer-Encoding` is `chunked`, alone, on HTTP/1.1 (RFC 9112, 6.1): hyper also takes a list that
/// ends so, and what another server makes of the rest is anybody's guess.
fn one_framing<B>(request: &Request<B>) -> Result<(), Malformed> {
    let mut lines = request.headers().get_all(TRANSFER_ENCODING).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(()),
        (Some(line), None)
            if request.version() == Version::HTTP_11
                && line.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") =>
        {
            Ok(())
        }
        _ => Err(Malformed::Framing),
    }
}

/// Whether the own application asks a peer for the WebSocket protocol (RFC 6455, 4.1).
pub(super) fn asks_for_websocket<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let upgrades =
        || headers.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && upgrades().any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        && headers.contains_key(SEC_WEBSOCKET_KEY)
}

/// The head as the HTTP library gives it.
fn head<'a>(
    method: &'a Method,
    uri: &'a Uri,
    version: Version,
    hosts: &mut dyn Iterator<Item = &'a [u8]>,
) -> RequestHead<'a> {
    RequestHead {
        version: match version {
            Version::HTTP_2 => canonical::Version::Http2,
            Version::HTTP_11 => canonical::Version::Http11,
            _ => canonical::Version::Http10,
        },
        method: method.as_str(),
        scheme: uri.scheme_str(),
        authority: uri.authority().map(Authority::as_str),
        path: uri.path_and_query().map_or("", PathAndQuery::path),
        query: uri.query(),
        host: match (hosts.next(), hosts.next()) {
            (None, _) => HostLines::None,
            (Some(one), None) => HostLines::One(one),
            (Some(_), Some(_)) => HostLines::Many,
        },
    }
}

// === impl Meaning ===

impl<'a> Meaning<'a> {
    fn of(
        head: &RequestHead<'a>,
        headers: &dyn HeaderValues,
        rules: &Policy,
        port: u16,
        now: SystemTime,
    ) -> Result<Self, Malformed> {
        let options = rules.port_options(port).path;
        Canonical::new(head, headers, options).map(Self::Canonical).or_else(|malformed| {
            rules.audited_raw(head, headers, malformed, now).map(Self::Audited).ok_or(malformed)
        })
    }

    pub(super) fn target(&self) -> Target<'_> {
        match self {
            Self::Canonical(canonical) => Target::Canonical(canonical),
            Self::Audited(raw) => Target::AuditedRaw(raw),
        }
    }

    pub(super) fn is_websocket(&self) -> bool {
        let exchange = match self {
            Self::Canonical(canonical) => canonical.exchange(),
            Self::Audited(raw) => raw.exchange(),
        };
        exchange == Exchange::WebSocket
    }

    /// The target to forward: rebuilt from what was matched and from nothing else. `None` when it
    /// is what the request has already.
    ///
    /// # Errors
    /// It cannot be written as a target; the request's own must not take its place.
    pub(super) fn forwarded(&self, given: &Uri) -> Result<Option<Uri>, Malformed> {
        let Self::Canonical(canonical) = self else { return Ok(None) };
        let same = given
            .path_and_query()
            .is_some_and(|given| given.path() == canonical.path() && given.query() == canonical.query());
        if same {
            return Ok(None);
        }
        let target = PathAndQuery::try_from(canonical.target().to_string());
        let mut parts = given.clone().into_parts();
        parts.path_and_query = Some(target.map_err(|_| Malformed::Target)?);
        Uri::from_parts(parts).map(Some).map_err(|_| Malformed::Target)
    }
}

// === impl Facts ===

impl Facts {
    /// Keeps what a later judgement can need; cheap copies, all of them.
    pub(super) fn new<B>(request: &Request<B>, named: &NamedHeaders) -> Self {
        let headers = request.headers();
        let wanted = |name: &&HeaderName| STRUCTURAL.contains(name) || named.contains(name.as_str());
        let fields = headers
            .keys()
            .filter(wanted)
            .flat_map(|name| headers.get_all(name).iter().map(|value| (name.clone(), value.clone())))
            .collect();
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            fields,
            named: named.clone(),
        }
    }

    /// The same with bytes of its own. What the HTTP library hands out are views of the buffer that a connection
    /// reads into; whoever keeps one longer than the request keeps the whole buffer.
    pub(super) fn detached(self) -> Self {
        let own = |(name, value): (HeaderName, HeaderValue)| {
            // What has been a name and a value is one again.
            let name = HeaderName::from_bytes(name.as_str().as_bytes()).unwrap_or(name);
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap_or(value);
            (name, value)
        };
        let uri = self.uri.to_string().parse().unwrap_or(self.uri);
        Self { uri, fields: self.fields.into_iter().map(own).collect(), ..self }
    }

    /// How many bytes it holds, if they are its own.
    pub(super) fn bytes(&self) -> usize {
        let target = self.uri.path_and_query().map_or(0, |target| target.as_str().len())
            + self.uri.authority().map_or(0, |authority| authority.as_str().len());
        let field =
            |(name, value): &(HeaderName, HeaderValue)| name.as_str().len() + value.len() + FIELD_OVERHEAD;
        self.method.as_str().len() + target + self.fields.iter().map(field).sum::<usize>()
    }

    /// The meaning under `rules`, which may read it otherwise than those that admitted it.
    ///
    /// # Errors
    /// Under these rules the request would be refused.
    pub(super) fn meaning(
        &self,
        rules: &Policy,
        port: u16,
        now: SystemTime,
    ) -> Result<Meaning<'_>, Malformed> {
        let mut hosts =
            self.fields.iter().filter(|(name, _)| *name == HOST).map(|(_, value)| value.as_bytes());
        Meaning::of(&head(&self.method, &self.uri, self.version, &mut hosts), self, rules, port, now)
    }
}

impl HeaderValues for Facts {
    fn each(&self, name: &str, f: &mut dyn FnMut(&[u8])) {
        self.fields.iter().filter(|(field, _)| field == name).for_each(|(_, value)| f(value.as_bytes()));
    }

    fn kept(&self, name: &str) -> bool {
        self.named.contains(name)
    }
}

// === impl Headers ===

impl HeaderValues for Headers<'_> {
    fn each(&self, name: &str, f: &mut dyn FnMut(&[u8])) {
        self.0.get_all(name).iter().for_each(|value| f(value.as_bytes()));
    }
}
