//! The kubelet, which has no identity, in front of a pod that lets nobody in without one.

use std::net::SocketAddr;

use mantlet_testkit::apps::Protocol;
use mantlet_testkit::client::{HttpClient, Request, connect};
use mantlet_testkit::netns::{NODE, POD, Place};
use mantlet_testkit::{in_namespaces, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{Pod, http_app, plain_get};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// Somebody else may be in; the kubelet may not.
const STRICT: &str = "allow web/frontend to GET /** on 8080\n";

/// A pod whose sidecar has these probes and hooks to run: kind, port, handler.
async fn pod(probes: &[(&str, u16, &str)]) -> Pod {
    let probe = |(kind, port, handler): &(&str, u16, &str)| {
        format!(
            r#"{{"container":"web","kind":"{kind}","port":{port},"timeoutSeconds":20,"handler":{handler}}}"#
        )
    };
    let probes: Vec<String> = probes.iter().map(probe).collect();
    let document = format!(r#"{{"token":"{TOKEN}","probes":[{}]}}"#, probes.join(","));
    Pod::with(STRICT, |builder| builder.admin("0.0.0.0:24190".parse().unwrap()).arg("--probes", document))
        .await
}

fn health() -> SocketAddr {
    SocketAddr::new(POD[0], 24190)
}

/// What the kubelet is told.
async fn kubelet(node: &Place, kind: &str) -> (u16, String) {
    let path = format!("/app-health/{TOKEN}/web/{kind}");
    let ask = async move {
        let response = HttpClient::plain(health(), Protocol::Http1).await.send(&Request::get(&path)).await;
        (response.status, response.text())
    };
    node.run(ask).await
}

#[test]
fn probes_work_where_plaintext_is_refused_and_a_failing_app_fails_by_its_own_reason() {
    in_namespaces!(async || {
        let pod = pod(&[
            ("ready", 8080, r#"{"httpGet":{"port":"http","path":"/healthz?full=true"}}"#),
            ("startup", 8080, r#"{"tcpSocket":{"port":8080}}"#),
            ("live", 8081, r#"{"tcpSocket":{"port":8081}}"#),
        ])
        .await;
        let app = http_app(&pod.lab.app, [SocketAddr::new(POD[0], 8080)]).await;
        let node = &pod.lab.node;
        assert!(!plain_get(node, app[0].addr()).await.contains("HTTP"), "plaintext is let in");
        assert_eq!(kubelet(node, "ready").await, (200, "saw /healthz?full=true".to_owned()));
        assert_eq!(kubelet(node, "startup").await.0, 200);
        let (status, why) = kubelet(node, "live").await;
        assert_eq!(status, 502);
        assert!(why.contains("8081") && why.contains("refused"), "{why}");
        assert_eq!(kubelet(node, "postStart").await.0, 404);
    });
}

#[test]
fn idle_connections_from_another_pod_fail_no_probe() {
    in_namespaces!(async || {
        let pod = pod(&[("ready", 8080, r#"{"httpGet":{"port":8080}}"#)]).await;
        let _app = http_app(&pod.lab.app, [SocketAddr::new(POD[0], 8080)]).await;
        let idle = async {
            let mut idle = Vec::new();
            for _ in 0..200 {
                idle.push(connect(health()).await);
            }
            idle
        };
        let idle = pod.lab.node.run(idle).await;
        for _ in 0..5 {
            assert_eq!(kubelet(&pod.lab.node, "ready").await.0, 200);
        }
        drop(idle);
    });
}

/// The kubelet takes any status for a hook that was run.
#[test]
fn a_hook_that_cannot_be_run_ends_without_an_answer() {
    in_namespaces!(async || {
        let pod = pod(&[("preStop", 8081, r#"{"httpGet":{"port":8081}}"#)]).await;
        let ask = async {
            let mut tcp = connect(health()).await;
            let head = format!("GET /app-health/{TOKEN}/web/preStop HTTP/1.1\r\nHost: pod\r\n\r\n");
            tcp.write_all(head.as_bytes()).await.unwrap();
            let mut said = Vec::new();
            within("the end", tcp.read_to_end(&mut said)).await.unwrap();
            said
        };
        assert!(pod.lab.node.run(ask).await.is_empty());
    });
}

/// The sidecar may reach what the application may not: it goes where the injector said, for nobody else.
#[test]
fn nobody_makes_the_sidecar_ask_for_something_else() {
    in_namespaces!(async || {
        let pod = pod(&[("ready", 8080, r#"{"httpGet":{"port":8080}}"#)]).await;
        let app = http_app(&pod.lab.app, [SocketAddr::new(POD[0], 8080)]).await;
        let elsewhere = http_app(&pod.lab.node, [SocketAddr::new(NODE[0], 8080)]).await;
        let target = elsewhere[0].addr();
        let tries = [
            format!("/app-health/{TOKEN}/web/ready/../../{target}"),
            format!("/app-health/{TOKEN}/{target}/ready"),
            format!("/app-health/{}/web/ready", "f".repeat(32)),
            "/app-health//web/ready".to_owned(),
            format!("http://{target}/app-health/x/web/ready"),
        ];
        let ask = async move {
            for path in tries {
                let request = Request::get(&path).host(&target.to_string());
                let response = HttpClient::plain(health(), Protocol::Http1).await.send(&request).await;
                assert_eq!(response.status, 404, "{path}: {response:?}");
            }
        };
        pod.lab.node.run(ask).await;
        assert_eq!((app[0].connections(), elsewhere[0].connections()), (0, 0));
    });
}
