//! R1 to R6, R12 to R14: an identity comes, rotates, goes and comes back.

use mantlet_testkit::apps::{App, Protocol};
use mantlet_testkit::client::TlsClient;
use mantlet_testkit::eventually;
use mantlet_testkit::real_peers::{RealPeers, run};
use mantlet_testkit::spire::{Spire, SpireOptions};
use tokio::process::Command;

use crate::mesh::{
    CLIENT, LONG, Mesh, SERVER, SHORT, TRUST_DOMAIN, another_serial, certs, client_of, entry,
    failed_handshakes, readiness, serial, server_of,
};
use crate::traffic::Traffic;

#[tokio::test]
async fn r01_without_an_entry_the_sidecar_waits_and_says_why_until_there_is_one() {
    let Some(peers) = RealPeers::find("r01") else { return };
    let spire = Spire::start(&peers, TRUST_DOMAIN).await;
    let app = App::start(Protocol::Http1).await;
    let server = server_of(&spire, &app).spawn();
    let client = client_of(&spire, &server).await.spawn();
    eventually("startup to name the cause", async || {
        server.get("/startupz").await.text().contains("no identity issued").then_some(())
    })
    .await;
    assert_eq!(server.get("/startupz").await.status, 503);
    assert_eq!(server.get("/readyz").await.status, 503);
    assert_eq!(server.get("/livez").await.status, 200);

    let server_entry = spire.create(&entry(&spire, "server", SERVER, LONG)).await;
    let client_entry = spire.create(&entry(&spire, "client", CLIENT, LONG)).await;
    server.ready().await;
    client.ready().await;
    let mesh = Mesh { server, client, app, spire, server_entry, client_entry };
    mesh.call_as_client().await;
}

#[tokio::test]
async fn r02_three_rotations_under_load_fail_no_handshake_and_lose_no_request() {
    let Some(peers) = RealPeers::find("r02") else { return };
    let mesh = Mesh::start(&peers, SHORT).await;
    let traffic = Traffic::start(mesh.outbound().await).await;
    for sidecar in [&mesh.server, &mesh.client] {
        let mut last = serial(sidecar).await.unwrap();
        for _ in 0..3 {
            last = another_serial(sidecar, &last).await;
            traffic.goes_on().await;
        }
    }
    traffic.nothing_was_lost().await;
    assert_eq!(failed_handshakes(&mesh.server).await, 0.0);
    assert_eq!(failed_handshakes(&mesh.client).await, 0.0);
}

#[tokio::test]
async fn r03_an_agent_that_is_killed_and_restarted_costs_no_request_and_its_new_identity_is_taken_up() {
    let Some(peers) = RealPeers::find("r03") else { return };
    let mut mesh = Mesh::start(&peers, LONG).await;
    let before = serial(&mesh.server).await.unwrap();
    let traffic = Traffic::start(mesh.outbound().await).await;
    mesh.spire.kill_agent().await;
    traffic.goes_on().await;
    mesh.spire.start_agent().await;
    another_serial(&mesh.server, &before).await;
    traffic.goes_on().await;
    traffic.nothing_was_lost().await;
    assert_eq!(failed_handshakes(&mesh.client).await, 0.0);
}

#[tokio::test]
async fn r04_an_agent_that_stays_away_past_expiry_makes_the_sidecar_fail_closed_until_it_returns() {
    let Some(peers) = RealPeers::find("r04") else { return };
    let mut mesh = Mesh::start(&peers, SHORT).await;
    mesh.call_as_client().await;
    mesh.spire.kill_agent().await;
    readiness(&mesh.server, 503).await;
    readiness(&mesh.client, 503).await;
    assert_eq!(certs(&mesh.server).await["state"], "expired");
    mesh.call_fails().await;

    mesh.spire.start_agent().await;
    readiness(&mesh.server, 200).await;
    readiness(&mesh.client, 200).await;
    mesh.call_as_client().await;
}

#[tokio::test]
async fn r05_an_entry_deleted_while_the_stream_is_open_withdraws_the_identity() {
    let Some(peers) = RealPeers::find("r05") else { return };
    let mesh = Mesh::start(&peers, LONG).await;
    mesh.call_as_client().await;
    mesh.spire.delete(&mesh.server_entry).await;
    readiness(&mesh.server, 503).await;
    assert_eq!(certs(&mesh.server).await["state"], "withdrawn");
    let handshake = TlsClient::anonymous().handshake(mesh.server.inbound(0).await).await;
    assert!(handshake.is_err(), "a withdrawn identity is shown to nobody");
    // Connections that are there are drained, which takes at most ten seconds.
    eventually("the last connection to end", async || {
        let lost = mesh.call().await.map_or(true, |response| response.status >= 500);
        lost.then_some(())
    })
    .await;
    mesh.call_fails().await;
    assert_eq!(mesh.client.get("/readyz").await.status, 200, "the caller's own identity is untouched");

    mesh.spire.create(&entry(&mesh.spire, "server", SERVER, LONG)).await;
    readiness(&mesh.server, 200).await;
    mesh.call_as_client().await;
}

#[tokio::test]
async fn r05_a_caller_whose_entry_is_deleted_sends_nothing_more() {
    let Some(peers) = RealPeers::find("r05") else { return };
    let mesh = Mesh::start(&peers, LONG).await;
    mesh.call_as_client().await;
    mesh.spire.delete(&mesh.client_entry).await;
    readiness(&mesh.client, 503).await;
    mesh.call_fails().await;
}

#[tokio::test]
async fn r06_an_entry_that_is_missing_across_an_agent_restart_is_bridged_by_the_grace() {
    let Some(peers) = RealPeers::find("r06") else { return };
    let mut mesh = Mesh::start(&peers, LONG).await;
    let before = serial(&mesh.server).await.unwrap();
    let traffic = Traffic::start(mesh.outbound().await).await;
    mesh.spire.kill_agent().await;
    mesh.spire.delete(&mesh.server_entry).await;
    // The server answers agents from a cache, which would still hold the entry for a second.
    mesh.spire.kill_server().await;
    mesh.spire.start_server().await;
    mesh.spire.start_agent().await;
    eventually("the sidecar to be denied", async || {
        let cause = certs(&mesh.server).await["cause"].as_str().unwrap_or_default().to_owned();
        cause.contains("no identity issued").then_some(())
    })
    .await;
    assert_eq!(mesh.server.get("/readyz").await.status, 200, "the grace has only begun");
    traffic.goes_on().await;

    mesh.spire.create(&entry(&mesh.spire, "server", SERVER, LONG)).await;
    another_serial(&mesh.server, &before).await;
    traffic.goes_on().await;
    traffic.nothing_was_lost().await;
}

#[tokio::test]
async fn r12_with_the_server_down_the_identity_in_hand_goes_on_and_the_agent_still_serves_it() {
    let Some(peers) = RealPeers::find("r12") else { return };
    let mut mesh = Mesh::start(&peers, LONG).await;
    mesh.spire.kill_server().await;
    mesh.call_as_client().await;
    // A restarted sidecar gets its identity from the agent's cache.
    mesh.client = client_of(&mesh.spire, &mesh.server).await.start().await;
    mesh.call_as_client().await;
}

#[tokio::test]
async fn r13_an_agent_that_limits_calls_is_asked_again_without_haste() {
    let Some(peers) = RealPeers::find("r13") else { return };
    let options = SpireOptions { rate_limit: Some(1), ..SpireOptions::new(TRUST_DOMAIN) };
    let spire = Spire::with(&peers, options).await;
    spire.create(&entry(&spire, "server", SERVER, LONG)).await;
    let app = App::start(Protocol::Http1).await;
    let begun = std::time::Instant::now();
    // Three sidecars of one program share the limit of their process's user.
    let sidecars =
        [server_of(&spire, &app).spawn(), server_of(&spire, &app).spawn(), server_of(&spire, &app).spawn()];
    for sidecar in &sidecars {
        sidecar.ready().await;
        let attempts = sidecar.metrics().await.sum("mantlet_identity_errors_total", &[]);
        let allowed = 5.0 + begun.elapsed().as_secs_f64();
        assert!(attempts <= allowed, "{attempts} failed calls in {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn r14_fetches_by_others_leave_the_sidecar_alone() {
    let Some(peers) = RealPeers::find("r14") else { return };
    let mesh = Mesh::start(&peers, LONG).await;
    let agent = peers.program("spire-agent");
    mesh.spire
        .create(&mantlet_testkit::spire::Entry::new("spiffe://spire.test/ns/ops/sa/tool", &agent))
        .await;
    let before = certs(&mesh.server).await;
    for _ in 0..5 {
        eventually("a fetch by somebody else", async || {
            let mut fetch = Command::new(&agent);
            fetch.args(["api", "fetch", "x509", "-socketPath"]).arg(mesh.spire.socket());
            run(&mut fetch).await.ok()
        })
        .await;
    }
    mesh.call_as_client().await;
    let after = certs(&mesh.server).await;
    assert_eq!(before["svid"], after["svid"], "serial and generation");
    assert_eq!(before["bundles"], after["bundles"]);
}
