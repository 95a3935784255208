//! R7, R8, R11: authorities that rotate, chains with intermediates, other kinds of keys.

use std::fs;
use std::path::Path;

use mantlet_testkit::apps::Protocol;
use mantlet_testkit::client::{Request, TlsClient};
use mantlet_testkit::eventually;
use mantlet_testkit::pki::{Authority, TestSvid};
use mantlet_testkit::real_peers::RealPeers;
use mantlet_testkit::sidecar::Sidecar;
use mantlet_testkit::spire::{Spire, SpireOptions};

use crate::mesh::{
    CLIENT, Mesh, SHORT, TRUST_DOMAIN, another_serial, certs, failed_handshakes, presented, serial,
};
use crate::traffic::Traffic;

async fn authorities(sidecar: &Sidecar) -> usize {
    let certs = certs(sidecar).await;
    certs["bundles"][0]["authorities"].as_array().map_or(0, Vec::len)
}

async fn authorities_become(mesh: &Mesh, count: usize) {
    for sidecar in [&mesh.server, &mesh.client] {
        eventually(format!("{count} authorities"), async || {
            (authorities(sidecar).await == count).then_some(())
        })
        .await;
    }
}

/// An SVID that SPIRE's server made for the test itself.
async fn mint(spire: &Spire, id: &str) -> TestSvid {
    let dir = spire.dir().path().join("minted");
    fs::create_dir_all(&dir).unwrap();
    let folder = dir.display().to_string();
    spire.server_cli(&["x509", "mint", "-spiffeID", id, "-ttl", "10m", "-write", &folder]).await;
    TestSvid::from_pem(id, &dir.join("svid.pem"), &dir.join("key.pem"), &dir.join("bundle.pem"))
}

#[tokio::test]
async fn r07_a_root_rotation_loses_no_request_and_ends_with_the_old_root_refused() {
    let Some(peers) = RealPeers::find("r07") else { return };
    let mesh = Mesh::start(&peers, SHORT).await;
    let traffic = Traffic::start(mesh.outbound().await).await;
    let of_the_old_root = TlsClient::new(&mint(&mesh.spire, CLIENT).await);
    let old_issuer = issuer(&mesh.server).await;

    let prepared = mesh.spire.json(&["localauthority", "x509", "prepare"]).await;
    let new = prepared["prepared_authority"]["authority_id"].as_str().unwrap().to_owned();
    authorities_become(&mesh, 2).await;

    let activated = mesh.spire.json(&["localauthority", "x509", "activate", "-authorityID", &new]).await;
    assert_eq!(activated["activated_authority"]["authority_id"], new.as_str());
    let shown = mesh.spire.json(&["localauthority", "x509", "show"]).await;
    let old = shown["old"]["authority_id"].as_str().unwrap().to_owned();
    for sidecar in [&mesh.server, &mesh.client] {
        eventually("an SVID of the new root", async || (issuer(sidecar).await != old_issuer).then_some(()))
            .await;
    }
    traffic.goes_on().await;
    let inbound = mesh.server.inbound(0).await;
    let answer = of_the_old_root.http(inbound, Protocol::Http1).await.send(&Request::get("/")).await;
    assert_eq!(answer.status, 200, "both roots are trusted");

    mesh.spire.server_cli(&["localauthority", "x509", "taint", "-authorityID", &old]).await;
    mesh.spire.server_cli(&["localauthority", "x509", "revoke", "-authorityID", &old]).await;
    authorities_become(&mesh, 1).await;
    traffic.goes_on().await;
    traffic.nothing_was_lost().await;
    assert_eq!(failed_handshakes(&mesh.server).await, 0.0);
    of_the_old_root.alpn(&["http/1.1"]).refused(inbound).await;
}

async fn issuer(sidecar: &Sidecar) -> String {
    certs(sidecar).await["svid"]["issuer"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn r08_under_an_upstream_authority_the_intermediate_is_presented_and_accepted() {
    let Some(peers) = RealPeers::find("r08") else { return };
    let upstream = Authority::new(TRUST_DOMAIN);
    let files = mantlet_testkit::TempDir::new();
    let certificate = files.file("upstream.pem", upstream.certificate_pem());
    let key = files.file("upstream.key", upstream.key_pem());
    let text = |path: &Path| path.display().to_string();
    let options =
        SpireOptions { upstream: Some((text(&certificate), text(&key))), ..SpireOptions::new(TRUST_DOMAIN) };
    let mesh = Mesh::with(&peers, options).await;
    mesh.call_as_client().await;
    let chain = presented(&mesh.server).await;
    assert_eq!(chain.len(), 2, "leaf and intermediate, never the root");
    assert_ne!(chain[1], upstream.root().to_vec());
}

#[tokio::test]
async fn r11_rsa_and_p384_leaves_and_an_rsa_4096_authority_work() {
    let Some(peers) = RealPeers::find("r11") else { return };
    for (svid_key_type, ca_key_type) in [("rsa-2048", "rsa-4096"), ("ec-p384", "ec-p384")] {
        let options = SpireOptions {
            svid_key_type: svid_key_type.to_owned(),
            ca_key_type: ca_key_type.to_owned(),
            ..SpireOptions::new(TRUST_DOMAIN)
        };
        Mesh::with(&peers, options).await.call_as_client().await;
    }
}

#[tokio::test]
async fn r07_a_tainted_root_makes_the_agent_issue_again_at_once() {
    let Some(peers) = RealPeers::find("r07") else { return };
    let mesh = Mesh::start(&peers, crate::mesh::LONG).await;
    let before = serial(&mesh.server).await.unwrap();
    let prepared = mesh.spire.json(&["localauthority", "x509", "prepare"]).await;
    let new = prepared["prepared_authority"]["authority_id"].as_str().unwrap().to_owned();
    mesh.spire.json(&["localauthority", "x509", "activate", "-authorityID", &new]).await;
    let shown = mesh.spire.json(&["localauthority", "x509", "show"]).await;
    let old = shown["old"]["authority_id"].as_str().unwrap().to_owned();
    mesh.spire.server_cli(&["localauthority", "x509", "taint", "-authorityID", &old]).await;
    another_serial(&mesh.server, &before).await;
    mesh.call_as_client().await;
}
