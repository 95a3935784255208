//! R9: which of several identities a sidecar takes.

use mantlet_testkit::apps::{App, Protocol};
use mantlet_testkit::real_peers::RealPeers;
use mantlet_testkit::sidecar::SidecarBuilder;
use mantlet_testkit::spire::Spire;

use crate::mesh::{CLIENT, LONG, SERVER, TRUST_DOMAIN, certs, entry, sidecar, sidecar_program};

#[tokio::test]
async fn r09_of_two_entries_the_hint_decides_whatever_their_order() {
    let Some(peers) = RealPeers::find("r09") else { return };
    let spire = Spire::start(&peers, TRUST_DOMAIN).await;
    spire.create(&entry(&spire, "both", SERVER, LONG).entry_id("0001").hint("internal")).await;
    spire.create(&entry(&spire, "both", CLIENT, LONG).entry_id("0002").hint("external")).await;
    let app = App::start(Protocol::Http1).await;
    let builder = || {
        SidecarBuilder::new(sidecar_program(&spire, "both"))
            .inbound(app.addr())
            .arg("--workload-api", spire.endpoint())
            .arg("--trust-domain", TRUST_DOMAIN)
    };
    for (hint, id) in [("internal", SERVER), ("external", CLIENT)] {
        let chosen = builder().arg("--svid-hint", hint).start().await;
        assert_eq!(certs(&chosen).await["svid"]["spiffe_id"], id, "hint {hint}");
    }
    let first = builder().start().await;
    assert_eq!(certs(&first).await["svid"]["spiffe_id"], SERVER, "without a hint, the first entry");
}

#[tokio::test]
async fn r09_the_expected_identity_is_found_behind_another() {
    let Some(peers) = RealPeers::find("r09") else { return };
    let spire = Spire::start(&peers, TRUST_DOMAIN).await;
    spire.create(&entry(&spire, "both", SERVER, LONG).entry_id("0001")).await;
    spire.create(&entry(&spire, "both", CLIENT, LONG).entry_id("0002")).await;
    let app = App::start(Protocol::Http1).await;
    let second = sidecar(&spire, "both", CLIENT).inbound(app.addr()).start().await;
    assert_eq!(certs(&second).await["svid"]["spiffe_id"], CLIENT);
}
