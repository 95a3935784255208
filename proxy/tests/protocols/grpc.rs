//! gRPC as its applications speak it, through two sidecars: four kinds of call, and every status.

use mantlet_testkit::grpc::{Code, EchoClient, EchoServer};
use mantlet_testkit::sidecar::Sidecar;

use crate::common::Inbound;

const ALL: &str = "allow web/frontend to grpc mantlet.test.Echo/*\n";

async fn mesh(policy: &str) -> (EchoServer, Inbound, Sidecar, EchoClient) {
    let server = EchoServer::start().await;
    let inbound = Inbound::start(server.addr(), policy).await;
    let (caller, addr) = inbound.caller("web/frontend", " as http").await;
    (server, inbound, caller, EchoClient::new(addr))
}

#[tokio::test]
async fn all_four_kinds_of_call_cross_two_sidecars() {
    let (_server, _inbound, _caller, mut client) = mesh(ALL).await;
    assert_eq!(client.unary("Say", "hello").await.unwrap(), "hello");
    let large = "x".repeat(1 << 20);
    assert!(client.unary("Say", &large).await.unwrap() == large);
    assert_eq!(client.collect(&["a", "b", "c"]).await.unwrap(), "a,b,c");
    assert_eq!(client.count(3).await.unwrap(), ["1", "2", "3"]);
    assert_eq!(client.count(5000).await.unwrap().len(), 5000);
    let mut chat = client.chat("first").await.unwrap();
    assert_eq!(chat.hear().await.unwrap().as_deref(), Some("first"));
    for n in 0..20 {
        // Nothing more is said before the answer is there.
        let said = format!("message {n}");
        assert_eq!(chat.say(&said).await.unwrap(), Some(said));
    }
    chat.end().await.unwrap();
}

#[tokio::test]
async fn every_status_of_a_grpc_server_arrives_as_it_was_sent() {
    let (_server, _inbound, _caller, mut client) = mesh(ALL).await;
    for code in 1..=16 {
        let status = client.unary("Say", &format!("fail:{code}")).await.unwrap_err();
        let message = format!("asked for {code}: 100% sure");
        assert_eq!((status.code(), status.message()), (Code::from_i32(code), message.as_str()));
    }
    let mut chat = client.chat("one").await.unwrap();
    assert_eq!(chat.hear().await.unwrap().as_deref(), Some("one"));
    let status = chat.say("enough").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "enough"));
    assert_eq!(client.unary("Missing", "x").await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_call_that_policy_refuses_is_permission_denied_whatever_its_kind() {
    let (server, _inbound, _caller, mut client) =
        mesh("allow web/frontend to grpc mantlet.test.Echo/Say\n").await;
    for status in [
        client.unary("Other", "x").await.unwrap_err(),
        client.collect(&["a", "b"]).await.unwrap_err(),
        client.count(3).await.unwrap_err(),
        client.chat("one").await.map(drop).unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        assert!(status.metadata().get("x-mantlet-denied").is_some(), "{status:?}");
    }
    assert_eq!(client.unary("Say", "still").await.unwrap(), "still");
    drop(server);
}

#[tokio::test]
async fn an_open_call_whose_right_goes_ends_with_permission_denied() {
    let (_server, inbound, _caller, mut client) = mesh(ALL).await;
    let mut chat = client.chat("one").await.unwrap();
    assert_eq!(chat.hear().await.unwrap().as_deref(), Some("one"));
    inbound.sidecar.set_policy("# nobody\n");
    assert_eq!(chat.hear().await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn an_app_that_is_down_is_unavailable() {
    let (server, _inbound, _caller, mut client) = mesh(ALL).await;
    assert_eq!(client.unary("Say", "hello").await.unwrap(), "hello");
    drop((server, client));
    let gone = mantlet_testkit::apps::RawApp::start().await.addr();
    let inbound = Inbound::start(gone, ALL).await;
    let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
    let status = EchoClient::new(addr).unary("Say", "hello").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}
