//! What parses is printed in a form that parses to the same; what compiles refuses a stranger, whom no
//! text of ASCII words can name by accident.
#![no_main]

use std::time::SystemTime;

use libfuzzer_sys::fuzz_target;
use mantlet_id::TrustDomain;
use mantlet_policy::{
    Ask, Caller, Config, Guardrails, HttpOptions, Latches, Limits, Mode, NamedPort, Policy, Question, Source,
    Workload, check, expect, language, registry,
};

fuzz_target!(|text: &str| {
    let limits = Limits::ANNOTATIONS;
    if let Ok(document) = language::parse("p", text, &limits) {
        // The normal form may be longer than a line of an annotation.
        let printed = document.to_string();
        let again = language::parse("p", &printed, &Limits::FILES).expect("what is printed parses");
        assert_eq!(again, document, "{printed}");
    }
    let mut workload = Workload::new(TrustDomain::parse("td.test").expect("a name"), "shop");
    workload.ports = NamedPort::parse_list("http=8080,grpc=9090").expect("ports");
    let config = Config {
        workload: &workload,
        limits,
        guardrails: &Guardrails::default(),
        mode: Mode::Enforce,
        http_options: &HttpOptions::default(),
        latches: &Latches::new(),
        now: SystemTime::UNIX_EPOCH,
    };
    let source = [Source { key: "mantlet.dev/policy", text }];
    let report = check(&source, &config);
    for finding in report.errors.iter().chain(&report.warnings) {
        assert!(finding.one_line().chars().count() <= 256);
        assert!(!finding.to_string().contains('\u{1b}'));
    }
    if let Ok(policy) = Policy::compile(&source, &config) {
        assert!(report.errors.is_empty());
        let stranger = Caller::parse("spiffe://stranger.test/x", &workload).expect("an id");
        let ask = Ask::Http { method: "GET".into(), target: "/".into() };
        let question = Question { caller: stranger, ask, port: 8080, host: None, headers: vec![] };
        if question.decide(&policy, SystemTime::UNIX_EPOCH).verdict.passes() {
            assert!(text.contains("stranger") || text.contains("spiffe://*/"), "{text}");
        }
    }
    let _ = expect::parse("t", text, &workload);
    let _ = registry::parse_mode(text);
    let _ = registry::parse_http_options(text);
    let _ = Guardrails::parse(text);
});
