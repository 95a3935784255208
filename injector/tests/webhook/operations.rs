//! Running it: configuration, metrics, logs, stop.

use std::collections::BTreeSet;
use std::time::Duration;

use mantlet_injector::metrics::FAMILIES;
use mantlet_testkit::{TempDir, eventually, tools};
use serde_json::json;
use tokio::net::TcpStream;

use crate::api::Api;
use crate::client::{post, review};
use crate::injector::{Injector, command};
use crate::pods::{create, pod};

#[tokio::test]
async fn every_mistake_in_the_configuration_is_told_at_once() {
    let (api, dir) = (Api::start().await, TempDir::new());
    let document = "trustDomain: UPPER\nimages: {sidecar: {}}\n";
    let more = ["--secret", "A_", "--certificate-life", "200d", "--authority-life", "10"];
    let output = command(&api, &dir, document, &more).env("MANTLET_POLL", "1s").output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    for part in
        ["5 mistakes", "--secret", "--certificate-life", "--authority-life", "MANTLET_POLL", "--config"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    let output = command(&api, &dir, "{}", &["--print-config"]).output().await.unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && printed.contains("namespace = \"mantlet\"  # flag"), "{printed}");
    assert!(printed.contains("\"trustDomain\""), "{printed}");
}

#[tokio::test]
async fn a13_a_server_that_knows_no_sidecar_containers_is_refused_at_start() {
    for (minor, is_old) in [("29", true), ("29+", true), ("30", false), ("34+", false)] {
        let api = Api::start().await;
        api.set_minor(minor);
        let mut injector = Injector::spawn(&api, "{}", &[]).await;
        if is_old {
            assert_eq!(injector.exited().await.code(), Some(3), "{minor}");
            eventually("the reason", async || {
                let said = injector.stderr().join("\n");
                said.contains("version 1.29; sidecar containers need 1.30 or newer").then_some(())
            })
            .await;
        } else {
            injector.event("ready").await;
        }
    }
}

#[tokio::test]
async fn an_api_server_that_comes_late_is_waited_for() {
    let api = Api::start().await;
    api.set_down(true);
    let injector = Injector::spawn(&api, "{}", &[]).await;
    injector.metric_reaches("mantlet_injector_kubernetes_errors_total", &[("call", "version")], 1.0).await;
    assert_eq!(injector.get("/readyz").await.text(), "not ready: certificate: waits for the API server\n");
    assert_eq!(injector.get("/startupz").await.status, 200);
    api.set_down(false);
    injector.event("ready").await;
}

#[tokio::test]
async fn a_directory_without_an_identity_keeps_nobody_from_starting_pods() {
    let api = Api::start().await;
    api.namespace("shop", json!({"mantlet.dev/inject": "enabled"}));
    let away = ["--workload-api", "unix:///nobody/here.sock", "--directory-listen", "127.0.0.1:0"];
    let injector = Injector::with(&api, "{}", &away).await;
    injector.event("directory_unready").await;
    let ready = injector.get("/readyz").await;
    assert_eq!(ready.status, 200);
    assert!(ready.text().starts_with("ready\ndirectory: pods are not known yet"), "{}", ready.text());
    assert_eq!(injector.metric("mantlet_injector_directory_ready", &[]).await, 0.0);
    let mut caller = injector.caller(&api).await;
    let response = caller.review("/mutate", &create(&pod())).await;
    assert!(response["patch"].is_string(), "{response}");
}

#[tokio::test]
async fn a_scrape_has_what_is_described_and_promtool_has_nothing_to_say() {
    let api = Api::start().await;
    let injector = Injector::start(&api).await;
    injector.caller(&api).await.review("/mutate", &create(&pod())).await;
    let text = injector.get("/metrics").await.text();
    let exposed: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_whitespace().next()).collect();
    assert_eq!(exposed, FAMILIES.iter().map(|family| family.name).collect());
    let not_after = injector.metric("mantlet_injector_cert_not_after_timestamp_seconds", &[]).await;
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!((now + 86_000.0..now + 86_500.0).contains(&not_after), "{not_after}");

    let test = "a_scrape_has_what_is_described_and_promtool_has_nothing_to_say";
    let Some(promtool) = tools::find(test, "promtool", "prometheus") else { return };
    let dir = TempDir::new();
    let file = std::fs::File::open(dir.file("scrape", &text)).unwrap();
    let output =
        std::process::Command::new(promtool).args(["check", "metrics"]).stdin(file).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}\n{text}");
}

#[tokio::test]
async fn each_answer_that_changes_something_has_a_line_with_its_uid_and_reason() {
    let api = Api::start().await;
    api.namespace("shop", json!({"mantlet.dev/inject": "enabled"}));
    let injector = Injector::start(&api).await;
    let mut caller = injector.caller(&api).await;
    let mut bad = create(&pod());
    bad["uid"] = json!("bad-one");
    bad["object"]["metadata"]["annotations"]["mantlet.dev/policy"] = json!("allow nobody\u{202e}");
    caller.review("/mutate", &bad).await;
    let line = injector.admission("bad-one").await;
    for (field, value) in [
        ("schema", json!("mantlet.admission/v1")),
        ("webhook", json!("mutate")),
        ("result", json!("denied")),
        ("reason", json!("policy_invalid")),
        ("operation", json!("CREATE")),
        ("kind", json!("Pod")),
        ("namespace", json!("shop")),
        ("name", json!("web-5d4-*")),
        ("dry_run", json!(false)),
    ] {
        assert_eq!(line[field], value, "{field}: {line}");
    }
    assert!(line["message"].as_str().unwrap().starts_with("mantlet: "), "{line}");
    assert!(!injector.stdout().iter().any(|line| line.contains('\u{202e}')));
}

#[tokio::test]
async fn a_stop_is_announced_and_loses_no_request() {
    let api = Api::start().await;
    api.namespace("shop", json!({"mantlet.dev/inject": "enabled"}));
    let mut injector = Injector::with(&api, "{}", &["--stop-delay", "300ms"]).await;
    let mut caller = injector.caller(&api).await;
    caller.review("/mutate", &create(&pod())).await;
    injector.terminate();
    injector.event("stopping").await;
    let unready = injector.get("/readyz").await;
    assert_eq!(unready.text(), "not ready: stopping: the process was told to stop\n");
    // Until the endpoint has left the Service, the API server still comes here, with old and new connections.
    assert_eq!(caller.review("/mutate", &create(&pod())).await["allowed"], true);
    assert_eq!(injector.caller(&api).await.review("/mutate", &create(&pod())).await["allowed"], true);
    // Then a request is answered, or was never taken: the client is told by GOAWAY and may send it elsewhere.
    let mut answered = 0;
    while let Ok(reply) = caller.send(post("/mutate", review(&create(&pod())))).await {
        assert_eq!(reply.status, 200);
        answered += 1;
    }
    assert!(answered > 0);
    assert_eq!(injector.exited().await.code(), Some(0));
    injector.event("stopped").await;
    assert!(TcpStream::connect(injector.addr).await.is_err());
}

#[tokio::test]
async fn requests_in_flight_are_waited_for_and_not_for_ever() {
    use tokio::io::AsyncWriteExt as _;
    let api = Api::start().await;
    let mut injector = Injector::with(&api, "{}", &["--drain-deadline", "1s"]).await;
    let mut open = crate::client::tls(injector.addr, &api.bundles()[0], &["http/1.1"]).await.unwrap();
    let head = "POST /mutate?timeout=30s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n";
    open.write_all(head.as_bytes()).await.unwrap();
    injector.metric_reaches("mantlet_injector_connections", &[], 1.0).await;
    let begun = std::time::Instant::now();
    injector.terminate();
    assert_eq!(injector.exited().await.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}
