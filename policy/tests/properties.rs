//! Properties that hold for every policy and request. `TEST_PROPTEST_CASES` sets how many are tried.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{
    Request, Setup,
    generate::{CALLERS, PORTS, cases, path, request, rules, text},
    naive, now, tcp_at, verdict,
};
use mantlet_policy::{
    Ask, Caller, Limits, Policy, PortProtocol, Question, Reason, RuleReport,
    canonical::{PathOptions, canonicalise_path},
    explain,
    language::{Time, parse},
};
use proptest::{prelude::*, sample::select, test_runner::TestRunner};
use std::sync::atomic::{AtomicU64, Ordering};

/// How many requests each generated policy is asked.
const PAIRS_PER_CASE: u64 = 16;

/// What the naive matcher says where the compiled one decides.
fn expected(rules: &str, caller: &str, request: &Request, policy: &Policy, port: u16) -> String {
    let document = parse("p", rules, &Limits::FILES).unwrap();
    match request.canonical(policy, port) {
        Ok(canonical) => naive::decide(&document, caller, Some((request, &canonical)), port, Time::of(now())),
        Err(malformed) => format!("bad {malformed}"),
    }
}

fn passes(verdict: &str) -> bool {
    verdict.starts_with("allow") || verdict.starts_with("would_deny")
}

/// What a policy says, with the rule named by its text: fragments and removals move lines.
fn outcome(policy: &Policy, caller: &str, request: &Request, port: u16) -> (bool, bool) {
    let verdict = verdict(policy, caller, request, port);
    (passes(&verdict), verdict.starts_with("would_deny"))
}

/// One pair of policy and request after the other, until there are as many as are asked for: a policy that does not
/// compile makes none.
#[test]
fn the_matcher_agrees_with_the_naive_one() {
    let config = cases(400);
    let pairs = AtomicU64::new(0);
    let wanted = u64::from(config.cases) * PAIRS_PER_CASE;
    let policies = (rules(1..9), prop::collection::vec((select(CALLERS), select(PORTS), request()), 16));
    while pairs.load(Ordering::Relaxed) < wanted {
        let agreed = TestRunner::new(config.clone()).run(&policies, |(rules, requests)| {
            let text = text(&rules);
            let Ok(policy) = Setup::default().compile(&text) else { return Ok(()) };
            for (caller, port, request) in &requests {
                let got = verdict(&policy, caller, request, *port);
                let naive = expected(&text, caller, request, &policy, *port);
                prop_assert_eq!(got, naive, "{} {:?}\n{}", caller, request, text);
                if caller.parse::<std::net::IpAddr>().is_err() {
                    let document = parse("p", &text, &Limits::FILES).unwrap();
                    let naive = naive::decide(&document, caller, None, *port, Time::of(now()));
                    prop_assert_eq!(
                        tcp_at(&policy, caller, *port, now()),
                        naive,
                        "{} tcp {}\n{}",
                        caller,
                        port,
                        text
                    );
                }
                pairs.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        agreed.unwrap_or_else(|failure| panic!("{failure}"));
    }
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn removing_an_allow_or_adding_a_deny_never_lets_more_pass(
        rules in rules(2..8),
        at in any::<prop::sample::Index>(),
        requests in prop::collection::vec((select(CALLERS), select(PORTS), request()), 8),
    ) {
        let mut fewer = rules.clone();
        let changed = fewer.remove(at.index(rules.len()));
        let (with, without) = (Setup::default().compile(&text(&rules)), Setup::default().compile(&text(&fewer)));
        let (Ok(with), Ok(without)) = (with, without) else { return Ok(()) };
        // Rules also decide what a port speaks; only where that stays the same is there more or less.
        for (caller, port, request) in requests.iter().filter(|(_, port, _)| with.protocol(*port) == without.protocol(*port)) {
            let (with, without) = (outcome(&with, caller, request, *port), outcome(&without, caller, request, *port));
            let (more, less) = if changed.starts_with("deny") { (without, with) } else { (with, without) };
            if changed.starts_with("audit") {
                prop_assert_eq!(with.0, without.0);
            } else {
                prop_assert!(more.0 || !less.0, "{changed}: {caller} {request:?}\n{}", text(&rules));
            }
        }
    }

    #[test]
    fn fragments_and_lines_may_stand_in_any_order(
        rules in rules(2..8),
        split in any::<prop::sample::Index>(),
        requests in prop::collection::vec((select(CALLERS), select(PORTS), request()), 8),
    ) {
        let (front, back) = rules.split_at(split.index(rules.len()));
        let (a, b) = (text(front), text(back));
        let one = Setup::default().compile_all(&[("mantlet.dev/policy", &a), ("mantlet.dev/policy.x", &b)]);
        let two = Setup::default().compile_all(&[("mantlet.dev/policy.x", &b), ("mantlet.dev/policy", &a)]);
        let mut reversed = rules.clone();
        reversed.reverse();
        let three = Setup::default().compile(&text(&reversed));
        let (Ok(one), Ok(two), Ok(three)) = (one, two, three) else { return Ok(()) };
        prop_assert_eq!(one.hash(), two.hash());
        for (caller, port, request) in &requests {
            let expected = outcome(&one, caller, request, *port);
            prop_assert_eq!(outcome(&two, caller, request, *port), expected);
            prop_assert_eq!(outcome(&three, caller, request, *port), expected);
        }
    }

    #[test]
    fn a_printed_policy_parses_to_the_same(rules in rules(1..8)) {
        let document = parse("p", &text(&rules), &Limits::FILES).unwrap();
        let printed = document.to_string();
        let again = parse("p", &printed, &Limits::FILES).unwrap();
        prop_assert_eq!(&again, &document, "{}", printed);
        prop_assert_eq!(again.to_string(), printed);
    }

    #[test]
    fn folding_never_narrows_a_deny(rules in rules(1..6), caller in select(CALLERS), request in request()) {
        // A deny stops at least what an allow of the same words lets pass.
        let allows: Vec<String> = rules
            .iter()
            .filter(|rule| !rule.contains("tcp") && !rule.contains("until") && !rule.contains("audit"))
            .map(|rule| rule.replacen("deny ", "allow ", 1))
            .collect();
        let both: Vec<String> =
            allows.iter().cloned().chain(allows.iter().map(|rule| rule.replacen("allow ", "deny ", 1))).collect();
        let Ok(policy) = Setup::default().compile(&text(&both)) else { return Ok(()) };
        let verdict = verdict(&policy, caller, &request, 8080);
        prop_assert!(!passes(&verdict), "{verdict} {caller} {request:?}\n{}", text(&both));
    }

    #[test]
    fn a_canonical_path_is_its_own_canonical_form_and_no_longer(raw in "[/a-cA-C.%;0-9éx2fF5]{0,24}", made in path()) {
        for raw in [format!("/{raw}"), made] {
            for options in [
                PathOptions::default(),
                PathOptions { merge_slashes: true, encoded_slash: false },
                PathOptions { merge_slashes: true, encoded_slash: true },
            ] {
                let Ok(canonical) = canonicalise_path(&raw, options) else { continue };
                prop_assert!(canonical.len() <= raw.len());
                prop_assert_eq!(canonicalise_path(&canonical, options).unwrap(), canonical.clone());
            }
        }
    }

    #[test]
    fn a_decision_on_the_raw_path_is_the_decision_on_the_canonical_one(
        rules in rules(1..8), caller in select(CALLERS), request in request(),
    ) {
        let Ok(policy) = Setup::default().compile(&text(&rules)) else { return Ok(()) };
        let Ok(canonical) = request.canonical(&policy, 8080) else { return Ok(()) };
        let mut again = request.clone();
        again.target = canonical.target().to_string();
        prop_assert_eq!(verdict(&policy, caller, &again, 8080), verdict(&policy, caller, &request, 8080));
    }

    #[test]
    fn the_line_that_explain_suggests_lets_the_request_pass(
        rules in rules(1..8), caller in select(CALLERS), method in select(&["GET", "DELETE", "WEBSOCKET"][..]), target in path(),
        tcp in prop::bool::weighted(0.2),
    ) {
        let setup = Setup::default();
        let text = text(&rules);
        let Ok(policy) = setup.compile(&text) else { return Ok(()) };
        let caller = match caller.parse() {
            Ok(ip) => Caller::Plaintext(ip),
            Err(_) => Caller::Identity(common::id(caller)),
        };
        let (ask, port) = if tcp { (Ask::Tcp, 5432) } else { (Ask::Http { method: method.into(), target }, 8080) };
        let question = Question { caller, ask, port, host: None, headers: vec![] };
        let explanation = explain(&policy, &setup.workload, &question, now());
        prop_assert_eq!(&explanation.decision, &question.decide(&policy, now()));
        let Some(line) = explanation.to_allow else { return Ok(()) };
        if !matches!(explanation.decision.reason, Reason::Default | Reason::Expired) {
            return Ok(());
        }
        if let Ok(policy) = setup.compile(&format!("{text}{line}\n")) {
            prop_assert!(question.decide(&policy, now()).verdict.passes(), "{line}\n{text}");
        } else {
            prop_assert_eq!(policy.protocol(port) == PortProtocol::Http, tcp, "{}\n{}", line, text);
        }
    }

    #[test]
    fn the_nearest_rule_is_the_one_that_alone_lacks_least(
        rules in rules(2..8), caller in select(CALLERS), method in select(&["GET", "DELETE", "WEBSOCKET"][..]), target in path(),
        port in select(PORTS),
    ) {
        // What a rule without ports is about depends on the others.
        let rules: Vec<String> = rules.into_iter().filter(|rule| rule.contains(" on ")).collect();
        let setup = Setup::default();
        let Ok(policy) = setup.compile(&text(&rules)) else { return Ok(()) };
        let caller = match caller.parse() {
            Ok(ip) => Caller::Plaintext(ip),
            Err(_) => Caller::Identity(common::id(caller)),
        };
        let ask = Ask::Http { method: method.into(), target };
        let question = Question { caller, ask, port, host: None, headers: vec![] };
        let explanation = explain(&policy, &setup.workload, &question, now());
        prop_assert_eq!(&explanation.decision, &question.decide(&policy, now()));
        let missing = |report: &RuleReport| -> usize {
            let failing = report.clauses.iter().filter(|clause| !clause.holds);
            failing.map(|clause| match clause.what.as_str() {
                "port" | "protocol" => 9,
                "peer" | "path" => 4,
                _ => 1,
            }).sum()
        };
        match (&explanation.rule, &explanation.decision.rule) {
            (Some(report), Some(_)) => prop_assert_eq!(missing(report), 0),
            (Some(report), None) if explanation.decision.reason != Reason::Malformed => {
                let alone = rules.iter().filter(|rule| rule.starts_with("allow ")).map(|rule| {
                    let policy = setup.compile(&text(std::slice::from_ref(rule))).unwrap();
                    missing(&explain(&policy, &setup.workload, &question, now()).rule.unwrap())
                });
                prop_assert_eq!(Some(missing(report)), alone.min(), "{:?}\n{}", report, text(&rules));
                prop_assert!(missing(report) > 0);
            }
            (Some(_), None) => prop_assert!(false, "nothing is near what has no meaning"),
            (None, Some(rule)) => prop_assert!(false, "{rule} has no report"),
            (None, None) => prop_assert!(
                explanation.decision.reason == Reason::Malformed || !rules.iter().any(|rule| rule.starts_with("allow "))
            ),
        }
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in "\\PC{0,120}", words in prop::collection::vec(select(WORDS), 0..24)) {
        let words = words.join(" ");
        for text in [text.as_str(), words.as_str()] {
            let _ = Setup::default().compile(text);
            let workload = common::workload();
            let _ = mantlet_policy::upstreams::parse("u", text, &workload, &Limits::ANNOTATIONS);
            let _ = mantlet_policy::expect::parse("t", text, &workload);
            let _ = mantlet_policy::annotations::parse(text.as_bytes());
            let _ = mantlet_policy::registry::parse_http_options(text);
            let _ = mantlet_policy::registry::parse_mode(text);
        }
    }
}

const WORDS: &[&str] = &[
    "allow",
    "deny",
    "audit",
    "group",
    "@g",
    "=",
    "a/b,",
    "a/b",
    "mesh",
    "to",
    "GET",
    "GET,",
    "/",
    "/a/**",
    "/{id}",
    "grpc",
    "a.B/C",
    "tcp",
    "on",
    "80,",
    "80-90",
    "http",
    "when",
    "header",
    "x-a",
    "in",
    "(a,",
    "b)",
    "\"",
    "\"a b\"",
    "host",
    "*.x",
    "and",
    "until",
    "2026-12-01T18:00Z",
    "as",
    "name",
    "except",
    "plaintext(",
    "plaintext(any)",
    "#",
    "\n",
    "is",
    "passthrough",
    "[::1]:80",
    "*",
    "expect",
    "bad",
    "%",
    "é",
];
