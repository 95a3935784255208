//! `mantlet.dev/http-options`: what a port is told to be lax about.

use mantlet_testkit::TempDir;
use mantlet_testkit::apps::{App, Protocol};
use mantlet_testkit::client::{HttpClient, Request};

use crate::common::{BOTH, Inbound};

/// A sidecar in front of `app` whose pod has this policy, and these options for the app's port.
async fn with_options(app: &App, options: &str) -> (Inbound, TempDir) {
    let dir = TempDir::new();
    let mut text = String::from("mantlet.dev/policy=\"allow web/frontend to GET /orders/**\\n\"\n");
    if !options.is_empty() {
        text.push_str(&format!("mantlet.dev/http-options=\"{}: {options}\\n\"\n", app.port()));
    }
    let file = dir.file("annotations", text);
    let inbound =
        Inbound::with(app.addr(), |sidecar| sidecar.arg("--annotations", file.display().to_string())).await;
    (inbound, dir)
}

#[tokio::test]
async fn an_h2c_port_is_spoken_to_in_http_2_for_peers_that_do_not_say_what_their_app_spoke() {
    for peer in BOTH {
        let app = App::start(Protocol::H2c).await;
        let (inbound, _dir) = with_options(&app, "h2c").await;
        let response = inbound.http("web/frontend", peer).await.send(&Request::get("/orders/1")).await;
        assert_eq!(response.status, 200, "{peer:?}");
        assert_eq!((app.only().version.as_str(), app.only().target.as_str()), ("HTTP/2", "/orders/1"));
        // The grant is what it was.
        let refused = inbound.http("web/frontend", peer).await.send(&Request::get("/admin")).await;
        assert_eq!((refused.status, refused.denied().as_deref()), (403, Some("default")));
        assert_eq!(app.seen().len(), 1);
    }
}

#[tokio::test]
async fn without_the_option_such_peers_are_passed_on_as_http_1() {
    for peer in BOTH {
        let app = App::start(Protocol::Http1).await;
        let (inbound, _dir) = with_options(&app, "").await;
        let response = inbound.http("web/frontend", peer).await.send(&Request::get("/orders/1")).await;
        assert_eq!((response.status, app.only().version.as_str()), (200, "HTTP/1.1"), "{peer:?}");
    }
}

#[tokio::test]
async fn what_the_caller_s_app_spoke_wins_over_the_option() {
    let app = App::start(Protocol::Http1).await;
    let (inbound, _dir) = with_options(&app, "h2c").await;
    let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
    let response = HttpClient::plain(addr, Protocol::Http1).await.send(&Request::get("/orders/1")).await;
    assert_eq!((response.status, app.only().version.as_str()), (200, "HTTP/1.1"));
}

#[tokio::test]
async fn merged_slashes_are_what_is_matched_and_what_the_app_gets() {
    let app = App::start(Protocol::Http1).await;
    let (inbound, _dir) = with_options(&app, "merge-slashes encoded-slash").await;
    let mut client = inbound.http("web/frontend", Protocol::Http1).await;
    for (target, seen) in [("//orders///1", "/orders/1"), ("/orders/a%2fb", "/orders/a%2Fb")] {
        assert_eq!(client.send(&Request::get(target)).await.status, 200, "{target}");
        assert_eq!(app.seen().last().unwrap().target, seen);
    }
    for target in ["/orders//../admin", "/admin%2forders/1", "/orders/..%2fadmin"] {
        let status = client.send(&Request::get(target)).await.status;
        assert!([400, 403].contains(&status), "{target}: {status}");
    }
    assert_eq!(app.seen().len(), 2);
}
