//! The way into the mesh for those outside of it: an nginx that knows nothing of Mantlet.

use std::path::Path;

use mantlet_testkit::cluster::{Cluster, Image, Pod};
use mantlet_testkit::real_peers::installed;
use mantlet_testkit::within;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::capture::Capture;
use crate::stage::scenario;

/// As for any upstream: connections that are kept, WebSocket, who the client was. Nothing in it is for the sidecar.
const CONFIG: &str = r#"
daemon off;
error_log /dev/stderr;
events {}
http {
  access_log off;
  upstream orders { server orders:8080; keepalive 4; }
  map $http_upgrade $connection_upgrade { default upgrade; "" ""; }
  server {
    listen 80;
    listen [::]:80;
    listen 443 ssl;
    ssl_certificate /etc/nginx/tls.crt;
    ssl_certificate_key /etc/nginx/tls.key;
    location = /healthz { return 200 "well\n"; }
    location / {
      proxy_pass http://orders;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header X-Forwarded-For $remote_addr;
    }
  }
  server {
    listen 8081;
    location / { return 200 "for the mesh alone\n"; }
  }
}
"#;

/// The program of the distribution, as it is, and the users that it knows.
async fn import(cluster: &Cluster, nginx: &Path) {
    let folder = cluster.dir().join("nginx");
    std::fs::create_dir_all(&folder).expect("the folder is ours");
    let users = [
        ("passwd", "root:x:0:0::/:\nwww-data:x:33:33::/:\nnobody:x:65534:65534::/:\n"),
        ("group", "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n"),
    ];
    let mut image = Image::of_program("mantlet-test-nginx:1", nginx).await;
    for (name, text) in users {
        let file = folder.join(name);
        std::fs::write(&file, text).expect("the folder is ours");
        image = image.with(&format!("/etc/{name}"), &file);
    }
    let archive = image.write(&folder.join("image")).await;
    cluster.ask(&format!("import {}", archive.display()));
}

/// The pod of an ingress controller. Its own ports are skipped, but for the one of its status.
fn ingress() -> Pod {
    let empty = |name: &str| json!({"name": name, "emptyDir": {}});
    let mounts = json!([
        {"name": "config", "mountPath": "/etc/nginx"},
        {"name": "run", "mountPath": "/run"},
        {"name": "lib", "mountPath": "/var/lib/nginx"},
        {"name": "log", "mountPath": "/var/log/nginx"},
    ]);
    let config = json!({"name": "config", "configMap": {"name": "nginx"}});
    let ports = json!([
        {"name": "http", "containerPort": 80},
        {"name": "https", "containerPort": 443},
        {"name": "status", "containerPort": 8081},
    ]);
    Pod::new("ingress", &[])
        .account("ingress")
        .annotate("mantlet.dev/skip-inbound-ports", "80, 443")
        .annotate("mantlet.dev/policy", "allow ./web to GET /** on status")
        .container("image", json!("mantlet-test-nginx:1"))
        .container("ports", ports)
        .container("volumeMounts", mounts)
        .container(
            "readinessProbe",
            json!({"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1}),
        )
        .with("/spec", "volumes", json!([config, empty("run"), empty("lib"), empty("log")]))
}

/// A client outside of the mesh: on the node, in plaintext or by nginx's own TLS. Status, head and body, or curl's word.
async fn curl(cluster: &Cluster, args: &[&str]) -> Result<(u16, String), String> {
    let mut curl = tokio::process::Command::new("curl");
    curl.current_dir(cluster.dir()).args(["--silent", "--show-error", "--max-time", "20", "--include"]);
    let text = mantlet_testkit::real_peers::run(curl.args(args)).await?;
    let status = text.split(' ').nth(1).and_then(|word| word.parse().ok());
    Ok((status.unwrap_or_else(|| panic!("no answer of HTTP: {text}")), text))
}

/// What the backend saw of a call that it answered.
fn seen(text: &str) -> Value {
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body.trim()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn by(seen: &Value) -> &str {
    seen["headers"]["x-forwarded-client-cert"].as_str().unwrap_or_default()
}

/// How many connections nginx has opened through its sidecar.
async fn opened(cluster: &Cluster) -> u64 {
    let metrics = cluster.metrics("c26", "ingress").await;
    let lines = metrics.lines().filter(|line| {
        line.starts_with("mantlet_connections_opened_total{") && line.contains("direction=\"outbound\"")
    });
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Through the ingress to the backend and back, in bytes that are no HTTP any more.
async fn websocket(address: &str, path: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect((address, 80)).await.expect("a skipped port");
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: shop.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("a head", stream.read_u8()).await.expect("a byte of the head"));
    }
    let head = String::from_utf8(head).expect("text");
    let mut echo = vec![0; 5];
    if head.starts_with("HTTP/1.1 101 ") {
        stream.write_all(b"\x81\x03abc").await.expect("written");
        within("an echo", stream.read_exact(&mut echo)).await.expect("an echo");
    }
    (head, echo)
}

#[test]
fn c26_an_unmodified_nginx_lets_plaintext_clients_in_and_is_a_peer_like_any_other_behind_it() {
    let Some(nginx) = installed("c26", "nginx", "nginx-light") else { return };
    scenario("c26", async |cluster| {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["ingress.test".to_owned()]).expect("a certificate");
        std::fs::write(cluster.dir().join("ingress.pem"), cert.pem()).expect("the folder is ours");
        import(cluster, &nginx).await;
        cluster.meshed("c26", &["orders", "ingress", "web"]).await;
        let files =
            json!({"nginx.conf": CONFIG, "tls.crt": cert.pem(), "tls.key": signing_key.serialize_pem()});
        let config =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "nginx"}, "data": files});
        cluster.apply("c26", &config).await;
        let policy = "allow ./ingress to GET /orders/** on http\nallow ./ingress to WEBSOCKET /live on http";
        let orders = Pod::new("orders", &["serve", "http=8080"])
            .account("orders")
            .annotate("mantlet.dev/policy", policy);
        // nginx looks up names when it starts.
        cluster.apply("c26", &orders.service(false)).await;
        cluster.apply("c26", &orders.pod()).await;
        cluster.apply("c26", &ingress().service(false)).await;
        let said = cluster.apply("c26", &ingress().pod()).await;
        assert!(said.contains("W216 inbound ports are not captured: 80,443: anybody who reaches"), "{said}");
        cluster.run("c26", &Pod::caller("web").account("web")).await;
        cluster.ready("c26", "orders").await;
        cluster.ready("c26", "ingress").await;

        let address = cluster.pod_address("c26", "ingress").await;
        let service = cluster.get("c26", "service/ingress").await["spec"]["clusterIP"].clone();
        let service = service.as_str().expect("an address").to_owned();
        let at = |place: &str, path: &str| format!("http://{place}{path}");
        cluster
            .until("the ingress' way to the backend", async || {
                (curl(cluster, &[&at(&service, "/orders/1")]).await.ok()?.0 == 200).then_some(())
            })
            .await;

        // Clients without an identity get in, and cannot say who they are.
        let pod = cluster.get("c26", "pod/ingress").await;
        let addresses = pod["status"]["podIPs"].as_array().expect("addresses").clone();
        let six = addresses.iter().filter_map(|entry| entry["ip"].as_str()).find(|ip| ip.contains(':'));
        let six = format!("[{}]", six.expect("an address of IPv6"));
        for place in [&address, &service, &six] {
            let lie = "x-forwarded-client-cert: URI=spiffe://cluster.test/ns/c26/sa/admin";
            let (status, text) = curl(cluster, &["--header", lie, &at(place, "/orders/7")]).await.unwrap();
            let seen = seen(&text);
            assert_eq!(status, 200, "{text}");
            assert!(by(&seen).contains("URI=spiffe://cluster.test/ns/c26/sa/ingress;"), "{seen}");
            assert!(!by(&seen).contains("admin"), "{seen}");
            // On a skipped port nginx sees its client's own address.
            let from = seen["headers"]["x-forwarded-for"].as_str().unwrap_or_default().to_owned();
            assert!(
                !from.is_empty() && !addresses.iter().any(|entry| entry["ip"] == from.as_str()),
                "{seen}"
            );
        }

        // TLS of nginx's own outside, mutual TLS with SPIFFE identities inside.
        let resolve = format!("ingress.test:443:{address}");
        let secure = ["--cacert", "ingress.pem", "--resolve", &resolve];
        let capture = Capture::start(cluster, "c26").await;
        let sealed = [secure.as_slice(), &["https://ingress.test/orders/seen-by-nobody"]].concat();
        assert_eq!(curl(cluster, &sealed).await.unwrap().0, 200);
        assert_eq!(curl(cluster, &[&at(&address, "/orders/seen-by-everybody")]).await.unwrap().0, 200);
        cluster.until("the capture", async || capture.has("seen-by-everybody").then_some(())).await;
        assert!(!capture.has("seen-by-nobody"), "plaintext behind the ingress");
        capture.stop().await;

        // nginx keeps connections, and its sidecar serves them.
        let before = opened(cluster).await;
        for _ in 0..20 {
            assert_eq!(curl(cluster, &[&at(&address, "/orders/7")]).await.unwrap().0, 200);
        }
        let after = opened(cluster).await;
        assert!(after - before < 5, "{} connections for 20 requests", after - before);

        let (head, echo) = websocket(&address, "/live").await;
        assert!(head.starts_with("HTTP/1.1 101 ") && echo == b"\x81\x03abc", "{head} {echo:?}");

        // Its right ends where the backend's policy says, and without any it is refused.
        let refused = async |path: &str| {
            let (status, text) = curl(cluster, &[&at(&address, path)]).await.ok()?;
            (status == 403 && text.contains("x-mantlet-denied: default; id=")).then_some(())
        };
        refused("/admin").await.expect("a refusal");
        let (head, _) = websocket(&address, "/other").await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        let other = "mantlet.dev/policy=allow ./web to GET /** on http";
        cluster.must(&["annotate", "pod/orders", "--namespace=c26", "--overwrite", other]).await;
        cluster.until("a refusal", async || refused("/orders/7").await).await;
        assert_eq!(
            curl(cluster, &[&at(&address, "/healthz")]).await.unwrap().0,
            200,
            "nginx itself is there"
        );

        // A port that is not skipped is a port of the mesh.
        let status_page = format!("http://{address}:8081/");
        let said = curl(cluster, &[&status_page]).await.expect_err("a refusal");
        // Closed, reset, or first told so as TLS does.
        assert!(["curl: (52)", "curl: (56)", "curl: (1)"].iter().any(|code| said.contains(code)), "{said}");
        let answer = cluster.call("c26", "web", &["get", &status_page]).await;
        assert_eq!(answer["text"], "for the mesh alone\n", "{answer}");
        // And a skipped one is not: a caller in the mesh is told so by the directory, and goes in plaintext.
        let answer = cluster.call("c26", "web", &["get", "http://ingress:80/healthz"]).await;
        assert_eq!(answer["text"], "well\n", "{answer}");
        let log = cluster.logs("c26", "orders", "app").await;
        assert!(!log.contains("/admin") && !log.contains("/other") && !log.contains("sa/admin"), "{log}");
    });
}
