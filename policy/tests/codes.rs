//! Every code: the text that raises it, where it points, and the fix it spells out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeSet;

use common::{Setup, show};
use mantlet_policy::{Code, Diagnostic, Guardrails, Limits, NamedPort, Source, check};

fn errors(text: &str) -> Vec<Diagnostic> {
    let setup = Setup { limits: Limits::ANNOTATIONS, ..Setup::default() };
    setup.compile(text).expect_err(text)
}

/// Text, code, column, and what the message says.
const ERRORS: &[(&str, Code, u32, &str)] = &[
    ("alow a/b to GET / on 80", Code::UnknownVerb, 1, "did you mean \"allow\"?"),
    ("permit a/b to GET /", Code::UnknownVerb, 1, "a line starts with allow, deny"),
    ("audit alow a/b to GET /", Code::UnknownVerb, 7, "did you mean \"allow\"?"),
    ("allow a/b GET / on 80", Code::Unexpected, 11, "expected \",\", \"except\" or \"to\""),
    ("allow a/b to GET / on 80 wen header x present", Code::Unexpected, 26, "did you mean \"when\"?"),
    ("allow a/b to GET / as x on 80", Code::Unexpected, 25, "expected the end of the line"),
    ("allow a/b to GET / on 80 when cookie = a", Code::Unexpected, 31, "expected \"header\" or \"host\""),
    ("allow a/b to tcp on 80 when host = x", Code::Unexpected, 24, "bytes have no headers"),
    ("allow a/b to GET / on 0", Code::Unexpected, 23, "ports are 1 to 65535"),
    ("allow a/b to GET / on 90-80", Code::Unexpected, 23, "ports are 1 to 65535"),
    ("allow a/b to GET /**/a on 80", Code::Unexpected, 18, "use \"*\" for one segment"),
    ("allow a/b to GET /a*b on 80", Code::Unexpected, 18, "once"),
    ("allow a/b to GET /a{x} on 80", Code::Unexpected, 18, "a placeholder is a whole segment"),
    ("allow a/b to grpc /p.S/M on 80", Code::Unexpected, 19, "write \"p.S/M\""),
    ("allow a/b to grpc p.S on 80", Code::Unexpected, 19, "package.Service/Method"),
    ("allow a/b to GET / on 80 when header x = \"a", Code::Unexpected, 42, "at the end of the value"),
    ("allow a/b to GET / on 80 when host = a:80", Code::Unexpected, 38, "write \"a\""),
    ("allow a/b to GET / on 80 as Name", Code::Unexpected, 29, "a-z 0-9 -"),
    ("group readers = a/b", Code::Unexpected, 7, "write \"group @readers = ..\""),
    ("allow a/b,", Code::Unexpected, 11, "expected a peer"),
    (
        "allow a/b to GET / on 80 as x\nallow a/c to GET / on 80 as x",
        Code::DuplicateName,
        29,
        "choose another",
    ),
    ("group @a = a/b\ngroup @a = a/c", Code::DuplicateName, 7, "choose another"),
    (
        "group @readers = a/b\nallow @reader to GET / on 80",
        Code::UnknownGroup,
        7,
        "did you mean \"@readers\"?",
    ),
    ("group @a = a/b\ngroup @c = @a", Code::UnknownGroup, 12, "write its members"),
    (
        "allow frontend to GET /orders/** on 80",
        Code::PeerForm,
        7,
        "write \"./frontend\" (this namespace) or \"web/frontend\"",
    ),
    ("allow a/b/c to GET / on 80", Code::PeerForm, 7, "spiffe://<trust domain>/a/b/c"),
    ("allow spiffe://td.test to GET / on 80", Code::PeerForm, 7, "write \"spiffe://td.test/**\""),
    ("allow SPIFFE://td.test/a to GET / on 80", Code::PeerForm, 7, "write \"spiffe://td.test/a\""),
    ("allow ../b to GET / on 80", Code::PeerForm, 7, "namespace/service-account"),
    ("allow a/*b to GET / on 80", Code::PeerStar, 7, "\"*\" is a whole segment or the end of one"),
    ("allow a/** to GET / on 80", Code::PeerStar, 7, "\"**\" is the last segment"),
    ("allow spiffe://*.test/a to GET / on 80", Code::PeerStar, 7, "a name or \"*\" alone"),
    (
        "allow spiffe://Td.Test/ns/A to GET / on 80",
        Code::TrustDomainCase,
        7,
        "write \"spiffe://td.test/ns/A\"",
    ),
    ("allow a/b to GET /%61dmin on 80", Code::PathNotCanonical, 18, "write \"/admin\""),
    ("allow a/b to GET /a%2fb%3a on 80", Code::PathNotCanonical, 18, "write \"/a%2Fb%3A\""),
    ("allow a/b to GET /a//b on 80", Code::PathNotCanonical, 18, "write single slashes"),
    ("allow a/b to GET /a/../b on 80", Code::PathNotCanonical, 18, "write the path they lead to"),
    ("allow a/b to GET /a;b on 80", Code::PathNotCanonical, 18, "percent-encoded"),
    ("allow a/b to GET admin on 80", Code::PathNotCanonical, 18, "write \"/admin\""),
    ("allow a/b to GET /orders/.* on 80", Code::Regex, 18, "use \"*\" or \"{id}\""),
    ("allow a/b to GET /orders/[0-9]+ on 80", Code::Regex, 18, "use \"*\""),
    ("allow a/b to GET /(a|b) on 80", Code::Regex, 18, "use \"*\""),
    ("allow a/b to GET ^/a on 80", Code::Regex, 18, "use \"*\""),
    ("allow a/b to GET /a$ on 80", Code::Regex, 18, "use \"*\""),
    ("allow a/b to get / on 80", Code::MethodCase, 14, "write \"GET\""),
    ("allow a/b to CONNECT / on 80", Code::MethodCase, 14, "nothing is tunnelled"),
    ("allow a/b to /orders on 80", Code::MethodMissing, 14, "write \"GET /orders\""),
    ("allow a/b to GET / on htp", Code::UnknownPort, 23, "did you mean \"http\"?"),
    ("allow a/b to tcp on 80\nallow a/b to GET / on 80", Code::PortProtocol, 23, "write \"on\""),
    ("allow a/b to tcp", Code::TcpNeedsPort, 1, "write \"to tcp on 5432\""),
    ("allow a/b to GET / on 80 until tomorrow", Code::BadTime, 32, "write \"2026-12-01T18:00Z\""),
    ("allow a/b to GET / on 80 until 2026-12-01", Code::TimeNeedsZone, 32, "write \"2026-12-01T18:00Z\""),
    (
        "allow a/b to GET / on 80 until 2026-12-01T09:30",
        Code::TimeNeedsZone,
        32,
        "write \"2026-12-01T09:30Z\"",
    ),
    ("deny a/b to GET / on 80 until 2026-12-01T18:00Z", Code::DenyUntil, 25, "remove the line"),
    ("allow plaintext to GET / on 80", Code::PlaintextForm, 7, "plaintext(any)"),
    ("allow plaintext(10.0.0.1) to GET / on 80", Code::PlaintextForm, 7, "write \"10.0.0.1/32\""),
    ("allow plaintext(10.0.0.1/8) to GET / on 80", Code::PlaintextForm, 7, "write \"10.0.0.0/8\""),
    ("allow a/b to GET / on 80 when header host = x", Code::ReservedHeader, 38, "write \"when host = ..\""),
    (
        "allow a/b to GET / on 80 when header X-Mantlet-Id present",
        Code::ReservedHeader,
        38,
        "set by the proxy",
    ),
    (
        "allow a/b to GET / on 80 when header transfer-encoding = chunked",
        Code::ReservedHeader,
        38,
        "hop-by-hop",
    ),
    ("allow a/b to GET / on 80 when header x_tenant = a", Code::HeaderName, 38, "write \"x-tenant\""),
];

#[test]
fn every_error_points_at_its_place_and_spells_out_the_fix() {
    for (text, code, column, help) in ERRORS {
        let findings = errors(text);
        let first = &findings[0];
        let position = first.position.unwrap();
        let shown = show(&findings);
        assert_eq!((first.code, position.column), (*code, *column), "{text}\n{shown}");
        assert!(format!("{} {}", first.message, first.help).contains(help), "{text}\n{shown}");
    }
}

#[test]
fn every_mistake_of_a_text_is_reported_at_once() {
    let findings = errors("alow a/b to GET /\n\nallow b to GET /\nallow a/b to get /\n");
    let lines: Vec<u32> = findings.iter().map(|finding| finding.position.unwrap().line).collect();
    assert_eq!(lines, [1, 3, 4]);
}

#[test]
fn an_error_in_a_fragment_makes_the_set_invalid_and_names_the_fragment() {
    let texts =
        [("mantlet.dev/policy", "allow a/b to GET / on 80"), ("mantlet.dev/policy.x", "denny a/b to GET /")];
    let findings = Setup::default().compile_all(&texts).unwrap_err();
    assert_eq!(findings[0].headline(), "mantlet.dev/policy.x:1:1: P001 unknown verb \"denny\"");
}

#[test]
fn limits_are_errors_that_say_what_to_do() {
    let rules = |count: usize, rule: &str| format!("{rule}\n").repeat(count);
    for (text, message) in [
        (rules(257, "allow a/b to GET / on 80"), "more than 256 rules"),
        ((0..33).map(|n| format!("group @g{n} = a/b\n")).collect(), "more than 32 groups"),
        (
            format!("allow {} to GET / on 80", vec!["a/b"; 300].join(",\n")).repeat(1)
                + "\n"
                + &format!("allow {} to GET / on 80\n", vec!["a/b"; 800].join(",\n")),
            "more than 1024 peers",
        ),
        (format!("allow a/b to GET /{} on 80", "a".repeat(2048)), "the line has"),
        ("#".repeat(70_000), "the texts have"),
        (
            (0..20).map(|n| format!("allow a/b to GET /x{n}* on 80\n")).collect(),
            "paths: more than 16 segments",
        ),
        ((0..65).map(|n| format!("allow a/b to M{n} / on 80\n")).collect(), "more than 64 different methods"),
    ] {
        let findings = errors(&text);
        assert_eq!(findings[0].code, Code::Limit, "{}", show(&findings));
        assert!(findings[0].message.starts_with(message), "{}", show(&findings));
        assert!(!findings[0].help.is_empty());
    }
}

#[test]
fn a_port_is_needed_where_none_is_declared() {
    let mut setup = Setup::default();
    setup.workload.ports.clear();
    assert_eq!(setup.compile("allow a/b to GET /").unwrap_err()[0].code, Code::NoPorts);
    assert!(setup.compile("allow a/b to GET / on 80").is_ok());
}

#[test]
fn guardrails_hold_at_admission_and_at_load() {
    let guardrails =
        "forbid plaintext\nforbid wildcard-namespace\ntrust-domains partner.test\nmax-until 30d\n";
    let setup = Setup { guardrails: Guardrails::parse(guardrails).unwrap(), ..Setup::default() };
    for (text, message) in [
        ("allow plaintext(any) to GET / on 80", "plaintext is forbidden"),
        ("allow */sa to GET / on 80", "wildcard for the namespace"),
        ("group @g = web-*/sa\nallow @g to GET / on 80", "wildcard for the namespace"),
        ("allow spiffe://td.test/ns/** to GET / on 80", "wildcard for the namespace"),
        ("allow spiffe://evil.test/a to GET / on 80", "trust domain evil.test is not among"),
        ("allow spiffe://*/ns/a/sa/b to GET / on 80", "have to be named"),
        ("allow a/b to GET / on 80 until 2027-01-01T00:00Z", "max-until"),
    ] {
        let findings = setup.compile(text).expect_err(text);
        assert_eq!(findings[0].code, Code::Guardrail, "{text}");
        assert!(findings[0].message.contains(message), "{text}\n{}", show(&findings));
    }
    for text in [
        "allow mesh to GET / on 80",
        "allow spiffe://partner.test/a to GET / on 80",
        "deny spiffe://*/** to GET / on 80",
        "deny plaintext(any) to GET / on 80",
        "allow a/b to GET / on 80 until 2026-10-01T00:00Z",
    ] {
        assert!(setup.compile(text).is_ok(), "{text}");
    }
}

fn warnings(text: &str) -> Vec<Diagnostic> {
    let setup = Setup::default();
    let report = check(&[Source { key: "mantlet.dev/policy", text }], &setup.config());
    assert!(report.errors.is_empty(), "{text}\n{}", show(&report.errors));
    report.warnings
}

const WARNINGS: &[(&str, Code, u32)] = &[
    ("allow */sa to GET / on 8080", Code::AnyNamespace, 1),
    ("allow a/b, spiffe://*/ns/m/sa/p to GET / on 8080", Code::ForeignWildcard, 1),
    ("allow spiffe://partner.test/** to GET / on 8080", Code::ForeignWildcard, 1),
    ("allow web/* to GET /a/** on 8080\nallow web/x to GET /a/b/{id} on 8080", Code::Shadowed, 2),
    ("allow web/x to GET / on 8080\nallow web/x to GET / on 8080", Code::Shadowed, 2),
    ("deny mesh to * /Admin/** on 8080\nallow web/x to GET /admin/a/ on 8080", Code::DeniedEntirely, 2),
    ("allow a/b to GET / on 8080 until 2020-01-01T00:00Z", Code::Expired, 1),
    ("allow a/b to GET / on 9999", Code::UndeclaredPort, 1),
    ("allow plaintext(any) to GET / on 8080", Code::Plaintext, 1),
    ("allow a/b to GET / on 8080 when header x absent", Code::AbsentHeader, 1),
    ("allow plaintext(any) to GET / on 8080\ndeny mesh to GET /a on 8080", Code::DenyNotForeign, 2),
    ("allow plaintext(any) to tcp on 5432", Code::PlaintextOpaque, 1),
];

#[test]
fn every_warning_is_raised_where_it_belongs() {
    for (text, code, line) in WARNINGS {
        let found = warnings(text);
        let hit = found.iter().find(|warning| warning.code == *code);
        assert_eq!(
            hit.and_then(|warning| warning.position).map(|at| at.line),
            Some(*line),
            "{text}\n{}",
            show(&found)
        );
        assert!(found.iter().all(|warning| warning.one_line().chars().count() <= 256));
    }
}

#[test]
fn what_is_meant_raises_no_warning() {
    for text in [
        "allow web/x to GET /a/** on 8080\nallow web/y to GET /a/b on 8080\nallow web/x to POST /a on 8080",
        "allow web/x to * /** on 8080\nallow web/x to WEBSOCKET /ws on 8080",
        "allow web/* except web/x to GET / on 8080\nallow web/x to GET / on 8080",
        "allow web/x to GET / on 8080 until 2030-01-01T00:00Z\nallow web/x to GET / on 8080 when host = a",
        "deny mesh except ops/a to * /admin/** on 8080\nallow ops/a to GET /admin/x on 8080",
        "deny mesh to * /admin/** on 8080 when header x = y\nallow ops/a to GET /admin/x on 8080",
    ] {
        assert_eq!(show(&warnings(text)), "", "{text}");
    }
}

#[test]
fn a_pod_without_policy_and_with_udp_is_told() {
    let mut setup = Setup::default();
    setup.workload.ports = NamedPort::parse_list("8080,dns=53/udp").unwrap();
    let codes: Vec<Code> = check(&[], &setup.config()).warnings.iter().map(|warning| warning.code).collect();
    assert_eq!(codes, [Code::UdpPort, Code::NoPolicy]);
}

#[test]
fn every_code_of_the_language_is_raised_by_a_test() {
    let elsewhere = [
        // codes.rs, with a setup of their own
        Code::Limit,
        Code::NoPorts,
        Code::Guardrail,
        Code::UdpPort,
        Code::NoPolicy,
        // registry.rs
        Code::AuditNeedsUntil,
        Code::UnknownKey,
        // raised by whoever sees the pod: the injector and the command line
        Code::AnnotationValue,
        Code::HostNetwork,
        Code::PastTheSidecar,
        Code::NotCaptured,
    ];
    let raised: BTreeSet<Code> = ERRORS
        .iter()
        .map(|(_, code, ..)| *code)
        .chain(WARNINGS.iter().map(|(_, code, _)| *code))
        .chain(elsewhere)
        .collect();
    let missing: Vec<_> =
        Code::ALL.iter().filter(|code| !code.as_str().starts_with('U') && !raised.contains(code)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
