//! `testkit/cases.toml` and the tests that carry a case's id in their name are held equal.
//!
//! A test belongs to a case by its prefix: `fn d04_upper_case_..` belongs to `D04`, and a function
//! may carry several (`fn d01_d02_..`). After adding, moving or renaming tests, run
//! `TEST_BLESS=1 cargo test -p mantlet-testkit --test cases` and look at the diff.

mod repo;

use repo::{files, workspace};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
};

/// How many cases each prefix has. A case never leaves quietly.
const COUNTS: &[(char, usize)] = &[
    ('I', 20),
    ('T', 7),
    ('E', 31),
    ('X', 23),
    ('W', 14),
    ('B', 5),
    ('F', 2),
    ('P', 4),
    ('R', 15),
    ('D', 73),
    ('N', 19),
    ('A', 26),
    ('M', 13),
    ('C', 33),
];

/// The only cases that may say `later`. The list shrinks; to grow it is a decision.
const LATER: &[&str] = &["D71"];

/// The cases that a decision has made void: each names its page below `docs/adr`.
const VOID: &[&str] = &["F1-F2"];

/// One table of `cases.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    says: String,
    #[serde(default)]
    test: Vec<String>,
    later: Option<String>,
    void: Option<String>,
}

/// Prefix and number: `D04` and `d4_` are the same case.
type Id = (char, u32);

#[test]
fn the_case_list_and_the_tests_agree() {
    let file = workspace().join("testkit/cases.toml");
    let mut text = fs::read_to_string(&file).expect("testkit/cases.toml");
    let found = tests_by_case();
    if std::env::var_os("TEST_BLESS").is_some() {
        text = rewrite(&text, &found);
        fs::write(&file, &text).expect("testkit/cases.toml is writable");
    }

    let cases: BTreeMap<String, Case> = toml::from_str(&text).expect("testkit/cases.toml parses");
    let (allowed_later, void) = (ids(LATER), ids(VOID));
    let mut wrong = String::new();
    let mut known = BTreeMap::new();
    for (name, case) in &cases {
        let id = parse_id(name).unwrap_or_else(|| panic!("[{name}] is not a case id"));
        assert!(known.insert(id, case).is_none(), "{name} stands twice");
        if case.says.trim().is_empty() {
            let _ = writeln!(wrong, "{name}: says nothing");
        }
        let listed: BTreeSet<&String> = case.test.iter().collect();
        let real: BTreeSet<&String> = found.get(&id).into_iter().flatten().collect();
        for gone in listed.difference(&real) {
            let _ = writeln!(wrong, "{name}: no such test: {gone}");
        }
        for new in real.difference(&listed) {
            let _ = writeln!(wrong, "{name}: not listed: {new}");
        }
        if let Some(page) = &case.void {
            let is_page = page.starts_with("docs/adr/") && workspace().join(page).is_file();
            if !is_page || !void.contains(&id) || !listed.is_empty() || case.later.is_some() {
                let _ =
                    writeln!(wrong, "{name}: is void only by a page and in the list VOID, and then untested");
            }
            continue;
        }
        match (&case.later, listed.is_empty()) {
            (None, true) => {
                let _ = writeln!(wrong, "{name}: has neither a test nor a `later`");
            }
            (Some(_), false) => {
                let _ = writeln!(wrong, "{name}: is tested and says `later`");
            }
            (Some(_), true) if !allowed_later.contains(&id) => {
                let _ = writeln!(wrong, "{name}: says `later` outside the list LATER");
            }
            (None, false) if allowed_later.contains(&id) => {
                let _ = writeln!(wrong, "{name}: is tested: take it off the list LATER");
            }
            _ => {}
        }
    }
    for (id, tests) in &found {
        if !known.contains_key(id) {
            let _ = writeln!(wrong, "{}{}: no such case, but tests {tests:?}", id.0, id.1);
        }
    }
    for (prefix, count) in COUNTS {
        let n = known.keys().filter(|id| id.0 == *prefix).count();
        if n != *count {
            let _ = writeln!(wrong, "{prefix}: {n} cases, {count} expected");
        }
    }
    let open = known.iter().filter(|(_, case)| case.test.is_empty() && case.void.is_none());
    assert!(
        wrong.is_empty(),
        "cases.toml and the tests differ:\n{wrong}\
         TEST_BLESS=1 cargo test -p mantlet-testkit --test cases fills in the tests;\n\
         what is not tested: {:?}",
        ranges(open.map(|(id, _)| *id))
    );
}

#[test]
fn a_case_id_is_read_from_a_function_name() {
    let ids = |name| ids_of(name).collect::<Vec<_>>();
    assert_eq!(ids("d04_upper_case"), [('D', 4)]);
    assert_eq!(ids("x8_leaf_may_sign"), [('X', 8)]);
    assert_eq!(ids("d01_d02_paths"), [('D', 1), ('D', 2)]);
    assert_eq!(ids("r2"), [('R', 2)]);
    assert_eq!(ids("x509_parses"), [], "three digits are a standard, not a case");
    assert_eq!(ids("h2_window"), [], "h is no prefix");
    assert_eq!(ids("deny_wins"), []);
}

/// Every case of these ranges.
fn ids(ranges: &[&str]) -> BTreeSet<Id> {
    let id = |s: &str| parse_id(s).unwrap_or_else(|| panic!("{s} is no case"));
    ranges
        .iter()
        .flat_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (id(first), id(last));
            (first.1..=last.1).map(move |n| (first.0, n))
        })
        .collect()
}

/// Ids, in order, as the list above writes them.
fn ranges(ids: impl Iterator<Item = Id>) -> Vec<String> {
    let mut runs: Vec<(Id, u32)> = Vec::new();
    for id in ids {
        match runs.last_mut() {
            Some((first, last)) if first.0 == id.0 && *last + 1 == id.1 => *last = id.1,
            _ => runs.push((id, id.1)),
        }
    }
    let shown = |((prefix, first), last)| match first == last {
        true => format!("{prefix}{first}"),
        false => format!("{prefix}{first}-{prefix}{last}"),
    };
    runs.into_iter().map(shown).collect()
}

fn parse_id(s: &str) -> Option<Id> {
    let mut chars = s.chars();
    let prefix = chars.next()?.to_ascii_uppercase();
    let digits = chars.as_str();
    let known = COUNTS.iter().any(|(p, _)| *p == prefix);
    let plausible = (1..=2).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    (known && plausible).then(|| digits.parse().ok().map(|n| (prefix, n)))?
}

/// The case ids at the front of a function's name.
fn ids_of(function: &str) -> impl Iterator<Item = Id> {
    function.split('_').map_while(parse_id)
}

/// Case id to the tests that carry it, as `file::function`.
fn tests_by_case() -> BTreeMap<Id, BTreeSet<String>> {
    let mut found: BTreeMap<Id, BTreeSet<String>> = BTreeMap::new();
    let root = workspace();
    for path in files(&root, ".rs") {
        let text = fs::read_to_string(&path).expect("a source file");
        let shown = path.strip_prefix(&root).expect("below the root").display();
        for function in test_functions(&text) {
            for id in ids_of(function) {
                let tests = found.entry(id).or_default();
                tests.insert(format!("{shown}::{function}"));
            }
        }
    }
    found
}

/// Names of functions under a `#[test]` or `#[tokio::test]`.
fn test_functions(text: &str) -> impl Iterator<Item = &str> {
    let mut is_test = false;
    text.lines().filter_map(move |line| {
        let line = line.trim_start();
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
            return None;
        }
        let rest = line.strip_prefix("async ").unwrap_or(line);
        let name = rest.strip_prefix("fn ")?;
        let name = name.split(['(', '<']).next()?.trim();
        std::mem::take(&mut is_test).then_some(name)
    })
}

/// The file with `test` filled in from the sources; comments and sentences stay. A case whose last
/// test is gone gets a `later` that the list above does not allow.
fn rewrite(text: &str, found: &BTreeMap<Id, BTreeSet<String>>) -> String {
    let mut out = String::new();
    let mut current = None;
    let mut in_list = false;
    for line in text.lines() {
        if in_list {
            in_list = line.trim() != "]";
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            current = parse_id(name);
        }
        let tests = current.and_then(|id| found.get(&id));
        if line.starts_with("test = ") {
            in_list = !line.ends_with(']');
            if tests.is_none() {
                out.push_str("later = \"its test is gone\"\n");
            }
            continue;
        }
        if line.starts_with("later = ") && tests.is_some() {
            continue;
        }
        out.push_str(line);
        out.push('\n');
        if let (true, Some(tests)) = (line.starts_with("says = "), tests) {
            out.push_str(&list(tests));
        }
    }
    out
}

fn list(tests: &BTreeSet<String>) -> String {
    let mut out = String::from("test = [\n");
    for test in tests {
        let _ = writeln!(out, "    \"{test}\",");
    }
    out.push_str("]\n");
    out
}
