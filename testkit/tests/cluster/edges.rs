//! Who may call whom, by service account, over every way that leads to a pod.

use mantlet_testkit::cluster::{Cluster, EXTERNAL, Pod};
use mantlet_testkit::within;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::stage::scenario;

fn status(answer: &Value) -> u64 {
    answer["status"].as_u64().unwrap_or(0)
}

fn by(answer: &Value) -> &str {
    answer["seen"]["headers"]["x-forwarded-client-cert"].as_str().unwrap_or_default()
}

/// Calls until the Service is served: its endpoints come a moment after its pods.
async fn served(cluster: &Cluster, namespace: &str, caller: &str, url: &str) {
    let ask = async || (status(&cluster.call(namespace, caller, &["get", url]).await) == 200).then_some(());
    cluster.until(url, ask).await;
}

#[test]
fn c04_http_grpc_websocket_and_tcp_are_allowed_and_denied_by_service_account() {
    scenario("c04", async |cluster| {
        cluster.meshed("c04", &["orders", "web"]).await;
        let policy = "allow ./web to GET /orders/** on http\n\
                      allow ./web to WEBSOCKET /live on http\n\
                      allow ./web to grpc shop.v1.Orders/Get on grpc\n\
                      allow ./web to tcp on tcp,banner";
        let orders = Pod::new("orders", &["serve", "http=8080", "grpc=9090", "tcp=9000", "banner=9001"])
            .account("orders")
            .annotate("mantlet.dev/policy", policy);
        cluster.apply("c04", &orders.pod()).await;
        cluster.apply("c04", &orders.service(false)).await;
        cluster.apply("c04", &Pod::caller("stranger").pod()).await;
        cluster.run("c04", &Pod::caller("web").account("web")).await;
        cluster.ready("c04", "stranger").await;
        cluster.ready("c04", "orders").await;
        served(cluster, "c04", "web", "http://orders:8080/orders/1").await;

        let call = async |pod: &str, args: &[&str]| cluster.call("c04", pod, args).await;
        let answer = call("web", &["grpc", "orders:9090", "/shop.v1.Orders/Get"]).await;
        assert_eq!(answer["trailers"]["grpc-status"], "0", "{answer}");
        assert!(by(&answer).contains("URI=spiffe://cluster.test/ns/c04/sa/web;"), "{answer}");
        let answer = call("web", &["websocket", "orders:8080", "/live"]).await;
        assert_eq!(answer, json!({"status": 101, "same": true}));
        let answer = call("web", &["tcp", "orders:9000", "hello"]).await;
        assert_eq!(answer["line"], "orders hello");
        let answer = call("web", &["banner", "orders:9001"]).await;
        assert_eq!(answer["line"], "220 orders", "who speaks first may");

        let of_grpc = |answer: &Value| {
            let said = [&answer["headers"]["grpc-status"], &answer["trailers"]["grpc-status"]];
            said.iter().any(|status| **status == "7")
        };
        let answer = call("web", &["grpc", "orders:9090", "/shop.v1.Orders/Delete"]).await;
        assert!(of_grpc(&answer), "{answer}");
        let answer = call("web", &["websocket", "orders:8080", "/other"]).await;
        assert_eq!(status(&answer), 403, "{answer}");
        let answer = call("stranger", &["get", "http://orders:8080/orders/1"]).await;
        assert_eq!(status(&answer), 403, "{answer}");
        let answer = call("stranger", &["grpc", "orders:9090", "/shop.v1.Orders/Get"]).await;
        assert!(of_grpc(&answer), "{answer}");
        let answer = call("stranger", &["websocket", "orders:8080", "/live"]).await;
        assert_eq!(status(&answer), 403, "{answer}");
        for args in [["tcp", "orders:9000", "secret"].as_slice(), &["banner", "orders:9001"]] {
            let answer = call("stranger", args).await;
            assert!(answer["error"].is_string(), "{args:?}: {answer}");
        }
        // What the application wrote down.
        let log = cluster.logs("c04", "orders", "app").await;
        assert!(log.contains(r#"{"line":"hello"}"#) && !log.contains("secret"), "{log}");
        assert!(!log.contains("Delete") && !log.contains("/other") && !log.contains("sa/default"), "{log}");
    });
}

#[test]
fn c05_every_kind_of_name_and_address_reaches_its_peer_over_both_families() {
    scenario("c05", async |cluster| {
        cluster.meshed("c05", &["db"]).await;
        let db = Pod::new("db", &["serve", "http=8080", "banner=9001"]).account("db").annotate(
            "mantlet.dev/policy",
            "allow ./default to GET /** on http\nallow ./default to tcp on banner",
        );
        cluster.apply("c05", &db.stateful_set(2, "db")).await;
        cluster.apply("c05", &db.service(true)).await;
        let mut service = db.service(false);
        service["metadata"]["name"] = json!("front");
        cluster.apply("c05", &service).await;
        cluster.run("c05", &Pod::caller("caller")).await;
        cluster.rolled_out("c05", "statefulset/db").await;
        served(cluster, "c05", "caller", "http://front:8080/").await;
        served(cluster, "c05", "caller", "http://db:8080/").await;

        let mut places =
            vec!["db-0.db".to_owned(), "db-1.db.c05.svc.cluster.local".to_owned(), "front".to_owned()];
        let pod = cluster.get("c05", "pod/db-1").await;
        let service = cluster.get("c05", "service/front").await;
        let of_pod = pod["status"]["podIPs"].as_array().unwrap().iter().map(|entry| &entry["ip"]);
        let of_service = service["spec"]["clusterIPs"].as_array().unwrap().iter();
        let addresses: Vec<&str> =
            of_pod.chain(of_service).map(|address| address.as_str().unwrap()).collect();
        assert_eq!(addresses.iter().filter(|address| address.contains(':')).count(), 2, "{addresses:?}");
        assert_eq!(addresses.len(), 4);
        places.extend(addresses.iter().map(|address| match address.contains(':') {
            true => format!("[{address}]"),
            false => (*address).to_owned(),
        }));
        for place in places {
            let answer = cluster.call("c05", "caller", &["get", &format!("http://{place}:8080/x")]).await;
            assert_eq!(status(&answer), 200, "{place}: {answer}");
            assert!(by(&answer).starts_with("By=spiffe://cluster.test/ns/c05/sa/db;"), "{place}: {answer}");
            let answer = cluster.call("c05", "caller", &["banner", &format!("{place}:9001")]).await;
            assert!(
                answer["line"].as_str().is_some_and(|line| line.starts_with("220 db-")),
                "{place}: {answer}"
            );
        }
        for ordinal in ["db-0", "db-1"] {
            let answer = cluster.call("c05", "caller", &["get", &format!("http://{ordinal}.db:8080/")]).await;
            assert_eq!(answer["seen"]["app"], ordinal, "{answer}");
        }
    });
}

#[test]
fn c06_a_pod_that_calls_itself_is_judged_like_any_peer() {
    scenario("c06", async |cluster| {
        cluster.meshed("c06", &["orders"]).await;
        let orders = Pod::new("orders", &["serve", "http=8080"])
            .account("orders")
            .annotate("mantlet.dev/policy", "allow ./orders to GET /own/** on http");
        // Under another name than the pod's, which stands in its own hosts file.
        let mut service = orders.service(false);
        service["metadata"]["name"] = json!("front");
        cluster.apply("c06", &service).await;
        cluster.run("c06", &orders).await;
        let address =
            cluster.get("c06", "service/front").await["spec"]["clusterIP"].as_str().unwrap().to_owned();
        served(cluster, "c06", "orders", "http://front:8080/own/x").await;
        for place in ["front", &address] {
            let call = async |path: &str| {
                cluster.call("c06", "orders", &["get", &format!("http://{place}:8080{path}")]).await
            };
            let answer = call("/own/x").await;
            assert_eq!(status(&answer), 200, "{place}: {answer}");
            assert!(by(&answer).contains("URI=spiffe://cluster.test/ns/c06/sa/orders;"), "{place}: {answer}");
            let answer = call("/other").await;
            assert_eq!(status(&answer), 403, "{place}: {answer}");
        }
    });
}

#[test]
fn c07_an_unmeshed_destination_the_api_server_and_an_external_address_behave_as_installed() {
    scenario("c07", async |cluster| {
        cluster.meshed("c07", &[]).await;
        cluster.namespace("c07-plain", &[], &[]).await;
        let plain = Pod::new("plain", &["serve", "http=8080"]);
        cluster.run("c07-plain", &plain).await;
        let address = cluster.pod_address("c07-plain", "plain").await;
        let line = format!("{address}:8080 passthrough");
        cluster.apply("c07", &Pod::caller("told").annotate("mantlet.dev/upstreams", &line).pod()).await;
        cluster.run("c07", &Pod::caller("caller")).await;
        cluster.ready("c07", "told").await;

        // There is no way back to plaintext by itself, only by a line that says so.
        let url = format!("http://{address}:8080/x");
        let answer = cluster.call("c07", "told", &["get", &url]).await;
        assert_eq!(status(&answer), 200, "{answer}");

        // The API server's own TLS, which is said to have got something else.
        let answer = cluster
            .call("c07", "caller", &["tcp", "kubernetes.default.svc.cluster.local:443", "GET /"])
            .await;
        assert!(answer["line"].as_str().is_some_and(|line| line.contains("400 Bad Request")), "{answer}");

        let listener = TcpListener::bind((EXTERNAL, 8080)).await.expect("the node has that address");
        let outside = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut bytes = [0; 6];
            stream.read_exact(&mut bytes).await.expect("a line");
            stream.write_all(b"from outside\n").await.expect("written");
            assert_eq!(&bytes, b"hello\n", "as it was sent");
        };
        let to = format!("{EXTERNAL}:8080");
        let call = async { cluster.call("c07", "caller", &["tcp", &to, "hello"]).await };
        let (answer, ()) = within("the external address", async { tokio::join!(call, outside) }).await;
        assert_eq!(answer["line"], "from outside");
    });
}

#[test]
fn c08_a_pod_outside_the_mesh_and_direct_dials_of_the_sidecar_are_refused() {
    scenario("c08", async |cluster| {
        cluster.meshed("c08", &["orders"]).await;
        cluster.namespace("c08-plain", &[], &[]).await;
        let orders = Pod::new("orders", &["serve", "http=8080", "tcp=9000"])
            .account("orders")
            .annotate("mantlet.dev/policy", "allow mesh to * /** on http\nallow mesh to tcp on tcp");
        cluster.apply("c08", &orders.pod()).await;
        cluster.apply("c08", &Pod::caller("caller").pod()).await;
        cluster.run("c08-plain", &Pod::caller("outsider")).await;
        cluster.ready("c08", "orders").await;
        cluster.ready("c08", "caller").await;
        let address = cluster.pod_address("c08", "orders").await;
        let answer = cluster.call("c08", "caller", &["get", &format!("http://{address}:8080/")]).await;
        assert_eq!(status(&answer), 200, "{answer}");

        let answer =
            cluster.call("c08-plain", "outsider", &["get", &format!("http://{address}:8080/out")]).await;
        assert!(answer["error"].is_string(), "{answer}");
        for port in [9000, 24140, 24143, 24191] {
            let answer =
                cluster.call("c08-plain", "outsider", &["tcp", &format!("{address}:{port}"), "out"]).await;
            // Closed, or first told so as TLS does: an alert.
            let alert = answer["line"].as_str().is_some_and(|line| line.starts_with('\u{15}'));
            assert!(answer["error"].is_string() || alert, "{port}: {answer}");
            // Nor for a pod that has an identity.
            if port > 24000 {
                let url = format!("http://{address}:{port}/metrics?out");
                let answer = cluster.call("c08", "caller", &["get", &url]).await;
                assert_ne!(status(&answer), 200, "{port}: {answer}");
            }
        }
        let log = cluster.logs("c08", "orders", "app").await;
        assert!(!log.contains("out\""), "{log}");
    });
}
