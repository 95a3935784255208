//! What an installation says of destinations that no line names and that have no sidecar.

use mantlet_testkit::cluster::{Cluster, EXTERNAL, Installation, Pod};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use crate::stage::alone;

const NAMESPACE: &str = "c07installed";
/// In the ranges of the mesh, and nobody's.
const NOBODY: &str = "10.99.0.1:8080";

/// Answers lines outside of the cluster, as long as the scenario lasts.
async fn outside(listener: TcpListener) {
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        let _ = stream.read_line(&mut line).await;
        let _ = stream.write_all(format!("outside: {line}").as_bytes()).await;
    }
}

fn reached(answer: &Value) -> bool {
    answer["status"] == 200 || answer["line"].is_string()
}

/// How many connections a caller's own sidecar has refused before it dialled anybody.
async fn refused(cluster: &Cluster, caller: &str) -> u64 {
    let metrics = cluster.metrics(NAMESPACE, caller).await;
    let start = r#"mantlet_connections_closed_total{direction="outbound",reason="denied"} "#;
    metrics.lines().find_map(|line| line.strip_prefix(start)?.parse().ok()).expect("a count")
}

/// What an installation is expected to do.
struct Expected {
    /// The caller's name.
    name: &'static str,
    installation: Installation,
    unmeshed: bool,
    external: bool,
    /// Connections that are refused without being dialled.
    refused: u64,
}

async fn holds(cluster: &Cluster, expected: &Expected, plain: &str, orders: &str) {
    let Expected { name, installation, unmeshed, external, refused: count } = expected;
    cluster.install(installation).await;
    cluster.run(NAMESPACE, &Pod::caller(name)).await;
    let call = async |args: &[&str]| cluster.call(NAMESPACE, name, args).await;

    // Whoever has a sidecar is reached by it, whatever holds for others.
    let to_orders = format!("http://{orders}:8080/{name}");
    cluster.until("orders", async || reached(&call(&["get", &to_orders]).await).then_some(())).await;
    let api = call(&["tcp", "kubernetes.default.svc.cluster.local:443", "GET /"]).await;
    assert!(reached(&api), "{name}: the API server: {api}");

    let before = refused(cluster, name).await;
    let answer = call(&["get", &format!("http://{plain}:8080/{name}")]).await;
    assert_eq!(reached(&answer), *unmeshed, "{name}: no sidecar: {answer}");
    let answer = call(&["tcp", &format!("{EXTERNAL}:8081"), name]).await;
    assert_eq!(reached(&answer), *external, "{name}: outside: {answer}");
    let answer = call(&["tcp", NOBODY, name]).await;
    assert!(!reached(&answer), "{name}: nobody: {answer}");
    assert_eq!(refused(cluster, name).await - before, *count, "{name}");
}

#[test]
fn c07_without_a_line_the_installation_says_who_is_reached_without_a_sidecar_outside_and_unknown() {
    alone(NAMESPACE, async |cluster| {
        let plain_namespace = format!("{NAMESPACE}-plain");
        cluster.meshed(NAMESPACE, &["orders"]).await;
        cluster.namespace(&plain_namespace, &[], &[]).await;
        let plain = Pod::new("plain", &["serve", "http=8080"]);
        let orders = Pod::new("orders", &["serve", "http=8080"])
            .account("orders")
            .annotate("mantlet.dev/policy", "allow mesh to GET /** on http");
        cluster.apply(NAMESPACE, &orders.pod()).await;
        cluster.run(&plain_namespace, &plain).await;
        cluster.ready(NAMESPACE, "orders").await;
        let (plain, orders) = (
            cluster.pod_address(&plain_namespace, "plain").await,
            cluster.pod_address(NAMESPACE, "orders").await,
        );
        let listener = TcpListener::bind((EXTERNAL, 8081)).await.expect("the node has that address");
        let outside = tokio::spawn(outside(listener));

        let strict = Installation::default().with("profile", json!("strict"));
        let by_value = Installation::default().with("unmeshed", json!("refuse"));
        let any = Installation::default()
            .with("unknown", json!("any-in-trust-domain"))
            .with("directory", json!({"enabled": false}));
        for expected in [
            Expected {
                name: "open",
                installation: Installation::default(),
                unmeshed: true,
                external: true,
                refused: 1,
            },
            Expected { name: "strict", installation: strict, unmeshed: false, external: false, refused: 3 },
            Expected {
                name: "by-value",
                installation: by_value,
                unmeshed: false,
                external: true,
                refused: 2,
            },
            // Nobody says who has a sidecar: whoever has none cannot prove that he is of the domain.
            Expected { name: "any", installation: any, unmeshed: false, external: true, refused: 0 },
        ] {
            holds(cluster, &expected, &plain, &orders).await;
            let log = cluster.logs(&plain_namespace, "plain", "app").await;
            assert_eq!(log.contains(&format!("/{}\"", expected.name)), expected.unmeshed, "{log}");
            let metrics = cluster.metrics(NAMESPACE, expected.name).await;
            let unpinned = metrics
                .lines()
                .find_map(|line| line.strip_prefix("mantlet_outbound_unpinned_connections_total "));
            assert_eq!(unpinned != Some("0"), expected.name == "any", "{unpinned:?}");
            if expected.name == "strict" {
                // A line of its owner lets a workload of the strict installation out.
                let lines = format!("{plain}:8080 passthrough\n{EXTERNAL}/32:8081 passthrough");
                let told = Pod::caller("told").annotate("mantlet.dev/upstreams", &lines);
                cluster.run(NAMESPACE, &told).await;
                let url = format!("http://{plain}:8080/told");
                let answer = cluster.call(NAMESPACE, "told", &["get", &url]).await;
                assert!(reached(&answer), "{answer}");
                let answer =
                    cluster.call(NAMESPACE, "told", &["tcp", &format!("{EXTERNAL}:8081"), "told"]).await;
                assert_eq!(answer["line"], "outside: told", "{answer}");
            }
        }
        outside.abort();
        cluster.install(&Installation::default()).await;
    });
}
