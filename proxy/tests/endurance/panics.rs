//! A defect of the sidecar itself: a panic, injected where `TEST_PANIC` says.

use std::sync::Arc;

use mantlet_testkit::apps::{App, Protocol, Reply};
use mantlet_testkit::client::{HttpClient, Request};
use mantlet_testkit::eventually;
use mantlet_testkit::sidecar::{Sidecar, SidecarBuilder};
use mantlet_testkit::workload_api::Answer;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::common::{Inbound, ORDERS};

const ALLOW: &str = "allow mesh to * /**\n";

fn panicking(place: &str) -> impl FnOnce(SidecarBuilder) -> SidecarBuilder {
    let under = ["env".to_owned(), format!("TEST_PANIC={place}")];
    // Of several, each follows the policy and the identity, and a start alone would reach the place often enough.
    move |sidecar| sidecar.policy(ALLOW).arg("--workers", "1").under(&under)
}

fn says(sidecar: &Sidecar, words: &str) -> bool {
    sidecar.stderr().iter().any(|line| line.contains(words))
}

async fn ok(client: &mut HttpClient) {
    assert_eq!(client.send(&Request::get("/")).await.status, 200);
}

#[tokio::test]
async fn a_panic_in_a_connection_ends_this_one_and_is_counted_and_logged() {
    for protocol in [Protocol::Http1, Protocol::H2c] {
        let app = App::start(Protocol::Http1).await;
        let inbound = Inbound::with(app.addr(), panicking("connection:2")).await;
        let mut before = inbound.http("web/frontend", protocol).await;
        ok(&mut before).await;
        let mut hit = inbound.http("web/frontend", protocol).await;
        assert!(hit.try_send(&Request::get("/")).await.is_err(), "its connection is gone");
        ok(&mut before).await;
        ok(&mut inbound.http("web/frontend", protocol).await).await;
        let closed = ("mantlet_connections_closed_total", [("direction", "inbound"), ("reason", "internal")]);
        inbound.sidecar.metric_reaches(closed.0, &closed.1, 1.0).await;
        let metrics = inbound.sidecar.metrics().await;
        assert_eq!(metrics.sum(closed.0, &closed.1), 1.0);
        assert!(says(&inbound.sidecar, "\"event\":\"panicked\""), "{:?}", inbound.sidecar.stderr());
        drop((before, hit));
        inbound.sidecar.metric_reaches(closed.0, &[("direction", "inbound"), ("reason", "eof")], 2.0).await;
        let metrics = inbound.sidecar.metrics().await;
        assert_eq!(metrics.sum("mantlet_connections_active", &[]), 0.0);
    }
}

#[tokio::test]
async fn a_panic_in_a_stream_resets_this_one_and_the_others_of_its_connection_go_on() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let app = App::with(Protocol::Http1, move |_| {
        let held = Arc::clone(&held);
        async move {
            held.acquire().await.unwrap().forget();
            Reply::ok("hello")
        }
    })
    .await;
    let inbound = Inbound::with(app.addr(), panicking("request:2")).await;
    let HttpClient::Http2(mut client) = inbound.http("web/frontend", Protocol::H2c).await else {
        unreachable!("asked for HTTP/2")
    };
    let mut first = client.open(&Request::get("/first"), true).await.unwrap();
    app.wait_for_requests(1).await;
    let mut second = client.open(&Request::get("/second"), true).await.unwrap();
    let error = second.head().await.unwrap_err();
    assert!(error.is_reset(), "{error}");
    gate.add_permits(2);
    assert_eq!(first.head().await.unwrap().status, 200);
    assert_eq!(client.send(&Request::get("/third")).await.unwrap().status, 200);
    assert_eq!(app.seen().len(), 2);
    let in_flight = inbound.sidecar.metrics().await.sum("mantlet_http_requests_in_flight", &[]);
    assert_eq!(in_flight, 0.0);
}

#[tokio::test]
async fn a_panic_in_what_everything_relies_on_ends_the_process_at_once_and_says_so() {
    // The start changes policy and identity a few times too.
    for (place, task) in [("accept:2", "accept"), ("policy:5", "policy"), ("identity:5", "identity")] {
        let app = App::start(Protocol::Http1).await;
        let mut inbound = Inbound::with(app.addr(), panicking(place)).await;
        let mut open = inbound.http("web/frontend", Protocol::Http1).await;
        let said = format!("mantlet-proxy: {task} panicked; the process ends");
        let mut n = 0;
        eventually(&said, async || {
            n += 1;
            match task {
                "accept" => drop(TcpStream::connect(inbound.addr).await),
                "policy" => inbound.sidecar.set_policy(&format!("{ALLOW}# {n}\n")),
                _ => inbound.sidecar.workload_api().serve(Answer::of(&inbound.authority.svid(ORDERS))),
            }
            says(&inbound.sidecar, &said).then_some(())
        })
        .await;
        assert_eq!(inbound.sidecar.exited().await.code(), Some(70), "{place}");
        assert!(open.try_send(&Request::get("/")).await.is_err(), "nobody serves without it");
    }
}
