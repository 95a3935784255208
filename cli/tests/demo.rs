//! `mantlet demo` as people run it.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Running, Scratch, run, stderr, stdout, wait_until_gone};

/// Held by every demo; alone by the one whose time is measured.
static STAGE: RwLock<()> = RwLock::new(());

fn shared() -> RwLockReadGuard<'static, ()> {
    STAGE.read().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn demo_once_verifies_everything_in_less_than_twenty_seconds_and_leaves_nothing() {
    let _alone = STAGE.write().unwrap_or_else(PoisonError::into_inner);
    let scratch = Scratch::new();
    let begin = Instant::now();
    let output = run(&scratch, &["demo", "--once"]);
    let took = begin.elapsed();
    let (out, err) = (stdout(&output), stderr(&output));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(scratch.is_empty());

    let events: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |name: &str| events.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
    let shown: Vec<_> = of("call")
        .iter()
        .map(|call| {
            let word = |name: &str| call[name].as_str().unwrap_or_default().to_owned();
            let status = call["status"].as_u64().unwrap_or_default();
            (word("caller"), word("called"), word("request"), status, word("decision"), word("why"))
        })
        .collect();
    let shown: Vec<_> = shown
        .iter()
        .map(|(a, b, c, d, e, f)| (a.as_str(), b.as_str(), c.as_str(), *d, e.as_str(), f.as_str()))
        .collect();
    assert_eq!(
        shown,
        [
            ("web", "api", "GET /orders/42", 200, "allow", "rule web-read"),
            ("web", "api", "DELETE /orders/42", 403, "deny", "default"),
            ("intruder", "api", "GET /orders/42", 403, "deny", "default"),
            ("api", "db", "grpc Rows/Get", 0, "allow", "rule api-get"),
            ("api", "db", "grpc Rows/Drop", 7, "deny", "default"),
            ("api", "db", "tcp", 0, "allow", "rule api-sql"),
            ("intruder", "db", "tcp", 0, "deny", "default"),
            ("no cert", "api", "GET /orders/42", 0, "refused in TLS", "no_peer_cert"),
            ("forged", "api", "GET /orders/42", 0, "refused in TLS", "unknown_issuer"),
            ("plaintext", "api", "GET /orders/42", 0, "refused in TLS", "protocol"),
            ("intruder", "api", "GET /orders/42", 200, "would_deny", "default"),
            ("intruder", "api", "GET /orders/42", 403, "deny", "default"),
            ("api", "db", "grpc Rows/Watch", 7, "deny", "policy"),
            ("api", "db", "grpc Rows/Get", 0, "allow", "rule api-get"),
        ]
    );
    assert_eq!(of("call")[0]["seen"], "api saw spiffe://demo.local/ns/shop/sa/web");
    assert_eq!(of("call")[1]["nearest"], "web-read");
    assert_eq!(of("edit").len(), 3);
    assert_eq!(of("sidecar").len(), 4);
    let rotation = of("rotation")[0];
    assert_eq!((&rotation["cause"], &rotation["failed"]), (&"half_life".into(), &0.into()));
    assert!(rotation["requests"].as_u64().is_some_and(|requests| requests > 100), "{rotation}");
    assert_eq!(of("result")[0]["passed"], true);
    for sidecar in of("sidecar") {
        wait_until_gone(sidecar["pid"].as_u64().expect("a pid"));
    }
}

#[test]
fn demo_once_is_readable_on_eighty_columns_without_colour() {
    let _shared = shared();
    let scratch = Scratch::new();
    let output = run(&scratch, &["demo", "--once", "-o", "text"]);
    let out = stdout(&output);
    assert!(output.status.success(), "{out}\n{}", stderr(&output));
    assert!(out.contains("all 15 checks passed"), "{out}");
    assert!(!out.contains('\x1b'), "{out}");
    for line in out.lines() {
        // The test's own directory is deeper than what people have.
        let line = line.replace(&*scratch.0.to_string_lossy(), "/tmp");
        assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
    }
}

#[test]
fn the_demo_stays_for_requests_by_hand_and_ends_cleanly_on_ctrl_c() {
    stays_until("-INT");
}

#[test]
fn the_demo_ends_cleanly_when_its_service_manager_says_so() {
    stays_until("-TERM");
}

fn stays_until(signal: &str) {
    let _shared = shared();
    let scratch = Scratch::new();
    let mut demo = Running::start(&scratch, &["demo"]);
    let pids: Vec<u64> = (0..4).map(|_| demo.event("sidecar")["pid"].as_u64().expect("a pid")).collect();
    assert_eq!(demo.event("result")["passed"], true);
    let get = demo.event("try")["command"].as_str().expect("a command").to_owned();
    let delete = demo.event("try")["command"].as_str().expect("a command").to_owned();
    assert_eq!(status_of("GET", &get), 200, "{get}");
    assert_eq!(status_of("DELETE", &delete), 403, "{delete}");
    let intruder = demo.event("try")["command"].as_str().expect("a command").to_owned();
    assert_eq!(status_of("GET", &intruder), 403, "{intruder}");
    let mut printed = |instead: &str, of: &str| {
        let command = demo.event("try")["command"].as_str().expect("a command").replace(of, instead);
        let shown = run(&scratch, &command.split_whitespace().skip(1).collect::<Vec<_>>());
        assert!(shown.status.success(), "{command}: {}", stderr(&shown));
        stdout(&shown)
    };
    let edges = printed("", "!");
    for edge in ["shop/web       shop/api  http mtls", "shop/intruder  shop/db   tcp mtls"] {
        assert!(edges.contains(edge), "{edge}: {edges}");
    }
    // The next two go on until somebody ends them; requests flow, so there is something to show at once.
    // One of five may be about a certificate.
    let tail = printed("-n 5", "--deny");
    assert!(tail.contains("allow      shop/web -> shop/api  GET /orders/7  web-read"), "{tail}");
    let certs = printed("", "-w ");
    assert!(certs.contains("id       spiffe://demo.local/ns/shop/sa/api"), "{certs}");
    let _metrics = demo.event("try");
    let edit = demo.event("try")["command"].as_str().expect("a command").to_owned();
    let edited = Command::new("bash").args(["-c", &edit]).status();
    assert!(edited.is_ok_and(|status| status.success()), "{edit}");
    let begin = Instant::now();
    while status_of("DELETE", &delete) != 200 {
        assert!(begin.elapsed() < support::PATIENCE, "the policy is live");
    }
    let status = demo.end(signal);
    assert_eq!(status.code(), Some(0), "{signal}");
    pids.into_iter().for_each(wait_until_gone);
    assert!(scratch.is_empty(), "{signal} leaves nothing behind");
}

#[test]
fn the_demo_ends_cleanly_when_nobody_reads_it_any_more() {
    let _shared = shared();
    let scratch = Scratch::new();
    let mut demo = Running::start(&scratch, &["demo"]);
    let pid = demo.event("sidecar")["pid"].as_u64().expect("a pid");
    assert_eq!(demo.stop_reading().code(), Some(0));
    wait_until_gone(pid);
    assert!(scratch.is_empty());
}

#[test]
fn killing_the_demo_kills_its_sidecars_and_leaves_nothing() {
    let _shared = shared();
    let scratch = Scratch::new();
    let mut demo = Running::start(&scratch, &["demo"]);
    let pids: Vec<u64> = (0..4).map(|_| demo.event("sidecar")["pid"].as_u64().expect("a pid")).collect();
    demo.end("-KILL");
    pids.into_iter().for_each(wait_until_gone);
    scratch.wait_until_empty();
}

#[test]
fn a_signal_before_the_end_of_once_is_no_success() {
    let _shared = shared();
    let scratch = Scratch::new();
    let mut demo = Running::start(&scratch, &["demo", "--once"]);
    let pid = demo.event("sidecar")["pid"].as_u64().expect("a pid");
    assert_eq!(demo.end("-TERM").code(), Some(1));
    wait_until_gone(pid);
    assert!(scratch.is_empty());
}

#[test]
fn a_directory_that_cannot_be_written_is_named_with_the_next_step() {
    let scratch = Scratch::new();
    let output = support::mantlet(&scratch.0, &["demo", "--once"])
        .env("TMPDIR", "/nonexistent")
        .output()
        .expect("mantlet runs");
    assert_eq!(output.status.code(), Some(1));
    let err = stderr(&output);
    assert!(err.contains("/nonexistent") && err.contains("next: set TMPDIR"), "{err}");
}

/// Does what the line to paste does; the URL is its last word.
fn status_of(method: &str, command: &str) -> u16 {
    let url = command.split_whitespace().last().expect("a URL");
    let (host, path) = url.strip_prefix("http://").and_then(|url| url.split_once('/')).expect("http");
    let mut stream = TcpStream::connect(host).expect("it listens");
    stream.set_read_timeout(Some(support::PATIENCE)).expect("a timeout");
    let request = format!("{method} /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
}
