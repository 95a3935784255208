//! What the directory says, and where the sidecar goes by it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mantlet_testkit::Io;
use mantlet_testkit::apps::{App, Protocol as Speaks, TcpApp};
use mantlet_testkit::client::{HttpClient, Request, connect, exactly};
use mantlet_testkit::directory::{Address, Answer, Meshed, Protocol, Says, address, endpoint, meshed};
use mantlet_testkit::pki::Authority;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use crate::common::sidecar;
use crate::fixture::{Caller, directory, orders, replica, service};
use crate::replica::Replica;

#[tokio::test]
async fn requests_of_one_connection_go_to_every_endpoint_that_the_directory_names() {
    for protocol in [Protocol::Http, Protocol::AskPeer] {
        let authority = Authority::new("td.test");
        let (a, b) = (replica(&authority, 1).await, replica(&authority, 2).await);
        let (directory, wanted) = (directory(&authority), service());
        directory.say(wanted, meshed([orders(&a, protocol), orders(&b, protocol)]));
        let caller = Caller::start(&authority, &directory, &[wanted]).await;
        let (mut open, mut seen) = (caller.open(0).await, [0, 0]);
        for _ in 0..100 {
            let number: usize = open.send(&Request::get("/")).await.text().parse().unwrap();
            seen[number - 1] += 1;
        }
        // With equal load either is as likely: 100 requests all but cannot miss this.
        assert!(seen[0] > 10 && seen[1] > 10, "{seen:?}");
        assert_eq!(caller.get(0).await.unwrap().status, 200);
        assert_eq!(directory.questions(), [('+', wanted)], "one question for all");
        assert_eq!(caller.count("mantlet_directory_stream", &[("state", "connected")]).await, 1.0);
    }
}

#[tokio::test]
async fn bytes_go_to_an_endpoint_that_speaks_bytes() {
    let authority = Authority::new("td.test");
    let app = TcpApp::banner("220 ready\r\n").await;
    let policy = format!("allow web/frontend to tcp on {}\n", app.port());
    let inbound = sidecar().identity(&authority.workload("data/db")).policy(policy).inbound(app.addr());
    let inbound = inbound.start().await;
    let (directory, wanted) = (directory(&authority), [service(), service()]);
    for (wanted, protocol) in wanted.iter().zip([Protocol::Opaque, Protocol::AskPeer]) {
        directory.say(*wanted, meshed([endpoint(inbound.inbound(0).await, "data/db", protocol)]));
    }
    let caller = Caller::start(&authority, &directory, &wanted).await;
    for n in 0..2 {
        let mut io: Io = Box::new(connect(caller.sidecar.outbound(n).await).await);
        assert_eq!(exactly(&mut io, 11).await, b"220 ready\r\n");
        io.write_all(b"ping").await.unwrap();
        assert_eq!(exactly(&mut io, 4).await, b"ping");
    }
}

#[tokio::test]
async fn an_impostor_gets_no_byte_and_the_others_serve() {
    let authority = Authority::new("td.test");
    let app = App::start(Speaks::Http1).await;
    // Of the same trust domain, and selected by the same Service.
    let impostor = sidecar().identity(&authority.workload("shop/impostor")).policy("allow mesh to * /**\n");
    let impostor = impostor.inbound(app.addr()).start().await;
    let (real, wanted) = (replica(&authority, 2).await, service());
    let directory = directory(&authority);
    let there = endpoint(impostor.inbound(0).await, "shop/orders", Protocol::Http);
    directory.say(wanted, meshed([there, orders(&real, Protocol::Http)]));
    let caller = Caller::start(&authority, &directory, &[wanted]).await;
    let mut open = caller.open(0).await;
    let failed = loop {
        let response = open.send(&Request::get("/")).await;
        if response.status != 200 {
            break response;
        }
    };
    assert_eq!((failed.status, failed.error().as_deref()), (502, Some("tls")));
    assert_eq!(open.send(&Request::get("/")).await.text(), "2", "it is left out");
    assert_eq!(app.connections(), 0);
    let labels = [("direction", "outbound"), ("reason", "peer_not_expected")];
    caller.sidecar.metric_reaches("mantlet_tls_handshakes_total", &labels, 1.0).await;
}

#[tokio::test]
async fn who_comes_into_being_within_two_seconds_is_reached_by_those_who_waited() {
    let authority = Authority::new("td.test");
    let (real, wanted, directory) = (replica(&authority, 1).await, service(), directory(&authority));
    let caller = Caller::start(&authority, &directory, &[wanted]).await;
    let mut waiting = JoinSet::new();
    for _ in 0..20 {
        let addr = caller.sidecar.outbound(0).await;
        waiting.spawn(async move {
            let mut client = HttpClient::plain(addr, Speaks::Http1).await;
            client.try_send(&Request::get("/")).await.map(|response| response.text()).ok()
        });
    }
    // At first nobody has the address.
    caller.answers("unknown", 1).await;
    directory.say(wanted, meshed([orders(&real, Protocol::Http)]));
    while let Some(answer) = waiting.join_next().await {
        assert_eq!(answer.unwrap().as_deref(), Some("1"));
    }
    assert_eq!(directory.questions(), [('+', wanted)]);
}

#[tokio::test]
async fn what_the_directory_does_not_know_is_refused_after_two_seconds_and_then_at_once() {
    let authority = Authority::new("td.test");
    let (nobody, silent, directory) = (service(), service(), directory(&authority));
    directory.keep_silent(silent);
    let caller = Caller::start(&authority, &directory, &[nobody, silent]).await;
    for n in 0..2 {
        let begun = Instant::now();
        assert!(caller.refuses(n).await);
        assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    }
    let labels = [("direction", "outbound"), ("reason", "denied")];
    caller.sidecar.metric_reaches("mantlet_connections_closed_total", &labels, 2.0).await;
    let waits = async |result| caller.count("mantlet_directory_waits_total", &[("result", result)]).await;
    assert_eq!((waits("timeout").await, waits("futile").await), (2.0, 0.0));
    // It has said that nobody is there, and had time to find somebody: there is nothing to wait for.
    for _ in 0..3 {
        assert!(caller.refuses(0).await);
    }
    assert_eq!((waits("timeout").await, waits("futile").await), (2.0, 3.0));
}

#[tokio::test]
async fn an_address_that_is_kept_is_dialled_itself_and_must_be_one_of_the_service() {
    let authority = Authority::new("td.test");
    let (behind, directory) = (replica(&authority, 1).await, directory(&authority));
    // Where the endpoints listen does not matter: the Service's own address is dialled.
    let elsewhere = |account: &str| endpoint(service(), account, Protocol::Http);
    let kept = |all: &[&str]| {
        let endpoints = all.iter().map(|account| elsewhere(account)).collect();
        Says::Meshed(Meshed { endpoints, keep_address: true })
    };
    directory.say(behind.addr, kept(&["shop/other", "shop/orders"]));
    let caller = Caller::start(&authority, &directory, &[behind.addr]).await;
    let mut open = caller.open(0).await;
    assert_eq!(open.send(&Request::get("/")).await.text(), "1");
    directory.say(behind.addr, kept(&["shop/other"]));
    caller.answers("meshed", 2).await;
    let failed = open.send(&Request::get("/")).await;
    assert_eq!((failed.status, failed.error().as_deref()), (502, Some("tls")), "its identity is gone");
}

#[tokio::test]
async fn a_service_without_an_endpoint_is_refused_at_once_and_served_when_there_is_one() {
    let authority = Authority::new("td.test");
    let (real, wanted, directory) = (replica(&authority, 1).await, service(), directory(&authority));
    directory.say(wanted, meshed([orders(&real, Protocol::Http)]));
    let caller = Caller::start(&authority, &directory, &[wanted]).await;
    let mut open = caller.open(0).await;
    assert_eq!(open.send(&Request::get("/")).await.text(), "1");
    directory.say(wanted, meshed([]));
    caller.answers("meshed", 2).await;
    let failed = open.send(&Request::get("/")).await;
    assert_eq!((failed.status, failed.error().as_deref()), (502, Some("connect")));
    assert_eq!(caller.get(0).await.unwrap().status, 502);
    let waited = caller.count("mantlet_directory_waits_total", &[("result", "answered")]).await;
    assert_eq!(waited, 1.0, "only the first connection had to wait");
    directory.say(wanted, meshed([orders(&real, Protocol::Http)]));
    caller.answers("meshed", 3).await;
    assert_eq!(open.send(&Request::get("/")).await.text(), "1", "on the same connection");
}

#[tokio::test]
async fn an_ipv4_destination_is_asked_for_as_ipv4_however_the_kernel_writes_it() {
    let authority = Authority::new("td.test");
    let (real, wanted, directory) = (replica(&authority, 1).await, service(), directory(&authority));
    directory.say(wanted, meshed([orders(&real, Protocol::Http)]));
    let SocketAddr::V4(v4) = wanted else { unreachable!("an IPv4 address") };
    let mapped = SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port()));
    let caller = Caller::start(&authority, &directory, &[mapped]).await;
    assert_eq!(caller.get(0).await.unwrap().text(), "1");
    assert_eq!(directory.questions(), [('+', wanted)]);
}

#[tokio::test]
async fn an_answer_that_cannot_be_meant_is_dropped_and_the_last_good_one_holds() {
    let authority = Authority::new("td.test");
    let (real, wanted, directory) = (replica(&authority, 1).await, service(), directory(&authority));
    directory.say(wanted, meshed([orders(&real, Protocol::Http)]));
    let caller = Caller::start(&authority, &directory, &[wanted]).await;
    assert_eq!(caller.get(0).await.unwrap().text(), "1");
    let good = || orders(&real, Protocol::Http);
    let mut bad = vec![Answer::default(), Answer { address: Some(address(wanted)), says: None }];
    let mut say = |says: Says| bad.push(Answer { address: Some(address(wanted)), says: Some(says) });
    for ip in [vec![], vec![1, 2, 3], vec![0; 17], Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets().into()] {
        say(meshed([good(), mantlet_testkit::directory::Endpoint { ip, ..good() }]));
    }
    for port in [0, 65_536, u32::MAX] {
        say(meshed([mantlet_testkit::directory::Endpoint { port, ..good() }]));
    }
    for id in ["", "shop/orders", "spiffe://else.test/ns/shop/sa/orders", "spiffe://td.test"] {
        say(meshed([mantlet_testkit::directory::Endpoint { spiffe_id: id.to_owned(), ..good() }]));
    }
    say(meshed(std::iter::repeat_n(good(), 5000)));
    let nowhere = Address { ip: vec![1; 7], port: 80 };
    bad.push(Answer { address: Some(nowhere), says: Some(meshed([good()])) });
    for answer in &bad {
        directory.send(answer);
    }
    caller.answers("malformed", bad.len()).await;
    // What nobody asked for is nothing either.
    directory.send(&Answer { address: Some(address(service())), says: Some(meshed([good()])) });
    caller.answers("unasked", 1).await;
    assert_eq!(caller.get(0).await.unwrap().text(), "1");
    assert_eq!(caller.count("mantlet_directory_addresses", &[]).await, 1.0);
    assert_eq!(caller.count("mantlet_directory_stream_ends_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_line_comes_before_the_directory_and_ends_what_the_directory_gave() {
    let authority = Authority::new("td.test");
    let (a, wanted) = (replica(&authority, 1).await, service());
    let other = Replica::start(&authority, Speaks::Http1, 2).await;
    let directory = directory(&authority);
    directory.say(wanted, meshed([orders(&a, Protocol::Http)]));
    let dir = mantlet_testkit::TempDir::new();
    let lines = |more: &str| format!("{} is shop/orders as http\n{more}", other.addr);
    let path = dir.file("upstreams", lines("")).display().to_string();
    let caller = Caller::with(&authority, &directory, &[wanted, other.addr], |sidecar| {
        sidecar.arg("--upstreams", path)
    })
    .await;
    assert_eq!(caller.get(1).await.unwrap().text(), "2");
    let asked: BTreeSet<_> = directory.questions().into_iter().collect();
    assert!(asked.is_empty(), "a line says it: {asked:?}");
    let mut open = caller.open(0).await;
    assert_eq!(open.send(&Request::get("/")).await.text(), "1");
    dir.replace("upstreams", lines(&format!("{wanted} refuse\n")));
    mantlet_testkit::eventually("the line to be in force", async || caller.refuses(0).await.then_some(()))
        .await;
    if let Ok(last) = open.try_send(&Request::get("/")).await {
        assert_eq!((last.status, last.error().as_deref()), (403, Some("policy")));
    }
}
