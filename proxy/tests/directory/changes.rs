//! Changes while requests and connections are under way.

use std::time::Duration;

use mantlet_testkit::Io;
use mantlet_testkit::apps::TcpApp;
use mantlet_testkit::client::{Request, connect, exactly, until_end};
use mantlet_testkit::directory::{NotMeshed, Protocol, Says, endpoint, meshed};
use mantlet_testkit::pki::Authority;
use tokio::io::AsyncWriteExt;
use tokio::time;

use crate::common::sidecar;
use crate::fixture::{Caller, directory, orders, replica, service};
use crate::load::{CLIENTS, Load};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_change_under_load_fail_no_request_and_an_endpoint_that_left_serves_none() {
    let authority = Authority::new("td.test");
    let (a, b) = (replica(&authority, 1).await, replica(&authority, 2).await);
    let (directory, wanted) = (directory(&authority), service());
    let say = |who: &[&crate::replica::Replica]| {
        directory.say(wanted, meshed(who.iter().map(|replica| orders(replica, Protocol::Http))));
    };
    say(&[&a, &b]);
    let caller = Caller::start(&authority, &directory, &[wanted]).await;
    let load = Load::start(&caller).await;
    let mut said = 1;
    for round in 0..10 {
        for list in [&[&a][..], &[&b], &[&a, &b]] {
            load.sent(20).await;
            say(list);
            said += 1;
        }
        if round == 5 {
            // Alone in the list, it serves everything; the other nothing, once what it had is answered.
            say(&[&b]);
            said += 1;
            caller.answers("meshed", said).await;
            load.sent(4 * CLIENTS).await;
            let before = a.app.seen().len();
            load.sent(100).await;
            assert_eq!(a.app.seen().len(), before);
        }
    }
    caller.answers("meshed", said).await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_changes_a_second_stall_no_request() {
    let authority = Authority::new("td.test");
    let (a, b) = (replica(&authority, 1).await, replica(&authority, 2).await);
    let (directory, wanted) = (directory(&authority), service());
    let all = [orders(&a, Protocol::Http), orders(&b, Protocol::Http)];
    directory.say(wanted, meshed(all.clone()));
    let caller = Caller::start(&authority, &directory, &[wanted]).await;
    let load = Load::start(&caller).await;
    load.sent(50).await;
    let mut pace = time::interval(Duration::from_millis(1));
    for n in 0..2000 {
        pace.tick().await;
        directory.say(wanted, meshed(all[n % 2..].iter().cloned()));
    }
    caller.answers("meshed", 2001).await;
    let slowest = load.end().await;
    eprintln!("the slowest request took {slowest:?}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}

#[tokio::test]
async fn an_identity_that_left_is_not_reached_by_the_next_request() {
    let authority = Authority::new("td.test");
    let (a, wanted, directory) = (replica(&authority, 1).await, service(), directory(&authority));
    directory.say(wanted, meshed([orders(&a, Protocol::Http)]));
    let caller = Caller::start(&authority, &directory, &[wanted]).await;
    let mut open = caller.open(0).await;
    assert_eq!(open.send(&Request::get("/")).await.text(), "1");
    directory.say(wanted, meshed([endpoint(a.addr, "shop/other", Protocol::Http)]));
    caller.answers("meshed", 2).await;
    let failed = open.send(&Request::get("/")).await;
    assert_eq!((failed.status, failed.error().as_deref()), (502, Some("tls")));
    assert_eq!(a.app.seen().len(), 1);
}

#[tokio::test]
async fn a_destination_that_leaves_the_mesh_is_looked_up_anew() {
    let authority = Authority::new("td.test");
    let (a, wanted, directory) = (replica(&authority, 1).await, service(), directory(&authority));
    directory.say(wanted, meshed([orders(&a, Protocol::Http)]));
    let caller =
        Caller::with(&authority, &directory, &[wanted], |sidecar| sidecar.arg("--unmeshed", "refuse")).await;
    let mut open = caller.open(0).await;
    assert_eq!(open.send(&Request::get("/")).await.text(), "1");
    directory.say(wanted, Says::NotMeshed(NotMeshed {}));
    caller.answers("not_meshed", 1).await;
    if let Ok(last) = open.try_send(&Request::get("/")).await {
        assert_eq!((last.status, last.error().as_deref()), (403, Some("policy")));
    }
    assert!(caller.refuses(0).await);
    assert_eq!(a.app.seen().len(), 1);
}

#[tokio::test]
async fn a_change_of_the_protocol_cuts_no_bytes_and_ends_http_only_where_bytes_are_spoken() {
    let authority = Authority::new("td.test");
    let app = TcpApp::banner("220 ready\r\n").await;
    let policy = format!("allow web/frontend to tcp on {}\n", app.port());
    let inbound = sidecar().identity(&authority.workload("data/db")).policy(policy).inbound(app.addr());
    let inbound = inbound.start().await;
    let db = inbound.inbound(0).await;
    let (web, directory, wanted) =
        (replica(&authority, 1).await, directory(&authority), [service(), service()]);
    let say = |protocol| {
        directory.say(wanted[0], meshed([endpoint(db, "data/db", protocol)]));
        directory.say(wanted[1], meshed([orders(&web, protocol)]));
    };
    say(Protocol::AskPeer);
    let caller = Caller::start(&authority, &directory, &wanted).await;
    let mut bytes: Io = Box::new(connect(caller.sidecar.outbound(0).await).await);
    assert_eq!(exactly(&mut bytes, 11).await, b"220 ready\r\n");
    let mut http = caller.open(1).await;
    assert_eq!(http.send(&Request::get("/")).await.text(), "1");
    say(Protocol::Http);
    caller.answers("meshed", 4).await;
    assert_eq!(http.send(&Request::get("/")).await.text(), "1");
    say(Protocol::AskPeer);
    caller.answers("meshed", 6).await;
    assert_eq!(http.send(&Request::get("/")).await.text(), "1");
    say(Protocol::Opaque);
    caller.answers("meshed", 8).await;
    bytes.write_all(b"ping").await.unwrap();
    assert_eq!(exactly(&mut bytes, 4).await, b"ping", "the same connection all the while");
    let mut next: Io = Box::new(connect(caller.sidecar.outbound(0).await).await);
    assert_eq!(exactly(&mut next, 11).await, b"220 ready\r\n");
    let closed = http.try_send(&Request::get("/")).await;
    assert!(closed.is_err(), "HTTP is no longer spoken there: {closed:?}");
    let mut refused: Io = Box::new(connect(caller.sidecar.outbound(1).await).await);
    let _ = refused.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(until_end(&mut refused).await.is_empty(), "its sidecar does not speak bytes");
}
