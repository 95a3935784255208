//! A pod that gets itself selected by a Service that is not its own. Whom to expect is said by the directory here, and
//! by nobody else where no line says it.

use mantlet_testkit::cluster::{Cluster, Pod};
use serde_json::{Value, json};

use crate::stage::scenario;

/// So many calls miss one of two endpoints by chance once in a thousand million times.
const CALLS: usize = 30;

/// Serves everybody with an identity, behind whatever selects `orders`.
fn behind_orders(name: &str) -> Pod {
    Pod::new(name, &["serve", "http=8080"])
        .account(name)
        .label("app", "orders")
        .annotate("mantlet.dev/policy", "allow mesh to GET /** on http")
}

/// Orders and a thief behind one Service, and those who call it.
async fn stage(cluster: &Cluster, namespace: &str, served_by: Option<&str>, callers: &[Pod]) {
    cluster.meshed(namespace, &["orders", "thief"]).await;
    for pod in [behind_orders("orders"), behind_orders("thief")].iter().chain(callers) {
        cluster.apply(namespace, &pod.pod()).await;
    }
    let mut service = behind_orders("orders").service(false);
    service["spec"]["selector"] = json!({"app": "orders"});
    if let Some(ids) = served_by {
        service["metadata"]["annotations"] = json!({"mantlet.dev/served-by": ids});
    }
    cluster.apply(namespace, &service).await;
    for name in ["orders", "thief"] {
        cluster.ready(namespace, name).await;
    }
    cluster
        .until("both to stand behind the Service", async || {
            let args = ["get", "endpointslices", "--namespace", namespace, "--output=json"];
            let slices: Value = serde_json::from_str(&cluster.must(&args).await).ok()?;
            let mut slices = slices["items"].as_array()?.iter();
            let full = slices.all(|slice| slice["endpoints"].as_array().is_some_and(|ends| ends.len() == 2));
            full.then_some(())
        })
        .await;
}

/// Who answers [`CALLS`] calls: names of apps, and errors.
async fn answers(cluster: &Cluster, namespace: &str, caller: &str) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..CALLS {
        let answer = cluster.call(namespace, caller, &["get", "http://orders:8080/x"]).await;
        all.push(match answer["seen"]["app"].as_str() {
            Some(app) => app.to_owned(),
            None => answer["headers"]["x-mantlet-error"].as_str().unwrap_or("nothing").to_owned(),
        });
    }
    all
}

async fn says_nothing(cluster: &Cluster, namespace: &str) {
    let log = cluster.logs(namespace, "thief", "app").await;
    assert!(!log.contains("GET"), "{log}");
}

async fn event(cluster: &Cluster, namespace: &str, reason: &str) -> String {
    cluster
        .until(reason, async || {
            let args =
                ["get", "events", "--namespace", namespace, "--field-selector", &format!("reason={reason}")];
            let text = cluster.must(&[args.as_slice(), &["--output=json"]].concat()).await;
            let events: Value = serde_json::from_str(&text).ok()?;
            events["items"].as_array()?.iter().find_map(|event| {
                (event["involvedObject"]["kind"] == "Service").then(|| event["message"].to_string())
            })
        })
        .await
}

#[test]
fn c09_an_impostor_behind_a_service_gets_no_connection_where_somebody_names_whom_to_expect() {
    scenario("c09", async |cluster| {
        stage(cluster, "c09", Some("./orders"), &[Pod::caller("caller")]).await;
        cluster.ready("c09", "caller").await;
        let answers = answers(cluster, "c09", "caller").await;
        assert!(answers.iter().all(|app| app == "orders"), "{answers:?}");
        says_nothing(cluster, "c09").await;
        let said = event(cluster, "c09", "EndpointsLeftOut").await;
        assert!(said.contains("thief"), "{said}");
    });
}

#[test]
fn c09_an_impostor_gets_no_byte_of_a_caller_whose_line_says_who_is_meant() {
    scenario("c09line", async |cluster| {
        let line = "orders.c09line:8080 is ./orders as http";
        let caller = Pod::caller("caller").annotate("mantlet.dev/upstreams", line);
        stage(cluster, "c09line", None, &[caller]).await;
        cluster.ready("c09line", "caller").await;
        let answers = answers(cluster, "c09line", "caller").await;
        // The node chooses who is dialled, and knows of no line.
        assert!(answers.iter().all(|app| app == "orders" || app.starts_with("tls;")), "{answers:?}");
        assert!(answers.iter().any(|app| app == "orders"), "{answers:?}");
        says_nothing(cluster, "c09line").await;
    });
}

#[test]
fn c10_where_nobody_names_whom_to_expect_an_impostor_is_served_and_shown() {
    scenario("c10", async |cluster| {
        stage(cluster, "c10", None, &[Pod::caller("caller")]).await;
        cluster.ready("c10", "caller").await;
        let answers = answers(cluster, "c10", "caller").await;
        for app in ["orders", "thief"] {
            assert!(answers.iter().any(|answer| answer == app), "{answers:?}");
        }
        let said = event(cluster, "c10", "SeveralServiceAccounts").await;
        assert!(said.contains("orders") && said.contains("thief"), "{said}");
        let metrics = cluster.injector_metrics().await;
        let line =
            metrics.lines().find(|line| line.starts_with("mantlet_injector_directory_mixed_services "));
        let count = line.and_then(|line| line.split(' ').nth(1)).and_then(|count| count.parse::<f64>().ok());
        assert!(count.is_some_and(|count| count >= 1.0), "{line:?}");
    });
}
