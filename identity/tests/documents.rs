//! Bundle documents and bundle maps: what they are taken for, and what is ignored in them.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, SystemTime};

use common::{TD, domain};
use mantlet_identity::{BundleDocument, DocumentError, parse_bundle, parse_bundle_map};
use mantlet_testkit::pki::Authority;

/// A key with the certificate of this authority; `more` are further members.
fn key(authority: &Authority, more: &str) -> String {
    let pem = authority.certificate_pem();
    let base64: String = pem.lines().filter(|line| !line.starts_with("---")).collect();
    format!(r#"{{"kty": "EC", "use": "x509-svid", "crv": "P-256", "x5c": ["{base64}"{more}]}}"#)
}

fn document(keys: &[&str]) -> String {
    format!(r#"{{"spiffe_sequence": 7, "spiffe_refresh_hint": 300, "keys": [{}]}}"#, keys.join(", "))
}

fn read(text: &str) -> Result<BundleDocument, DocumentError> {
    parse_bundle(&domain(TD), text.as_bytes(), SystemTime::now())
}

/// How many authorities a document has, and how many of its keys are ignored.
fn counts(text: &str) -> (usize, usize) {
    let document = read(text).unwrap();
    (document.bundle().authorities().len(), document.ignored())
}

#[test]
fn b1_without_keys_it_is_no_document_and_with_an_empty_list_it_trusts_nobody() {
    for text in [r#"{"spiffe_sequence": 1}"#, r#"{"keys": null}"#, r#"{"keys": {}}"#, "[]", "", "{"] {
        assert!(read(text).is_err(), "{text}");
    }
    assert!(read("{}").err().unwrap().to_string().contains("keys"), "the cause is named");
    assert_eq!(counts(r#"{"keys": []}"#), (0, 0));
}

#[test]
fn b2_keys_of_an_unknown_type_or_use_are_ignored_alone() {
    let authority = Authority::new(TD);
    let good = key(&authority, "");
    let others = [
        good.replace(r#""EC""#, r#""oct""#),
        good.replace(r#""EC""#, r#""XX""#),
        good.replace(r#""kty": "EC", "#, ""),
        good.replace("x509-svid", "jwt-svid"),
        good.replace("x509-svid", "wit-svid"),
        good.replace("x509-svid", "sig"),
        good.replace(r#""use": "x509-svid", "#, ""),
        "7".to_owned(),
        "null".to_owned(),
    ];
    for other in &others {
        assert_ne!(*other, good);
        assert_eq!(counts(&document(&[other, &good])), (1, 1), "{other}");
        assert_eq!(counts(&document(&[other])), (0, 1), "{other}");
    }
}

#[test]
fn b3_a_key_without_its_certificate_is_ignored_and_of_several_the_first_counts() {
    let (first, second) = (Authority::new(TD), Authority::new(TD));
    let good = key(&first, "");
    let member = good.split_once("\"x5c\"").unwrap().0;
    for x5c in ["\"kid\": \"x\"", "\"x5c\": []", "\"x5c\": null", "\"x5c\": [7]", "\"x5c\": [\"?\"]"] {
        assert_eq!(counts(&document(&[&format!("{member}{x5c}}}"), &good])), (1, 1), "{x5c}");
    }
    let two = key(&first, &format!(", \"{}\"", key(&second, "").split('"').nth(13).unwrap()));
    let two = read(&document(&[&two])).unwrap();
    let authorities = two.bundle().authorities();
    assert_eq!(authorities.len(), 1);
    assert_eq!(authorities[0].der(), first.root());
}

#[test]
fn b4_a_map_in_which_a_trust_domain_stands_twice_is_refused() {
    let bundle = document(&[&key(&Authority::new(TD), "")]);
    let map = |domains: &[&str]| {
        let domains: Vec<String> = domains.iter().map(|name| format!("\"{name}\": {bundle}")).collect();
        let text = format!("{{\"trust_domains\": {{{}}}}}", domains.join(", "));
        parse_bundle_map(text.as_bytes(), SystemTime::now())
    };
    let good = map(&["one.test", "two.test"]).unwrap();
    assert_eq!(good.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["one.test", "two.test"]);
    assert!(good.values().all(|document| document.refresh_hint().is_none()), "hints in a map do not count");
    let error = map(&["one.test", "two.test", "one.test"]).err().unwrap().to_string();
    assert!(error.contains("one.test stands twice"), "{error}");
    // JSON escapes do not hide it, and names are not folded.
    assert!(map(&["one.test", "\\u006fne.test"]).is_err());
    assert!(map(&["ONE.test"]).is_err());
    assert!(parse_bundle_map(b"{}", SystemTime::now()).is_err());
    let empty = parse_bundle_map(br#"{"trust_domains": {"one.test": {}}}"#, SystemTime::now());
    assert!(empty.is_err(), "a bundle without keys is no bundle here either");
}

#[test]
fn b5_a_sequence_number_beyond_53_bits_keeps_every_digit() {
    for sequence in [0, (1 << 53) + 1, u64::MAX] {
        let text = format!(r#"{{"keys": [], "spiffe_sequence": {sequence}}}"#);
        assert_eq!(read(&text).unwrap().sequence(), Some(sequence));
    }
    assert_eq!(read(r#"{"keys": []}"#).unwrap().sequence(), None);
    for wrong in ["-1", "1.5", "1e30", "\"7\"", "18446744073709551616"] {
        assert!(read(&format!(r#"{{"keys": [], "spiffe_sequence": {wrong}}}"#)).is_err(), "{wrong}");
    }
    let hint = read(r#"{"keys": [], "spiffe_refresh_hint": 300}"#).unwrap().refresh_hint();
    assert_eq!(hint, Some(Duration::from_secs(300)));
}

#[test]
fn an_authority_that_a_sidecar_would_not_trust_is_left_out_of_a_document_too() {
    let authority = Authority::new(TD);
    let leaf = authority.svid("spiffe://one.test/ns/a/sa/x");
    let pem: String = leaf.chain_pem().lines().filter(|line| !line.starts_with("---")).collect();
    let leaf = format!(r#"{{"kty": "EC", "use": "x509-svid", "x5c": ["{pem}"]}}"#);
    let good = key(&authority, "");
    let document = read(&document(&[&leaf, &good, &good])).unwrap();
    assert_eq!(document.bundle().authorities().len(), 1, "and the same one twice is one");
    assert_eq!((document.bundle().rejected(), document.ignored()), (1, 0));
}

#[test]
fn sizes_and_counts_are_limits() {
    let many = vec!["{}"; 501];
    assert!(matches!(read(&document(&many)), Err(DocumentError::TooManyKeys(501, _))));
    assert!(matches!(read(&" ".repeat((2 << 20) + 1)), Err(DocumentError::TooLarge(_))));
    assert!(read(&"[".repeat(100_000)).is_err(), "depth is no way to exhaust the stack");
}
