//! Replicas that are stopped and started again under load: nobody notices.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mantlet_testkit::apps::{App, Protocol, Reply};
use mantlet_testkit::client::{HttpClient, Request};
use mantlet_testkit::eventually;
use mantlet_testkit::pki::Authority;
use tokio::task::JoinSet;
use tokio::time::{self, MissedTickBehavior};

use crate::replica::{Replica, caller};

const CLIENTS: usize = 10;
/// Ten clients with a request each 20 ms are 500 requests a second.
const PACE: Duration = Duration::from_millis(20);
/// More than one DATA frame, and more than is kept of a body.
const LARGE: usize = 100_000;

/// A replica that is back takes part again once it has served so many.
const TAKES_PART: usize = 20;

/// How often each request reached an app.
type Arrived = Arc<Mutex<BTreeMap<String, usize>>>;

/// The load, and what became of it.
struct Load {
    addr: SocketAddr,
    sent: AtomicUsize,
    over: AtomicBool,
    failed: Mutex<Vec<String>>,
}

/// An app that says what it got, after a moment, so that requests are always in flight.
async fn app(arrived: &Arrived, served: &Arc<AtomicUsize>) -> App {
    let (arrived, served) = (Arc::clone(arrived), Arc::clone(served));
    App::with(Protocol::Http1, move |seen| {
        let [number] = &seen.header("x-number")[..] else { unreachable!("one number a request") };
        *arrived.lock().unwrap().entry(number.clone()).or_default() += 1;
        served.fetch_add(1, Ordering::Relaxed);
        async move {
            time::sleep(Duration::from_millis(2)).await;
            let got = format!("{} {:?}", seen.body.len(), seen.trailer("x-end"));
            Reply::ok(got).header("x-number", &seen.header("x-number")[0])
        }
    })
    .await
}

/// Mostly a POST with a small body, sometimes a larger one, one of unknown length with trailers, or none.
fn request(number: usize) -> (Request, String) {
    let (method, body, trailers): (_, usize, &[&str]) = match number % 50 {
        n if n % 10 == 0 => ("GET", 0, &[]),
        1 => ("POST", LARGE, &[]),
        n if n % 10 < 3 => ("POST", 300, &["yes"]),
        n if n % 10 < 5 => ("POST", 40_000, &[]),
        5 => ("POST", 0, &[]),
        6 => ("PUT", 20, &[]),
        _ => ("POST", 1000, &[]),
    };
    let request = Request::new(method, "/").header("x-number", &number.to_string()).body(vec![b'a'; body]);
    let request = trailers
        .iter()
        .fold(request, |request, value| request.header("trailer", "X-End").trailer("x-end", value));
    (request, format!("{body} {trailers:?}"))
}

impl Load {
    /// One client, for as long as the load lasts: a request each [`PACE`], whatever became of the last.
    async fn client(self: Arc<Self>) {
        let mut client = HttpClient::plain(self.addr, Protocol::Http1).await;
        let mut pace = time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        while !self.over.load(Ordering::Relaxed) {
            pace.tick().await;
            let number = self.sent.fetch_add(1, Ordering::Relaxed);
            let (request, expected) = request(number);
            let answer = client.try_send(&request).await;
            let wrong = match &answer {
                Ok(answer) if answer.status != 200 => format!("{} {:?}", answer.status, answer.error()),
                Ok(answer) if answer.text() != expected => format!("{} for {expected}", answer.text()),
                Ok(_) => continue,
                Err(error) => error.to_string(),
            };
            self.failed.lock().unwrap().push(format!("{} {number}: {wrong}", request.method));
            if answer.is_err() {
                client = HttpClient::plain(self.addr, Protocol::Http1).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarting_two_endpoints_in_turn_under_load_fails_no_request_and_repeats_none() {
    let full = std::env::var_os("TEST_REQUIRE_ALL").is_some_and(|value| value == "1");
    let (rounds, requests) = if full { (10, 20_000) } else { (2, 1000) };
    let authority = Authority::new("td.test");
    let arrived = Arrived::default();
    let served = [Arc::default(), Arc::default()];
    let mut replicas = [
        Replica::with_app(&authority, app(&arrived, &served[0]).await).await,
        Replica::with_app(&authority, app(&arrived, &served[1]).await).await,
    ];
    let addrs = [replicas[0].addr, replicas[1].addr];
    let (caller, addr) = caller(&authority, &addrs, " as http").await;
    let load = Arc::new(Load { addr, sent: 0.into(), over: false.into(), failed: Mutex::default() });
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(Arc::clone(&load).client());
    }
    for _ in 0..rounds {
        for (replica, served) in replicas.iter_mut().zip(&served) {
            let before = served.load(Ordering::Relaxed);
            eventually("the replica to take part", async || {
                (served.load(Ordering::Relaxed) > before + TAKES_PART).then_some(())
            })
            .await;
            let mut sidecar = replica.sidecar.take().unwrap();
            sidecar.terminate();
            assert!(sidecar.exited().await.success());
            replica.up().await;
        }
    }
    // However long the rest takes: each request has its own limit.
    while load.sent.load(Ordering::Relaxed) < requests {
        time::sleep(PACE).await;
    }
    load.over.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let repeats = caller.metrics().await.sum("mantlet_upstream_repeats_total", &[]);
    let (sent, failed) = (load.sent.load(Ordering::Relaxed), load.failed.lock().unwrap());
    eprintln!("{sent} requests, {repeats} sent again");
    let arrived = arrived.lock().unwrap();
    let twice: Vec<_> = arrived.iter().filter(|(_, times)| **times > 1).collect();
    assert!(failed.is_empty(), "{} of {sent}: {failed:?}", failed.len());
    assert!(twice.is_empty(), "sent twice, of {sent}: {twice:?}");
    assert_eq!(arrived.len(), sent);
}
