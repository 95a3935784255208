//! What a decision may cost: no allocation on the allow path, no growth with the number of rules that
//! a compilation would not refuse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, unsafe_code)]

mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use common::{FIXTURE, Setup, compile, id, now, show};
use mantlet_policy::{
    Code, HttpFacts, Peer, Policy, Target, Verdict,
    canonical::{Canonical, HostLines, PathOptions, RequestHead, Version},
};

/// Counts the allocations of this thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is handed on to the system's allocator; the counter is a plain cell without a
// destructor, so reading it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The number of allocations that `f` makes.
fn allocations(f: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.with(Cell::get);
    f();
    ALLOCATIONS.with(Cell::get) - before
}

fn head<'a>(method: &'a str, path: &'a str) -> RequestHead<'a> {
    let host = HostLines::One(b"orders.shop");
    RequestHead {
        version: Version::Http11,
        method,
        scheme: None,
        authority: None,
        path,
        query: Some("a=b"),
        host,
    }
}

/// Canonicalises and decides, and counts the allocations of both.
fn decide(
    policy: &Policy,
    peer: &str,
    method: &str,
    path: &str,
    headers: &Vec<(String, String)>,
) -> (Verdict, usize) {
    let id = id(peer);
    let view = policy.view(Peer::Identity(&id), 8080);
    let head = head(method, path);
    let mut verdict = Verdict::Deny;
    let count = allocations(|| {
        let canonical = Canonical::new(&head, headers, PathOptions::default()).unwrap();
        let facts = HttpFacts { target: Target::Canonical(&canonical), headers };
        verdict = policy.decide_http(&view, &facts, now()).verdict;
    });
    (verdict, count)
}

#[test]
fn a_canonical_request_that_is_allowed_costs_no_allocation() {
    let policy = compile(FIXTURE);
    let tenant = vec![("x-tenant".to_owned(), "acme".to_owned())];
    for (peer, method, path, headers) in [
        ("web/bff", "GET", "/orders/42", &vec![]),
        ("web/bff", "GET", "/Orders-Of-%C3%89t%C3%A9/x/../".trim_end_matches("/../"), &vec![]),
        ("web/checkout", "POST", "/orders", &tenant),
        ("ops/dev", "PATCH", "/SOME/Very/Long/Path/%40x/that/the/deny/has/to/fold", &tenant),
    ] {
        let (verdict, count) = decide(&policy, peer, method, path, headers);
        assert_eq!(count, 0, "{peer} {method} {path}");
        assert_eq!(verdict == Verdict::Allow, !path.starts_with("/Orders-Of"), "{path}");
    }
}

#[test]
fn ten_thousand_rules_cost_no_allocation_either() {
    let text: String = (0..10_000)
        .map(|n| format!("allow ns{}/sa{n}, web/bff to GET /r{n}/** on 8080 as r{n}\n", n % 50))
        .collect();
    let policy = compile(&text);
    for path in ["/r0/x", "/r9999", "/r5000/a/b"] {
        assert_eq!(decide(&policy, "web/bff", "GET", path, &vec![]), (Verdict::Allow, 0), "{path}");
    }
}

#[test]
fn wildcards_that_would_multiply_are_refused() {
    // Each depth doubles the branches that one path is in.
    let text: String = (0..64_u32)
        .map(|n| {
            let path: String = (0..6).map(|bit| if n >> bit & 1 == 1 { "/a" } else { "/*" }).collect();
            format!("allow a/b to GET {path} on 80\n")
        })
        .collect();
    let findings = Setup::default().compile(&text).unwrap_err();
    assert_eq!(findings[0].code, Code::Limit);
    assert!(findings[0].message.contains("more than 32 branches"), "{}", show(&findings));
    let fine: String = (0..10_000).map(|n| format!("allow a/b to GET /r{n}/*/x{n} on 80\n")).collect();
    assert!(Setup::default().compile(&fine).is_ok());
}

#[test]
fn conditions_that_one_request_would_have_to_ask_are_bounded() {
    let same_peer: String =
        (0..300).map(|n| format!("allow a/* to GET /** on 80 when header x = v{n}\n")).collect();
    let findings = Setup::default().compile(&same_peer).unwrap_err();
    assert!(
        findings[0].message.contains("300 rules with conditions, 256 are allowed"),
        "{}",
        show(&findings)
    );
    let by_peer: String =
        (0..5000).map(|n| format!("allow a/b{n} to GET /** on 80 when header x = v\n")).collect();
    assert!(Setup::default().compile(&by_peer).is_ok(), "different callers never meet");
    let by_path: String =
        (0..5000).map(|n| format!("allow a/* to GET /t{n}/** on 80 when header x = v\n")).collect();
    assert!(Setup::default().compile(&by_path).is_ok(), "different paths never meet");
}

#[test]
fn port_ranges_that_overlap_in_too_many_ways_are_refused() {
    let text: String = (1..=1000).map(|n| format!("allow a/b to GET / on {n}-{}\n", 60_000 - n)).collect();
    let findings = Setup::default().compile(&text).unwrap_err();
    assert_eq!(findings[0].code, Code::Limit, "{}", show(&findings));
}

#[test]
fn a_port_range_costs_as_much_as_a_port() {
    let policy = compile("allow a/b to GET / on 1-65535");
    assert_eq!(policy.rule_count(), 1);
    assert!(format!("{policy:?}").len() < 20_000);
}
