//! A canonical target is its own canonical form, never longer than what came, and another parser reads
//! from what is forwarded exactly the path that was matched.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mantlet_policy::{
    canonical::{Canonical, Exchange, HostLines, PathOptions, RequestHead, Version, canonical_host},
    headers::NoHeaders,
};

fuzz_target!(|input: (&str, &str, Option<&str>, Option<&str>, u8)| {
    let (method, target, authority, host, flags) = input;
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let head = RequestHead {
        version: [Version::Http10, Version::Http11, Version::Http2][usize::from(flags % 3)],
        method,
        scheme: authority.map(|_| "http"),
        authority,
        path,
        query,
        host: host.map_or(HostLines::None, |host| HostLines::One(host.as_bytes())),
    };
    let options = PathOptions { merge_slashes: flags & 8 != 0, encoded_slash: flags & 16 != 0 };
    let Ok(canonical) = Canonical::new(&head, &NoHeaders, options) else { return };
    if canonical.exchange() == Exchange::Asterisk {
        return;
    }
    assert!(canonical.path().starts_with('/'));
    assert!(canonical.path().len() <= path.len().max(1));
    let again = RequestHead { path: canonical.path(), query: canonical.query(), ..head };
    assert_eq!(Canonical::new(&again, &NoHeaders, options).as_ref(), Ok(&canonical));

    // Another parser reads the same parts from what is forwarded.
    let forwarded = canonical.target().to_string();
    let uri: http::Uri = match forwarded.parse() {
        Ok(uri) => uri,
        // That parser is stricter about queries, which no rule looks at; the path it has to take.
        Err(_) if query.is_some() => canonical.path().parse().expect("another parser takes the path"),
        Err(error) => panic!("another parser takes it: {error}"),
    };
    let query = uri.query().and(canonical.query());
    assert_eq!((uri.path(), uri.query()), (canonical.path(), query));

    // Nobody who decodes it once more finds a way up, an empty segment or the end of a string.
    let decoded = decode(canonical.path());
    assert!(!decoded.iter().any(|byte| *byte < 0x20 || *byte == b'\\'));
    assert!(std::str::from_utf8(&decoded).is_ok());
    let segments: Vec<&[u8]> = decoded.split(|byte| *byte == b'/').skip(1).collect();
    assert!(!segments.iter().any(|segment| matches!(*segment, b"." | b"..")));
    if !options.encoded_slash {
        let inner = segments.split_last().map(|(_, front)| front).unwrap_or_default();
        assert!(!inner.iter().any(|segment| segment.is_empty()));
        let count = canonical.path().split('/').skip(1).count();
        assert_eq!(segments.len(), count, "decoding makes no segment");
    }
    assert!(!decoded.contains(&b';'));
    if let Some(host) = canonical.host() {
        assert_eq!(canonical_host(host).as_deref(), Ok(host));
    }
});

fn decode(path: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), path.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let digits = std::str::from_utf8(&after[..2]).expect("two digits");
            out.push(u8::from_str_radix(digits, 16).expect("two digits"));
            rest = &after[2..];
        } else {
            out.push(byte);
            rest = after;
        }
    }
    out
}
