//! Trailers cross every hop that can carry them (RFC 9110, 6.5).

use mantlet_testkit::apps::{App, Protocol, Reply};
use mantlet_testkit::client::{HttpClient, Request};

use crate::common::Inbound;

const ALLOW: &str = "allow web/frontend to * /**\n";

/// An app that answers `sum` and then its trailer, announced.
async fn summing(protocol: Protocol) -> App {
    App::with(protocol, |_| async {
        Reply::ok("sum").header("trailer", "X-Sum").trailer("x-sum", "9").trailer("x-unsaid", "1")
    })
    .await
}

/// A request with a trailer, announced, that takes trailers in the answer.
fn asking() -> Request {
    let request = Request::new("POST", "/sum").header("te", "trailers").header("trailer", "X-Part");
    request.body("body").trailer("x-part", "1")
}

#[tokio::test]
async fn http_1_trailers_cross_two_sidecars_in_both_directions() {
    let app = summing(Protocol::Http1).await;
    let inbound = Inbound::start(app.addr(), ALLOW).await;
    let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
    let mut client = HttpClient::plain(addr, Protocol::Http1).await;
    for _ in 0..3 {
        let response = client.send(&asking()).await;
        assert_eq!((response.status, response.text().as_str()), (200, "sum"));
        assert_eq!(response.trailer("x-sum"), ["9"], "{response:?}");
    }
    let seen = app.seen();
    assert_eq!((seen.len(), seen[2].body.as_slice()), (3, &b"body"[..]));
    assert_eq!(seen[2].trailer("x-part"), ["1"], "{seen:?}");
    assert_eq!(seen[2].header("trailer"), ["x-part"], "HTTP/1 announces what it sends");
}

#[tokio::test]
async fn trailers_cross_between_an_http_2_peer_and_an_http_1_app() {
    let app = summing(Protocol::Http1).await;
    let inbound = Inbound::start(app.addr(), ALLOW).await;
    let mut peer = inbound.http("web/frontend", Protocol::H2c).await;
    let response = peer.send(&asking()).await;
    assert_eq!((response.status, response.text().as_str()), (200, "sum"));
    // HTTP/2 carries them announced or not.
    assert_eq!(
        (response.trailer("x-sum"), response.trailer("x-unsaid")),
        (vec!["9".into()], vec!["1".into()])
    );
    assert_eq!(app.only().trailer("x-part"), ["1"]);
}

#[tokio::test]
async fn a_caller_that_takes_no_trailers_gets_the_whole_answer_without_them() {
    let app = summing(Protocol::Http1).await;
    let inbound = Inbound::start(app.addr(), ALLOW).await;
    let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
    let mut client = HttpClient::plain(addr, Protocol::Http1).await;
    for _ in 0..2 {
        let response = client.send(&Request::get("/sum")).await;
        assert_eq!((response.status, response.text().as_str()), (200, "sum"));
        assert_eq!(response.trailers, []);
    }
}

/// RFC 9110, 6.5.1: what frames, routes or authorises a message has no meaning at its end, and a
/// server that merges trailers into the head would give it one.
#[tokio::test]
async fn fields_that_would_change_the_message_do_not_cross_as_trailers() {
    let app = App::with(Protocol::H2c, |_| async {
        Reply::ok("sum").trailer("x-sum", "9").trailer("x-mantlet-denied", "x").trailer("set-cookie", "a=b")
    })
    .await;
    let inbound = Inbound::start(app.addr(), ALLOW).await;
    let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
    let mut client = HttpClient::plain(addr, Protocol::H2c).await;
    let request = Request::new("POST", "/sum").body("body");
    let hostile = ["authorization", "host", "content-type", "x-forwarded-client-cert", "x-mantlet-proto"];
    let request = hostile.iter().fold(request.trailer("x-part", "1"), |r, name| r.trailer(name, "evil"));
    let response = client.send(&request).await;
    assert_eq!((response.status, response.trailers), (200, vec![("x-sum".to_owned(), b"9".to_vec())]));
    assert_eq!(app.only().trailers, [("x-part".to_owned(), b"1".to_vec())]);
}
