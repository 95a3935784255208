//! Who may ask, and for how long.

use std::time::Duration;

use mantlet_testkit::client::TlsClient;
use mantlet_testkit::pki::{Authority, SvidOptions};
use mantlet_testkit::workload_api::{Answer, WorkloadApi};
use tonic::Code;

use crate::api::Api;
use crate::client::Client;
use crate::injector::{ID, Injector};
use crate::objects::orders;

#[tokio::test]
async fn nobody_without_an_identity_of_the_trust_domain_is_told_anything() {
    let api = Api::start().await;
    orders(&api);
    let (authority, other) = (Authority::new("prod.test"), Authority::new("other.test"));
    let unknown = Authority::new("prod.test");
    // The injector trusts the other domain's certificates, as a federated one.
    let answer = Answer::of(&authority.svid(ID)).federated(&other).message();
    let injector = Injector::with(api.kubeconfig(), &[], authority, WorkloadApi::serving(answer)).await;
    injector.event("directory_ready").await;
    for (what, client) in [
        ("no certificate", TlsClient::anonymous()),
        ("another authority", TlsClient::new(&unknown.workload("shop/web"))),
        ("another trust domain", TlsClient::new(&other.workload("shop/web"))),
    ] {
        // In TLS 1.3 a client learns of its refusal after the handshake.
        let Ok(session) = client.alpn(&["h2"]).handshake(injector.addr).await else { continue };
        assert!(Client::over(session.into_io()).await.is_err(), "{what}");
    }
    injector.metric_is("handshakes_total", &[("result", "failed")], 2.0).await;
    injector.metric_is("handshakes_total", &[("result", "trust_domain")], 1.0).await;
    // A client that does not say what it speaks.
    let svid = injector.authority.workload("shop/web");
    let session = TlsClient::new(&svid).connect(injector.addr).await;
    assert!(Client::over(session.into_io()).await.is_err());
    injector.metric_is("handshakes_total", &[("result", "protocol")], 1.0).await;
    injector.metric_is("connections", &[], 0.0).await;
    // Everybody else of the domain is.
    injector.client("any/body").await.ask("10.96.0.1:80").await;
}

#[tokio::test]
async fn a_stream_ends_when_the_certificate_of_its_client_does() {
    let api = Api::start().await;
    orders(&api);
    let injector = Injector::start(&api).await;
    let soon = SvidOptions::new("spiffe://prod.test/ns/shop/sa/web").expires_in(Duration::from_secs(6));
    let mut client = Client::over(injector.connect(&injector.authority.issue(&soon)).await).await.unwrap();
    client.ask("10.96.0.1:80").await;
    let mut other = injector.client("shop/web").await;
    let status = client.ended().await;
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "connect again: peer_expired"));
    assert_eq!(injector.metric("stream_ends_total", &[("reason", "peer_expired")]).await, 1.0);
    other.ask("10.96.0.1:80").await;
}

#[tokio::test]
async fn a_new_certificate_of_the_directory_is_shown_to_new_connections_and_ends_no_stream() {
    let api = Api::start().await;
    orders(&api);
    let injector = Injector::start(&api).await;
    let mut client = injector.client("shop/web").await;
    client.ask("10.96.0.1:80").await;
    let fresh = injector.authority.svid(ID);
    injector.workload_api.serve(Answer::of(&fresh).message());
    let svid = injector.authority.workload("shop/web");
    let shown = async || {
        let session = TlsClient::new(&svid).alpn(&["h2"]).connect(injector.addr).await;
        (session.chain[0] == fresh.chain[0]).then_some(())
    };
    mantlet_testkit::eventually("the new certificate", shown).await;
    client.ask("10.1.0.1:80").await;
}

#[tokio::test]
async fn a_client_whose_authority_is_taken_out_of_the_bundle_is_told_no_more() {
    let api = Api::start().await;
    orders(&api);
    let injector = Injector::start(&api).await;
    let mut client = injector.client("shop/web").await;
    client.ask("10.96.0.1:80").await;
    let next = Authority::new("prod.test");
    injector.workload_api.serve(Answer::of(&next.svid(ID)).message());
    assert_eq!(client.ended().await.message(), "connect again: bundle");
    let io = injector.connect(&next.workload("shop/web")).await;
    Client::over(io).await.unwrap().ask("10.96.0.1:80").await;
}

#[tokio::test]
async fn without_an_identity_nobody_is_answered_and_the_reason_is_told() {
    let api = Api::start().await;
    orders(&api);
    let authority = Authority::new("prod.test");
    let injector = Injector::with(api.kubeconfig(), &[], authority, WorkloadApi::absent()).await;
    injector.metric_reaches("relists_total", &[("kind", "pods")], 1.0).await;
    let svid = injector.authority.workload("shop/web");
    assert!(TlsClient::new(&svid).alpn(&["h2"]).handshake(injector.addr).await.is_err());
    injector.metric_reaches("handshakes_total", &[("result", "no_identity")], 1.0).await;
    let told = async || {
        let text = injector.get("/readyz").await.text();
        text.contains("directory: no identity: cannot reach the agent").then_some(())
    };
    mantlet_testkit::eventually("the reason", told).await;
    injector.workload_api.serve(Answer::of(&injector.authority.svid(ID)).message());
    injector.workload_api.start();
    injector.event("directory_ready").await;
    injector.client("shop/web").await.ask("10.96.0.1:80").await;
}
