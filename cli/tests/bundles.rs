//! `mantlet certs --bundle` as people run it.

mod support;

use std::fs;

use mantlet_testkit::pki::Authority;
use serde_json::Value;
use support::{Scratch, run, stderr, stdout};

/// As `spire-server bundle show -format spiffe` writes it: an authority for X.509 and a key for tokens.
fn document(authority: &Authority) -> String {
    let pem = authority.certificate_pem();
    let base64: String = pem.lines().filter(|line| !line.starts_with("---")).collect();
    let x509 = format!(r#"{{"use": "x509-svid", "kty": "EC", "x5c": ["{base64}"]}}"#);
    let jwt = r#"{"use": "jwt-svid", "kty": "EC", "kid": "a"}"#;
    format!(r#"{{"keys": [{x509}, {jwt}], "spiffe_sequence": 3, "spiffe_refresh_hint": 300}}"#)
}

#[test]
fn a_bundle_document_shows_whom_it_makes_one_trust() {
    let scratch = Scratch::new();
    fs::write(scratch.file("partner.json"), document(&Authority::new("partner.test"))).expect("a file");
    let arguments = ["certs", "--bundle", "partner.json", "--trust-domain", "partner.test"];
    let output = run(&scratch, &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let out = stdout(&output);
    for shown in ["bundle   partner.test", "trusts   ", " left, until ", "ignored  1 key", "sequence 3"] {
        assert!(out.contains(shown), "{shown}: {out}");
    }
    assert!(out.contains("refresh  every 5m 0s"), "{out}");

    let json = run(&scratch, &[&arguments[..], &["-o", "json"]].concat());
    let value: Value = serde_json::from_str(&stdout(&json)).expect("JSON");
    let bundle = &value["bundles"][0];
    assert_eq!(
        (bundle["trust_domain"].as_str(), bundle["sequence"].as_u64()),
        (Some("partner.test"), Some(3))
    );
    assert_eq!(bundle["authorities"].as_array().map(Vec::len), Some(1));

    let nameless = run(&scratch, &["certs", "--bundle", "partner.json"]);
    assert_eq!(nameless.status.code(), Some(1));
    assert!(stderr(&nameless).contains("--trust-domain NAME"), "{}", stderr(&nameless));
}

#[test]
fn a_bundle_map_names_its_trust_domains_and_one_that_trusts_nobody_is_told() {
    let scratch = Scratch::new();
    let map = |second: &str| {
        let one = document(&Authority::new("one.test"));
        format!(r#"{{"trust_domains": {{"one.test": {one}, "{second}": {{"keys": []}}}}}}"#)
    };
    fs::write(scratch.file("map.json"), map("two.test")).expect("a file");
    let output = run(&scratch, &["certs", "--bundle", "map.json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let out = stdout(&output);
    assert!(out.contains("bundle   one.test\n") && out.contains("bundle   two.test"), "{out}");
    assert!(stderr(&output).contains("two.test has no authority: nobody of it is trusted"));

    fs::write(scratch.file("map.json"), map("one.test")).expect("a file");
    let twice = run(&scratch, &["certs", "--bundle", "map.json"]);
    assert_eq!(twice.status.code(), Some(1));
    assert!(stderr(&twice).contains("one.test stands twice"), "{}", stderr(&twice));
    assert_eq!(run(&scratch, &["certs", "--bundle", "missing.json"]).status.code(), Some(2));
}
