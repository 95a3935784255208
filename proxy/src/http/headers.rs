//! What may cross a hop, and what only the sidecar may say.
//!
//! Order matters: `Connection` is consumed first, then the names we own are removed, then they are
//! set from the TLS handshake. A `Connection` header that could still remove what we set is how other
//! proxies lost their identity headers (CVE-2024-45410, CVE-2021-32813).

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRAILER, TRANSFER_ENCODING},
    uri::{Authority, PathAndQuery, Scheme},
};
use mantlet_policy::headers::is_owned;

use crate::detect::HttpVersion;

/// The identity of the caller, for the application: Envoy's form, set from the TLS handshake only.
pub const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// The HTTP version that the client's application spoke, carried across the mesh hop.
pub const PROTO: HeaderName = HeaderName::from_static("x-mantlet-proto");
/// Why a request was refused by policy, and the id of the decision.
pub const DENIED: HeaderName = HeaderName::from_static("x-mantlet-denied");
/// Why a request failed for another reason than policy, and the id under which it is logged.
pub const ERROR: HeaderName = HeaderName::from_static("x-mantlet-error");

/// Whether a field belongs to one connection only (RFC 9110, 7.6.1) or was invented for proxies of
/// another kind. `expect` is met by the hop that reads the body, and asking the next one to meet it
/// again would make two answers of one. `te` and `trailer` are treated apart: `te: trailers` crosses
/// the hop, gRPC needs it, and so do the names of trailers, HTTP/1 sends none that is not announced.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "expect"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// Removes what belongs to the connection that the message came in on.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> =
        tokens(headers, CONNECTION).filter_map(|token| HeaderName::from_bytes(token).ok()).collect();
    for name in named {
        headers.remove(name);
    }
    let trailers = tokens(headers, TE).any(|token| token.eq_ignore_ascii_case(b"trailers"));
    let announced = announced_trailers(headers);
    remove_where(headers, |name| is_hop_by_hop(name) || *name == TE || *name == TRAILER);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(announced) = announced {
        headers.insert(TRAILER, announced);
    }
}

/// What may stand in trailers: nothing that belongs to one connection or that only the sidecar may
/// say, and nothing that frames, routes or authorises the message whose end it comes with (RFC 9110, 6.5.1).
pub fn clean_trailers(trailers: &mut HeaderMap) {
    remove_where(trailers, |name| !is_trailer(name));
}

fn is_trailer(name: &HeaderName) -> bool {
    let frames = matches!(
        name.as_str(),
        "authorization"
            | "content-encoding"
            | "content-length"
            | "content-range"
            | "content-type"
            | "cookie"
            | "host"
            | "set-cookie"
            | "te"
            | "trailer"
    );
    !frames && !is_hop_by_hop(name) && !is_owned(name.as_str())
}

/// The trailers that the message announces, without those that will not cross.
fn announced_trailers(headers: &HeaderMap) -> Option<HeaderValue> {
    let names = tokens(headers, TRAILER).filter_map(|token| HeaderName::from_bytes(token).ok());
    let names: Vec<HeaderName> = names.filter(is_trailer).collect();
    let names: Vec<&str> = names.iter().map(HeaderName::as_str).collect();
    HeaderValue::try_from(names.join(", ")).ok().filter(|value| !value.is_empty())
}

/// The elements of a list field, over all its lines.
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(name).into_iter();
    lines.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

/// Removes what only the sidecar may say.
pub fn remove_owned(headers: &mut HeaderMap) {
    remove_where(headers, |name| is_owned(name.as_str()));
}

fn remove_where(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Whether a refusal of `request` must be told in gRPC's way: HTTP/2 with a content-type of
/// `application/grpc`, alone or followed by `+` or `;`.
#[must_use]
pub fn is_grpc<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_2 && has_grpc_content_type(request.headers())
}

fn has_grpc_content_type(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The version to speak to the application: the one that the client's application spoke, as its
/// sidecar says. A peer of another make says nothing: gRPC needs HTTP/2, all else gets HTTP/1.1,
/// or HTTP/2 where the port is declared so.
#[must_use]
pub fn upstream_version(headers: &HeaderMap, h2c_port: bool) -> (HttpVersion, Version) {
    match headers.get(PROTO).map(HeaderValue::as_bytes) {
        Some(b"2") => (HttpVersion::H2, Version::HTTP_2),
        Some(b"1.0") => (HttpVersion::H1, Version::HTTP_10),
        Some(b"1.1") => (HttpVersion::H1, Version::HTTP_11),
        _ if h2c_port || has_grpc_content_type(headers) => (HttpVersion::H2, Version::HTTP_2),
        _ => (HttpVersion::H1, Version::HTTP_11),
    }
}

/// The value of [`PROTO`] for what an application spoke.
#[must_use]
pub fn proto(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    })
}

/// Puts the authority of a request where `version` keeps it: the `Host` field for HTTP/1,
/// `:authority` for HTTP/2 (RFC 9113, 8.3.1). The target becomes origin-form for HTTP/1.
pub fn place_authority<B>(request: &mut Request<B>, version: HttpVersion, wire: Version) {
    let target = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let in_target = request.uri().authority().cloned();
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(target);
    *request.version_mut() = wire;
    match version {
        HttpVersion::H1 => {
            if let Some(authority) = in_target
                && let Ok(host) = HeaderValue::from_str(authority.as_str())
            {
                request.headers_mut().insert(HOST, host);
            }
        }
        HttpVersion::H2 => {
            let authority = in_target.or_else(|| {
                request.headers().get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok())
            });
            request.headers_mut().remove(HOST);
            if authority.is_none() {
                // Without an authority the target stays relative, which is an error of the h2 crate
                // unless the request says that it comes from HTTP/1.
                *request.version_mut() = Version::HTTP_11;
            } else {
                parts.scheme = Some(Scheme::HTTP);
            }
            parts.authority = authority;
        }
    }
    // The parts come from a URI and an authority that were parsed before.
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// hyper takes a GET of unknown length for one without a body, unless its framing is said.
pub fn frame_body<B: http_body::Body>(request: &mut Request<B>) {
    let forgotten = matches!(*request.method(), Method::GET | Method::HEAD);
    let body = request.body();
    if forgotten
        && request.version() == Version::HTTP_11
        && !body.is_end_stream()
        && body.size_hint().exact().is_none()
        && !request.headers().contains_key(CONTENT_LENGTH)
    {
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let lines = lines.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)));
        lines.fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        })
    }

    #[test]
    fn what_connection_names_goes_with_it() {
        let mut headers = map(&[
            ("connection", "close, X-Own"),
            ("x-own", "1"),
            ("keep-alive", "5"),
            ("upgrade", "h2c"),
            ("http2-settings", "AA"),
            ("x-kept", "1"),
        ]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("x-kept", "1")]));
    }

    #[test]
    fn te_crosses_the_hop_as_trailers_only() {
        let mut headers = map(&[("te", "gzip")]);
        remove_hop_by_hop(&mut headers);
        assert!(headers.is_empty());
        let mut headers = map(&[("te", "Trailers")]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("te", "trailers")]));
    }

    #[test]
    fn announced_trailers_cross_the_hop_except_those_that_will_not() {
        let mut headers = map(&[("trailer", "X-Sum, Host,"), ("trailer", "x-mantlet-denied, x-end")]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("trailer", "x-sum, x-end")]));
        let mut headers = map(&[("trailer", "content-length")]);
        remove_hop_by_hop(&mut headers);
        assert!(headers.is_empty());
        let mut trailers = map(&[("x-sum", "1"), ("host", "a"), ("x-forwarded-client-cert", "b")]);
        clean_trailers(&mut trailers);
        assert_eq!(trailers, map(&[("x-sum", "1")]));
    }

    #[test]
    fn owned_names_are_removed_whoever_sent_them() {
        let mut headers = map(&[
            ("x-forwarded-client-cert", "a"),
            ("x-mantlet-proto", "2"),
            ("x-mantlet-later", "x"),
            ("a", "b"),
        ]);
        remove_owned(&mut headers);
        assert_eq!(headers, map(&[("a", "b")]));
    }

    #[test]
    fn the_applications_version_crosses_the_hop() {
        let version = |lines: &[_], h2c| upstream_version(&map(lines), h2c);
        assert_eq!(version(&[("x-mantlet-proto", "2")], false), (HttpVersion::H2, Version::HTTP_2));
        assert_eq!(version(&[("x-mantlet-proto", "1.0")], true), (HttpVersion::H1, Version::HTTP_10));
        assert_eq!(version(&[], false), (HttpVersion::H1, Version::HTTP_11));
        assert_eq!(version(&[], true), (HttpVersion::H2, Version::HTTP_2));
        assert_eq!(version(&[("content-type", "application/grpc+proto")], false).0, HttpVersion::H2);
        assert_eq!(version(&[("content-type", "application/grpc-web")], false).0, HttpVersion::H1);
    }

    #[test]
    fn the_authority_stands_where_each_version_keeps_it() {
        let mut request = Request::get("/a?b").header("host", "x:1").body(()).unwrap();
        place_authority(&mut request, HttpVersion::H2, Version::HTTP_2);
        assert_eq!(request.uri().to_string(), "http://x:1/a?b");
        assert!(request.headers().is_empty());
        place_authority(&mut request, HttpVersion::H1, Version::HTTP_11);
        assert_eq!(request.uri().to_string(), "/a?b");
        assert_eq!(request.headers()["host"], "x:1");
    }
}
