//! HTTP between two apps through two sidecars.

use mantlet_testkit::apps::{App, Protocol, Reply};
use mantlet_testkit::client::{HttpClient, Request};

use crate::common::{BOTH, Inbound, app_and_inbound};

const ALLOW: &str = "allow web/frontend to * /**\n";

#[tokio::test]
async fn an_app_is_spoken_to_in_the_protocol_of_the_calling_app() {
    for protocol in BOTH {
        let (app, inbound) = app_and_inbound(protocol, ALLOW).await;
        let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
        let mut client = HttpClient::plain(addr, protocol).await;
        let response = client.send(&Request::get("/orders/1?next=/a%20b&x")).await;
        assert_eq!((response.status, response.text().as_str()), (200, "hello"), "{protocol:?}");
        let seen = app.only();
        let version = if protocol == Protocol::H2c { "HTTP/2" } else { "HTTP/1.1" };
        assert_eq!(seen.version, version);
        assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/orders/1?next=/a%20b&x"));
        assert_eq!(seen.authority.as_deref(), Some("app.test"));
    }
}

/// The mesh translates no versions: what would fail between the two apps fails through it, with a
/// reason, and the application is not asked in a protocol that it did not announce.
#[tokio::test]
async fn apps_of_different_protocols_get_a_gateway_error_and_no_guess() {
    for (client, server) in [(Protocol::Http1, Protocol::H2c), (Protocol::H2c, Protocol::Http1)] {
        let (app, inbound) = app_and_inbound(server, ALLOW).await;
        let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
        let response = HttpClient::plain(addr, client).await.send(&Request::get("/orders/1")).await;
        assert_eq!(response.status, 502, "{client:?} to {server:?}: {response:?}");
        assert!(response.error().is_some(), "{response:?}");
        // What an HTTP/1 app makes of the preface is all that it sees.
        assert!(app.seen().iter().all(|seen| seen.headers.is_empty()), "{:?}", app.seen());
    }
}

#[tokio::test]
async fn methods_headers_and_bodies_arrive_as_they_were_sent() {
    for protocol in BOTH {
        let app = App::with(protocol, |seen| {
            std::future::ready(Reply::ok(seen.body).header("x-answer", "a").header("x-answer", "b"))
        })
        .await;
        let inbound = Inbound::start(app.addr(), ALLOW).await;
        let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
        let mut client = HttpClient::plain(addr, protocol).await;
        let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let request = Request::new("PUT", "/orders/7")
            .header("x-twice", "one")
            .header("x-twice", "two, three")
            .header("cookie", "a=b; c=d")
            .header("accept", "text/plain")
            .body(body.clone());
        let response = client.send(&request).await;
        assert_eq!(response.status, 200);
        assert_eq!(response.header("x-answer"), ["a", "b"]);
        assert!(response.body == body, "{} of {} bytes came back", response.body.len(), body.len());
        let seen = app.only();
        assert_eq!(seen.method, "PUT");
        assert_eq!(seen.header("x-twice"), ["one", "two, three"]);
        assert_eq!(seen.header("cookie"), ["a=b; c=d"]);
        assert_eq!(seen.header("accept"), ["text/plain"]);
        assert!(seen.body == body, "{} of {} bytes arrived", seen.body.len(), body.len());
    }
}

#[tokio::test]
async fn http_2_trailers_cross_the_mesh_in_both_directions() {
    let reply = Reply::ok("sum").trailer("x-checksum", "9");
    let app = App::with(Protocol::H2c, move |_| std::future::ready(reply.clone())).await;
    let inbound = Inbound::start(app.addr(), ALLOW).await;
    let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
    let mut client = HttpClient::plain(addr, Protocol::H2c).await;
    let request = Request::new("POST", "/sum").header("te", "trailers").body("1").trailer("x-part", "1");
    let response = client.send(&request).await;
    assert_eq!((response.status, response.text().as_str()), (200, "sum"));
    assert_eq!(app.only().trailer("x-part"), ["1"]);
    assert_eq!(response.trailer("x-checksum"), ["9"]);
}

/// HTTP/1 trailers are optional to every hop; the body around them is not.
#[tokio::test]
async fn an_http_1_body_with_trailers_arrives_whole() {
    let app =
        App::with(Protocol::Http1, |seen| async move { Reply::ok(seen.body).trailer("x-sum", "9") }).await;
    let inbound = Inbound::start(app.addr(), ALLOW).await;
    let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
    let mut client = HttpClient::plain(addr, Protocol::Http1).await;
    for _ in 0..2 {
        let response = client.send(&Request::new("POST", "/sum").body("body").trailer("x-part", "1")).await;
        assert_eq!((response.status, response.text().as_str()), (200, "body"));
    }
    assert_eq!(app.seen()[1].body, b"body");
}

#[tokio::test]
async fn grpc_status_and_te_cross_the_mesh() {
    let reply =
        Reply::ok([0, 0, 0, 0, 0]).header("content-type", "application/grpc").trailer("grpc-status", "5");
    let app = App::with(Protocol::H2c, move |_| std::future::ready(reply.clone())).await;
    let inbound = Inbound::start(app.addr(), "allow web/frontend to grpc shop.v1.Orders/Get\n").await;
    let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
    let request = Request::new("POST", "/shop.v1.Orders/Get")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body([0, 0, 0, 0, 0]);
    let response = HttpClient::plain(addr, Protocol::H2c).await.send(&request).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.trailer("grpc-status"), ["5"]);
    assert_eq!(app.only().header("te"), ["trailers"]);
}

#[tokio::test]
async fn answers_without_a_body_stay_without_one() {
    for protocol in BOTH {
        let app = App::with(protocol, |seen| {
            std::future::ready(match seen.target.as_str() {
                "/none" => Reply::status(204),
                "/same" => Reply::status(304).header("etag", "\"1\""),
                "/gone" => Reply::status(410),
                _ => Reply::ok("body"),
            })
        })
        .await;
        let inbound = Inbound::start(app.addr(), ALLOW).await;
        let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
        let mut client = HttpClient::plain(addr, protocol).await;
        for (request, status) in [
            (Request::get("/none"), 204),
            (Request::get("/same"), 304),
            (Request::get("/gone"), 410),
            (Request::new("HEAD", "/head"), 200),
        ] {
            let response = client.send(&request).await;
            assert_eq!((response.status, response.body.len()), (status, 0), "{protocol:?} {request:?}");
        }
        assert_eq!(app.seen().len(), 4);
    }
}

#[tokio::test]
async fn a_peer_of_another_make_reaches_http_1_apps_over_either_version() {
    for protocol in BOTH {
        let (app, inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
        let mut client = inbound.http("web/frontend", protocol).await;
        let response = client.send(&Request::get("/orders/1")).await;
        assert_eq!((response.status, response.text().as_str()), (200, "hello"));
        let seen = app.only();
        assert_eq!((seen.version.as_str(), seen.authority.as_deref()), ("HTTP/1.1", Some("app.test")));
    }
}

#[tokio::test]
async fn grpc_of_a_peer_of_another_make_reaches_the_app_as_http_2() {
    let (app, inbound) =
        app_and_inbound(Protocol::H2c, "allow web/frontend to grpc shop.v1.Orders/*\n").await;
    let mut client = inbound.http("web/frontend", Protocol::H2c).await;
    let request =
        Request::new("POST", "/shop.v1.Orders/Get").header("content-type", "application/grpc+proto");
    assert_eq!(client.send(&request).await.status, 200);
    assert_eq!(app.only().version, "HTTP/2");
}

#[tokio::test]
async fn http_1_0_keeps_its_version_and_needs_no_host() {
    let (app, inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
    let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
    let HttpClient::Http1(mut client) = HttpClient::plain(addr, Protocol::Http1).await else {
        unreachable!()
    };
    let response = client.raw("GET /orders/1 HTTP/1.0\r\n\r\n").await.unwrap();
    assert_eq!(response.status, 200);
    client.closed().await;
    assert_eq!(app.only().version, "HTTP/1.0");
}

#[tokio::test]
async fn a_connection_serves_many_requests_in_order() {
    for protocol in BOTH {
        let app = App::with(protocol, |seen| std::future::ready(Reply::ok(seen.target))).await;
        let inbound = Inbound::start(app.addr(), ALLOW).await;
        let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
        let mut client = HttpClient::plain(addr, protocol).await;
        for n in 0..50 {
            let target = format!("/orders/{n}");
            assert_eq!(client.send(&Request::get(&target)).await.text(), target);
        }
        let metrics = inbound.sidecar.metrics().await;
        let handshakes =
            metrics.sum("mantlet_tls_handshakes_total", &[("direction", "inbound"), ("result", "ok")]);
        assert_eq!(handshakes, 1.0, "50 requests share one mesh connection");
        assert!(app.connections() <= 2, "{} connections to the app", app.connections());
    }
}
