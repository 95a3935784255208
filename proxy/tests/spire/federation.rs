//! R10: two trust domains, each with its own SPIRE, that read each other's bundle endpoint.

use std::time::SystemTime;

use mantlet_id::TrustDomain;
use mantlet_identity::parse_bundle;
use mantlet_testkit::apps::{App, Protocol};
use mantlet_testkit::eventually;
use mantlet_testkit::real_peers::{RealPeers, free_port};
use mantlet_testkit::sidecar::Sidecar;
use mantlet_testkit::spire::{Spire, SpireOptions};

use crate::mesh::{LONG, another_serial, certs, entry, serial, sidecar, try_call};

const OURS: &str = "spiffe://ours.test/ns/shop/sa/orders";
const THEIRS: &str = "spiffe://theirs.test/ns/web/sa/frontend";

/// A SPIRE that serves its bundle, to whoever asks (`https_spiffe`: as its server's own SPIFFE ID).
struct Domain {
    spire: Spire,
    name: &'static str,
    endpoint: u16,
}

// === impl Domain ===

impl Domain {
    async fn start(peers: &RealPeers, name: &'static str) -> Self {
        let endpoint = free_port();
        let options = SpireOptions { bundle_endpoint: Some(endpoint), ..SpireOptions::new(name) };
        Self { spire: Spire::with(peers, options).await, name, endpoint }
    }

    /// Begins to federate. The first bundle is given by hand, because it is what the endpoint is
    /// authenticated with (SPIFFE Federation 5.2.2.3); every later one comes from the endpoint.
    async fn federate_with(&self, other: &Self) {
        let bundle = other.spire.server_cli(&["bundle", "show", "-format", "spiffe"]).await;
        let read =
            parse_bundle(&TrustDomain::parse(other.name).unwrap(), bundle.as_bytes(), SystemTime::now());
        assert_eq!(read.unwrap().bundle().authorities().len(), 1, "we read it as SPIRE does");
        let file = self.spire.dir().file(other.name, bundle).display().to_string();
        let url = format!("https://127.0.0.1:{}", other.endpoint);
        let server = format!("spiffe://{}/spire/server", other.name);
        let profile = ["-bundleEndpointProfile", "https_spiffe", "-endpointSpiffeID", &server];
        let whose = ["federation", "create", "-trustDomain", other.name, "-bundleEndpointURL", &url];
        let first = ["-trustDomainBundlePath", &file, "-trustDomainBundleFormat", "spiffe"];
        self.spire.server_cli(&[&whose[..], &profile, &first].concat()).await;
    }

    /// Reads the other's endpoint now instead of in a few minutes, until it gives so many authorities;
    /// then the sidecar here must have them.
    async fn refreshes(&self, other: &Self, sidecar: &Sidecar, count: usize) {
        let id = format!("spiffe://{}", other.name);
        eventually(format!("{count} authorities at the endpoint of {}", other.name), async || {
            self.spire.server_cli(&["federation", "refresh", "-id", other.name]).await;
            let known = self.spire.server_cli(&["bundle", "list", "-id", &id, "-format", "spiffe"]).await;
            (known.matches("\"x509-svid\"").count() == count).then_some(())
        })
        .await;
        eventually(format!("{count} authorities of {} at the sidecar", other.name), async || {
            (authorities(sidecar, other.name).await == count).then_some(())
        })
        .await;
    }
}

/// How many authorities of a trust domain a sidecar has.
async fn authorities(sidecar: &Sidecar, trust_domain: &str) -> usize {
    let certs = certs(sidecar).await;
    let bundles = certs["bundles"].as_array().cloned().unwrap_or_default();
    let bundle = bundles.iter().find(|bundle| bundle["trust_domain"] == trust_domain);
    bundle.and_then(|bundle| bundle["authorities"].as_array()).map_or(0, Vec::len)
}

#[tokio::test]
async fn r10_a_federated_peer_is_accepted_while_its_bundle_is_delivered_and_refused_afterwards() {
    let Some(peers) = RealPeers::find("r10") else { return };
    let (ours, theirs) =
        tokio::join!(Domain::start(&peers, "ours.test"), Domain::start(&peers, "theirs.test"));
    tokio::join!(ours.federate_with(&theirs), theirs.federate_with(&ours));
    let federated = entry(&ours.spire, "server", OURS, LONG).federates_with("theirs.test");
    let our_entry = ours.spire.create(&federated).await;
    let their_entry = entry(&theirs.spire, "client", THEIRS, LONG).federates_with("ours.test");
    theirs.spire.create(&their_entry).await;

    let app = App::start(Protocol::Http1).await;
    let policy = format!("allow {THEIRS} to * /** on {}\n", app.port());
    let server = sidecar(&ours.spire, "server", OURS).inbound(app.addr()).policy(policy).start().await;
    let client = sidecar(&theirs.spire, "client", THEIRS).outbound(server.inbound(0).await, OURS);
    let client = client.start().await;
    let outbound = client.outbound(0).await;
    let response = try_call(outbound).await.unwrap();
    assert_eq!(response.status, 200, "{response:?}");
    let named = app.only().header("x-forwarded-client-cert").join("");
    assert!(named.contains(&format!("URI={THEIRS}")), "{named}");

    // They change their root. Nobody carries the new one here: their endpoint does.
    let prepared = theirs.spire.json(&["localauthority", "x509", "prepare"]).await;
    let new = prepared["prepared_authority"]["authority_id"].as_str().unwrap().to_owned();
    ours.refreshes(&theirs, &server, 2).await;
    let before = serial(&client).await.unwrap();
    theirs.spire.server_cli(&["localauthority", "x509", "activate", "-authorityID", &new]).await;
    let shown = theirs.spire.json(&["localauthority", "x509", "show"]).await;
    let old = shown["old"]["authority_id"].as_str().unwrap().to_owned();
    theirs.spire.server_cli(&["localauthority", "x509", "taint", "-authorityID", &old]).await;
    another_serial(&client, &before).await;
    theirs.spire.server_cli(&["localauthority", "x509", "revoke", "-authorityID", &old]).await;
    ours.refreshes(&theirs, &server, 1).await;
    assert_eq!(try_call(outbound).await.unwrap().status, 200, "under the new root");

    ours.spire.update(&our_entry, &entry(&ours.spire, "server", OURS, LONG)).await;
    eventually("the peer to be refused", async || {
        (try_call(outbound).await.unwrap().status == 502).then_some(())
    })
    .await;
    let refused = [("result", "error"), ("reason", "no_bundle")];
    server.metric_reaches("mantlet_tls_handshakes_total", &refused, 1.0).await;

    ours.spire.update(&our_entry, &federated).await;
    eventually("the peer to be accepted again", async || {
        (try_call(outbound).await.unwrap().status == 200).then_some(())
    })
    .await;
}
