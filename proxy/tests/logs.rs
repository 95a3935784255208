//! What the log streams of a sidecar say, and what they never say.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::Inbound;
use mantlet_testkit::apps::{App, Protocol, Reply};
use mantlet_testkit::client::Request;
use mantlet_testkit::eventually;
use mantlet_testkit::sidecar::Sidecar;
use serde_json::Value;

/// What a caller sends and nobody may read in a log.
const SECRET: &str = "hunter2-do-not-log";

fn lines(sidecar: &Sidecar, stream: &str) -> Vec<Value> {
    let lines = sidecar.stdout();
    let lines = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["stream"] == stream).collect()
}

/// A request with a secret wherever a request can hold one.
fn telling(method: &str, path: &str) -> Request {
    Request::new(method, &format!("{path}?token={SECRET}"))
        .header("authorization", &format!("Bearer {SECRET}"))
        .header("cookie", &format!("session={SECRET}"))
        .header("x-api-key", SECRET)
        .header("user-agent", SECRET)
        .body(format!("password={SECRET}"))
}

#[tokio::test]
async fn no_line_of_any_stream_holds_a_query_a_header_a_body_or_a_key_even_at_the_loudest_level() {
    for protocol in [Protocol::Http1, Protocol::H2c] {
        let app = App::with(Protocol::Http1, async |_| {
            Reply::ok(SECRET).header("set-cookie", &format!("session={SECRET}"))
        })
        .await;
        let policy = "allow web/bff to * /orders/** when header x-tenant = acme as read\n\
                      deny web/bff to * /orders/admin/** as no-admin\n";
        let mut inbound = Inbound::with(app.addr(), |sidecar| {
            sidecar.policy(policy).arg("--log", "trace").arg("--access-log", "all")
        })
        .await;
        let mut client = inbound.http("web/bff", protocol).await;
        let allowed = telling("POST", "/orders/1").header("x-tenant", "acme");
        assert_eq!(client.send(&allowed).await.status, 200);
        for (refused, status) in [
            (telling("POST", "/orders/1"), 403),
            (telling("POST", "/orders/admin/1"), 403),
            (telling("POST", "/orders/..%2f"), 400),
        ] {
            let mut client = inbound.http("web/bff", protocol).await;
            assert_eq!(client.send(&refused).await.status, status);
        }
        drop(client);
        inbound.sidecar.terminate();
        assert!(inbound.sidecar.exited().await.success());
        inbound.sidecar.event("stopped", |_| true).await;
        assert!(lines(&inbound.sidecar, "audit").len() >= 3 && lines(&inbound.sidecar, "access").len() >= 4);
        for line in inbound.sidecar.stdout().iter().chain(&inbound.sidecar.stderr()) {
            for never in [SECRET, "PRIVATE KEY", "token="] {
                assert!(!line.contains(never), "{never} in {line}");
            }
        }
    }
}

#[tokio::test]
async fn the_id_of_a_failed_request_is_found_without_an_access_log() {
    // Nothing listens there: the port was given back.
    let addr = App::start(Protocol::Http1).await.addr();
    let inbound = Inbound::start(addr, "allow web/bff to GET /** as read\n").await;
    let mut client = inbound.http("web/bff", Protocol::Http1).await;
    let response = client.send(&Request::get(&format!("/orders/1?token={SECRET}"))).await;
    assert_eq!((response.status, response.error().as_deref()), (502, Some("connect")));
    let told = response.header("x-mantlet-error")[0].split("id=").nth(1).unwrap().to_owned();
    let line = eventually("the line of the failure", async || {
        lines(&inbound.sidecar, "access").into_iter().find(|line| line["id"] == *told)
    })
    .await;
    for (field, value) in [
        ("direction", "inbound"),
        ("close", "connect"),
        ("peer.id", "spiffe://td.test/ns/web/sa/bff"),
        ("schema", "mantlet.access/v1"),
    ] {
        assert_eq!(line[field], value, "{field} in {line}");
    }
}

#[tokio::test]
async fn every_id_of_a_flood_of_refusals_is_found_and_every_refusal_is_counted() {
    let app = App::start(Protocol::Http1).await;
    let mut inbound = Inbound::start(app.addr(), "allow web/bff to GET /orders/** as read\n").await;
    let mut client = inbound.http("web/intruder", Protocol::Http1).await;
    let mut told = Vec::new();
    for n in 0..200 {
        let response = client.send(&Request::get(&format!("/orders/{n}"))).await;
        told.push(response.header("x-mantlet-denied")[0].split("id=").nth(1).unwrap().to_owned());
    }
    let metrics = inbound.sidecar.metrics().await;
    assert_eq!(metrics.sum("mantlet_authz_decisions_total", &[("decision", "deny")]), 200.0);
    drop(client);
    inbound.sidecar.terminate();
    assert!(inbound.sidecar.exited().await.success());
    inbound.sidecar.event("stopped", |_| true).await;
    let audit = lines(&inbound.sidecar, "audit");
    assert!(told.iter().all(|id| audit.iter().any(|line| line["id"] == **id)));
    assert_eq!(audit.iter().filter(|line| line["new_peer"] == true).count(), 1);
    let left_out: u64 = audit.iter().filter_map(|line| line["suppressed"].as_u64()).sum();
    let written = audit.iter().filter(|line| line["mode"].is_string()).count();
    assert_eq!(written as u64 + left_out, 200, "no refusal is lost between the lines");
}
