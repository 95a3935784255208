//! What rules mean: expiry, audit, plaintext, gRPC, fragments, guardrails, unconfigured workloads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::time::SystemTime;

use common::{FIXTURE, Setup, compile, id, now, request, tcp, told, verdict, verdict_at};
use mantlet_policy::{
    Ask, Caller, Guardrails, HttpFacts, HttpOptions, Latches, Mode, ModeName, Peer, Policy, PortProtocol,
    Question, Reason, Target, Unconfigured,
    canonical::{Exchange, HostLines, Malformed, RequestHead, Version},
    explain,
    headers::NoHeaders,
    language::Time,
    registry,
};

const UNTIL: &str = "allow ops/a to GET / on 80 until 2026-12-01T18:00Z as inc";

fn until() -> SystemTime {
    Time::parse("2026-12-01T18:00Z").unwrap().system_time()
}

fn second(offset: i64) -> SystemTime {
    Time::from_unix(Time::of(until()).unix() + offset).system_time()
}

#[test]
fn a_grant_is_live_until_its_end_and_not_in_that_second() {
    let policy = compile(UNTIL);
    assert_eq!(verdict_at(&policy, "ops/a", &request("GET", "/"), 80, second(-1)), "allow inc");
    assert_eq!(verdict_at(&policy, "ops/a", &request("GET", "/"), 80, second(0)), "deny expired");
    assert_eq!(verdict_at(&policy, "ops/b", &request("GET", "/"), 80, second(0)), "deny default");
}

#[test]
fn a_clock_that_is_set_back_revives_no_grant() {
    let setup = Setup::default();
    let policy = setup.compile(UNTIL).unwrap();
    let ask = |policy: &Policy, at| verdict_at(policy, "ops/a", &request("GET", "/"), 80, at);
    assert_eq!(policy.expire(second(-5)), Some(until()));
    assert_eq!(policy.expire(second(0)), None);
    assert_eq!(ask(&policy, second(-100)), "deny expired");
    let reloaded = setup.compile(&format!("# moved\n{}", UNTIL.replace("allow ", "allow   "))).unwrap();
    assert_eq!(ask(&reloaded, second(-100)), "deny expired", "the same text reloaded stays expired");
    let renewed = setup.compile(&UNTIL.replace("12-01", "12-02")).unwrap();
    assert_eq!(ask(&renewed, second(-100)), "allow inc", "a changed end is a new grant");
    let fresh = Setup::default().compile(UNTIL).unwrap();
    assert_eq!(ask(&fresh, second(-100)), "allow inc", "another process knows nothing");
}

#[test]
fn asking_about_another_time_ends_no_grant_and_no_audit() {
    let mode = Mode::AuditUntil(Time::of(until()));
    let setup = Setup { mode, ..Setup::default() };
    let policy = setup.compile(UNTIL).unwrap();
    let ask = Ask::Http { method: "GET".into(), target: "/".into() };
    let question =
        Question { caller: Caller::Identity(id("ops/a")), ask, port: 80, host: None, headers: vec![] };
    let at = |time| explain(&policy, &setup.workload, &question, time);
    let (before, after) = (at(second(-100)), at(second(100)));
    assert_eq!((before.decision.reason, after.decision.reason), (Reason::Rule, Reason::Expired));
    assert_eq!((policy.mode(second(-100)), policy.mode(second(100))), (ModeName::Audit, ModeName::Enforce));
    let failing: Vec<_> = after.rule.unwrap().clauses.into_iter().filter(|clause| !clause.holds).collect();
    assert_eq!(failing.iter().map(|clause| clause.what.as_str()).collect::<Vec<_>>(), ["until"]);
    // What was only supposed has not happened.
    assert_eq!(at(second(-100)).decision, before.decision);
    assert_eq!(verdict_at(&policy, "ops/a", &request("GET", "/"), 80, second(-100)), "allow inc");
    assert_eq!(verdict_at(&policy, "ops/b", &request("DELETE", "/"), 80, second(-100)), "would_deny default");
}

#[test]
fn a_grant_that_is_over_when_it_is_loaded_stays_over() {
    let setup = Setup { now: second(5), ..Setup::default() };
    let policy = setup.compile(UNTIL).unwrap();
    assert_eq!(verdict_at(&policy, "ops/a", &request("GET", "/"), 80, second(-100)), "deny expired");
}

#[test]
fn another_live_rule_wins_over_one_that_is_over() {
    let policy = compile(&format!("{UNTIL}\nallow ops/* to GET /** on 80 as always"));
    assert_eq!(verdict_at(&policy, "ops/a", &request("GET", "/"), 80, second(9)), "allow always");
}

#[test]
fn the_end_of_the_deciding_grant_is_told() {
    let policy = compile(UNTIL);
    let id = id("ops/a");
    let get = request("GET", "/");
    let canonical = get.canonical(&policy, 80).unwrap();
    let facts = HttpFacts { target: Target::Canonical(&canonical), headers: &NoHeaders };
    let decision = policy.decide_http(&policy.view(Peer::Identity(&id), 80), &facts, now());
    assert_eq!(decision.ends(), Some(until()));
    assert_eq!(decision.route.as_deref(), Some("/"));
}

#[test]
fn a_view_of_another_policy_is_not_believed() {
    let (old, new) = (compile("allow a/b to GET /** on 80 as x"), compile("allow a/c to GET /** on 80 as y"));
    let id = id("a/b");
    let view = old.view(Peer::Identity(&id), 80);
    let get = request("GET", "/");
    let canonical = get.canonical(&new, 80).unwrap();
    let facts = HttpFacts { target: Target::Canonical(&canonical), headers: &NoHeaders };
    assert!(old.owns(&view) && !new.owns(&view));
    assert_eq!(told(&old.decide_http(&view, &facts, now())), "allow x");
    assert_eq!(told(&new.decide_http(&view, &facts, now())), "deny default");
}

#[test]
fn d69_audit_mode_refuses_nothing_that_authentication_admits_and_then_enforces() {
    let setup = Setup { mode: Mode::AuditUntil(Time::of(until())), ..Setup::default() };
    let policy = setup.compile(FIXTURE).unwrap();
    let delete = request("DELETE", "/orders/1");
    assert_eq!(verdict_at(&policy, "web/bff", &delete, 8080, now()), "would_deny default");
    assert!(!policy.accepts_plaintext(8080), "audit does not let callers without identity in");
    assert_eq!(policy.mode(now()), ModeName::Audit);
    assert_eq!(verdict_at(&policy, "web/bff", &delete, 8080, second(0)), "deny default");
    assert_eq!(verdict_at(&policy, "web/bff", &delete, 8080, now()), "deny default", "the end latches");
    assert_eq!(policy.mode(now()), ModeName::Enforce);
}

#[test]
fn d70_an_audited_deny_passes_and_is_told() {
    let policy = compile("allow a/b to GET /** on 80 as ok\naudit deny a/* to * /x/** on 80 as soon");
    assert_eq!(verdict(&policy, "a/b", &request("GET", "/x/y"), 80), "would_deny soon");
    assert_eq!(verdict(&policy, "a/b", &request("GET", "/y"), 80), "allow ok");
    assert_eq!(verdict(&policy, "a/c", &request("GET", "/x"), 80), "deny default");
}

#[test]
fn an_audited_allow_only_counts() {
    let policy = compile("audit allow a/b to GET /** on 80 as maybe\nallow c/d to GET / on 80");
    let id = id("a/b");
    let get = request("GET", "/x");
    let canonical = get.canonical(&policy, 80).unwrap();
    let facts = HttpFacts { target: Target::Canonical(&canonical), headers: &NoHeaders };
    let decision = policy.decide_http(&policy.view(Peer::Identity(&id), 80), &facts, now());
    assert_eq!(told(&decision), "deny default");
    assert_eq!(decision.audit_allow.as_deref(), Some("maybe"));
}

#[test]
fn audit_lets_a_defective_path_through_as_it_came_and_nothing_else() {
    let head = |path: &'static str, host| RequestHead {
        version: Version::Http11,
        method: "GET",
        scheme: None,
        authority: None,
        path,
        query: Some("a=b"),
        host,
    };
    let audit = Policy::unconfigured(Unconfigured::Audit);
    let good_host = HostLines::One(b"h");
    let raw =
        audit.audited_raw(&head("/a/../b;c", good_host), &NoHeaders, Malformed::DotSegment, now()).unwrap();
    assert_eq!(raw.target().to_string(), "/a/../b;c?a=b");
    let id = id("a/b");
    let facts = HttpFacts { target: Target::AuditedRaw(&raw), headers: &NoHeaders };
    let decision = audit.decide_http(&audit.view(Peer::Identity(&id), 80), &facts, now());
    assert_eq!(
        (told(&decision).as_str(), decision.malformed),
        ("would_deny malformed", Some(Malformed::DotSegment))
    );
    assert_eq!(raw.exchange(), Exchange::Plain);
    let many = |path| head(path, HostLines::Many);
    assert!(audit.audited_raw(&many("/a"), &NoHeaders, Malformed::HostRepeated, now()).is_none());
    assert!(audit.audited_raw(&many("/a/.."), &NoHeaders, Malformed::DotSegment, now()).is_none());
    let up = head("/a/..", good_host);
    assert!(compile(FIXTURE).audited_raw(&up, &NoHeaders, Malformed::DotSegment, now()).is_none());
    let websocket: Vec<(&str, &[u8])> =
        vec![("connection", b"Upgrade"), ("upgrade", b"websocket"), ("sec-websocket-key", b"x")];
    let raw = audit.audited_raw(&up, &websocket, Malformed::DotSegment, now()).unwrap();
    assert_eq!(raw.exchange(), Exchange::WebSocket, "a defective path makes it no other request");
}

#[test]
fn an_unconfigured_workload_gets_what_the_installation_says() {
    let ask = |policy: &Policy| verdict(policy, "a/b", &request("GET", "/"), 80);
    let deny = Policy::unconfigured(Unconfigured::Deny);
    assert_eq!((ask(&deny).as_str(), deny.mode(now())), ("deny no_policy", ModeName::Enforce));
    let audit = Policy::unconfigured(Unconfigured::Audit);
    assert_eq!((ask(&audit).as_str(), audit.accepts_plaintext(80)), ("would_deny no_policy", false));
    let permissive = Policy::unconfigured(Unconfigured::Permissive);
    assert_eq!((ask(&permissive).as_str(), permissive.accepts_plaintext(80)), ("would_deny no_policy", true));
    assert_eq!(verdict(&permissive, "10.0.0.1", &request("GET", "/"), 80), "would_deny no_policy");
    assert_eq!(tcp(&permissive, "a/b", 80), "would_deny no_policy");
    assert_eq!(permissive.protocol(80), PortProtocol::None);
}

#[test]
fn d51_d52_without_a_usable_policy_everything_is_denied() {
    for (reason, shown) in
        [(Reason::PolicyInvalid, "deny policy_invalid"), (Reason::NoIdentity, "deny no_identity")]
    {
        let policy = Policy::deny_all(reason);
        assert_eq!(verdict(&policy, "a/b", &request("GET", "/"), 80), shown);
        assert_eq!(tcp(&policy, "a/b", 80), shown);
    }
    assert_eq!(verdict(&compile(""), "a/b", &request("GET", "/"), 80), "deny default");
    assert_eq!(verdict(&compile("# nothing"), "a/b", &request("GET", "/"), 8080), "deny default");
}

#[test]
fn plaintext_is_for_named_ports_and_addresses_only() {
    let policy = compile(
        "allow plaintext(10.0.0.0/8, fd00::/8) to GET /healthz on 80 as probe\nallow mesh to GET /** on 81",
    );
    let health = request("GET", "/healthz");
    assert_eq!(verdict(&policy, "10.1.2.3", &health, 80), "allow probe");
    assert_eq!(verdict(&policy, "::ffff:10.1.2.3", &health, 80), "allow probe");
    assert_eq!(verdict(&policy, "fd00::7", &health, 80), "allow probe");
    assert_eq!(verdict(&policy, "11.0.0.1", &health, 80), "deny default");
    assert_eq!(verdict(&policy, "10.1.2.3", &request("GET", "/x"), 80), "deny default");
    assert_eq!(verdict(&policy, "a/b", &health, 80), "deny default");
    assert!(policy.accepts_plaintext(80) && !policy.accepts_plaintext(81) && !policy.accepts_plaintext(82));
}

#[test]
fn a_plaintext_grant_that_is_over_or_audited_opens_no_port() {
    let over = compile("allow plaintext(any) to GET / on 80 until 2026-12-01T18:00Z");
    assert!(over.accepts_plaintext(80));
    assert_eq!(over.expire(until()), None);
    assert!(!over.accepts_plaintext(80));
    assert!(!compile("audit allow plaintext(any) to GET / on 80").accepts_plaintext(80));
    assert!(!compile("deny plaintext(any) to GET / on 80").accepts_plaintext(80));
}

#[test]
fn a_grpc_grant_is_http2_post_with_its_content_type() {
    let policy = compile(FIXTURE);
    let call = request("POST", "/shop.v1.Orders/Get");
    assert_eq!(verdict(&policy, "pay/ledger", &call.clone().grpc(), 9090), "allow rpc");
    assert_eq!(verdict(&policy, "pay/ledger", &call.clone().h2(), 9090), "deny default");
    assert_eq!(
        verdict(&policy, "pay/ledger", &call.clone().header("content-type", "application/grpc"), 9090),
        "deny default"
    );
    let with =
        |kind: &str| verdict(&policy, "pay/ledger", &call.clone().h2().header("content-type", kind), 9090);
    assert_eq!(with("application/grpc+proto"), "allow rpc");
    assert_eq!(with("application/grpc;x=y"), "allow rpc");
    assert_eq!(with("application/grpc-web"), "deny default");
    assert_eq!(
        verdict(&policy, "pay/ledger", &request("POST", "/shop.v1.orders/Get").grpc(), 9090),
        "deny default"
    );
    let package =
        compile("allow a/b to grpc shop.v1.*/* on 80 as p\ndeny a/b to grpc shop.v1.Admin/* on 80 as no");
    assert_eq!(verdict(&package, "a/b", &request("POST", "/shop.v1.Orders/X").grpc(), 80), "allow p");
    assert_eq!(verdict(&package, "a/b", &request("POST", "/shop.v10.Orders/X").grpc(), 80), "deny default");
    assert_eq!(verdict(&package, "a/b", &request("GET", "/shop.v1.admin/x"), 80), "deny no");
}

#[test]
fn a_deny_is_folded_and_an_allow_is_not() {
    let deny = compile("deny a/b to * /v1/x:cancel, /@admin on 80 as no\nallow a/b to * /** on 80 as all");
    for path in ["/v1/x%3Acancel", "/V1/X:Cancel/", "/%40admin", "/@ADMIN"] {
        assert_eq!(verdict(&deny, "a/b", &request("GET", path), 80), "deny no", "{path}");
    }
    assert_eq!(verdict(&deny, "a/b", &request("GET", "/v1/x:cancelled"), 80), "allow all");
    let allow = compile("allow a/b to GET /Admin on 80 as x");
    assert_eq!(verdict(&allow, "a/b", &request("GET", "/Admin"), 80), "allow x");
    for path in ["/admin", "/Admin/", "/Admin/x"] {
        assert_eq!(verdict(&allow, "a/b", &request("GET", path), 80), "deny default", "{path}");
    }
}

#[test]
fn a_star_is_one_segment_and_a_subtree_includes_its_root() {
    let policy = compile("allow a/b to GET /x/*/y, /s/**, /g/*.m4s, /r/ on 80 as r");
    let ask = |path: &str| verdict(&policy, "a/b", &request("GET", path), 80);
    for path in ["/x/1/y", "/s", "/s/", "/s/a/b", "/g/a.m4s", "/r/"] {
        assert_eq!(ask(path), "allow r", "{path}");
    }
    for path in ["/x/1/2/y", "/x/y", "/x/1/y/", "/st", "/g/a.m4", "/g/a.m4s/", "/r", "/"] {
        assert_eq!(ask(path), "deny default", "{path}");
    }
}

#[test]
fn any_method_is_no_trace_and_no_websocket_for_an_allow() {
    let policy = compile("allow a/b to * /** on 80 as all");
    assert_eq!(verdict(&policy, "a/b", &request("TRACE", "/"), 80), "deny default");
    assert_eq!(verdict(&policy, "a/b", &request("PURGE", "/"), 80), "allow all");
    assert_eq!(verdict(&policy, "a/b", &request("GET", "/").websocket(), 80), "deny default");
    let deny = compile("allow a/b to WEBSOCKET /** on 80 as ws\ndeny a/b to GET /x on 80 as no");
    assert_eq!(verdict(&deny, "a/b", &request("GET", "/x").websocket(), 80), "deny no");
    assert_eq!(verdict(&deny, "a/b", &request("GET", "/y").websocket(), 80), "allow ws");
}

#[test]
fn options_star_matches_no_rule() {
    let policy = compile("allow a/b to * /** on 80 as all");
    assert_eq!(verdict(&policy, "a/b", &request("OPTIONS", "*"), 80), "deny default");
    assert_eq!(verdict(&policy, "a/b", &request("GET", "*"), 80), "bad target");
    let mut absolute = request("OPTIONS", "");
    absolute.authority = Some("orders.shop".into());
    assert_eq!(verdict(&policy, "a/b", &absolute, 80), "deny default");
    absolute.method = "GET".into();
    assert_eq!(verdict(&policy, "a/b", &absolute, 80), "allow all");
    assert_eq!(absolute.canonical(&policy, 80).unwrap().path(), "/");
}

#[test]
fn an_authority_form_target_or_a_foreign_scheme_is_refused() {
    let policy = compile("allow a/b to * /** on 80 as all");
    let mut get = request("GET", "");
    assert_eq!(verdict(&policy, "a/b", &get, 80), "bad target");
    get.hosts.clear();
    get.target = "/".into();
    assert_eq!(verdict(&policy, "a/b", &get, 80), "bad host-missing");
    get.hosts = vec!["a".into(), "a".into()];
    assert_eq!(verdict(&policy, "a/b", &get, 80), "bad host-repeated");
}

#[test]
fn rules_of_fragments_add_up_and_carry_its_name() {
    let texts = [
        ("mantlet.dev/policy", "group @g = a/b\nallow @g to GET /** on 80 as x"),
        ("mantlet.dev/policy.platform", "\ndeny mesh to * /admin/** on 80\nallow c/d to GET / on 80 as x"),
    ];
    let policy = Setup::default().compile_all(&texts).unwrap();
    assert_eq!(verdict(&policy, "a/b", &request("GET", "/"), 80), "allow x");
    assert_eq!(verdict(&policy, "c/d", &request("GET", "/"), 80), "allow platform.x");
    assert_eq!(verdict(&policy, "a/b", &request("GET", "/admin"), 80), "deny policy.platform:2");
    let labels: Vec<&str> = policy.rule_labels().map(|label| &**label).collect();
    assert_eq!(labels, ["x", "policy.platform:2", "platform.x"]);
    let group_elsewhere =
        [("mantlet.dev/policy", "group @g = a/b"), ("mantlet.dev/policy.p", "allow @g to GET / on 80")];
    assert!(Setup::default().compile_all(&group_elsewhere).is_err(), "groups are local to their annotation");
}

#[test]
fn a_mandatory_deny_reaches_every_http_port_and_makes_none() {
    let guardrails = Guardrails::parse("deny mesh to * /admin/**").unwrap();
    let setup = Setup { guardrails, ..Setup::default() };
    let policy = setup.compile("allow a/b to * /** on 80,7000-7010\nallow a/b to tcp on 5432").unwrap();
    for port in [80, 7003] {
        assert_eq!(verdict(&policy, "a/b", &request("GET", "/admin"), port), "deny guardrail:1");
    }
    assert_eq!(policy.protocol(5432), PortProtocol::Opaque);
    assert_eq!(policy.protocol(6000), PortProtocol::None);
}

#[test]
fn http_rules_without_a_port_cover_the_declared_ports_that_are_not_opaque() {
    let policy = compile("allow a/b to GET / as x\nallow a/b to tcp on pg");
    assert_eq!(policy.protocol(8080), PortProtocol::Http);
    assert_eq!(policy.protocol(9090), PortProtocol::Http);
    assert_eq!(policy.protocol(5432), PortProtocol::Opaque);
    assert_eq!(policy.protocol(80), PortProtocol::None);
}

#[test]
fn d06_options_weaken_one_port_only() {
    let http_options: HttpOptions = registry::parse_http_options("80: merge-slashes encoded-slash").unwrap();
    let setup = Setup { http_options, ..Setup::default() };
    let policy =
        setup.compile("allow a/b to GET /a/b, /p/* on 80,81 as x\ndeny a/b to * /secret/** on 80").unwrap();
    assert_eq!(verdict(&policy, "a/b", &request("GET", "//a//b"), 80), "allow x");
    assert_eq!(verdict(&policy, "a/b", &request("GET", "//a//b"), 81), "bad empty-segment");
    assert_eq!(verdict(&policy, "a/b", &request("GET", "/p/x%2fy"), 80), "allow x");
    assert_eq!(verdict(&policy, "a/b", &request("GET", "/p/..%2fsecret"), 80), "bad dot-segment");
    assert_eq!(verdict(&policy, "a/b", &request("GET", "/p/x%2fy"), 81), "bad encoded-slash");
}

#[test]
fn d48_removal_takes_effect_with_the_next_snapshot() {
    let setup = Setup::default();
    let with = setup.compile("allow a/b to GET / on 80 as x\nallow a/c to GET / on 80 as y").unwrap();
    let without = setup.compile("allow a/c to GET / on 80 as y").unwrap();
    assert_eq!(verdict(&with, "a/b", &request("GET", "/"), 80), "allow x");
    assert_eq!(verdict(&without, "a/b", &request("GET", "/"), 80), "deny default");
    assert_ne!(with.hash(), without.hash());
}

#[test]
fn reloads_leave_no_latches_behind() {
    let setup = Setup { latches: Latches::new(), ..Setup::default() };
    let start = Time::of(until()).unix();
    for minute in 0..2_000 {
        let text = UNTIL.replace("2026-12-01T18:00Z", &Time::from_unix(start + minute * 60).to_string());
        setup.compile(&text).unwrap();
    }
    let debug = format!("{:?}", setup.latches);
    assert!(debug.matches("Latch ").count() <= 2, "{} latches are kept", debug.matches("Latch ").count());
}
