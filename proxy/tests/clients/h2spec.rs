//! h2spec against both HTTP/2 servers of a sidecar: towards peers and towards the own application.
//!
//! What may fail stands in `h2spec.txt` with the reason, and nothing else may.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use mantlet_testkit::TempDir;
use mantlet_testkit::apps::Protocol;
use mantlet_testkit::real_peers::RealPeers;
use tokio::process::Command;

use crate::common::app_and_inbound;
use crate::tunnel::Tunnel;

/// Each case waits for an answer that may never come, and there are 145 of them.
const PATIENCE: Duration = Duration::from_secs(300);

const ALLOW: &str = "allow web/frontend to * /**\n";

/// The names of failed cases, as `file of the specification/section/number`.
async fn failures(peers: &RealPeers, addr: SocketAddr) -> BTreeSet<String> {
    let dir = TempDir::new();
    let report = dir.path().join("report.xml");
    let mut command = Command::new(peers.program("h2spec"));
    command.args(["--host", "127.0.0.1", "--port", &addr.port().to_string(), "--timeout", "15"]);
    command.arg("--junit-report").arg(&report).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("h2spec ends").unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("145 tests"), "h2spec ran to its end: {said}");
    let report = std::fs::read_to_string(&report).unwrap_or_else(|error| panic!("{error}: {said}"));
    parse(&report)
}

/// One `<testcase package="http2/5.1" classname=".." time=".."></testcase>` a case; one that failed
/// holds `<failure>`, and one whose connection broke holds `<error>`.
fn parse(report: &str) -> BTreeSet<String> {
    let mut failed = BTreeSet::new();
    let (mut section, mut number) = (String::new(), 0);
    for case in report.split("<testcase ").skip(1) {
        let attribute = |name: &str| -> String {
            let rest = case.split_once(&format!("{name}=\"")).expect(name).1;
            rest.split_once('"').expect("a closing quote").0.to_owned()
        };
        let package = attribute("package");
        number = if package == section { number + 1 } else { 1 };
        section = package;
        if case.contains("<failure") || case.contains("<error") {
            failed.insert(format!("{section}/{number}"));
        }
    }
    failed
}

/// What is listed for `side`: lines of `side case reason`.
fn listed(side: &str) -> BTreeSet<String> {
    let lines = include_str!("h2spec.txt").lines().filter(|line| !line.starts_with('#'));
    let words = lines.filter_map(|line| {
        let mut words = line.splitn(3, ' ');
        let (on, case, reason) = (words.next()?, words.next()?, words.next()?);
        assert!(reason.len() > 20, "a reason that explains {case}: {reason:?}");
        (on == side || on == "both").then(|| case.to_owned())
    });
    words.collect()
}

fn explained(failed: &BTreeSet<String>, side: &str) {
    let listed = listed(side);
    let unexplained: Vec<&String> = failed.difference(&listed).collect();
    assert!(unexplained.is_empty(), "{side}: {unexplained:?} fail and do not stand in h2spec.txt");
}

#[test]
fn a_failed_case_is_found_in_a_report() {
    let report = r#"<testsuite><testcase package="http2/5.1" classname="a" time="0"></testcase>
        <testcase package="http2/5.1" classname="b" time="0"><error>text</error></testcase>
        <testcase package="hpack/2" classname="c" time="0"><failure>text</failure></testcase></testsuite>"#;
    assert_eq!(parse(report), ["hpack/2/1", "http2/5.1/2"].map(String::from).into());
}

#[tokio::test]
async fn h2spec_finds_nothing_unexplained_in_the_server_towards_peers() {
    let Some(peers) = RealPeers::find("h2spec inbound") else { return };
    let (_app, inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
    let client = inbound.peer("web/frontend").alpn(&["h2"]);
    let tunnel = Tunnel::start(client, inbound.addr).await;
    explained(&failures(&peers, tunnel.addr).await, "inbound");
}

#[tokio::test]
async fn h2spec_finds_nothing_unexplained_in_the_server_towards_the_own_app() {
    let Some(peers) = RealPeers::find("h2spec outbound") else { return };
    let (_app, inbound) = app_and_inbound(Protocol::H2c, ALLOW).await;
    let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
    explained(&failures(&peers, addr).await, "outbound");
}
