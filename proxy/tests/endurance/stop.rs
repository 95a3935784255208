//! SIGTERM, `drain` and a second SIGTERM, from outside.

use std::process::Stdio;
use std::sync::Arc;

use mantlet_testkit::apps::{App, Protocol, Reply};
use mantlet_testkit::client::{Http1, HttpClient, Request};
use mantlet_testkit::{TempDir, eventually};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::common::Inbound;

const ALLOW: &str = "allow mesh to * /**\n";
const BINARY: &str = env!("CARGO_BIN_EXE_mantlet-proxy");

/// An app whose `/held` answers when the test says so, and whose `/open` never ends.
async fn app(protocol: Protocol) -> (App, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let app = App::with(protocol, move |seen| {
        let held = Arc::clone(&held);
        async move {
            match seen.target.as_str() {
                "/held" => {
                    held.acquire().await.unwrap().forget();
                    Reply::ok(seen.body)
                }
                "/open" => Reply::open("first"),
                _ => Reply::ok("hello"),
            }
        }
    })
    .await;
    (app, gate)
}

/// A sidecar with these flags and an admin socket, in the folder that is returned.
async fn behind(app: &App, flags: &[(&str, &str)]) -> (Inbound, TempDir) {
    let dir = TempDir::new();
    let socket = dir.path().join("admin.sock");
    let inbound = Inbound::with(app.addr(), |sidecar| {
        let sidecar = sidecar.policy(ALLOW).arg("--admin-socket", socket.to_str().unwrap());
        flags.iter().fold(sidecar, |sidecar, (flag, value)| sidecar.arg(flag, *value))
    })
    .await;
    (inbound, dir)
}

/// What a container's preStop hook does.
async fn drain(dir: &TempDir) {
    let mut command = tokio::process::Command::new(BINARY);
    command.env_clear().args(["drain", "--admin-socket"]).arg(dir.path().join("admin.sock"));
    let output = command.stdin(Stdio::null()).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
}

async fn h1(inbound: &Inbound) -> Http1 {
    match inbound.http("web/frontend", Protocol::Http1).await {
        HttpClient::Http1(client) => client,
        HttpClient::Http2(_) => unreachable!("asked for HTTP/1"),
    }
}

/// Status of an ordinary request, and whether its answer sends the client away.
async fn ask(client: &mut Http1) -> (u16, bool) {
    let response = client.send(&Request::new("POST", "/").body("question")).await.unwrap();
    (response.status, response.header("connection").iter().any(|value| value == "close"))
}

async fn refuses_connections(inbound: &Inbound) {
    eventually("the listening socket to close", async || {
        TcpStream::connect(inbound.addr).await.is_err().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_drain_sends_those_who_are_connected_away_and_serves_everybody_until_sigterm() {
    let (app, gate) = app(Protocol::Http1).await;
    let (mut inbound, dir) = behind(&app, &[]).await;
    let mut before = h1(&inbound).await;
    assert_eq!(ask(&mut before).await, (200, false));
    let HttpClient::Http2(mut streams) = inbound.http("web/frontend", Protocol::H2c).await else {
        unreachable!("asked for HTTP/2")
    };
    let mut held = streams.open(&Request::get("/held"), true).await.unwrap();
    app.wait_for_requests(2).await;

    drain(&dir).await;
    inbound.sidecar.event("draining", |event| event["reason"] == "drain").await;
    assert_eq!(inbound.sidecar.get("/readyz").await.status, 503);
    assert_eq!(inbound.sidecar.metrics().await.sum("mantlet_draining", &[]), 1.0);
    assert_eq!(ask(&mut before).await, (200, true));
    assert!(before.closed().await.is_empty());
    gate.add_permits(1);
    assert_eq!(held.head().await.unwrap().status, 200, "what was in flight is answered");
    streams.ended().await;

    // As long as its address is known somewhere, somebody comes.
    let mut during = h1(&inbound).await;
    for _ in 0..3 {
        assert_eq!(ask(&mut during).await, (200, false));
    }
    drain(&dir).await;
    assert_eq!(ask(&mut during).await, (200, false), "said twice means once");

    inbound.sidecar.terminate();
    inbound.sidecar.event("draining", |event| event["reason"] == "SIGTERM").await;
    eventually("the announcement", async || ask(&mut during).await.1.then_some(())).await;
    assert!(inbound.sidecar.exited().await.success());
    inbound.sidecar.event("stopped", |_| true).await;
    assert!(!dir.path().join("admin.sock").exists());
}

#[tokio::test]
async fn a_stop_goes_unannounced_for_as_long_as_it_was_told_to() {
    let (app, _gate) = app(Protocol::Http1).await;
    let (mut inbound, _dir) = behind(&app, &[("--stop-delay", "1h")]).await;
    let mut client = h1(&inbound).await;
    inbound.sidecar.terminate();
    inbound.sidecar.event("draining", |_| true).await;
    assert_eq!(inbound.sidecar.get("/readyz").await.status, 503);
    assert_eq!(ask(&mut client).await, (200, false));
    assert_eq!(ask(&mut h1(&inbound).await).await, (200, false));
    inbound.sidecar.terminate();
    assert!(inbound.sidecar.exited().await.success(), "a second SIGTERM is the end");
}

#[tokio::test]
async fn a_request_that_crosses_the_stop_on_an_idle_connection_is_answered() {
    let (app, _gate) = app(Protocol::Http1).await;
    let (mut inbound, _dir) = behind(&app, &[]).await;
    let mut client = h1(&inbound).await;
    assert_eq!(ask(&mut client).await, (200, false));
    inbound.sidecar.terminate();
    refuses_connections(&inbound).await;
    assert_eq!(ask(&mut client).await, (200, true));
    assert!(client.closed().await.is_empty());
    assert!(inbound.sidecar.exited().await.success());
}

#[tokio::test]
async fn what_is_in_flight_when_the_stop_comes_finishes() {
    for protocol in [Protocol::Http1, Protocol::H2c] {
        let (app, gate) = app(protocol).await;
        let (mut inbound, _dir) = behind(&app, &[]).await;
        let mut client = inbound.http("web/frontend", protocol).await;
        let version = if protocol == Protocol::H2c { "2" } else { "1.1" };
        let request = Request::new("POST", "/held").header("x-mantlet-proto", version).body("question");
        let stop = async {
            app.wait_for_requests(1).await;
            inbound.sidecar.terminate();
            refuses_connections(&inbound).await;
            gate.add_permits(1);
        };
        let (response, ()) = tokio::join!(client.send(&request), stop);
        assert_eq!((response.status, response.text().as_str()), (200, "question"), "{protocol:?}");
        assert!(inbound.sidecar.exited().await.success());
    }
}

#[tokio::test]
async fn a_second_sigterm_and_the_deadline_end_what_does_not_end() {
    for (deadline, terms) in [("1h", 2), ("1s", 1)] {
        let (app, _gate) = app(Protocol::Http1).await;
        let flags = [("--drain-deadline", deadline), ("--access-log", "all")];
        let (mut inbound, _dir) = behind(&app, &flags).await;
        let mut client = h1(&inbound).await;
        client.write("GET /open HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert_eq!(client.read_head().await.unwrap().status, 200);
        for n in 0..terms {
            inbound.sidecar.terminate();
            if n == 0 {
                inbound.sidecar.event("draining", |_| true).await;
            }
        }
        assert!(!client.closed().await.ends_with(b"0\r\n\r\n"), "cut, not ended");
        assert!(inbound.sidecar.exited().await.success());
        app.wait_for_cut(1).await;
    }
}
