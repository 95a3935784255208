//! Events about the owners of pods.

use std::time::Duration;

use serde_json::json;

use crate::api::Api;
use crate::injector::Injector;
use crate::pods::{create, pod};

#[tokio::test]
async fn a06_a_dry_run_gets_the_same_patch_and_says_nothing_to_anybody() {
    let api = Api::start().await;
    api.namespace("shop", json!({"mantlet.dev/inject": "enabled"}));
    let injector = Injector::start(&api).await;
    let mut caller = injector.caller(&api).await;
    let mut dry = create(&pod());
    dry["dryRun"] = json!(true);
    let would_be = caller.review("/mutate", &dry).await;
    let is = caller.review("/mutate", &create(&pod())).await;
    let shape = |response: &serde_json::Value| {
        let patch = crate::client::patch(response).unwrap();
        let steps = patch.as_array().unwrap().iter();
        steps.map(|step| (step["op"].clone(), step["path"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(shape(&would_be), shape(&is));
    let event = api.events(1).await.remove(0);
    assert_eq!(event.body["reason"], "Injected");
    assert_eq!(api.events(1).await.len(), 1, "of the one that was no dry run");
    assert_eq!(injector.metric("mantlet_injector_admissions_total", &[]).await, 1.0);
    assert_eq!(injector.metric("mantlet_injector_dry_runs_total", &[("result", "injected")]).await, 1.0);
}

#[tokio::test]
async fn the_owner_of_a_refused_pod_learns_why_once() {
    let api = Api::start().await;
    api.namespace("shop", json!({"mantlet.dev/inject": "enabled"}));
    let injector = Injector::start(&api).await;
    let mut caller = injector.caller(&api).await;
    let mut bad = pod();
    bad["metadata"]["annotations"]["mantlet.dev/policy"] = json!("allow nobody");
    for _ in 0..20 {
        let response = caller.review("/mutate", &create(&bad)).await;
        assert_eq!(response["allowed"], false);
    }
    injector.metric_reaches("mantlet_injector_events_total", &[("result", "repeated")], 19.0).await;
    let events = api.events(1).await;
    assert_eq!(events.len(), 1, "{events:#?}");
    let event = &events[0].body;
    assert_eq!(events[0].path.rsplit_once('/').unwrap().0, "/api/v1/namespaces/shop/events");
    assert_eq!((&event["type"], &event["reason"]), (&json!("Warning"), &json!("InjectionDenied")));
    let involved = &event["involvedObject"];
    assert_eq!((&involved["kind"], &involved["name"]), (&json!("ReplicaSet"), &json!("web-5d4")));
    assert!(event["message"].as_str().unwrap().contains("mantlet.dev/policy"), "{event}");

    // The other replica says the same about the same: that happens again, and is not another Event.
    let other = Injector::start(&api).await;
    let response = other.caller(&api).await.review("/mutate", &create(&bad)).await;
    assert_eq!(response["allowed"], false);
    other.metric_reaches("mantlet_injector_events_total", &[("result", "sent")], 1.0).await;
    let methods: Vec<String> = api.writes_to("/events").into_iter().map(|write| write.method).collect();
    assert_eq!(methods, ["POST", "PATCH"]);
}

#[tokio::test]
async fn an_api_server_that_takes_no_events_delays_no_admission() {
    let api = Api::start().await;
    api.namespace("shop", json!({"mantlet.dev/inject": "enabled"}));
    let injector = Injector::start(&api).await;
    let mut caller = injector.caller(&api).await;
    // The labels of the namespace are known by now.
    caller.review("/mutate", &create(&pod())).await;
    api.set_delay(Duration::from_secs(3600));
    for n in 0..400 {
        let mut pod = pod();
        pod["metadata"]["ownerReferences"][0]["uid"] = json!(format!("owner-{n}"));
        let response = caller.review("/mutate", &create(&pod)).await;
        assert_eq!(response["allowed"], true);
    }
    let dropped = injector.metric("mantlet_injector_events_total", &[("result", "dropped")]).await;
    assert!((100.0..=150.0).contains(&dropped), "{dropped}: the queue has 256 places");
}
