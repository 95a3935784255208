//! What a sidecar that never came to work leaves behind: the file that Kubernetes shows as the termination message.

use std::path::Path;
use std::sync::Arc;

use mantlet_testkit::apps::{App, Protocol};
use mantlet_testkit::eventually;
use mantlet_testkit::pki::Authority;
use mantlet_testkit::sidecar::{Sidecar, SidecarBuilder};
use mantlet_testkit::temp::TempDir;
use mantlet_testkit::workload_api::{Answer, Status, WorkloadApi};

use crate::common::{ORDERS, sidecar};

/// As the kubelet makes it: there, and empty.
fn message() -> (TempDir, std::path::PathBuf) {
    let dir = TempDir::new();
    let file = dir.file("termination-log", "");
    (dir, file)
}

async fn waiting(api: &Arc<WorkloadApi>, file: &Path) -> Sidecar {
    let app = App::start(Protocol::Http1).await;
    let sidecar: SidecarBuilder = sidecar().workload_api(api).expect_id(ORDERS).inbound(app.addr());
    sidecar
        .policy("allow mesh to * /**\n")
        .arg("--stop-delay", "0s")
        .arg("--termination-message", file.to_str().unwrap())
        .spawn()
}

#[tokio::test]
async fn a_sidecar_that_is_ended_while_it_waits_for_its_identity_says_so_and_the_next_one_starts() {
    let api = Arc::new(WorkloadApi::scripted());
    api.refuse(Status::permission_denied("no identity issued"));
    let (_dir, file) = message();
    let mut sidecar = waiting(&api, &file).await;
    eventually("a second without identity", async || {
        let metrics = sidecar.metrics().await;
        (metrics.sum("mantlet_identity_wait_seconds", &[]) >= 1.0).then_some(())
    })
    .await;
    let startup = sidecar.get("/startupz").await.text();
    assert!(startup.contains("identity: waiting: agent says no identity issued (attempt "), "{startup}");
    assert!(startup.contains(ORDERS) && startup.contains("ClusterSPIFFEID"), "{startup}");

    sidecar.terminate();
    assert!(sidecar.exited().await.success());
    let said = std::fs::read_to_string(&file).unwrap();
    let (first, rest) = said.split_once('\n').unwrap();
    assert_eq!(first, "ended by SIGTERM before it was ready");
    assert!(rest.starts_with("identity: waiting: agent says no identity issued (attempt "), "{said}");
    assert!(rest.contains(" s) (next: ") && rest.contains(&format!("-spiffeID {ORDERS}")), "{said}");

    // The kubelet starts the container again, with a message of its own.
    std::fs::write(&file, "").unwrap();
    let mut again = waiting(&api, &file).await;
    api.serve(Answer::of(&Authority::new("td.test").svid(ORDERS)));
    again.ready().await;
    assert_eq!(again.metrics().await.sum("mantlet_identity_wait_seconds", &[]), 0.0);
    again.terminate();
    assert!(again.exited().await.success());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "", "what has worked needs no explanation");
}

#[tokio::test]
async fn a_sidecar_that_cannot_start_leaves_the_error_where_kubernetes_shows_it() {
    let api = Arc::new(WorkloadApi::absent());
    let (_dir, file) = message();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let app = App::start(Protocol::Http1).await;
    let builder = sidecar().workload_api(&api).expect_id(ORDERS).policy("allow mesh to * /**\n");
    let builder = builder.arg("--inbound", format!("{addr}={}", app.addr()));
    let mut sidecar = builder.arg("--termination-message", file.to_str().unwrap()).spawn();
    assert_eq!(sidecar.exited().await.code(), Some(1));
    let said = std::fs::read_to_string(&file).unwrap();
    let start =
        format!("could not start: cannot listen on {addr} (inbound): is another process listening there?: ");
    assert!(said.starts_with(&start) && said.ends_with('\n'), "{said}");
}

#[tokio::test]
async fn a_message_file_that_is_not_there_is_not_made_and_the_end_is_the_same() {
    let api = Arc::new(WorkloadApi::absent());
    let dir = TempDir::new();
    let file = dir.path().join("absent");
    let mut sidecar = waiting(&api, &file).await;
    eventually("the reason", async || {
        sidecar.get("/startupz").await.text().contains("cannot reach the agent").then_some(())
    })
    .await;
    sidecar.terminate();
    assert!(sidecar.exited().await.success());
    assert!(!file.exists());
    eventually("a line of the log", async || {
        sidecar.stderr().iter().any(|line| line.contains("termination_message")).then_some(())
    })
    .await;
}
