//! docs/policy.md: every example does what it says, and every code and reason has its place.
//!
//! Blocks: `policy` compiles; `http-options` are those of the policy in front of them; `expect` holds for it;
//! `upstreams` parses; `wrong` is a text, `---`, and the message that it gets. What is wrong with whole manifests
//! is tested where manifests are read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Setup, now, show, workload};
use mantlet_policy::{
    Code, Diagnostic, Guardrails, HttpOptions, Latches, Limits, NamedPort, Source,
    canonical::Malformed,
    check, expect,
    language::Time,
    registry::{self, KeyKind, KnownKey},
    upstreams,
};

const PAGE: &str = include_str!("../../docs/policy.md");

/// The fenced blocks of a kind: what follows the kind on its line, and the text.
fn blocks() -> Vec<(&'static str, &'static str)> {
    let mut blocks = Vec::new();
    let mut rest = PAGE;
    while let Some((_, after)) = rest.split_once("\n```") {
        let (kind, body) = after.split_once('\n').unwrap();
        let (text, after) = body.split_once("```").unwrap();
        blocks.push((kind, text));
        rest = after;
    }
    blocks
}

/// The time of the page: before its grants end.
fn setup() -> Setup {
    Setup { now: Time::parse("2026-11-21T00:00Z").unwrap().system_time(), ..Setup::default() }
}

#[test]
fn the_expectations_of_the_page_hold_for_its_policies() {
    let setup = setup();
    let (mut policy, mut options, mut held) = (None, HttpOptions::default(), 0);
    for (kind, text) in blocks() {
        match kind {
            "policy" => {
                let compiled = setup.compile(text).unwrap_or_else(|findings| panic!("{}", show(&findings)));
                // Of its own, as the latches are: an expectation may be about the time after the end.
                policy = Some((compiled, text));
                options = HttpOptions::default();
            }
            "http-options" => options = registry::parse_http_options(text).unwrap(),
            "expect" => {
                let (_, rules) = policy.as_ref().unwrap();
                for expectation in expect::parse("docs/policy.md", text, &setup.workload).unwrap() {
                    let fresh =
                        Setup { latches: Latches::new(), http_options: options.clone(), ..self::setup() };
                    let policy = fresh.compile(rules).unwrap();
                    let (decision, holds) = expectation.check(&policy, fresh.now);
                    assert!(holds, "{}\ngot {}", expectation.text, expect::describe(&decision));
                    held += 1;
                }
            }
            "upstreams" => drop(upstreams::parse("u", text, &setup.workload, &Limits::ANNOTATIONS).unwrap()),
            _ => {}
        }
    }
    assert!(held > 45);
}

/// The findings of a wrong example. Its first line may say what it is: `mode:`, `http-options:`,
/// `upstreams:`, `guardrails:` or an annotation key.
fn findings(kind: &str, text: &str) -> Vec<Diagnostic> {
    let mut setup = Setup { limits: Limits::ANNOTATIONS, now: now(), ..setup() };
    match kind.strip_prefix("wrong ").unwrap_or_default() {
        "mode" => return vec![*registry::parse_mode(text.trim()).unwrap_err()],
        "http-options" => return vec![*registry::parse_http_options(text).unwrap_err()],
        "key" => return vec![*registry::check_key(text.trim()).unwrap_err()],
        "upstreams-257" => {
            let text: String = (0..257).map(|n| text.replace("{n}", &n.to_string())).collect();
            return upstreams::parse(registry::UPSTREAMS, &text, &workload(), &Limits::ANNOTATIONS)
                .unwrap_err();
        }
        "upstreams" => {
            return upstreams::parse(registry::UPSTREAMS, text, &workload(), &Limits::ANNOTATIONS)
                .unwrap_err();
        }
        "forbid" => setup.guardrails = Guardrails::parse("forbid plaintext").unwrap(),
        "portless" => setup.workload.ports.clear(),
        "udp" => setup.workload.ports.extend(NamedPort::parse_list("dns=53/udp").unwrap()),
        _ => {}
    }
    let report = check(&[Source { key: "mantlet.dev/policy", text }], &setup.config());
    if report.errors.is_empty() { report.warnings } else { report.errors }
}

#[test]
fn every_wrong_example_gets_the_message_that_the_page_shows() {
    let mut wrong = Vec::new();
    let examples =
        blocks().into_iter().filter(|(kind, _)| kind.starts_with("wrong") && !kind.ends_with(" manifest"));
    for (kind, block) in examples {
        let (text, expected) = block.split_once("---\n").unwrap();
        let shown: Vec<String> = findings(kind, text).iter().map(|finding| format!("{finding}\n")).collect();
        if !shown.iter().any(|shown| shown == expected) {
            wrong.push(format!("{text}---\n{}", shown.concat()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_code_and_every_reason_is_on_the_page() {
    let missing: Vec<&str> = Code::ALL
        .iter()
        .map(|code| code.as_str())
        .filter(|code| !PAGE.contains(&format!("### {code} ")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    // The message of each is shown, below what provokes it.
    let shown: Vec<&str> = blocks()
        .into_iter()
        .filter(|(kind, _)| kind.starts_with("wrong"))
        .filter_map(|(_, block)| block.split_once("---\n").map(|(_, message)| message))
        .collect();
    let is_shown = |code: &&Code| {
        let code = code.as_str();
        shown.iter().any(|message| message.starts_with(code) || message.contains(&format!(": {code} ")))
    };
    let missing: Vec<&Code> = Code::ALL.iter().filter(|code| !is_shown(code)).collect();
    assert!(missing.is_empty(), "without an example: {missing:?}");
    for reason in Malformed::ALL {
        let row = format!("| `{reason}` | {} |", reason.explain());
        assert!(PAGE.contains(&row), "{row}");
    }
    // What a test file can ask, the page asks.
    let asked: Vec<&str> =
        blocks().into_iter().filter(|(kind, _)| *kind == "expect").map(|(_, text)| text).collect();
    let wire = [
        Malformed::HeadTooLarge,
        Malformed::TargetTooLong,
        Malformed::Framing,
        Malformed::HostMissing,
        Malformed::HostRepeated,
        Malformed::HostConflict,
        Malformed::ConnectionHeader,
        Malformed::TooManySegments,
    ];
    for reason in Malformed::ALL.iter().filter(|reason| !wire.contains(reason)) {
        let because = format!(" because {reason}\n");
        assert!(asked.iter().any(|text| text.contains(&because)), "{reason} without an example");
    }
}

#[test]
fn every_annotation_and_label_has_its_row() {
    let page = include_str!("../../docs/annotations.md");
    for KnownKey { key, kind, meaning } in registry::KEYS {
        let place = match kind {
            KeyKind::Live => "pod, live",
            KeyKind::Admission => "pod, at admission",
            KeyKind::Ours => "pod, set by Mantlet",
            KeyKind::Label => "label of a ",
            KeyKind::Service => "Service",
        };
        let row = page.lines().find(|line| line.starts_with(&format!("| `{key}` | {place}")));
        assert!(row.is_some_and(|row| row.ends_with(&format!(" | {meaning} |"))), "{key}: {row:?}");
    }
    let rows = page.lines().filter(|line| line.starts_with("| `mantlet.dev/")).count();
    assert_eq!(rows, registry::KEYS.len());
}
