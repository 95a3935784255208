//! What the app is told about its caller comes from the TLS handshake and from nowhere else.

use mantlet_testkit::apps::{App, Protocol, Reply};
use mantlet_testkit::client::{HttpClient, Request};

use crate::common::{BOTH, Inbound, ORDERS, app_and_inbound};

const ALLOW: &str = "allow mesh to * /**\n";
const HEADER: &str = "x-forwarded-client-cert";
const FORGED: &str = "By=spiffe://td.test/ns/a/sa/b;URI=spiffe://td.test/ns/ops/sa/root;Hash=00";

#[tokio::test]
async fn the_app_sees_the_verified_identity_of_its_caller() {
    for protocol in BOTH {
        let (app, inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
        let svid = inbound.authority.workload("web/frontend");
        let client = mantlet_testkit::client::TlsClient::new(&svid);
        let mut client = client.http(inbound.addr, protocol).await;
        assert_eq!(client.send(&Request::get("/")).await.status, 200);
        let expected = format!("By={ORDERS};URI={};Hash={}", svid.id, svid.sha256_hex());
        assert_eq!(app.only().header(HEADER), [expected]);
    }
}

#[tokio::test]
async fn the_caller_is_named_through_two_sidecars() {
    for protocol in BOTH {
        let (app, inbound) = app_and_inbound(protocol, ALLOW).await;
        let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
        HttpClient::plain(addr, protocol).await.send(&Request::get("/").header(HEADER, FORGED)).await;
        let values = app.only().header(HEADER);
        assert_eq!(values.len(), 1, "{values:?}");
        assert!(values[0].contains(";URI=spiffe://td.test/ns/web/sa/frontend;"), "{values:?}");
    }
}

#[tokio::test]
async fn a_forged_identity_header_never_arrives() {
    for protocol in BOTH {
        let (app, inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
        let mut client = inbound.http("web/frontend", protocol).await;
        let request = Request::get("/").header(HEADER, FORGED).header(HEADER, "By=again");
        assert_eq!(client.send(&request).await.status, 200);
        let values = app.only().header(HEADER);
        assert_eq!(values.len(), 1, "{values:?}");
        assert!(values[0].starts_with(&format!("By={ORDERS};URI=spiffe://td.test/ns/web/sa/frontend;Hash=")));
    }
}

#[tokio::test]
async fn names_that_only_the_mesh_may_say_do_not_reach_the_app() {
    for protocol in BOTH {
        let (app, inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
        let mut client = inbound.http("web/frontend", protocol).await;
        let request = Request::get("/")
            .header("x-mantlet-proto", "1.1")
            .header("x-mantlet-denied", "none")
            .header("x-mantlet-of-tomorrow", "yes")
            .header("x-kept", "yes");
        assert_eq!(client.send(&request).await.status, 200);
        let names = app.only().names();
        assert!(names.iter().all(|name| !name.starts_with("x-mantlet-")), "{names:?}");
        assert!(names.contains(&"x-kept".to_owned()), "{names:?}");
    }
}

#[tokio::test]
async fn an_app_cannot_choose_the_version_of_the_last_hop() {
    let (app, inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
    let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
    let request = Request::get("/").header("x-mantlet-proto", "2");
    let response = HttpClient::plain(addr, Protocol::Http1).await.send(&request).await;
    assert_eq!(response.status, 200);
    assert_eq!(app.only().version, "HTTP/1.1");
}

#[tokio::test]
async fn spellings_that_an_app_may_take_for_the_identity_header_are_refused() {
    let names =
        ["x_forwarded_client_cert", "x-forwarded-client_cert", "x.forwarded.client.cert", "X_Mantlet-Proto"];
    for protocol in BOTH {
        let (app, inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
        for name in names {
            // HTTP/2 knows no capitals.
            let name = if protocol == Protocol::H2c { name.to_lowercase() } else { name.to_owned() };
            let mut client = inbound.http("web/frontend", protocol).await;
            let response = client.send(&Request::get("/").header(&name, FORGED)).await;
            assert_eq!(response.status, 400, "{name}");
            assert_eq!(response.denied().as_deref(), Some("malformed(header-alias)"), "{name}");
            assert_eq!(app.seen(), [], "{name}");
        }
    }
}

#[tokio::test]
async fn an_app_cannot_answer_in_the_name_of_its_sidecar() {
    for protocol in BOTH {
        let app = App::with(protocol, |_| async {
            let reply = Reply::ok("x").header("x-mantlet-denied", "default; id=1");
            reply.header("x-mantlet-error", "reset; id=1").header(HEADER, FORGED).header("x-kept", "yes")
        })
        .await;
        let inbound = Inbound::start(app.addr(), ALLOW).await;
        let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
        let response = HttpClient::plain(addr, protocol).await.send(&Request::get("/")).await;
        assert_eq!((response.status, response.header("x-kept")), (200, vec!["yes".to_owned()]));
        for name in ["x-mantlet-denied", "x-mantlet-error", HEADER] {
            assert!(response.header(name).is_empty(), "{protocol:?}: {response:?}");
        }
    }
}
