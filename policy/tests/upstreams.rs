//! The upstreams language: longest match, united lines, and every code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::net::IpAddr;

use common::workload;
use mantlet_policy::{
    Code, Limits,
    upstreams::{By, Lookup, Upstream, Upstreams, parse},
};

const TEXT: &str = "\
orders.shop:8080      is shop/orders              # resolved by DNS
ledger.pay:9090       is pay/ledger     as http
ledger.pay:9090       is pay/ledger-canary
postgres.data:5432    is data/postgres  as postgres
10.20.0.0/16:443      passthrough
10.20.30.0/24:443     is ./edge, spiffe://partner.test/x
10.20.30.40:443       refuse
10.20.30.40:*         passthrough as http
[fd00::/8]:1-100      refuse
* refuse
";

fn upstreams() -> Upstreams {
    parse("mantlet.dev/upstreams", TEXT, &workload(), &Limits::ANNOTATIONS).unwrap()
}

fn lookup(ip: &str, port: u16, names: &[&str]) -> String {
    let ip: IpAddr = ip.parse().unwrap();
    match upstreams().lookup(ip, port, |name, _| names.contains(&name)) {
        Lookup::Found { upstream, line, .. } => format!("{line} {upstream}"),
        Lookup::Conflict { lines } => format!("{lines:?}"),
        Lookup::None => "none".into(),
    }
}

#[test]
fn the_longest_match_wins() {
    assert_eq!(lookup("10.20.30.40", 443, &[]), "7 refuse");
    assert_eq!(lookup("10.20.30.40", 80, &[]), "8 passthrough as http");
    assert_eq!(
        lookup("10.20.30.41", 443, &["orders.shop"]),
        "6 is spiffe://partner.test/x, spiffe://td.test/ns/shop/sa/edge"
    );
    assert_eq!(lookup("10.20.1.1", 443, &[]), "5 passthrough");
    assert_eq!(lookup("::ffff:10.20.1.1", 443, &[]), "5 passthrough");
    assert_eq!(lookup("fd00::1", 7, &[]), "9 refuse");
    assert_eq!(lookup("1.1.1.1", 8080, &["orders.shop"]), "1 is spiffe://td.test/ns/shop/sa/orders");
    assert_eq!(lookup("1.1.1.1", 8081, &["orders.shop"]), "10 refuse");
}

#[test]
fn lines_about_the_same_destination_unite() {
    let expected = "2 is spiffe://td.test/ns/pay/sa/ledger, spiffe://td.test/ns/pay/sa/ledger-canary as http";
    assert_eq!(lookup("1.1.1.1", 9090, &["ledger.pay"]), expected);
}

#[test]
fn two_names_of_one_address_that_disagree_are_a_conflict() {
    let text = "a.x:80 is a/a\nb.x:80 passthrough\nc.x:80 is c/c\n";
    let upstreams = parse("u", text, &workload(), &Limits::ANNOTATIONS).unwrap();
    let ip = "1.1.1.1".parse().unwrap();
    assert_eq!(upstreams.lookup(ip, 80, |_, _| true), Lookup::Conflict { lines: (1, 2) });
    let both = upstreams.lookup(ip, 80, |name, _| name != "b.x");
    assert!(matches!(both, Lookup::Found { upstream: Upstream::Mesh { ids, .. }, .. } if ids.len() == 2));
    assert_eq!(upstreams.lookup(ip, 81, |_, _| true), Lookup::None);
    assert_eq!(upstreams.names().collect::<Vec<_>>(), ["a.x", "b.x", "c.x"]);
}

#[test]
fn a_line_says_by_what_it_was_found() {
    let by =
        |ip: &str, port, names: &[&str]| match upstreams()
            .lookup(ip.parse().unwrap(), port, |name, _| names.contains(&name))
        {
            Lookup::Found { by, .. } => by,
            other => panic!("{other:?}"),
        };
    assert_eq!(by("10.20.1.1", 443, &["orders.shop"]), By::Address);
    assert_eq!(by("1.1.1.1", 8080, &["orders.shop", "ledger.pay"]), By::Names(vec!["orders.shop".into()]));
    assert_eq!(by("1.1.1.1", 8081, &["orders.shop"]), By::Default);
    assert_eq!(upstreams().names_of_port(9090).collect::<Vec<_>>(), ["ledger.pay"]);
}

#[test]
fn every_code_names_its_mistake_and_the_fix() {
    for (text, code, help) in [
        ("orders.shop is a/b", Code::UpstreamDestination, "write \"orders.shop:8080\" or \"orders.shop:*\""),
        ("fd00::1:80 refuse", Code::UpstreamDestination, "write \"[fd00::1]:80\""),
        ("10.0.0.1/8:80 refuse", Code::UpstreamDestination, "write \"10.0.0.0/8\""),
        ("10.0.0.300:80 refuse", Code::UpstreamDestination, "write a DNS name, an address or a network"),
        (
            "[10.0.0.1]:80 refuse",
            Code::UpstreamDestination,
            "write name:port, address:port, network:port or \"*\"",
        ),
        ("a.b:80 ist c/d", Code::UpstreamVerb, "did you mean \"is\"?"),
        (
            "a.b:80 plaintext",
            Code::UpstreamVerb,
            "write \"passthrough\": the application may well speak its own TLS",
        ),
        (
            "a.b:80 is c/*",
            Code::UpstreamIdentity,
            "list the identities; a wildcard would believe whoever answers",
        ),
        (
            "a.b:80 is",
            Code::UpstreamIdentity,
            "write namespace/service-account, ./service-account or a full spiffe:// id",
        ),
        ("a.b:80 is c/d as htp", Code::UpstreamProtocol, "did you mean \"http\"?"),
        (
            "a.b:80 passthrough as tcp",
            Code::UpstreamProtocol,
            "write \"passthrough\": the bytes go on as they are, whatever they are",
        ),
        ("a.b:0 refuse", Code::UpstreamPort, "write 8080, 8000-8010 or *"),
        ("a.b:+80 refuse", Code::UpstreamPort, "write 8080, 8000-8010 or *"),
        ("a.b:80 refuse now", Code::UpstreamTrailing, "the line should end here"),
        ("* is a/b", Code::UpstreamDefault, "write \"* refuse\" or \"* passthrough\""),
        ("a.b:80 refuse\nA.b.:80 passthrough", Code::UpstreamConflict, "keep one of them"),
        ("a.b:80 is a/b as tcp\na.b:80 is a/c as http", Code::UpstreamConflict, "keep one of them"),
        ("10.0.0.1:80-90 refuse\n10.0.0.1:85-95 passthrough", Code::UpstreamConflict, "keep one of them"),
        ("* refuse\n* passthrough", Code::UpstreamConflict, "keep one of them"),
        (
            "*.shop:80 refuse",
            Code::UpstreamWildcardName,
            "wildcard names cannot be resolved; list names or a network",
        ),
    ] {
        let findings = parse("u", text, &workload(), &Limits::ANNOTATIONS).unwrap_err();
        assert_eq!((findings[0].code, findings[0].help.as_str()), (code, help), "{text}");
    }
    let many: String = (0..300).map(|n| format!("h{n}.x:80 refuse\n")).collect();
    let findings = parse("u", &many, &workload(), &Limits::ANNOTATIONS).unwrap_err();
    assert_eq!(findings[0].code, Code::UpstreamLimit);
}
