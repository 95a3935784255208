//! D01-D15: one meaning per path and host.

use mantlet_testkit::apps::{App, Protocol};
use mantlet_testkit::client::Request;

use crate::common::Inbound;
use crate::fixture::{Fixture, denied, malformed, verdict};

#[tokio::test]
async fn d01_dot_segments_are_refused() {
    let f = Fixture::start().await;
    for target in ["/orders/../admin/x", "/orders/./x", "/..", "/orders/.."] {
        assert_eq!(verdict(&f.get("ops/dev", target).await), malformed("dot-segment"), "{target}");
        let response = f.h2("ops/dev").await.send(&Request::get(target)).await.unwrap();
        assert_eq!(verdict(&response), malformed("dot-segment"), "h2 {target}");
    }
    f.assert_untouched();
}

#[tokio::test]
async fn d02_an_escaped_slash_is_refused() {
    let f = Fixture::start().await;
    for target in ["/orders/..%2fadmin", "/orders%2Fadmin", "/orders/%5cadmin"] {
        assert_eq!(verdict(&f.get("ops/dev", target).await), malformed("encoded-slash"), "{target}");
    }
    f.assert_untouched();
}

#[tokio::test]
async fn d03_empty_segments_are_refused() {
    let f = Fixture::start().await;
    for target in ["//admin/x", "/orders//x", "/orders/x//"] {
        assert_eq!(verdict(&f.get("ops/dev", target).await), malformed("empty-segment"), "{target}");
    }
    f.assert_untouched();
}

#[tokio::test]
async fn d04_letter_case_does_not_pass_a_deny() {
    let f = Fixture::start().await;
    for target in ["/Admin/x", "/ADMIN", "/aDmIn/"] {
        assert_eq!(verdict(&f.get("ops/dev", target).await), denied("deny_rule"), "{target}");
    }
    assert_eq!(f.decided_by("no-admin").await, 3.0);
    f.assert_untouched();
}

#[tokio::test]
async fn d05_a_subtree_begins_at_its_root() {
    let f = Fixture::start().await;
    for target in ["/admin", "/admin/", "/admin/x/y"] {
        assert_eq!(verdict(&f.get("ops/dev", target).await), denied("deny_rule"), "{target}");
    }
    assert_eq!(f.decided_by("no-admin").await, 3.0);
    assert_eq!(f.get("ops/oncall", "/admin").await.status, 200);
    assert_eq!(f.get("ops/dev", "/administration").await.status, 200);
    assert_eq!(f.app.seen().len(), 2);
}

#[tokio::test]
async fn d06_path_parameters_are_refused() {
    let f = Fixture::start().await;
    for target in ["/admin;v=1/x", "/admin%3Bv=1/x", "/orders;/x"] {
        assert_eq!(verdict(&f.get("ops/dev", target).await), malformed("path-params"), "{target}");
    }
    f.assert_untouched();
}

#[tokio::test]
async fn d07_escaped_dots_are_dot_segments() {
    let f = Fixture::start().await;
    for target in ["/public/%2e%2e/admin", "/public/.%2E/admin", "/public/%2e/x"] {
        assert_eq!(verdict(&f.get("ops/dev", target).await), malformed("dot-segment"), "{target}");
    }
    f.assert_untouched();
}

#[tokio::test]
async fn d08_a_fragment_never_reaches_the_app() {
    let f = Fixture::start().await;
    let response = f.get("ops/dev", "/admin#/../public").await;
    assert!([400, 403].contains(&response.status), "{response:?}");
    f.assert_untouched();
    // On an allowed path it may pass only without the fragment.
    f.get("ops/dev", "/orders/1#/admin").await;
    for seen in f.app.seen() {
        assert!(!seen.target.contains(['#', '%']), "{seen:?}");
    }
}

#[tokio::test]
async fn d09_an_escaped_letter_does_not_pass_a_deny() {
    let f = Fixture::start().await;
    for target in ["/%61dmin/x", "/%41dmin/x", "/admi%6e"] {
        assert_eq!(verdict(&f.get("ops/dev", target).await), denied("deny_rule"), "{target}");
    }
    f.assert_untouched();
}

#[tokio::test]
async fn d10_escaped_controls_are_refused() {
    let f = Fixture::start().await;
    for target in ["/orders%00/x", "/orders/%0d%0aHost:%20a", "/orders/%7f"] {
        assert_eq!(verdict(&f.get("web/bff", target).await), malformed("control"), "{target}");
    }
    f.assert_untouched();
}

#[tokio::test]
async fn d11_a_star_in_a_path_is_an_ordinary_character() {
    let f = Fixture::start().await;
    assert_eq!(f.get("web/bff", "/orders/a*b").await.status, 200);
    assert_eq!(f.app.only().target, "/orders/a*b");
}

#[tokio::test]
async fn d12_an_absolute_target_is_its_path_and_agrees_with_host() {
    let f = Fixture::start().await;
    let request = |target: &str, host: &str| format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let response = f.raw("ops/dev", request("http://orders.shop/admin/x", "orders.shop")).await;
    assert_eq!(verdict(&response), denied("deny_rule"));
    let response = f.raw("ops/dev", request("http://orders.shop/admin/x", "other")).await;
    assert_eq!(response.status, 400, "{response:?}");
    f.assert_untouched();
    let response = f.raw("ops/dev", request("http://orders.shop/orders/1?a=b", "Orders.Shop")).await;
    assert_eq!(response.status, 200);
    assert_eq!(f.app.only().target, "/orders/1?a=b", "origin-form");
}

#[tokio::test]
async fn d13_two_different_authorities_of_one_request_are_refused() {
    let f = Fixture::start().await;
    let request = Request::get("/orders/1").host("a.shop").header("host", "b.shop");
    if let Ok(response) = f.h2("ops/dev").await.send(&request).await {
        assert_eq!(response.status, 400, "{response:?}");
    }
    f.assert_untouched();
}

#[tokio::test]
async fn d14_a_host_is_compared_without_case_port_and_final_dot() {
    let app = App::start(Protocol::Http1).await;
    let inbound = Inbound::start(app.addr(), "allow web/bff to GET / when host = api.shop\n").await;
    for (host, status) in
        [("API.Shop.:8080", 200), ("api.shop", 200), ("api.shop.evil", 403), ("xapi.shop", 403)]
    {
        let mut client = inbound.http("web/bff", Protocol::Http1).await;
        assert_eq!(client.send(&Request::get("/").host(host)).await.status, status, "{host}");
    }
    assert_eq!(app.seen().len(), 2);
}

#[tokio::test]
async fn d15_a_query_passes_unchanged_and_is_never_matched() {
    let f = Fixture::start().await;
    let target = "/orders/1?next=/admin&q=%2e%2e%2f;a=b";
    assert_eq!(f.get("web/bff", target).await.status, 200);
    assert_eq!(f.app.only().target, target);
}
