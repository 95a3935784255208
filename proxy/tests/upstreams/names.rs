//! Names: resolved by the sidecar itself, kept up to date, and kept when nobody answers.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use mantlet_proxy::dns::{LookupError, Resolver};
use mantlet_proxy::metrics::{Metrics, Options};
use mantlet_testkit::apps::Protocol;
use mantlet_testkit::client::{HttpClient, Request, Response};
use mantlet_testkit::dns::{DnsServer, Manner};
use mantlet_testkit::eventually;
use mantlet_testkit::pki::Authority;
use mantlet_testkit::sidecar::{Sidecar, SidecarBuilder};

use crate::common::sidecar;
use crate::replica::{PORT, Replica};

const NAME: &str = "orders.shop";

fn caller(authority: &Authority, dns: &DnsServer) -> SidecarBuilder {
    sidecar()
        .identity(&authority.workload("web/frontend"))
        .arg("--resolv-conf", dns.resolv_conf(""))
        .arg("--outbound", format!("127.0.0.1:0={NAME}:{PORT} is shop/orders as http"))
}

async fn get(caller: &Sidecar) -> Response {
    let mut client = HttpClient::plain(caller.outbound(0).await, Protocol::Http1).await;
    client.send(&Request::get("/")).await
}

/// Waits until exactly these replicas answer.
async fn answered_by(caller: &Sidecar, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
    eventually(format!("answers of {expected:?}"), async || {
        let mut seen = BTreeSet::new();
        for _ in 0..30 {
            let response = get(caller).await;
            seen.insert(if response.status == 200 { response.text() } else { response.status.to_string() });
        }
        (seen == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_name_stands_for_all_its_addresses_and_a_change_is_followed_when_its_ttl_ends() {
    let (authority, dns) = (Authority::new("td.test"), DnsServer::start().await);
    let mut replicas = Vec::new();
    for number in 1..=3 {
        replicas.push(Replica::start(&authority, Protocol::Http1, number).await);
    }
    let ip = |number: usize| replicas[number - 1].addr.ip();
    dns.set(NAME, &[ip(1), ip(2)], 1);
    let caller = caller(&authority, &dns).start().await;
    answered_by(&caller, &["1", "2"]).await;
    dns.set(NAME, &[ip(3)], 1);
    answered_by(&caller, &["3"]).await;
    caller.metric_reaches("mantlet_dns_lookups_total", &[("result", "ok")], 2.0).await;
}

#[tokio::test]
async fn an_answer_is_not_asked_for_again_before_its_ttl_ends() {
    let (authority, dns) = (Authority::new("td.test"), DnsServer::start().await);
    let replica = Replica::start(&authority, Protocol::Http1, 1).await;
    dns.set(NAME, &[replica.addr.ip()], 3600);
    let caller = caller(&authority, &dns).start().await;
    for _ in 0..20 {
        assert_eq!(get(&caller).await.status, 200);
    }
    // One question for each family.
    assert_eq!(dns.asked().len(), 2, "{:?}", dns.asked());
}

#[tokio::test]
async fn while_no_server_answers_the_last_addresses_stay_in_use_for_a_bounded_time() {
    for manner in [Manner::Silent, Manner::Fails] {
        let (authority, dns) = (Authority::new("td.test"), DnsServer::start().await);
        let replica = Replica::start(&authority, Protocol::Http1, 1).await;
        dns.set(NAME, &[replica.addr.ip()], 1);
        let kept = caller(&authority, &dns).start().await;
        let dropped = caller(&authority, &dns).arg("--dns-keep", "1s").start().await;
        answered_by(&kept, &["1"]).await;
        answered_by(&dropped, &["1"]).await;
        dns.manner(manner);
        let failed = eventually("the addresses to be too old", async || {
            let response = get(&dropped).await;
            (response.status != 200).then_some(response)
        })
        .await;
        assert_eq!((failed.status, failed.error().as_deref()), (502, Some("connect")));
        dropped.metric_reaches("mantlet_upstream_connects_total", &[("result", "dns")], 1.0).await;
        assert_eq!(get(&kept).await.status, 200, "{manner:?}: by default they are kept for longer");
        dns.manner(Manner::Answers);
        answered_by(&dropped, &["1"]).await;
    }
}

#[tokio::test]
async fn a_name_that_comes_into_being_is_found() {
    let (authority, dns) = (Authority::new("td.test"), DnsServer::start().await);
    let replica = Replica::start(&authority, Protocol::Http1, 1).await;
    let caller = caller(&authority, &dns).start().await;
    let response = get(&caller).await;
    assert_eq!((response.status, response.error().as_deref()), (502, Some("connect")));
    dns.set(NAME, &[replica.addr.ip()], 60);
    answered_by(&caller, &["1"]).await;
    caller.metric_reaches("mantlet_dns_lookups_total", &[("result", "empty")], 1.0).await;
}

fn resolver(resolv_conf: &str) -> Resolver {
    Resolver::new(resolv_conf.into(), "/nowhere/hosts".into(), Metrics::new(Options::default()))
}

async fn addresses(resolver: &Resolver, name: &str) -> Vec<String> {
    let answer = resolver.lookup(name).await.expect("an answer");
    answer.addresses.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn short_names_are_completed_as_resolv_conf_says() {
    let dns = DnsServer::start().await;
    dns.set("orders.shop.svc.cluster.local", &[IpAddr::from([10, 0, 0, 1])], 30);
    dns.set("a.b.c", &[IpAddr::from([10, 0, 0, 2])], 30);
    let conf =
        dns.resolv_conf("search web.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:2");
    let resolver = resolver(&conf);
    assert_eq!(addresses(&resolver, "orders.shop").await, ["10.0.0.1"]);
    let names: Vec<String> =
        dns.asked().into_iter().filter(|asked| asked.rtype == 1).map(|asked| asked.name).collect();
    assert_eq!(names, ["orders.shop.web.svc.cluster.local", "orders.shop.svc.cluster.local"]);
    assert_eq!(addresses(&resolver, "a.b.c").await, ["10.0.0.2"]);
    let names: Vec<String> = dns.asked().into_iter().skip(4).map(|asked| asked.name).collect();
    assert_eq!(names, ["a.b.c", "a.b.c"], "with dots enough the name itself comes first");
}

#[tokio::test]
async fn a_server_that_fails_ends_the_search_instead_of_leading_to_another_name() {
    let dns = DnsServer::start().await;
    dns.set("orders.shop", &[IpAddr::from([10, 6, 6, 6])], 30);
    dns.manner(Manner::Fails);
    let resolver = resolver(&dns.resolv_conf("search svc.cluster.local\noptions ndots:5 attempts:1"));
    let failed = resolver.lookup("orders.shop").await;
    assert!(matches!(failed, Err(LookupError::ServerFailure)), "{failed:?}");
    assert!(dns.asked().iter().all(|asked| asked.name == "orders.shop.svc.cluster.local"));
}

#[tokio::test]
async fn an_answer_that_does_not_fit_comes_over_tcp() {
    let dns = DnsServer::start().await;
    let many: Vec<IpAddr> = (0..200).map(|n| IpAddr::from([10, 0, 1, n])).collect();
    dns.set("many.test", &many, 30);
    dns.manner(Manner::Truncates);
    assert_eq!(addresses(&resolver(&dns.resolv_conf("")), "many.test").await.len(), 200);
    assert!(dns.asked().iter().any(|asked| asked.tcp));
}

#[tokio::test]
async fn both_families_and_aliases_are_followed_and_forged_answers_are_not() {
    let dns = DnsServer::start().await;
    let both = [IpAddr::from([10, 0, 0, 1]), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into()];
    dns.alias("www.test", &["lb.test", "a.lb.test"], &both, 30);
    dns.manner(Manner::Forged);
    let answer = resolver(&dns.resolv_conf("")).lookup("www.test").await.expect("an answer");
    assert_eq!(answer.addresses, both);
    assert_eq!(answer.ttl.as_secs(), 30);
}

#[tokio::test]
async fn addresses_that_would_lead_to_the_own_host_or_around_a_family_are_left_out() {
    let dns = DnsServer::start().await;
    let listed = ["0.0.0.0", "224.0.0.1", "255.255.255.255", "10.0.0.1", "::", "ff02::1", "2001:db8::1"];
    // The kernel dials IPv4 for these.
    let mapped = ["::ffff:0.0.0.0", "::ffff:127.0.0.1", "::ffff:10.0.0.2"];
    let listed: Vec<IpAddr> =
        listed.iter().chain(&mapped).map(|ip| ip.parse().expect("an address")).collect();
    dns.set(NAME, &listed, 30);
    let resolver = resolver(&dns.resolv_conf(""));
    assert_eq!(addresses(&resolver, NAME).await, ["10.0.0.1", "2001:db8::1"]);
}

#[tokio::test]
async fn nobody_is_asked_for_localhost_and_the_next_server_for_what_the_first_does_not_answer() {
    let (dead, dns) = (DnsServer::start().await, DnsServer::start().await);
    dns.set("a.test", &[IpAddr::from([10, 0, 0, 1])], 30);
    let conf = dns.resolv_conf("");
    let alive = std::fs::read_to_string(&conf).unwrap();
    for manner in [Manner::Silent, Manner::Fails] {
        dead.manner(manner);
        let conf = dead.resolv_conf(&format!("{alive}\noptions timeout:1"));
        assert_eq!(addresses(&resolver(&conf), "a.test").await, ["10.0.0.1"], "{manner:?}");
    }
    assert_eq!(addresses(&resolver("/nowhere"), "localhost").await, ["127.0.0.1", "::1"]);
    let none = resolver("/nowhere").lookup("a.test").await;
    assert!(matches!(none, Err(LookupError::Io(_))));
}
