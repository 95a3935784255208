//! grpc-go and tonic call each other through two sidecars.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use mantlet_proxy::config::{self, Action, Handler};
use mantlet_proxy::probes::{Asked, Probes};
use mantlet_testkit::grpc::{Code, EchoClient, EchoServer};
use mantlet_testkit::real_peers::{RealPeers, run};
use mantlet_testkit::within;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::common::Inbound;

const ALL: &str = "allow web/frontend to grpc mantlet.test.Echo/*\n";

/// A running grpc-go server; it is killed when this is dropped.
async fn go_server(peers: &RealPeers) -> (Child, SocketAddr) {
    let mut child = Command::new(peers.program("grpcgo-server"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = within("grpcgo-server to listen", lines.next_line()).await.unwrap().unwrap();
    let addr = line.strip_prefix("LISTEN ").unwrap().parse().unwrap();
    (child, addr)
}

#[tokio::test]
async fn a_grpc_go_client_makes_every_kind_of_call_through_two_sidecars() {
    let Some(peers) = RealPeers::find("grpc-go client") else { return };
    let server = EchoServer::start().await;
    let inbound = Inbound::start(server.addr(), ALL).await;
    let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
    let client = || Command::new(peers.program("grpcgo-client"));
    let said = run(client().arg(addr.to_string())).await.unwrap();
    for line in [
        r#"unary code=0 text="hello""#,
        r#"fail-5 code=5 text="" message="asked for 5: 100% sure""#,
        r#"fail-16 code=16 text="" message="asked for 16: 100% sure""#,
        r#"large code=0 text="true""#,
        r#"client-streaming code=0 text="a,b,c""#,
        r#"server-streaming code=0 text="1 2 3 4 5""#,
        r#"bidi code=0 text="one two three""#,
        r#"bidi-error code=8 text="one" message="enough""#,
        "unimplemented code=12",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let only = "allow web/frontend to grpc mantlet.test.Echo/Say\n";
    let inbound = Inbound::start(server.addr(), only).await;
    let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
    let said = run(client().arg(addr.to_string())).await.unwrap();
    for line in ["unary code=0", "client-streaming code=7", "server-streaming code=7", "bidi code=7"] {
        assert!(said.contains(line), "{line}: {said}");
    }
}

#[tokio::test]
async fn a_grpc_go_server_is_called_in_every_way_through_two_sidecars() {
    let Some(peers) = RealPeers::find("grpc-go server") else { return };
    let (_server, app) = go_server(&peers).await;
    let inbound = Inbound::start(app, ALL).await;
    let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
    let mut client = EchoClient::new(addr);
    let large = "x".repeat(1 << 20);
    assert!(client.unary("Say", &large).await.unwrap() == large);
    assert_eq!(client.collect(&["a", "b"]).await.unwrap(), "a,b");
    assert_eq!(client.count(100).await.unwrap().len(), 100);
    for code in 1..=16 {
        let status = client.unary("Say", &format!("fail:{code}")).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::from_i32(code), &*format!("asked for {code}: 100% sure"))
        );
    }
    let mut chat = client.chat("one").await.unwrap();
    assert_eq!(chat.hear().await.unwrap().as_deref(), Some("one"));
    assert_eq!(chat.say("enough").await.unwrap_err().code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn a_grpc_probe_hears_from_a_grpc_go_server_how_each_service_is() {
    let Some(peers) = RealPeers::find("grpc-go health server") else { return };
    let (_server, to) = go_server(&peers).await;
    let handler = |service: &str| {
        let action = Action::Grpc { service: service.to_owned() };
        (service.to_owned(), Handler { action, to, timeout: Some(Duration::from_secs(20)) })
    };
    let services = ["", "mantlet.test.Echo", "mantlet.test.Other", "mantlet.test.Nobody"];
    let probes = Probes::new(config::Probes { handlers: services.map(handler).into() });
    for (service, expected, text) in [
        ("", 200, "SERVING"),
        ("mantlet.test.Echo", 200, "SERVING"),
        ("mantlet.test.Other", 503, "NotServing"),
        ("mantlet.test.Nobody", 503, "gRPC status 5"),
    ] {
        let Asked::Answered(answer) = probes.ask(service, None).await else { panic!("{service}: no answer") };
        let said = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, expected, "{service}: {said}");
        assert!(said.contains(text), "{service}: {said}");
    }
}
