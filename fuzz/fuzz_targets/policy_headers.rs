//! A header that an allow accepts is one that a deny of the same words finds; what an allow accepts is
//! the value itself on a single line; and an absent header satisfies neither.
#![no_main]

use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use mantlet_id::{SpiffeId, TrustDomain};
use mantlet_policy::{
    Config, Guardrails, HttpFacts, HttpOptions, Latches, Limits, Mode, Peer, Policy, Reason, Source, Target,
    Workload,
    canonical::{Canonical, HostLines, PathOptions, RequestHead, Version},
};

fuzz_target!(|input: (&str, Vec<Vec<u8>>)| {
    let (value, lines) = input;
    let decide = |rules: &str| {
        let workload = Workload::new(TrustDomain::parse("td.test").expect("a name"), "shop");
        let config = Config {
            workload: &workload,
            limits: Limits::ANNOTATIONS,
            guardrails: &Guardrails::default(),
            mode: Mode::Enforce,
            http_options: &HttpOptions::default(),
            latches: &Latches::new(),
            now: SystemTime::UNIX_EPOCH,
        };
        let policy = Policy::compile(&[Source { key: "p", text: rules }], &config).ok()?;
        let head = RequestHead {
            version: Version::Http11,
            method: "GET",
            scheme: None,
            authority: None,
            path: "/",
            query: None,
            host: HostLines::One(b"h"),
        };
        let headers: Vec<(&str, &[u8])> = lines.iter().map(|line| ("x-a", line.as_slice())).collect();
        let canonical = Canonical::new(&head, &headers, PathOptions::default()).expect("it is canonical");
        let id = SpiffeId::parse("spiffe://td.test/ns/a/sa/b").expect("an id");
        let view = policy.view(Peer::Identity(&id), 80);
        let facts = HttpFacts { target: Target::Canonical(&canonical), headers: &headers };
        Some(policy.decide_http(&view, &facts, SystemTime::UNIX_EPOCH).reason)
    };
    let quoted: String = value
        .chars()
        .flat_map(|c| matches!(c, '"' | '\\' | '*').then_some('\\').into_iter().chain([c]))
        .collect();
    if quoted.contains(['\n', '\r']) {
        return;
    }
    let condition = format!("when header x-a = \"{quoted}\"");
    let Some(allowed) = decide(&format!("allow a/b to GET / on 80 {condition}")) else { return };
    let denied = decide(&format!("allow a/b to GET / on 80\ndeny a/b to GET / on 80 {condition}"));
    let denied = denied.expect("the same words compile") == Reason::DenyRule;
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    if allowed == Reason::Rule {
        assert!(denied, "{value:?} {lines:?}");
        assert_eq!(lines.len(), 1);
        let line = &lines[0];
        let start = line.iter().position(|byte| !blank(byte)).unwrap_or(line.len());
        let end = line.iter().rposition(|byte| !blank(byte)).map_or(start, |at| at + 1);
        assert_eq!(&line[start..end], value.as_bytes());
    }
    if lines.is_empty() {
        assert!(!denied);
    }
    if lines.iter().any(|line| line.eq_ignore_ascii_case(value.as_bytes())) && !value.contains(',') {
        assert!(denied, "{value:?} {lines:?}");
    }
});
