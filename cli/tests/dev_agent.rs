//! `mantlet dev-agent` and `mantlet certs` as people run them.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;
use support::{Running, Scratch, mantlet, run, stderr, stdout};

fn agent(scratch: &Scratch, more: &[&str]) -> (Running, String) {
    let uid = fs::metadata(&scratch.0).map(|found| std::os::unix::fs::MetadataExt::uid(&found));
    let uid = uid.expect("our own directory");
    let entry = format!(
        "[[entry]]\nid = \"spiffe://demo.local/ns/shop/sa/web\"\nuid = {uid}\nfederates_with = [\"b.test\"]\n"
    );
    fs::write(scratch.file("entries.toml"), entry).expect("a file");
    let domains = ["--trust-domain", "demo.local", "--trust-domain", "b.test"];
    let arguments =
        [&["dev-agent", "--socket", "agent.sock", "--entries", "entries.toml"], &domains[..], more];
    let mut agent = Running::start(scratch, &arguments.concat());
    let event = agent.event("listening");
    assert_eq!(event["production"], false);
    let addr = event["addr"].as_str().expect("an address").to_owned();
    (agent, addr)
}

#[test]
fn certs_shows_the_identity_that_the_agent_gives() {
    let scratch = Scratch::new();
    let (agent, addr) = agent(&scratch, &[]);
    let mode = fs::metadata(scratch.file("agent.sock")).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let output = run(&scratch, &["certs", "--workload-api", &addr]);
    let out = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for shown in [
        "id       spiffe://demo.local/ns/shop/sa/web",
        "issuer   O=Mantlet development CA",
        "serial   ",
        " left, until 20",
        "bundles  demo.local  1 authority, soonest expiry in ",
        "b.test  1 authority",
    ] {
        assert!(out.contains(shown), "{shown}: {out}");
    }
    let from_environment = mantlet(&scratch.0, &["certs", "-o", "json"])
        .env("SPIFFE_ENDPOINT_SOCKET", &addr)
        .output()
        .expect("mantlet runs");
    let document: Value = serde_json::from_slice(&from_environment.stdout).expect("JSON");
    assert_eq!(document["svid"]["spiffe_id"], "spiffe://demo.local/ns/shop/sa/web");
    assert_eq!(document["bundles"].as_array().map(Vec::len), Some(2));
    assert_eq!(agent.end("-TERM").code(), Some(0));
    assert!(!scratch.file("agent.sock").exists());
}

#[test]
fn certs_says_why_there_is_no_identity_and_what_to_do() {
    let scratch = Scratch::new();
    let (_agent, addr) = agent(&scratch, &[]);
    fs::write(scratch.file("entries.toml"), "").expect("a file");
    // Live reload: until the agent has seen it, there still is an identity.
    let refused = std::iter::repeat_with(|| run(&scratch, &["certs", "--workload-api", &addr]))
        .find(|output| output.status.code() != Some(0))
        .expect("an output");
    assert_eq!(refused.status.code(), Some(1));
    let err = stderr(&refused);
    assert!(err.contains("no identity issued") && err.contains("next: "), "{err}");

    let nobody = run(&scratch, &["certs", "--workload-api", "unix:///nonexistent/agent.sock"]);
    assert_eq!(nobody.status.code(), Some(3));
    assert!(stderr(&nobody).contains("/nonexistent/agent.sock"));

    let wrong = run(&scratch, &["certs", "--workload-api", "unix://tmp/agent.sock"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("unix:///tmp/agent.sock"), "{}", stderr(&wrong));
    assert_eq!(run(&scratch, &["certs"]).status.code(), Some(2));
}

#[test]
fn certs_of_a_sidecar_say_what_it_has_or_waits_for() {
    let scratch = Scratch::new();
    let outbound = "127.0.0.1:0=127.0.0.1:1 is spiffe://demo.local/x";
    let api = "unix:///nonexistent/agent.sock";
    let mut sidecar = Running::start(
        &scratch,
        &[
            "proxy",
            "--workload-api",
            api,
            "--admin",
            "127.0.0.1:0",
            "--outbound",
            outbound,
            "--exit-with-parent",
            &std::process::id().to_string(),
        ],
    );
    let addr = loop {
        let event = sidecar.event("listening");
        if event["role"] == "admin" {
            break event["addr"].as_str().expect("an address").to_owned();
        }
    };
    let output = run(&scratch, &["certs", "--admin", &addr]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("no identity: "), "{}", stderr(&output));
    assert_eq!(sidecar.end("-TERM").code(), Some(0));

    let nobody = run(&scratch, &["certs", "--admin", &addr]);
    assert_eq!(nobody.status.code(), Some(3));
    assert!(stderr(&nobody).contains(&addr), "{}", stderr(&nobody));
    let both = run(&scratch, &["certs", "--admin", &addr, "--workload-api", api]);
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn watch_prints_again_at_each_change_and_ctl_makes_one() {
    let scratch = Scratch::new();
    let (_agent, addr) = agent(&scratch, &["--control", "control.sock"]);
    let mut watch = Watch::start(&scratch, &addr);
    let first = watch.next();
    let ctl = |command: &[&str]| {
        let output = run(&scratch, &[&["dev-agent", "ctl", "--control", "control.sock"], command].concat());
        (output.status.code(), stdout(&output), stderr(&output))
    };
    assert_eq!(ctl(&["svid", "rotate"]).0, Some(0));
    let second = watch.next();
    assert_ne!(first["svid"]["serial"], second["svid"]["serial"]);
    assert_eq!(first["svid"]["spiffe_id"], second["svid"]["spiffe_id"]);
    assert_eq!(ctl(&["ca", "prepare"]).0, Some(0));
    let bundles = watch.next()["bundles"].as_array().cloned().expect("bundles");
    let own = bundles.iter().find(|bundle| bundle["trust_domain"] == "demo.local").expect("the own bundle");
    assert_eq!(own["authorities"].as_array().map(Vec::len), Some(2));
    let (code, out, _) = ctl(&["status"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("authority demo.local") && out.contains("prepared"), "{out}");
    let (code, _, err) = ctl(&["ca", "retire"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("no old authority"), "{err}");
    let absent = run(&scratch, &["dev-agent", "ctl", "--control", "absent.sock", "status"]);
    assert_eq!(absent.status.code(), Some(3));
}

#[test]
fn a_trust_domain_of_production_and_a_bad_entries_file_are_usage_errors() {
    let scratch = Scratch::new();
    let output = run(&scratch, &["dev-agent", "--socket", "a.sock", "--trust-domain", "cluster.local"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("use demo.local"), "{}", stderr(&output));
    fs::write(scratch.file("bad.toml"), "[[entry]]\nid = \"spiffe://demo.local/a\"\n").expect("a file");
    let output = run(&scratch, &["dev-agent", "--socket", "a.sock", "--entries", "bad.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("bad.toml: line 1: "), "{}", stderr(&output));
    assert!(!scratch.file("a.sock").exists());
}

/// `mantlet certs -w -o json`, document after document.
struct Watch {
    child: std::process::Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Watch {
    fn start(scratch: &Scratch, addr: &str) -> Self {
        let mut child = mantlet(&scratch.0, &["certs", "-w", "-o", "json", "--workload-api", addr])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("mantlet starts");
        let stdout = child.stdout.take().expect("a pipe");
        Self { child, lines: std::io::BufRead::lines(std::io::BufReader::new(stdout)) }
    }

    fn next(&mut self) -> Value {
        let line = self.lines.next().expect("another line").expect("UTF-8");
        serde_json::from_str(&line).expect("JSON")
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
