//! What an operator meets at the command line of the built sidecar: help, mistakes, exit codes.

use std::process::{Command, Output, Stdio};

use mantlet_testkit::temp::TempDir;

const GOOD: &[&str] = &["--workload-api", "unix:///nowhere.sock", "--inbound", "127.0.0.1:0=127.0.0.1:80"];

fn sidecar(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mantlet-proxy"))
        .env_clear()
        .envs(environment.iter().copied())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn help_and_version_are_results_on_standard_output() {
    let help = sidecar(&["--help"], &[]);
    assert_eq!(help.status.code(), Some(0));
    // Where a line is broken depends on the longest flag.
    let told = text(&help.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    for part in
        ["--inbound", "MANTLET_OUTBOUND", "SPIFFE_ENDPOINT_SOCKET", "default: 127.0.0.1:24190", "drain"]
    {
        assert!(told.contains(part), "{part}\n{told}");
    }
    assert!(help.stderr.is_empty());
    let version = sidecar(&["--version"], &[]);
    assert_eq!(text(&version.stdout).trim(), concat!("mantlet-proxy ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn every_mistake_is_told_at_once_and_nothing_starts() {
    let arguments = [GOOD, &["--drain-deadline", "30", "--admin", "localhost:1"]].concat();
    let environment = [("MANTLET_WORKERS", "many"), ("MANTLET_TRUSTDOMAIN", "prod"), ("MANTLET_LOG", "loud")];
    let output = sidecar(&arguments, &environment);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty(), "nothing listens");
    let told = text(&output.stderr);
    assert!(told.starts_with("5 mistakes in the configuration\n"), "{told}");
    for part in [
        "--drain-deadline \"30\": no unit; did you mean 30s?; accepted: a whole number with a unit",
        "--admin \"localhost:1\": not an IP address",
        "MANTLET_WORKERS \"many\": not a whole number; accepted: a whole number from 1 to 256",
        "MANTLET_TRUSTDOMAIN \"prod\": unknown key, did you mean MANTLET_TRUST_DOMAIN?",
        "MANTLET_LOG \"loud\": unknown level; accepted: off | error | warn | info | debug | trace",
    ] {
        assert!(told.contains(part), "{part}\n{told}");
    }
}

#[test]
fn a_sidecar_that_must_end_with_its_parent_does_not_begin_without_it() {
    // What a parent that was killed a moment ago leaves: its number, and another process as our parent.
    let gone = (std::process::id() + 1).to_string();
    let output = sidecar(&[GOOD, &["--exit-with-parent", &gone]].concat(), &[]);
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains(&format!("the process {gone} that started this one has ended")));
}

#[test]
fn an_unknown_flag_is_a_usage_error_with_a_suggestion() {
    let output = sidecar(&[GOOD, &["--inbounds", "x"]].concat(), &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--inbound"), "{}", text(&output.stderr));
}

#[test]
fn the_effective_configuration_is_printed_with_its_sources() {
    let environment =
        [("MANTLET_IDLE_TIMEOUT", "1m"), ("MANTLET_INJECTOR_PORT_443_TCP", "tcp://10.0.0.1:443")];
    let output = sidecar(&[GOOD, &["--print-config"]].concat(), &environment);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let told = text(&output.stdout);
    let line = |key: &str| told.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
    assert!(line("inbound").ends_with("(flag)"), "{told}");
    assert!(line("idle-timeout").ends_with("(environment)"), "{told}");
    assert!(
        line("drain-deadline").contains("30s") && line("drain-deadline").ends_with("(default)"),
        "{told}"
    );
}

#[test]
fn an_address_that_is_taken_is_named_and_the_exit_code_is_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = sidecar(&[GOOD, &["--admin", &address]].concat(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&address), "{}", text(&output.stderr));
}

#[test]
fn draining_without_a_sidecar_fails_and_says_where_it_looked() {
    let dir = TempDir::new();
    let socket = dir.path().join("admin.sock");
    let output = sidecar(&["drain"], &[("MANTLET_ADMIN_SOCKET", socket.to_str().unwrap())]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("admin.sock"), "{}", text(&output.stderr));
    assert_eq!(sidecar(&["drain"], &[]).status.code(), Some(2));
}
