//! Readiness of a sidecar whose rules are missing.

use std::sync::Arc;

use mantlet_testkit::netns::{Lab, POD};
use mantlet_testkit::pki::Authority;
use mantlet_testkit::sidecar::Sidecar;
use mantlet_testkit::{eventually, in_namespaces};

use crate::fixture::{Pod, install, sidecar};

/// Waits for this status of `/readyz` with this text in it.
async fn ready(lab: &Lab, sidecar: &Arc<Sidecar>, status: u16, part: &str) {
    eventually(format!("readiness {status} with {part:?}"), async || {
        let sidecar = Arc::clone(sidecar);
        let response = lab.pod.run(async move { sidecar.get("/readyz").await }).await;
        (response.status == status && response.text().contains(part)).then_some(())
    })
    .await;
}

#[test]
fn n11_a_sidecar_notices_that_its_rules_are_gone_and_that_they_are_back() {
    in_namespaces!(async || {
        let Pod { lab, sidecar, .. } = Pod::start("").await;
        lab.pod.command("nft delete table inet mantlet").await;
        ready(&lab, &sidecar, 503, "interception missing").await;
        install(&lab).await;
        ready(&lab, &sidecar, 200, "").await;
    });
}

#[test]
fn a_sidecar_that_starts_before_the_rules_becomes_ready_with_them() {
    in_namespaces!(async || {
        let lab = Lab::new().await;
        let authority = Authority::new("td.test");
        let builder = sidecar(&authority, &POD).arg("--unconfigured", "permissive");
        let sidecar = lab.pod.run(async move { Arc::new(builder.spawn()) }).await;
        ready(&lab, &sidecar, 503, "run mantlet-init in this pod").await;
        install(&lab).await;
        ready(&lab, &sidecar, 200, "").await;
    });
}
