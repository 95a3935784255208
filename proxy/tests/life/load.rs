//! Identities come and go under load, and no request is lost.

use std::time::Duration;

use mantlet_testkit::client::Request;
use mantlet_testkit::eventually;
use mantlet_testkit::pki::{Authority, SvidOptions, TestSvid};
use mantlet_testkit::sidecar::Sidecar;
use mantlet_testkit::workload_api::Answer;
use tokio::time::Instant;

use crate::common::ORDERS;
use crate::mesh::{FRONTEND, Mesh, Open, certs, closed_only_for, give, readiness};
use crate::traffic::Traffic;

/// Of each side.
const ROTATIONS: u64 = 100;
const TTL: Duration = Duration::from_secs(2);

/// Requests in a second, by the clock, while all that happens.
const LOAD: f64 = 500.0;

/// For so long a machine that is busy with something else may fall short of the load.
const BUSY: Duration = Duration::from_secs(120);

/// Ends with a whole second, as every certificate, and not before its time: what expires because the test
/// came too late with the next one is nobody's loss.
fn issue(authority: &Authority, id: &str, ttl: Duration) -> TestSvid {
    authority.issue(&SvidOptions::new(id).expires_in(ttl + Duration::from_secs(1)))
}

async fn failed_handshakes(sidecar: &Sidecar) -> f64 {
    let metrics = sidecar.metrics().await;
    let all = metrics.sum("mantlet_tls_handshakes_total", &[]);
    all - metrics.sum("mantlet_tls_handshakes_total", &[("reason", "ok")])
}

async fn rotations(mesh: &Mesh, open: &mut Open, traffic: &Traffic) {
    for n in 0..ROTATIONS {
        // Each is applied before the next: the old one has time left.
        let orders = issue(&mesh.authority, ORDERS, TTL);
        let frontend = issue(&mesh.authority, FRONTEND, TTL);
        tokio::join!(give(&mesh.callee, Answer::of(&orders)), give(&mesh.caller, Answer::of(&frontend)));
        traffic.goes_on().await;
        if n % 10 == 0 {
            open.goes_on().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_rotations_of_two_second_svids_lose_no_request_and_no_open_connection() {
    let mesh = Mesh::start().await;
    let mut open = Open::through(mesh.outer).await;
    let traffic = Traffic::start(mesh.outer).await;
    let begun = Instant::now();
    loop {
        let rate = traffic.rate_of(Box::pin(rotations(&mesh, &mut open, &traffic))).await;
        eprintln!("{rate:.0} requests a second");
        if rate >= LOAD {
            break;
        }
        // No load, no proof: another hundred, of which none may lose anything either.
        assert!(begun.elapsed() < BUSY, "{rate:.0} requests a second are no load");
    }
    for (sidecar, id) in [(&mesh.callee, ORDERS), (&mesh.caller, FRONTEND)] {
        give(sidecar, Answer::of(&mesh.authority.svid(id))).await;
        assert!(certs(sidecar).await["svid"]["generation"].as_u64().unwrap() > ROTATIONS);
    }
    traffic.nothing_was_lost().await;
    open.goes_on().await;
    assert_eq!(failed_handshakes(&mesh.callee).await, 0.0);
    assert_eq!(failed_handshakes(&mesh.caller).await, 0.0);
    closed_only_for(&mesh.caller, &["eof"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_killed_and_restarted_under_load_costs_nothing() {
    let mesh = Mesh::start().await;
    let traffic = Traffic::start(mesh.outer).await;
    for _ in 0..3 {
        for (sidecar, id) in [(&mesh.callee, ORDERS), (&mesh.caller, FRONTEND)] {
            let api = sidecar.workload_api();
            api.stop();
            let connected = [("mantlet_identity_stream_connected", 0.0), ("mantlet_identity_usable", 1.0)];
            eventually("the loss of the agent to show, and of nothing else", async || {
                let metrics = sidecar.metrics().await;
                connected.iter().all(|(name, value)| metrics.sum(name, &[]) == *value).then_some(())
            })
            .await;
            traffic.goes_on().await;
            api.serve(Answer::of(&mesh.authority.svid(id)));
            let before = certs(sidecar).await;
            api.start();
            eventually("the identity of the new agent", async || {
                (certs(sidecar).await["svid"]["serial"] != before["svid"]["serial"]).then_some(())
            })
            .await;
            traffic.goes_on().await;
            assert_eq!(sidecar.get("/readyz").await.status, 200);
        }
    }
    traffic.nothing_was_lost().await;
    assert_eq!(failed_handshakes(&mesh.callee).await, 0.0);
}

#[tokio::test]
async fn an_agent_that_stays_away_past_expiry_makes_both_sides_fail_closed_until_it_returns() {
    let mesh = Mesh::start().await;
    let ttl = Duration::from_secs(5);
    for id in [ORDERS, FRONTEND] {
        mesh.hold(id, &issue(&mesh.authority, id, ttl)).await;
    }
    let mut open = Open::through(mesh.outer).await;
    for sidecar in [&mesh.callee, &mesh.caller] {
        sidecar.workload_api().stop();
    }
    for sidecar in [&mesh.callee, &mesh.caller] {
        let text = readiness(sidecar, 503).await;
        assert!(text.contains("has expired") && text.contains("next: "), "{text}");
        assert_eq!(certs(sidecar).await["state"], "expired");
        assert_eq!(sidecar.get("/livez").await.status, 200);
    }
    let seen = mesh.apps.h1.seen().len();
    let refused = open.h1.send(&Request::get("/")).await.unwrap();
    assert_eq!((refused.status, refused.error().as_deref()), (502, Some("withdrawn")));
    assert_eq!(mesh.apps.h1.seen().len(), seen);

    for (sidecar, id) in [(&mesh.callee, ORDERS), (&mesh.caller, FRONTEND)] {
        let api = sidecar.workload_api();
        api.serve(Answer::of(&mesh.authority.svid(id)));
        api.start();
    }
    for sidecar in [&mesh.callee, &mesh.caller] {
        readiness(sidecar, 200).await;
    }
    assert_eq!(open.h1.send(&Request::get("/")).await.unwrap().status, 200);
    Open::through(mesh.outer).await.goes_on().await;
}
