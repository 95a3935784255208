//! A pod that gets itself selected by a Service that is not its own. Whom to expect is said by the directory here, and
//! by nobody else where no line says it.

use mantlet_testkit::cluster::{Cluster, Pod};
use mantlet_testkit::sidecar::Metrics;
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

/// A name outside the cluster, which means whatever the test says.
const NAME: &str = "ledger.bank.example";

fn point(cluster: &Cluster, address: &str) {
    // In one step: the server reads it at any moment.
    let (new, names) = (cluster.dir().join("names.new"), cluster.dir().join("names"));
    std::fs::write(&new, format!("{address} {NAME}\n")).expect("the folder is ours");
    std::fs::rename(&new, &names).expect("the folder is ours");
}

#[test]
fn c11_a_name_that_resolves_elsewhere_is_refused_under_an_upstreams_line() {
    scenario("c11", async |cluster| {
        cluster.meshed("c11", &["ledger", "thief"]).await;
        let serve = |name: &str| {
            let pod = Pod::new(name, &["serve", "http=8080"]).account(name);
            pod.annotate("mantlet.dev/policy", "allow mesh to GET /** on http").pod()
        };
        for name in ["ledger", "thief"] {
            cluster.apply("c11", &serve(name)).await;
        }
        for name in ["ledger", "thief"] {
            cluster.ready("c11", name).await;
        }
        let ledger = cluster.pod_address("c11", "ledger").await;
        let thief = cluster.pod_address("c11", "thief").await;
        point(cluster, &thief);
        let callers = [
            ("http", format!("{NAME}:8080 is ./ledger as http")),
            // Asks the peer how to speak: without one there is no answer in HTTP, and the connection ends.
            ("asking", format!("{NAME}:8080 is ./ledger")),
            ("strict", format!("{NAME}:8080 is ./ledger as http\n* refuse")),
        ];
        for (name, lines) in &callers {
            cluster.apply("c11", &Pod::caller(name).annotate("mantlet.dev/upstreams", lines).pod()).await;
        }
        for (name, _) in &callers {
            cluster.ready("c11", name).await;
            // Until its sidecar knows the name, the line is about no address. One lookup is for the directory, and this
            // name is looked up every second.
            cluster
                .until("the sidecar to know the name", async || {
                    let metrics = Metrics::parse(&cluster.metrics("c11", name).await);
                    (metrics.sum("mantlet_dns_lookups_total", &[("result", "ok")]) >= 3.0).then_some(())
                })
                .await;
        }
        let url = format!("http://{NAME}:8080/x");
        let call = async |caller: &str| cluster.call("c11", caller, &["get", &url]).await;
        let refused_in_http = async |caller: &str| {
            cluster
                .until("the name to mean the thief", async || {
                    let answer = call(caller).await;
                    assert_ne!(answer["seen"]["app"], "thief", "{caller}: {answer}");
                    let why = answer["headers"]["x-mantlet-error"].as_str()?;
                    if why.starts_with("denied;") {
                        // Its sidecar does not know the address by that name yet.
                        return None;
                    }
                    assert!(answer["status"] == 502 && why.starts_with("tls;"), "{caller}: {answer}");
                    Some(())
                })
                .await;
        };
        refused_in_http("http").await;
        refused_in_http("strict").await;
        let answer = call("asking").await;
        assert!(answer["error"].is_string(), "{answer}");
        let metrics = Metrics::parse(&cluster.metrics("c11", "asking").await);
        let labels = [("direction", "outbound"), ("reason", "peer_not_expected")];
        assert!(metrics.sum("mantlet_tls_handshakes_total", &labels) >= 1.0, "{metrics:?}");

        point(cluster, &ledger);
        // First the one that goes nowhere while application and sidecar do not agree on what the name means: once it has
        // arrived, every application finds the ledger.
        for caller in ["strict", "http", "asking"] {
            let arrived = async || (call(caller).await["seen"]["app"] == "ledger").then_some(());
            cluster.until("the name to mean the ledger", arrived).await;
        }
        point(cluster, &thief);
        refused_in_http("strict").await;
        says_nothing(cluster, "c11").await;
    });
}
