//! D16-D21: header values are judged one by one, and nobody speaks in our name.

use mantlet_testkit::apps::{App, Protocol};
use mantlet_testkit::client::{Http1, Request};

use crate::common::{Inbound, ORDERS};
use crate::fixture::{Fixture, denied, verdict};

fn create(lines: &str) -> Vec<u8> {
    format!("POST /orders HTTP/1.1\r\nHost: orders.shop\r\n{lines}Content-Length: 0\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn d16_two_tenant_lines_are_refused() {
    let f = Fixture::start().await;
    for lines in [
        "x-tenant: acme\r\nx-tenant: evil\r\n",
        "x-tenant: evil\r\nx-tenant: acme\r\n",
        "x-tenant: acme\r\nX-Tenant: acme\r\n",
        "x-tenant: acme, evil\r\n",
        "x-tenant: ACME\r\n",
        "",
    ] {
        assert_eq!(verdict(&f.raw("web/checkout", create(lines)).await), denied("default"), "{lines:?}");
    }
    f.assert_untouched();
    assert_eq!(f.raw("web/checkout", create("x-tenant: acme\r\n")).await.status, 200);
}

#[tokio::test]
async fn d17_any_bad_value_satisfies_a_deny() {
    let f = Fixture::start().await;
    for lines in [
        "x-check: ok\r\nx-check: bad\r\n",
        "x-check: bad\r\nx-check: ok\r\n",
        "x-check: ok, bad\r\n",
        "x-check: BAD\r\n",
        "x-check: \"ok, bad\r\n",
    ] {
        let request = format!("GET /x HTTP/1.1\r\nHost: orders.shop\r\n{lines}\r\n");
        assert_eq!(verdict(&f.raw("ops/dev", request).await), denied("deny_rule"), "{lines:?}");
    }
    assert_eq!(f.decided_by("no-bad").await, 5.0);
    f.assert_untouched();
}

#[tokio::test]
async fn d18_an_alias_of_a_policy_header_is_refused() {
    let f = Fixture::start().await;
    for name in ["x_tenant", "X_Tenant", "x.tenant"] {
        let response = f.raw("web/checkout", create(&format!("{name}: acme\r\n"))).await;
        assert_eq!(response.status, 400, "{name}: {response:?}");
    }
    f.assert_untouched();
}

#[tokio::test]
async fn d19_a_forged_identity_header_is_replaced() {
    let f = Fixture::start().await;
    let forged = "By=a;URI=spiffe://td.test/ns/ops/sa/oncall;Hash=0";
    let request = format!(
        "GET /orders/1 HTTP/1.1\r\nHost: a\r\nX-Forwarded-Client-Cert: {forged}\r\nx-forwarded-client-cert: b\r\n\r\n"
    );
    assert_eq!(f.raw("web/bff", request).await.status, 200);
    let request = Request::get("/orders/1").header("x-forwarded-client-cert", forged);
    assert_eq!(f.h2("web/bff").await.send(&request).await.unwrap().status, 200);
    for seen in f.app.seen() {
        let values = seen.header("x-forwarded-client-cert");
        assert_eq!(values.len(), 1, "{values:?}");
        assert!(values[0].starts_with(&format!("By={ORDERS};URI=spiffe://td.test/ns/web/sa/bff;Hash=")));
    }
    assert_eq!(f.app.seen().len(), 2);
}

#[tokio::test]
async fn d20_connection_cannot_take_the_identity_away() {
    for protocol in crate::common::BOTH {
        let app = App::start(protocol).await;
        let inbound = Inbound::start(app.addr(), "allow mesh to * /**\n").await;
        let proto = if protocol == Protocol::H2c { "2" } else { "1.1" };
        for named in
            ["close, x-forwarded-client-cert", "X-Forwarded-Client-Cert", "keep-alive,x-mantlet-proto"]
        {
            let mut client =
                Http1::new(inbound.peer("web/bff").alpn(&["http/1.1"]).connect(inbound.addr).await.into_io());
            let request = format!(
                "GET / HTTP/1.1\r\nHost: a\r\nx-mantlet-proto: {proto}\r\nConnection: {named}\r\n\r\n"
            );
            let response = client.raw(request).await.unwrap();
            assert!([200, 400].contains(&response.status), "{named}: {response:?}");
        }
        for seen in app.seen() {
            let values = seen.header("x-forwarded-client-cert");
            assert_eq!(values.len(), 1, "{seen:?}");
            assert!(values[0].contains("URI=spiffe://td.test/ns/web/sa/bff;"), "{values:?}");
        }
    }
}

#[tokio::test]
async fn d20_connection_cannot_take_a_core_header_away() {
    let f = Fixture::start().await;
    for named in ["host", "authorization", "cookie", "content-length", "x-tenant"] {
        let request = format!(
            "GET /orders/1 HTTP/1.1\r\nHost: orders.shop\r\nauthorization: a\r\ncookie: c\r\nConnection: {named}\r\n\r\n"
        );
        assert_eq!(f.raw("web/bff", request).await.status, 400, "{named}");
    }
    f.assert_untouched();
}

#[tokio::test]
async fn d21_an_unreadable_value_of_a_policy_header_is_refused() {
    let f = Fixture::start().await;
    for value in [&b"acm\xe9"[..], b"acme\xff", b"\xc3\xa9"] {
        let request =
            [b"POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nx-tenant: ", value, b"\r\n\r\n"];
        assert_eq!(f.raw("web/checkout", request.concat()).await.status, 400, "{value:?}");
    }
    f.assert_untouched();
}

#[tokio::test]
async fn a_grpc_grant_is_its_exact_method_and_content_type() {
    let f = Fixture::start().await;
    let call = |target: &str, kind: &str| Request::new("POST", target).header("content-type", kind);
    let mut client = f.peer("pay/ledger").http(f.grpc_addr, Protocol::H2c).await;
    for (target, kind, denied) in [
        ("/shop.v1.Orders/Get", "application/grpc", None),
        ("/shop.v1.Orders/Get", "application/grpc+proto", None),
        ("/shop.v1.Orders/get", "application/grpc", Some("default")),
        ("/shop.v1.Orders/Get", "application/grpc-web", Some("default")),
        ("/shop.v1.Orders/Get/", "application/grpc", Some("default")),
        ("/shop.v1.Orders/Get?a=b", "application/grpc", None),
    ] {
        let response = client.send(&call(target, kind)).await;
        assert_eq!(response.denied().as_deref(), denied, "{target} {kind}: {response:?}");
    }
    assert_eq!(f.grpc.seen().len(), 3);
}
