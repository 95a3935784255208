//! A document trusts an authority exactly where one of its keys is there for X.509-SVIDs and brings it first; whatever
//! else stands in the document changes nothing.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mantlet_id::TrustDomain;
use mantlet_identity::{parse_bundle, parse_bundle_map};
use mantlet_testkit::pki::Authority;

static AUTHORITY: LazyLock<(Authority, String)> = LazyLock::new(|| {
    let authority = Authority::new("one.test");
    let base64 = authority.certificate_pem().lines().filter(|line| !line.starts_with("---")).collect();
    (authority, base64)
});
static DOMAIN: LazyLock<TrustDomain> = LazyLock::new(|| TrustDomain::parse("one.test").unwrap());

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// Bytes as they come.
    Raw(&'a [u8]),
    /// A well-formed document.
    Keys { keys: Vec<Key<'a>>, sequence: Option<u64> },
}

#[derive(Arbitrary, Debug)]
struct Key<'a> {
    kty: Word<'a>,
    usage: Word<'a>,
    x5c: Vec<Entry<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Word<'a> {
    Right,
    Missing,
    Other(&'a str),
}

#[derive(Arbitrary, Debug)]
enum Entry<'a> {
    Ours,
    Text(&'a str),
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Raw(bytes) => {
        if let Ok(document) = parse_bundle(&DOMAIN, bytes, SystemTime::now()) {
            assert!(document.bundle().authorities().len() <= bytes.len());
        }
        let _ = parse_bundle_map(bytes, SystemTime::now());
    }
    Input::Keys { keys, sequence } => {
        if keys.len() > 500 {
            return;
        }
        let written: Vec<String> = keys.iter().map(Key::written).collect();
        let sequence_text = sequence.map_or(String::new(), |n| format!("\"spiffe_sequence\": {n}, "));
        let text = format!("{{{sequence_text}\"keys\": [{}]}}", written.join(", "));
        let Ok(document) = parse_bundle(&DOMAIN, text.as_bytes(), SystemTime::now()) else {
            assert!(text.len() > 1 << 20, "{text}");
            return;
        };
        assert_eq!(document.sequence(), sequence);
        assert_eq!(document.refresh_hint(), None::<Duration>);
        let trusted = keys.iter().any(Key::is_ours);
        let found = document.bundle().authorities();
        assert_eq!(found.len(), usize::from(trusted), "{text}");
        assert!(found.iter().all(|authority| authority.der() == AUTHORITY.0.root()));
    }
});

impl Key<'_> {
    fn written(&self) -> String {
        let x5c: Vec<String> = self.x5c.iter().map(|entry| quoted(entry.text())).collect();
        let mut members = vec![format!("\"x5c\": [{}]", x5c.join(", "))];
        members.extend(self.kty.member("kty", "EC"));
        members.extend(self.usage.member("use", "x509-svid"));
        format!("{{{}}}", members.join(", "))
    }

    fn is_ours(&self) -> bool {
        self.kty.is("EC")
            && self.usage.is("x509-svid")
            && self.x5c.first().is_some_and(|entry| entry.text() == AUTHORITY.1)
    }
}

impl Entry<'_> {
    fn text(&self) -> &str {
        match self {
            Self::Ours => &AUTHORITY.1,
            Self::Text(text) => text,
        }
    }
}

impl Word<'_> {
    fn member(&self, name: &str, right: &str) -> Option<String> {
        match self {
            Self::Missing => None,
            Self::Right => Some(format!("\"{name}\": {}", quoted(right))),
            Self::Other(text) => Some(format!("\"{name}\": {}", quoted(text))),
        }
    }

    /// `RSA` is as good a type as `EC`: what counts is the certificate.
    fn is(&self, right: &str) -> bool {
        match self {
            Self::Right => true,
            Self::Missing => false,
            Self::Other(text) => *text == right || (right == "EC" && *text == "RSA"),
        }
    }
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if u32::from(control) < 0x20 => quoted += &format!("\\u{:04x}", u32::from(control)),
            other => quoted.push(other),
        }
    }
    quoted + "\""
}
