//! D69-D72: audit changes the verdict only, and no attacker writes our labels.

use mantlet_testkit::TempDir;
use mantlet_testkit::apps::{App, Protocol};
use mantlet_testkit::client::{Http1, Request, TlsClient, connect};

use crate::common::Inbound;
use crate::fixture::Fixture;

const DECISIONS: &str = "mantlet_authz_decisions_total";

#[tokio::test]
async fn d70_an_audit_deny_counts_and_lets_pass() {
    let f =
        Fixture::with("audit deny web/bff to * /orders/old/** on HTTP as retire-old\n", |sidecar| sidecar)
            .await;
    assert_eq!(f.get("web/bff", "/orders/old/1").await.status, 200);
    let metrics = f.sidecar.metrics().await;
    let labels = [("decision", "would_deny"), ("reason", "deny_rule"), ("rule", "retire-old")];
    assert_eq!(metrics.sum(DECISIONS, &labels), 1.0, "{metrics:?}");
    assert_eq!(f.app.seen().len(), 1);
}

#[tokio::test]
async fn d72_what_a_caller_chooses_makes_no_series() {
    let f = Fixture::start().await;
    let mut client = f.h2("web/bff").await;
    let flood = async |client: &mut mantlet_testkit::client::Http2, range: std::ops::Range<u32>| {
        for n in range {
            let request = match n % 3 {
                0 => Request::get(&format!("/orders/{n}")),
                1 => Request::get(&format!("/secret/{n}")).host(&format!("host-{n}.test")),
                _ => Request::new(&format!("METHOD{n}"), "/orders/1").header(&format!("x-{n}"), "a"),
            };
            client.send(&request).await.unwrap();
        }
    };
    flood(&mut client, 0..30).await;
    let before = f.sidecar.metrics().await.len();
    flood(&mut client, 30..3000).await;
    assert_eq!(f.sidecar.metrics().await.len(), before);
}

#[tokio::test]
async fn d69_audit_passes_what_policy_denies_and_refuses_what_authentication_refuses() {
    let app = App::start(Protocol::Http1).await;
    let dir = TempDir::new();
    let text = "mantlet.dev/policy=\"allow web/bff to GET /orders/** as read\\n\"\n\
                mantlet.dev/mode=\"audit until 2099-01-01T00:00Z\"\n";
    let file = dir.file("annotations", text);
    let inbound =
        Inbound::with(app.addr(), |sidecar| sidecar.arg("--annotations", file.display().to_string())).await;
    let mut client = inbound.http("web/bff", Protocol::Http1).await;
    assert_eq!(client.send(&Request::new("DELETE", "/orders/1")).await.status, 200);
    let metrics = inbound.sidecar.metrics().await;
    assert_eq!(metrics.sum(DECISIONS, &[("decision", "would_deny"), ("reason", "default")]), 1.0);
    TlsClient::anonymous().alpn(&["http/1.1"]).refused(inbound.addr).await;
    let mut plain = Http1::new(Box::new(connect(inbound.addr).await));
    plain.write("GET /orders/1 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(!plain.closed().await.starts_with(b"HTTP/1.1 200"));
    assert_eq!(app.seen().len(), 1);
}
