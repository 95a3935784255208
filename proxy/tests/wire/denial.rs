//! A refusal says why, in the caller's protocol, and nothing of it reaches the app.

use mantlet_testkit::apps::{App, Protocol};
use mantlet_testkit::client::{HttpClient, Request};

use crate::common::{BOTH, Inbound, app_and_inbound};

const POLICY: &str = "allow web/frontend to GET /orders/** as read\n\
                      deny mesh to * /orders/secret/** as no-secrets\n";

#[tokio::test]
async fn a_denied_request_is_answered_403_and_never_reaches_the_app() {
    for protocol in BOTH {
        let (app, inbound) = app_and_inbound(protocol, POLICY).await;
        let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
        let mut client = HttpClient::plain(addr, protocol).await;
        let allowed = client.send(&Request::get("/orders/1")).await;
        assert_eq!((allowed.status, allowed.denied()), (200, None));
        for (request, reason) in [
            (Request::new("DELETE", "/orders/1"), "default"),
            (Request::get("/other"), "default"),
            (Request::get("/orders/secret/1"), "deny_rule"),
            (Request::new("POST", "/orders/1").body("data"), "default"),
        ] {
            let response = client.send(&request).await;
            assert_eq!((response.status, response.denied().as_deref()), (403, Some(reason)), "{request:?}");
        }
        assert_eq!(app.only().target, "/orders/1");
    }
}

#[tokio::test]
async fn a_refusal_names_the_caller_and_nobody_else() {
    let (_app, inbound) = app_and_inbound(Protocol::Http1, POLICY).await;
    let mut client = inbound.http("web/bff", Protocol::Http1).await;
    let response = client.send(&Request::get("/orders/secret/1")).await;
    assert_eq!(response.denied().as_deref(), Some("deny_rule"));
    let text = response.text();
    assert!(text.contains("spiffe://td.test/ns/web/sa/bff"), "{text:?}");
    let everything = format!("{response:?}{text}");
    for secret in ["no-secrets", "read", "sa/orders", "frontend"] {
        assert!(!everything.contains(secret), "{secret}: {response:?}");
    }
    assert_eq!(text.trim_end().lines().count(), 1, "{text:?}");
    let value = &response.header("x-mantlet-denied")[0];
    let id = value.split_once("id=").unwrap().1;
    assert!(text.contains(id), "the text carries the id {id}: {text:?}");
}

#[tokio::test]
async fn a_grpc_call_is_refused_with_a_grpc_status() {
    let (app, inbound) =
        app_and_inbound(Protocol::H2c, "allow web/frontend to grpc shop.v1.Orders/Get\n").await;
    let mut client = inbound.http("web/frontend", Protocol::H2c).await;
    let call = |target: &str| Request::new("POST", target).header("content-type", "application/grpc");
    let response = client.send(&call("/shop.v1.Orders/Delete")).await;
    assert_eq!((response.status, response.header("grpc-status")), (200, vec!["7".to_owned()]));
    assert_eq!(response.denied().as_deref(), Some("default"));
    let web = Request::new("POST", "/shop.v1.Orders/Delete").header("content-type", "application/grpc-web");
    let response = client.send(&web).await;
    assert_eq!((response.status, response.header("grpc-status")), (403, vec![]));
    assert_eq!(app.seen(), []);
    assert_eq!(client.send(&call("/shop.v1.Orders/Get")).await.status, 200);
}

#[tokio::test]
async fn without_a_policy_everything_is_denied() {
    for protocol in BOTH {
        let app = App::start(protocol).await;
        let inbound = Inbound::with(app.addr(), |sidecar| sidecar).await;
        let response = inbound.http("web/frontend", protocol).await.send(&Request::get("/")).await;
        assert_eq!((response.status, response.denied().as_deref()), (403, Some("no_policy")));
        assert_eq!(app.connections(), 0);
    }
}

#[tokio::test]
async fn an_empty_policy_admits_nobody() {
    let (app, inbound) = app_and_inbound(Protocol::Http1, "# nobody\n").await;
    let response = inbound.http("web/frontend", Protocol::H2c).await.send(&Request::get("/")).await;
    assert_eq!(response.status, 403);
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn a_request_without_one_meaning_is_answered_400_with_its_defect() {
    let (app, inbound) = app_and_inbound(Protocol::Http1, POLICY).await;
    let mut client = inbound.http("web/frontend", Protocol::Http1).await;
    for (target, defect) in [
        ("/orders/../x", "dot-segment"),
        ("/orders//x", "empty-segment"),
        ("/orders/%2fx", "encoded-slash"),
        ("/orders/%zz", "bad-escape"),
        ("/orders;a=b", "path-params"),
    ] {
        let response = client.send(&Request::get(target)).await;
        let reason = format!("malformed({defect})");
        assert_eq!((response.status, response.denied()), (400, Some(reason)), "{target}");
    }
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn decisions_are_counted_by_reason_rule_and_peer() {
    let (_app, inbound) = app_and_inbound(Protocol::Http1, POLICY).await;
    let mut client = inbound.http("web/frontend", Protocol::Http1).await;
    client.send(&Request::get("/orders/1")).await;
    client.send(&Request::get("/orders/2")).await;
    client.send(&Request::get("/other")).await;
    client.send(&Request::get("/orders/secret/1")).await;
    client.send(&Request::get("/orders/%2f")).await;
    let metrics = inbound.sidecar.metrics().await;
    let count = |decision, reason, rule| {
        let labels = [
            ("layer", "http"),
            ("decision", decision),
            ("reason", reason),
            ("rule", rule),
            ("peer", "spiffe://td.test/ns/web/sa/frontend"),
        ];
        let labels = &labels[..];
        metrics.sum("mantlet_authz_decisions_total", labels)
    };
    assert_eq!(count("allow", "rule", "read"), 2.0, "{metrics:?}");
    assert_eq!(count("deny", "deny_rule", "no-secrets"), 1.0, "{metrics:?}");
    let total =
        |reason| metrics.sum("mantlet_authz_decisions_total", &[("decision", "deny"), ("reason", reason)]);
    assert_eq!((total("default"), total("malformed")), (1.0, 1.0), "{metrics:?}");
}

#[tokio::test]
async fn a_denied_upload_ends_without_being_read_to_its_end() {
    let (app, inbound) = app_and_inbound(Protocol::Http1, POLICY).await;
    let HttpClient::Http1(mut client) = inbound.http("web/bff", Protocol::Http1).await else {
        unreachable!()
    };
    client
        .write("POST /orders/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\nfirst")
        .await
        .unwrap();
    let response = client.read().await.unwrap();
    assert_eq!((response.status, response.denied().as_deref()), (403, Some("default")));
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn no_100_continue_is_given_to_a_request_that_is_denied() {
    let (_app, inbound) = app_and_inbound(Protocol::Http1, POLICY).await;
    let HttpClient::Http1(mut client) = inbound.http("web/bff", Protocol::Http1).await else {
        unreachable!()
    };
    let head = "POST /orders/1 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    client.write(head).await.unwrap();
    let first = client.read_head().await.unwrap();
    assert_eq!(first.status, 403);
}
