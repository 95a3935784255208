//! A new authority, with the real API server as the one that must trust it.

use mantlet_testkit::eventually;
use mantlet_testkit::real_peers::RealPeers;
use serde_json::json;

use super::{Cluster, SYSTEM, has_sidecar, pod};
use crate::api::{base64, unbase64};
use crate::certificates::{data, due_authority};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_api_server_trusts_every_certificate_that_it_is_shown_through_a_rotation() {
    let test = "the_real_api_server_trusts_every_certificate_that_it_is_shown_through_a_rotation";
    let Some(peers) = RealPeers::find(test) else { return };
    let cluster = Cluster::start(&peers).await;
    let server = &cluster.server;
    let due = due_authority();
    let data: serde_json::Map<_, _> = data(&due)
        .into_iter()
        .map(|(key, value)| (key.to_owned(), json!(base64(value.as_bytes()))))
        .collect();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "mantlet-injector-certificate", "namespace": SYSTEM}, "data": data,
    });
    server.create(&secret).await.unwrap();
    let injector = cluster.injector(&["--certificate-settle", "1s", "--certificate-life", "9s"]).await;
    injector.event("ready").await;
    cluster.effective().await;
    let path = format!("/api/v1/namespaces/{SYSTEM}/secrets/mantlet-injector-certificate");
    let mut created = 0;
    eventually("the next authority to sign", async || {
        // An error here is a pod that somebody could not create.
        let pod = server.try_create(&pod("shop", "api")).await.unwrap();
        assert!(has_sidecar(&pod));
        created += 1;
        let now = server.get(&path).await["data"]["authority.crt"].clone();
        (now != secret["data"]["authority.crt"]).then_some(())
    })
    .await;
    for _ in 0..10 {
        server.try_create(&pod("shop", "api")).await.unwrap();
    }
    assert!(created > 0);
    injector.metric_reaches("mantlet_injector_rotations_total", &[("step", "promoted")], 1.0).await;

    // And when the last certificate of the old authority is over, the API server is told to forget it.
    let path = "/apis/admissionregistration.k8s.io/v1";
    let old = due.0.certificate.trim().to_owned();
    eventually("the old authority in no bundle", async || {
        let created = server.try_create(&pod("shop", "api")).await.unwrap();
        assert!(has_sidecar(&created));
        for kind in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
            let found = server.get(&format!("{path}/{kind}/mantlet-injector")).await;
            for hook in found["webhooks"].as_array().unwrap() {
                let bundle = unbase64(hook["clientConfig"]["caBundle"].as_str().unwrap());
                if String::from_utf8(bundle).unwrap().contains(&old) {
                    return None;
                }
            }
        }
        Some(())
    })
    .await;
    injector.metric_reaches("mantlet_injector_rotations_total", &[("step", "retired")], 1.0).await;
    for _ in 0..5 {
        server.try_create(&pod("shop", "api")).await.unwrap();
    }
}
