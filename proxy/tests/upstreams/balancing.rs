//! Several endpoints behind one destination.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use mantlet_testkit::apps::{App, Protocol, RawApp, Reply, TcpApp};
use mantlet_testkit::client::{HttpClient, Request, connect, exactly};
use mantlet_testkit::pki::Authority;
use mantlet_testkit::{Io, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;

use crate::common::{BOTH, sidecar};
use crate::replica::{Replica, caller};

/// Who answers so many requests of one connection; every answer is 200. They are ones that may be
/// repeated: whether a connection that just died is noticed before it is used is a matter of luck.
async fn answers(addr: SocketAddr, protocol: Protocol, count: usize) -> BTreeMap<String, usize> {
    let mut client = HttpClient::plain(addr, protocol).await;
    let mut by = BTreeMap::new();
    for _ in 0..count {
        let response = client.send(&Request::get("/orders")).await;
        assert_eq!(response.status, 200, "{:?}", response.error());
        *by.entry(response.text()).or_default() += 1;
    }
    by
}

#[tokio::test]
async fn requests_of_one_connection_go_to_all_endpoints() {
    for protocol in BOTH {
        let authority = Authority::new("td.test");
        let a = Replica::start(&authority, protocol, 1).await;
        let b = Replica::start(&authority, protocol, 2).await;
        let (_caller, addr) = caller(&authority, &[a.addr, b.addr], " as http").await;
        let by = answers(addr, protocol, 200).await;
        // With equal load either is as likely: 200 requests all but cannot miss this.
        assert!(by["1"] > 40 && by["2"] > 40, "{protocol:?}: {by:?}");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_down_costs_nobody_a_request_and_one_that_is_back_serves_again() {
    for (protocol, rest) in [(Protocol::Http1, " as http"), (Protocol::H2c, "")] {
        let authority = Authority::new("td.test");
        let mut a = Replica::start(&authority, protocol, 1).await;
        let b = Replica::start(&authority, protocol, 2).await;
        let (caller, addr) = caller(&authority, &[a.addr, b.addr], rest).await;
        answers(addr, protocol, 20).await;
        a.down().await;
        // New connections of the app, so that nothing is in flight when the endpoint goes.
        for _ in 0..5 {
            assert_eq!(answers(addr, protocol, 10).await, BTreeMap::from([("2".to_owned(), 10)]));
        }
        caller.metric_reaches("mantlet_upstream_ejections_total", &[], 1.0).await;
        let refused = [("result", "refused")];
        let tries = caller.metrics().await.sum("mantlet_upstream_connects_total", &refused);
        assert!(tries < 25.0, "left out, not asked for every request: {tries} of 50");
        a.up().await;
        eventually("the endpoint to serve again", async || {
            answers(addr, protocol, 10).await.contains_key("1").then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_slow_endpoint_is_spared() {
    let authority = Authority::new("td.test");
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let slow = App::with(Protocol::H2c, move |_| {
        let held = Arc::clone(&held);
        async move {
            held.acquire().await.unwrap().forget();
            Reply::ok("slow")
        }
    })
    .await;
    let slow = Replica::with_app(&authority, slow).await;
    let quick = Replica::start(&authority, Protocol::H2c, 2).await;
    let (_caller, addr) = caller(&authority, &[slow.addr, quick.addr], " as http").await;
    let mut waiting = HttpClient::plain(addr, Protocol::H2c).await;
    let stuck = tokio::spawn(async move {
        // One of these reaches the slow endpoint, and stays.
        loop {
            if waiting.send(&Request::get("/")).await.text() == "slow" {
                return;
            }
        }
    });
    slow.app.wait_for_requests(1).await;
    assert_eq!(answers(addr, Protocol::H2c, 50).await, BTreeMap::from([("2".to_owned(), 50)]));
    gate.add_permits(1);
    stuck.await.unwrap();
}

#[tokio::test]
async fn opaque_connections_are_spread_and_pass_over_an_endpoint_that_is_down() {
    for rest in [" as tcp", ""] {
        let authority = Authority::new("td.test");
        let mut apps = Vec::new();
        for banner in ["1", "2"] {
            let app = TcpApp::banner(banner).await;
            let policy = format!("allow web/frontend to tcp on {}\n", app.port());
            let inbound = sidecar().identity(&authority.workload("shop/orders")).policy(policy);
            let inbound = inbound.inbound(app.addr()).start().await;
            let addr = inbound.inbound(0).await;
            apps.push((app, inbound, addr));
        }
        let nobody = Replica::start(&authority, Protocol::Http1, 3).await.addr;
        let upstreams = [nobody, apps[0].2, apps[1].2];
        let (_caller, addr) = caller(&authority, &upstreams, rest).await;
        let mut by = BTreeMap::<u8, usize>::new();
        let mut open = Vec::new();
        for _ in 0..20 {
            let mut io: Io = Box::new(connect(addr).await);
            *by.entry(exactly(&mut io, 1).await[0]).or_default() += 1;
            io.write_all(b"ping").await.unwrap();
            assert_eq!(exactly(&mut io, 4).await, b"ping");
            open.push(io);
        }
        // All stay open, so the less loaded one is always the other one.
        assert_eq!(by, BTreeMap::from([(b'1', 10), (b'2', 10)]), "{rest:?}");
    }
}

#[tokio::test]
async fn a_connection_that_is_closed_before_the_handshake_goes_to_the_next_endpoint() {
    let authority = Authority::new("td.test");
    let stopping = RawApp::start().await;
    let replica = Replica::start(&authority, Protocol::Http1, 2).await;
    let (_caller, addr) = caller(&authority, &[stopping.addr(), replica.addr], " as http").await;
    let hangs_up = async {
        loop {
            drop(stopping.accept().await);
        }
    };
    tokio::select! {
        () = hangs_up => {}
        () = async {
            for _ in 0..10 {
                assert_eq!(answers(addr, Protocol::Http1, 1).await, BTreeMap::from([("2".to_owned(), 1)]));
            }
        } => {}
    }
}

/// Whoever calls has waited long enough by then, and a whole destination that is gone is not worth a search.
#[tokio::test]
async fn a_request_is_tried_at_three_endpoints_and_no_more() {
    for rest in [" as http", " as tcp"] {
        let authority = Authority::new("td.test");
        // Bound and not listening: nobody else gets the port meanwhile.
        let gone: Vec<_> = std::iter::repeat_with(|| {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
            socket
        })
        .take(5)
        .collect();
        let addresses: Vec<_> = gone.iter().map(|socket| socket.local_addr().unwrap()).collect();
        let (caller, addr) = caller(&authority, &addresses, rest).await;
        if rest == " as http" {
            let mut client = HttpClient::plain(addr, Protocol::Http1).await;
            let response = client.send(&Request::get("/")).await;
            assert_eq!((response.status, response.error().as_deref()), (502, Some("connect")));
        } else {
            let mut io = connect(addr).await;
            let _ = io.read(&mut [0]).await;
            caller.metric_reaches("mantlet_connections_closed_total", &[("reason", "connect")], 1.0).await;
        }
        let refused = [("result", "refused")];
        assert_eq!(caller.metrics().await.sum("mantlet_upstream_connects_total", &refused), 3.0, "{rest}");
    }
}

#[tokio::test]
async fn an_endpoint_with_another_identity_is_an_error_and_hides_behind_no_other() {
    let authority = Authority::new("td.test");
    let foreign = Authority::new("td.test");
    let impostor = Replica::start(&foreign, Protocol::Http1, 1).await;
    let replica = Replica::start(&authority, Protocol::Http1, 2).await;
    let (caller, addr) = caller(&authority, &[impostor.addr, replica.addr], " as http").await;
    let failed = eventually("a request that meets the wrong one", async || {
        let mut client = HttpClient::plain(addr, Protocol::Http1).await;
        let response = client.send(&Request::get("/")).await;
        (response.status != 200).then_some(response)
    })
    .await;
    assert_eq!((failed.status, failed.error().as_deref()), (502, Some("tls")));
    assert_eq!(impostor.app.connections(), 0);
    // It is left out for a while like one that cannot be reached, longer each time.
    caller.metric_reaches("mantlet_upstream_ejections_total", &[], 1.0).await;
    let mut client = HttpClient::plain(addr, Protocol::Http1).await;
    let mut failed = 0;
    for _ in 0..100 {
        failed += usize::from(client.send(&Request::get("/")).await.status != 200);
    }
    assert!(failed < 10, "{failed} of 100");
}
