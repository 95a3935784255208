//! What a decision costs at 1, 256 and 10 000 rules, with the match first, last and nowhere; what it
//! costs to find the nearest miss of a refusal, and to compile. Run with `cargo bench -p mantlet-policy`.
//!
//! `cargo bench -p mantlet-policy -- --gate` exits with 1 when the median at 256 rules passes 300 ns
//! or 1.3 times that of one rule.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Instant, SystemTime},
};

use mantlet_id::{SpiffeId, TrustDomain};
use mantlet_policy::{
    Config, Guardrails, HttpFacts, HttpOptions, Latches, Limits, Mode, Peer, Policy, Source, Target,
    Workload,
    canonical::{Canonical, HostLines, PathOptions, RequestHead, Version},
    headers::NoHeaders,
};

/// Counts the bytes in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const BATCH: u32 = 200;
const SAMPLES: usize = 2_000;

/// A policy in which every rule has its own path and its own peers, and one caller is in all of them.
fn own_paths(count: usize) -> String {
    (0..count)
        .map(|n| {
            format!("allow ns{}/sa{n}, web/frontend to GET,HEAD /api/r{n}/{{id}} on 8080 as r{n}\n", n % 97)
        })
        .collect()
}

/// A policy in which every rule has the same path and another peer.
fn own_peers(count: usize) -> String {
    (0..count).map(|n| format!("allow ns/sa{n} to GET,HEAD /api/{{id}} on 8080 as r{n}\n")).collect()
}

fn compile(text: &str) -> Policy {
    let workload = Workload::new(TrustDomain::parse("td.test").unwrap(), "shop");
    let config = Config {
        workload: &workload,
        limits: Limits::FILES,
        guardrails: &Guardrails::default(),
        mode: Mode::Enforce,
        http_options: &HttpOptions::default(),
        latches: &Latches::new(),
        now: SystemTime::now(),
    };
    Policy::compile(&[Source { key: "mantlet.dev/policy", text }], &config).unwrap()
}

/// The median nanoseconds of canonicalising and deciding one request.
fn measure(policy: &Policy, peer: &str, path: &str, expected: &str) -> f64 {
    let (namespace, account) = peer.split_once('/').unwrap();
    let id = SpiffeId::workload(&TrustDomain::parse("td.test").unwrap(), namespace, account).unwrap();
    let view = policy.view(Peer::Identity(&id), 8080);
    let host = HostLines::One(b"orders.shop");
    let head = RequestHead {
        version: Version::Http11,
        method: "GET",
        scheme: None,
        authority: None,
        path,
        query: None,
        host,
    };
    let now = SystemTime::now();
    let decide = || {
        let canonical = Canonical::new(black_box(&head), &NoHeaders, PathOptions::default()).unwrap();
        let facts = HttpFacts { target: Target::Canonical(&canonical), headers: &NoHeaders };
        policy.decide_http(black_box(&view), &facts, now)
    };
    let decision = decide();
    assert_eq!(decision.rule.as_deref().unwrap_or(decision.reason.as_str()), expected);
    let calls = CALLS.load(Ordering::Relaxed);
    for _ in 0..100 {
        black_box(decide());
    }
    assert_eq!(CALLS.load(Ordering::Relaxed), calls, "a decision allocated");
    let mut samples: Vec<f64> = (0..SAMPLES)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..BATCH {
                black_box(decide());
            }
            start.elapsed().as_nanos() as f64 / f64::from(BATCH)
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    samples[SAMPLES / 2]
}

/// The median microseconds of finding the rule that came nearest to letting a request pass.
fn measure_nearest(policy: &Policy, path: &str) -> f64 {
    let id = SpiffeId::parse("spiffe://td.test/ns/ns/sa/stranger").unwrap();
    let host = HostLines::One(b"orders.shop");
    let head = RequestHead {
        version: Version::Http11,
        method: "DELETE",
        scheme: None,
        authority: None,
        path,
        query: None,
        host,
    };
    let canonical = Canonical::new(&head, &NoHeaders, PathOptions::default()).unwrap();
    let facts = HttpFacts { target: Target::Canonical(&canonical), headers: &NoHeaders };
    let now = SystemTime::now();
    let mut samples: Vec<f64> = (0..200)
        .map(|_| {
            let start = Instant::now();
            black_box(policy.nearest_rule(Peer::Identity(&id), 8080, Some(facts), now)).unwrap();
            start.elapsed().as_nanos() as f64 / 1000.0
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    samples[100]
}

/// The medians for a match first, last and nowhere.
fn row(name: &str, count: usize, text: &str, ask: impl Fn(usize) -> (String, String)) -> [f64; 3] {
    let before = IN_USE.load(Ordering::Relaxed);
    let start = Instant::now();
    let policy = compile(text);
    let compiled = start.elapsed();
    let kib = (IN_USE.load(Ordering::Relaxed) - before) / 1024;
    let last = count - 1;
    let (first_peer, first_path) = ask(0);
    let (last_peer, last_path) = ask(last);
    let medians = [
        measure(&policy, &first_peer, &first_path, "r0"),
        measure(&policy, &last_peer, &last_path, &format!("r{last}")),
        measure(&policy, &first_peer, "/nothing/here", "default"),
    ];
    let [first, end, none] = medians;
    let nearest = measure_nearest(&policy, &last_path);
    println!(
        "{name:<10} {count:>6} {first:>9.0} {end:>9.0} {none:>9.0} {nearest:>11.1} {:>11.2} {kib:>10}",
        compiled.as_secs_f64() * 1000.0
    );
    medians
}

fn main() {
    println!("p50 of canonicalise + decide in ns, allocations 0");
    println!(
        "{:<10} {:>6} {:>9} {:>9} {:>9} {:>11} {:>11} {:>10}",
        "policy", "rules", "first", "last", "none", "nearest us", "compile ms", "KiB"
    );
    let mut paths = Vec::new();
    for count in [1, 256, 10_000] {
        paths.push(row("own paths", count, &own_paths(count), |n| {
            ("web/frontend".into(), format!("/api/r{n}/42"))
        }));
    }
    for count in [1, 256, 10_000] {
        row("own peers", count, &own_peers(count), |n| (format!("ns/sa{n}"), "/api/42".into()));
    }
    let worst = |row: [f64; 3]| row.into_iter().fold(0.0, f64::max);
    let (one, many, most) = (worst(paths[0]), worst(paths[1]), worst(paths[2]));
    println!("worst of 256 rules / worst of one: {:.2}; of 10 000: {:.2}", many / one, most / one);
    if std::env::args().any(|arg| arg == "--gate") && (many > 300.0 || many / one > 1.3) {
        println!("the gate is 300 ns and 1.3 times");
        std::process::exit(1);
    }
}
