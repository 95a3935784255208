//! There is no identity yet: the sidecar waits, says why and what to do, and goes on by itself.

use std::sync::Arc;

use mantlet_testkit::apps::{App, Protocol};
use mantlet_testkit::client::{Request, TlsClient};
use mantlet_testkit::eventually;
use mantlet_testkit::pki::Authority;
use mantlet_testkit::sidecar::Sidecar;
use mantlet_testkit::workload_api::{Answer, Status, WorkloadApi};

use crate::common::{ORDERS, sidecar};

/// `/startupz` once it says that so many attempts were made.
async fn startup_text(sidecar: &Sidecar, attempt: u32) -> String {
    eventually(format!("attempt {attempt}"), async || {
        let response = sidecar.get("/startupz").await;
        assert_eq!(response.status, 503, "{}", response.text());
        response.text().contains(&format!("(attempt {attempt}, ")).then(|| response.text())
    })
    .await
}

async fn waits_and_recovers(api: WorkloadApi, cause: &str, error: &str) {
    let (authority, api) = (Authority::new("td.test"), Arc::new(api));
    let app = App::start(Protocol::Http1).await;
    let sidecar = sidecar().workload_api(&api).expect_id(ORDERS).inbound(app.addr());
    let mut sidecar = sidecar.policy("allow mesh to * /**\n").spawn();
    for attempt in [2, 3] {
        let text = startup_text(&sidecar, attempt).await;
        // not ready: identity: CAUSE (attempt N, 1.2 s) (next: STEP)
        let (before, after) = text.split_once(&format!("(attempt {attempt}, ")).unwrap();
        assert!(before.starts_with("not ready: identity: waiting: ") && before.contains(cause), "{text}");
        let (seconds, rest) = after.split_once(" s)").unwrap();
        assert!(seconds.parse::<f64>().unwrap() > 0.0, "{text}");
        let next = rest.split_once("(next: ").unwrap_or_else(|| panic!("no next step: {text}")).1;
        assert!(next.trim().len() > 10, "{text}");
        assert_eq!(sidecar.get("/readyz").await.status, 503);
        assert_eq!(sidecar.get("/livez").await.status, 200);
    }
    let logged = sidecar.stderr().into_iter().filter(|line| line.contains(cause)).count();
    assert!(logged >= 1, "{:?}", sidecar.stderr());
    let metrics = sidecar.metrics().await;
    assert_eq!(metrics.sum("mantlet_identity_usable", &[]), 0.0);
    assert!(metrics.sum("mantlet_identity_errors_total", &[("kind", error)]) >= 3.0, "{metrics:?}");

    api.serve(Answer::of(&authority.svid(ORDERS)));
    if !api.socket().exists() {
        api.start();
    }
    sidecar.ready().await;
    assert_eq!(sidecar.get("/startupz").await.status, 200);
    let peer = TlsClient::new(&authority.workload("web/frontend"));
    let mut client = peer.http(sidecar.inbound(0).await, Protocol::Http1).await;
    assert_eq!(client.send(&Request::get("/")).await.status, 200);
    sidecar.terminate();
    drop(client);
    assert!(sidecar.exited().await.success(), "the process that began");
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_waited_for_and_named() {
    waits_and_recovers(WorkloadApi::absent(), "api.sock", "unreachable").await;
}

#[tokio::test]
async fn an_agent_that_issues_no_identity_is_asked_again_and_named() {
    let api = WorkloadApi::scripted();
    api.refuse(Status::permission_denied("no identity issued"));
    waits_and_recovers(api, "agent says no identity issued", "no_identity").await;
}
