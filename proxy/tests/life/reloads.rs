//! Many policy changes, one after the other, under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mantlet_testkit::apps::{App, Protocol};
use mantlet_testkit::client::{Http2, HttpClient, Request};
use mantlet_testkit::pki::Authority;
use mantlet_testkit::sidecar::Sidecar;
use mantlet_testkit::within;

use crate::common::{Inbound, ORDERS, sidecar};
use crate::mesh::{Apps, Doors, closed_only_for, get2, is_open, open_stream};

const RELOADS: u64 = 1000;

/// `/v1/policy`, asked again and again on one connection.
struct Generation(HttpClient, String);

// === impl Generation ===

impl Generation {
    async fn of(sidecar: &Sidecar) -> Self {
        let addr = sidecar.admin().await;
        Self(HttpClient::plain(addr, Protocol::Http1).await, addr.to_string())
    }

    async fn now(&mut self) -> u64 {
        let shown = self.0.send(&Request::get("/v1/policy").host(&self.1)).await;
        let shown: serde_json::Value = serde_json::from_slice(&shown.body).unwrap();
        shown["generation"].as_u64().unwrap()
    }

    async fn reaches(&mut self, generation: u64) {
        within(format!("policy generation {generation}"), async { while self.now().await < generation {} })
            .await;
    }
}

#[tokio::test]
async fn open_streams_see_a_thousand_unrelated_reloads_and_none_closes() {
    let authority = Authority::new("td.test");
    let apps = Apps::start().await;
    let policy = apps.allow("mesh");
    let callee = apps.behind(sidecar().identity(&authority.svid(ORDERS)).policy(&policy)).start().await;
    let doors = Doors::inbound(&callee).await;
    let peer = mantlet_testkit::client::TlsClient::new(&authority.workload("web/frontend"));
    let mut connections: Vec<Http2> = Vec::new();
    let mut streams = Vec::new();
    for n in 0..64 {
        if n % 16 == 0 {
            let HttpClient::Http2(h2) = peer.http(doors.h2, Protocol::H2c).await else { unreachable!() };
            connections.push(h2);
        }
        streams.push(open_stream(connections.last_mut().unwrap(), &get2("/open")).await);
    }
    let mut generation = Generation::of(&callee).await;
    let first = generation.now().await;
    for n in 1..=RELOADS {
        callee.set_policy(&format!("{policy}allow web/other to GET /{n} on {}\n", apps.h1.port()));
        generation.reaches(first + n).await;
    }
    for h2 in &mut connections {
        assert_eq!(h2.send(&get2("/")).await.unwrap().status, 200);
    }
    for stream in &mut streams {
        assert!(is_open(stream).await);
    }
    assert_eq!(apps.h2.cut(), 0);
    closed_only_for(&callee, &[]).await;
}

/// What is known of the policy while it is toggled. Odd generations allow, even ones do not.
#[derive(Default)]
struct Known {
    /// `/v1/policy` has shown this one.
    shown: AtomicU64,
    /// This one has been written, and no later one.
    written: AtomicU64,
    /// Answers during which both were the same: only one generation can have given them.
    decisive: AtomicU64,
    stop: AtomicBool,
}

/// Asks until it is stopped; gives the answers that a generation older than the one already shown
/// must have given.
async fn ask(mut client: Http2, known: Arc<Known>) -> Vec<String> {
    let mut stale = Vec::new();
    while !known.stop.load(Ordering::SeqCst) {
        let shown = known.shown.load(Ordering::SeqCst);
        // What is being answered when its right goes is cut: that is no answer.
        let Ok(response) = client.send(&Request::get("/toggled")).await else { continue };
        let status = response.status;
        let written = known.written.load(Ordering::SeqCst);
        if shown == written {
            known.decisive.fetch_add(1, Ordering::SeqCst);
            let expected = if shown % 2 == 1 { 200 } else { 403 };
            if status != expected {
                stale.push(format!("{status} under generation {shown}"));
            }
        }
    }
    stale
}

#[tokio::test]
async fn d54_no_answer_is_older_than_the_policy_already_shown_across_a_thousand_toggles() {
    let app = App::start(Protocol::Http1).await;
    // The second rule keeps the port an HTTP port, and refusals answer in HTTP.
    let rules =
        ["allow web/keeps to GET /\n", "allow web/keeps to GET /\nallow web/frontend to GET /toggled\n"];
    let inbound = Inbound::with(app.addr(), |sidecar| sidecar.policy(rules[1]).arg("--workers", "2")).await;
    let mut generation = Generation::of(&inbound.sidecar).await;
    let first = generation.now().await;
    assert_eq!(first, 1, "odd ones allow");
    let known = Arc::new(Known { shown: first.into(), written: first.into(), ..Known::default() });
    let mut callers = Vec::new();
    for _ in 0..64 {
        let HttpClient::Http2(client) = inbound.http("web/frontend", Protocol::H2c).await else {
            unreachable!()
        };
        callers.push(tokio::spawn(ask(client, Arc::clone(&known))));
    }
    for n in first + 1..=first + RELOADS {
        // A request that was sent under the last policy may still get an answer of it.
        known.written.store(n, Ordering::SeqCst);
        inbound.sidecar.set_policy(&format!("# {n}\n{}", rules[usize::from(n % 2 == 1)]));
        generation.reaches(n).await;
        known.shown.store(n, Ordering::SeqCst);
        let wanted = known.decisive.load(Ordering::SeqCst) + 4;
        within("answers under this policy alone", async {
            while known.decisive.load(Ordering::SeqCst) < wanted {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    known.stop.store(true, Ordering::SeqCst);
    for caller in callers {
        let stale = within("the last answer", caller).await.unwrap();
        assert!(stale.is_empty(), "{stale:?}");
    }
    let decisive = known.decisive.load(Ordering::SeqCst);
    assert!(decisive >= 4 * RELOADS, "{decisive} answers that could have been wrong");
}
