//! Identities come and go under load, and no request is lost.

use std::time::Duration;

use mantlet_testkit::client::Request;
use mantlet_testkit::eventually;
use mantlet_testkit::pki::{Authority, SvidOptions, TestSvid};
use mantlet_testkit::sidecar::Sidecar;
use mantlet_testkit::workload_api::Answer;

use crate::common::ORDERS;
use crate::mesh::{FRONTEND, Mesh, Open, certs, closed_only_for, give, readiness};
use crate::traffic::Traffic;

const ROTATIONS: usize = 100;
const TTL: Duration = Duration::from_secs(2);

/// Certificates count in whole seconds: the one that has begun comes on top of the lifetime, as a real
/// authority has it.
fn issue(authority: &Authority, id: &str, ttl: Duration) -> TestSvid {
    let mut options = SvidOptions::new(id).expires_in(ttl + Duration::from_secs(1));
    options.not_after = options.not_after.replace_nanosecond(0).expect("a whole second");
    authority.issue(&options)
}

/// Processor time of a sidecar so far (proc_pid_stat(5): clock ticks, of which Linux has 100 in a second).
fn cpu_seconds(sidecar: &Sidecar) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", sidecar.pid().unwrap())).unwrap();
    // The name may hold anything; what follows it does not.
    let numbers: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = numbers[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    ticks as f64 / 100.0
}

async fn failed_handshakes(sidecar: &Sidecar) -> f64 {
    let metrics = sidecar.metrics().await;
    let all = metrics.sum("mantlet_tls_handshakes_total", &[]);
    all - metrics.sum("mantlet_tls_handshakes_total", &[("reason", "ok")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_rotations_of_two_second_svids_lose_no_request_and_no_open_connection() {
    let mesh = Mesh::start().await;
    let mut open = Open::through(mesh.outer).await;
    let traffic = Traffic::start(mesh.outer).await;
    for n in 0..ROTATIONS / 2 {
        // Each is applied before the next: the old one has a second left at least.
        let orders = issue(&mesh.authority, ORDERS, TTL);
        let frontend = issue(&mesh.authority, FRONTEND, TTL);
        tokio::join!(give(&mesh.callee, Answer::of(&orders)), give(&mesh.caller, Answer::of(&frontend)));
        traffic.goes_on().await;
        if n % 10 == 0 {
            open.goes_on().await;
        }
    }
    for (sidecar, id) in [(&mesh.callee, ORDERS), (&mesh.caller, FRONTEND)] {
        give(sidecar, Answer::of(&mesh.authority.svid(id))).await;
        assert!(certs(sidecar).await["svid"]["generation"].as_u64().unwrap() > ROTATIONS as u64 / 2);
    }
    let (answers, elapsed) = traffic.nothing_was_lost().await;
    // A machine that is busy with something else gives the sidecars less than a second in a second.
    let ran = cpu_seconds(&mesh.callee).max(cpu_seconds(&mesh.caller)).min(elapsed.as_secs_f64());
    let rate = answers as f64 / ran;
    assert!(rate >= 500.0, "{answers} requests in {ran:.1} s of {elapsed:.1?} are no load");
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
    let authority = Authority::new("td.test");
    let ttl = Duration::from_secs(10);
    let (orders, frontend) = (issue(&authority, ORDERS, ttl), issue(&authority, FRONTEND, ttl));
    let mesh = Mesh::of(authority, (&orders, &frontend), |caller| caller).await;
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
