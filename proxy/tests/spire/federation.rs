//! R10: two trust domains, each with its own SPIRE.

use mantlet_testkit::apps::{App, Protocol};
use mantlet_testkit::eventually;
use mantlet_testkit::real_peers::RealPeers;
use mantlet_testkit::spire::Spire;

use crate::mesh::{LONG, entry, sidecar, try_call};

const OURS: &str = "spiffe://ours.test/ns/shop/sa/orders";
const THEIRS: &str = "spiffe://theirs.test/ns/web/sa/frontend";

/// Gives `to` the bundle of `from`, as a federation relationship does on every refresh.
async fn introduce(from: &Spire, trust_domain: &str, to: &Spire) {
    let bundle = from.server_cli(&["bundle", "show", "-format", "spiffe"]).await;
    let file = to.dir().file(trust_domain, bundle).display().to_string();
    let id = format!("spiffe://{trust_domain}");
    to.server_cli(&["bundle", "set", "-id", &id, "-path", &file, "-format", "spiffe"]).await;
}

#[tokio::test]
async fn r10_a_federated_peer_is_accepted_while_its_bundle_is_delivered_and_refused_afterwards() {
    let Some(peers) = RealPeers::find("r10") else { return };
    let (ours, theirs) = tokio::join!(Spire::start(&peers, "ours.test"), Spire::start(&peers, "theirs.test"));
    introduce(&ours, "ours.test", &theirs).await;
    introduce(&theirs, "theirs.test", &ours).await;
    let federated = entry(&ours, "server", OURS, LONG).federates_with("theirs.test");
    let our_entry = ours.create(&federated).await;
    theirs.create(&entry(&theirs, "client", THEIRS, LONG).federates_with("ours.test")).await;

    let app = App::start(Protocol::Http1).await;
    let policy = format!("allow {THEIRS} to * /** on {}\n", app.port());
    let server = sidecar(&ours, "server", OURS).inbound(app.addr()).policy(policy).start().await;
    let client = sidecar(&theirs, "client", THEIRS).outbound(server.inbound(0).await, OURS).start().await;
    let outbound = client.outbound(0).await;
    let response = try_call(outbound).await.unwrap();
    assert_eq!(response.status, 200, "{response:?}");
    let named = app.only().header("x-forwarded-client-cert").join("");
    assert!(named.contains(&format!("URI={THEIRS}")), "{named}");

    ours.update(&our_entry, &entry(&ours, "server", OURS, LONG)).await;
    eventually("the peer to be refused", async || {
        (try_call(outbound).await.unwrap().status == 502).then_some(())
    })
    .await;
    let refused = [("result", "error"), ("reason", "no_bundle")];
    server.metric_reaches("mantlet_tls_handshakes_total", &refused, 1.0).await;

    ours.update(&our_entry, &federated).await;
    eventually("the peer to be accepted again", async || {
        (try_call(outbound).await.unwrap().status == 200).then_some(())
    })
    .await;
}
