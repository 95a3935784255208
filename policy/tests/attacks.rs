//! The attack cases of the language that need no socket. Those that do live with the proxy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{FIXTURE, Setup, compile, request, tcp, verdict, workload};
use mantlet_policy::{Code, HttpOptions, PortProtocol};

fn ask(peer: &str, method: &str, target: &str) -> String {
    verdict(&compile(FIXTURE), peer, &request(method, target), 8080)
}

#[test]
fn d01_a_dot_segment_is_refused() {
    assert_eq!(ask("ops/dev", "GET", "/orders/../admin/x"), "bad dot-segment");
}

#[test]
fn d02_an_encoded_slash_is_refused() {
    assert_eq!(ask("ops/dev", "GET", "/orders/..%2fadmin"), "bad encoded-slash");
}

#[test]
fn d03_an_empty_segment_is_refused() {
    assert_eq!(ask("ops/dev", "GET", "//admin/x"), "bad empty-segment");
}

#[test]
fn d04_deny_matches_folded_case() {
    assert_eq!(ask("ops/dev", "GET", "/Admin/x"), "deny no-admin");
    assert_eq!(ask("ops/oncall", "GET", "/Admin/x"), "allow ops");
}

#[test]
fn d05_deny_of_a_subtree_covers_its_root() {
    assert_eq!(ask("ops/dev", "GET", "/admin"), "deny no-admin");
    assert_eq!(ask("ops/dev", "GET", "/admin/"), "deny no-admin");
}

#[test]
fn d06_path_parameters_are_refused() {
    assert_eq!(ask("ops/dev", "GET", "/admin;v=1/x"), "bad path-params");
}

#[test]
fn d07_encoded_dots_are_dots() {
    assert_eq!(ask("ops/dev", "GET", "/public/%2e%2e/admin"), "bad dot-segment");
}

#[test]
fn d08_a_visible_fragment_is_refused() {
    assert_eq!(ask("ops/dev", "GET", "/admin#/../public"), "bad bad-char");
    assert_eq!(ask("ops/dev", "GET", "/x?a#b"), "bad bad-query");
}

#[test]
fn d09_unreserved_escapes_do_not_hide_a_path() {
    assert_eq!(ask("ops/dev", "GET", "/%61dmin/x"), "deny no-admin");
}

#[test]
fn d10_control_characters_are_refused() {
    assert_eq!(ask("web/bff", "GET", "/orders%00/x"), "bad control");
}

#[test]
fn d11_a_star_in_a_path_is_a_character() {
    let policy = compile(FIXTURE);
    let request = request("GET", "/orders/a*b");
    assert_eq!(verdict(&policy, "web/bff", &request, 8080), "allow read");
    assert_eq!(request.canonical(&policy, 8080).unwrap().path(), "/orders/a*b");
}

#[test]
fn d12_absolute_form_must_agree_with_host() {
    let policy = compile(FIXTURE);
    let mut absolute = request("GET", "/admin/x");
    absolute.authority = Some("orders.shop".into());
    assert_eq!(verdict(&policy, "ops/dev", &absolute, 8080), "deny no-admin");
    assert_eq!(verdict(&policy, "ops/dev", &absolute.clone().host("other"), 8080), "bad host-conflict");
}

#[test]
fn d13_authority_and_host_must_agree_on_http2() {
    let policy = compile(FIXTURE);
    let mut request = request("GET", "/public/x").h2().host("b.shop");
    request.authority = Some("a.shop".into());
    assert_eq!(verdict(&policy, "ops/dev", &request, 8080), "bad host-conflict");
}

#[test]
fn d14_a_host_condition_compares_the_canonical_host() {
    let policy = compile("allow mesh to GET /** on 8080 when host = api.shop as api");
    let get = request("GET", "/x");
    assert_eq!(verdict(&policy, "a/b", &get.clone().host("API.Shop.:8080"), 8080), "allow api");
    assert_eq!(verdict(&policy, "a/b", &get.clone().host("api.shop.evil"), 8080), "deny default");
    assert_eq!(verdict(&policy, "a/b", &get.no_host(), 8080), "deny default");
}

#[test]
fn d15_the_query_takes_no_part_and_is_kept() {
    let policy = compile(FIXTURE);
    let request = request("GET", "/orders/1?next=/admin");
    assert_eq!(verdict(&policy, "web/bff", &request, 8080), "allow read");
    assert_eq!(request.canonical(&policy, 8080).unwrap().target().to_string(), "/orders/1?next=/admin");
}

#[test]
fn d16_two_lines_of_a_header_are_never_an_allowed_value() {
    let policy = compile(FIXTURE);
    let post = request("POST", "/orders");
    let twice = post.clone().header("x-tenant", "acme").header("x-tenant", "evil");
    assert_eq!(verdict(&policy, "web/checkout", &twice, 8080), "deny default");
    assert_eq!(verdict(&policy, "web/checkout", &post.header("x-tenant", "acme"), 8080), "allow create");
}

#[test]
fn d17_a_deny_sees_the_second_line() {
    let request = request("GET", "/x").header("x-check", "ok").header("x-check", "bad");
    assert_eq!(verdict(&compile(FIXTURE), "ops/dev", &request, 8080), "deny no-bad");
}

#[test]
fn d27_a_get_grant_is_no_websocket_grant() {
    let policy = compile(FIXTURE);
    assert_eq!(verdict(&policy, "web/bff", &request("GET", "/orders/ws").websocket(), 8080), "deny default");
    assert_eq!(verdict(&policy, "ops/dev", &request("GET", "/orders/ws").websocket(), 8080), "deny default");
    let live = compile("allow web/live to WEBSOCKET /orders/stream on 8080 as ws");
    assert_eq!(verdict(&live, "web/live", &request("GET", "/orders/stream").websocket(), 8080), "allow ws");
    assert_eq!(verdict(&live, "web/live", &request("GET", "/orders/stream"), 8080), "deny default");
}

#[test]
fn d29_connect_is_never_served() {
    let policy = compile(FIXTURE);
    let mut connect = request("CONNECT", "");
    connect.authority = Some("x:443".into());
    assert_eq!(verdict(&policy, "ops/dev", &connect, 8080), "bad connect");
    assert_eq!(verdict(&policy, "ops/dev", &request("CONNECT", "/x").h2(), 8080), "bad connect");
    assert_eq!(connect.canonical(&policy, 8080).unwrap_err().status(), 405);
}

#[test]
fn d30_methods_are_case_sensitive() {
    assert_eq!(ask("web/bff", "get", "/orders/1"), "deny default");
    assert_eq!(ask("web/bff", "HEAD", "/orders/1"), "allow read");
}

#[test]
fn d40_an_opaque_port_is_judged_by_the_peer_alone() {
    let policy = compile(FIXTURE);
    assert_eq!(tcp(&policy, "data/etl", 5432), "allow pg");
    assert_eq!(tcp(&policy, "web/bff", 5432), "deny default");
    assert_eq!(policy.protocol(5432), PortProtocol::Opaque);
    assert_eq!(policy.protocol(8080), PortProtocol::Http);
    assert_eq!(policy.protocol(1), PortProtocol::None);
    assert_eq!(tcp(&policy, "ops/dev", 8080), "deny default");
}

#[test]
fn d41_a_port_that_is_tcp_and_http_is_an_error() {
    let text = "allow a/b to tcp on 8080\nallow a/b to GET / on 8080\n";
    let findings = Setup::default().compile(text).unwrap_err();
    assert_eq!(findings[0].code, Code::PortProtocol);
    assert_eq!(findings[0].message, "port 8080 is tcp in line 1 and http in line 2");
}

#[test]
fn d44_a_namespace_wildcard_ends_at_the_segment() {
    let policy = compile("allow pay/* to GET /** on 8080 as pay");
    assert_eq!(verdict(&policy, "pay/x", &request("GET", "/"), 8080), "allow pay");
    assert_eq!(verdict(&policy, "pay-evil/x", &request("GET", "/"), 8080), "deny default");
}

#[test]
fn d45_a_dot_is_a_dot() {
    let policy = compile("allow cert/cert-manager.io to GET /** on 8080 as cert");
    assert_eq!(verdict(&policy, "cert/cert-manager.io", &request("GET", "/"), 8080), "allow cert");
    assert_eq!(verdict(&policy, "cert/cert-manager-io", &request("GET", "/"), 8080), "deny default");
}

#[test]
fn d65_the_257th_rule_is_too_many() {
    let mut setup = Setup { limits: mantlet_policy::Limits::ANNOTATIONS, ..Setup::default() };
    setup.http_options = HttpOptions::default();
    setup.workload = workload();
    let text =
        |count: usize| (0..count).map(|n| format!("allow a/b to GET /{n} on 8080\n")).collect::<String>();
    assert!(setup.compile(&text(256)).is_ok());
    assert_eq!(setup.compile(&text(257)).unwrap_err()[0].code, Code::Limit);
}
