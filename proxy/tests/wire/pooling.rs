//! Connections are shared and reused, and nobody notices.

use std::sync::Arc;

use mantlet_testkit::apps::{App, Protocol, Reply};
use mantlet_testkit::client::{HttpClient, Request};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::common::{BOTH, Inbound};

const ALLOW: &str = "allow mesh to * /**\n";

#[tokio::test]
async fn an_app_that_closes_after_every_answer_loses_no_request() {
    let app = App::with(Protocol::Http1, |_| async { Reply { close: true, ..Reply::ok("bye") } }).await;
    let inbound = Inbound::start(app.addr(), ALLOW).await;
    let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
    let mut client = HttpClient::plain(addr, Protocol::Http1).await;
    for n in 0..50 {
        assert_eq!(client.send(&Request::get(&format!("/{n}"))).await.text(), "bye");
    }
    assert_eq!(app.seen().len(), 50);
}

#[tokio::test]
async fn requests_that_all_wait_for_each_other_get_room_on_further_connections() {
    const REQUESTS: usize = 250;
    for protocol in BOTH {
        let gate = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&gate);
        let app = App::with(protocol, move |_| {
            let held = Arc::clone(&held);
            async move {
                held.acquire().await.unwrap().forget();
                Reply::ok("done")
            }
        })
        .await;
        let inbound = Inbound::start(app.addr(), ALLOW).await;
        let (caller, addr) = inbound.caller("web/frontend", " as http").await;
        let mut clients = JoinSet::new();
        for n in 0..REQUESTS {
            clients.spawn(async move {
                let mut client = HttpClient::plain(addr, protocol).await;
                client.send(&Request::get(&format!("/{n}"))).await.text()
            });
        }
        // No answer leaves before every request has arrived: none waits for another's end.
        app.wait_for_requests(REQUESTS).await;
        gate.add_permits(REQUESTS);
        while let Some(text) = clients.join_next().await {
            assert_eq!(text.unwrap(), "done");
        }
        let labels = [("direction", "outbound"), ("result", "ok")];
        let dialled = caller.metrics().await.sum("mantlet_tls_handshakes_total", &labels);
        assert!(dialled <= 5.0, "{protocol:?}: {dialled} mesh connections for {REQUESTS} requests");
    }
}

#[tokio::test]
async fn pipelined_requests_are_judged_and_answered_one_by_one() {
    let app = App::with(Protocol::Http1, |seen| async move { Reply::ok(seen.target) }).await;
    let inbound = Inbound::start(app.addr(), "allow web/frontend to GET /orders/**\n").await;
    let HttpClient::Http1(mut client) = inbound.http("web/frontend", Protocol::Http1).await else {
        unreachable!()
    };
    let request = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    let targets = ["/orders/1", "/admin", "/orders/2", "/orders/../admin", "/orders/3"];
    client.write(targets.map(request).concat()).await.unwrap();
    let mut answers = Vec::new();
    for _ in targets {
        answers.push(client.read().await.unwrap().status);
    }
    assert_eq!(answers, [200, 403, 200, 400, 200]);
    let seen: Vec<String> = app.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(seen, ["/orders/1", "/orders/2", "/orders/3"]);
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_its_request_to_the_app_with_it() {
    let app = App::with(Protocol::H2c, |_| std::future::ready(Reply::open("first"))).await;
    let inbound = Inbound::start(app.addr(), ALLOW).await;
    let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
    let HttpClient::Http2(mut client) = HttpClient::plain(addr, Protocol::H2c).await else { unreachable!() };
    let mut kept = client.open(&Request::get("/kept"), true).await.unwrap();
    let mut given_up = client.open(&Request::get("/given-up"), true).await.unwrap();
    kept.head().await.unwrap();
    given_up.head().await.unwrap();
    drop(given_up);
    app.wait_for_cut(1).await;
    drop((kept, client));
    app.wait_for_cut(2).await;
}
