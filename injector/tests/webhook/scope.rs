//! Who is looked at, when, and by whom they may be called.

use serde_json::json;

use crate::client::{NAME, review};
use crate::pods::{create, deployment, pod, update};
use crate::stage::Stage;

#[tokio::test]
async fn a_change_that_leaves_our_annotations_alone_is_never_stopped() {
    let mut stage = Stage::new().await;
    let mut old = deployment();
    old["spec"]["template"]["metadata"]["annotations"] =
        json!({"mantlet.dev/policy": "from an older version"});
    let mut scaled = old.clone();
    scaled["spec"]["replicas"] = json!(3);
    scaled["spec"]["template"]["metadata"]["annotations"]["example.org/else"] = json!("new");
    let response = stage.caller.review("/validate", &update(&old, &scaled)).await;
    assert_eq!(response["allowed"], true, "{response}");
    assert_eq!(response["auditAnnotations"]["reason"], "unchanged");
    let mut edited = scaled.clone();
    edited["spec"]["template"]["metadata"]["annotations"]["mantlet.dev/policy"] = json!("worse");
    let response = stage.caller.review("/validate", &update(&scaled, &edited)).await;
    assert_eq!(response["allowed"], false);
    // Out of a bad state there is a way.
    let response = stage.caller.review("/validate", &update(&old, &deployment())).await;
    assert_eq!(response["allowed"], true);
}

#[tokio::test]
async fn d62_an_update_that_brings_a_bad_policy_is_refused_with_line_and_column() {
    let mut stage = Stage::new().await;
    let old = stage.injected(&pod()).await;
    let mut bad = old.clone();
    bad["metadata"]["annotations"]["mantlet.dev/policy"] =
        json!("allow shop/frontend to GET /orders on http\nallow nobody to GET /orders on http");
    let response = stage.caller.review("/validate", &update(&old, &bad)).await;
    assert_eq!(
        (&response["allowed"], &response["status"]["code"]),
        (&json!(false), &json!(422)),
        "{response}"
    );
    let message = crate::stage::message(&response);
    assert!(message.contains("mantlet.dev/policy:2:7: P011"), "{message}");
    // And what was said before, or nothing of ours, is not asked about again.
    let response = stage.caller.review("/validate", &update(&bad, &bad)).await;
    assert_eq!(response["allowed"], true, "{response}");
}

#[tokio::test]
async fn every_kind_of_workload_is_checked_where_it_is_written() {
    let mut stage = Stage::new().await;
    let template = deployment()["spec"]["template"].clone();
    for (group, kind) in [
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("apps/v1", "DaemonSet"),
        ("apps/v1", "ReplicaSet"),
        ("batch/v1", "Job"),
        ("batch/v1", "CronJob"),
        ("v1", "ReplicationController"),
        ("v1", "Pod"),
    ] {
        let object = |policy: &str| {
            let mut template = template.clone();
            template["metadata"]["annotations"] = json!({"mantlet.dev/policy": policy});
            let mut object = json!({"apiVersion": group, "kind": kind, "metadata": {"name": "x"}});
            match kind {
                "Pod" => {
                    object["metadata"] = template["metadata"].clone();
                    object["spec"] = template["spec"].clone();
                }
                "CronJob" => object["spec"] = json!({"jobTemplate": {"spec": {"template": template}}}),
                _ => object["spec"] = json!({"template": template}),
            }
            object
        };
        let good = object("allow shop/frontend to GET /orders on http");
        let bad = object("allow nobody");
        assert_eq!(stage.caller.review("/validate", &create(&good)).await["allowed"], true, "{kind}");
        assert_eq!(stage.caller.review("/validate", &create(&bad)).await["allowed"], false, "{kind}");
        assert_eq!(stage.caller.review("/validate", &update(&good, &bad)).await["allowed"], false, "{kind}");
    }
}

#[tokio::test]
async fn a_namespace_that_has_just_been_labelled_is_not_judged_by_what_is_remembered() {
    let mut stage = Stage::new().await;
    stage.api.namespace("new", json!({}));
    let mut request = create(&pod());
    request["namespace"] = json!("new");
    let response = stage.caller.review("/mutate", &request).await;
    assert_eq!(response["auditAnnotations"]["reason"], "not_enabled");
    stage.api.namespace("new", json!({"mantlet.dev/inject": "enabled"}));
    assert!(stage.caller.review("/mutate", &request).await["patch"].is_string());
    // Where the namespace cannot be looked at, the selectors of the webhook hold, and they have called.
    stage.api.set_down(true);
    request["namespace"] = json!("unknown");
    assert!(stage.caller.review("/mutate", &request).await["patch"].is_string());
}

#[tokio::test]
async fn a_caller_of_http_1_is_served_too() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let stage = Stage::new().await;
    let mut stream = crate::client::tls(stage.injector.addr, &stage.api.bundles()[0], &[]).await.unwrap();
    let body = review(&create(&pod()));
    let head = format!(
        "POST /mutate?timeout=5s HTTP/1.1\r\nhost: {NAME}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\"JSONPatch\""), "{answer}");
}
