//! A peer's sidecar is killed, with no time to say anything: what it carried ends at once and says that it broke, and
//! everything else goes on with the other endpoint.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mantlet_testkit::apps::{App, Protocol, Reply, TcpApp};
use mantlet_testkit::cable::Cable;
use mantlet_testkit::client::{Http1, Http2, Http2Stream, HttpClient, Request, Response, connect, exactly};
use mantlet_testkit::pki::Authority;
use mantlet_testkit::sidecar::Sidecar;
use mantlet_testkit::{Io, eventually, within};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::common::{BOTH, Inbound, sidecar};
use crate::replica::{Replica, caller};

/// The kernel says it at once; a busy machine takes its time to pass it on. Far below any timer.
const SOON: Duration = Duration::from_secs(5);

/// `/held` is answered when the gate opens, `/open` does not end; both name the replica.
async fn app(protocol: Protocol, number: usize, gate: &Arc<Semaphore>) -> App {
    let gate = Arc::clone(gate);
    App::with(protocol, move |seen| {
        let gate = Arc::clone(&gate);
        async move {
            match seen.target.as_str() {
                "/open" => Reply::open(number.to_string()).header("x-by", &number.to_string()),
                "/held" => {
                    gate.acquire().await.unwrap().forget();
                    Reply::ok(number.to_string())
                }
                _ => Reply::ok(number.to_string()),
            }
        }
    })
    .await
}

/// A response that has begun and does not end.
enum Stream {
    Http1(Http1),
    /// With the connection that drives it.
    Http2(Http2Stream, #[allow(dead_code)] Http2),
}

// === impl Stream ===

impl Stream {
    async fn open(addr: std::net::SocketAddr, protocol: Protocol) -> (Self, Response) {
        match HttpClient::plain(addr, protocol).await {
            HttpClient::Http1(mut client) => {
                client.write("GET /open HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
                let head = client.read_head().await.unwrap();
                (Self::Http1(client), head)
            }
            HttpClient::Http2(mut client) => {
                let mut stream = client.open(&Request::get("/open"), true).await.unwrap();
                let head = stream.head().await.unwrap();
                assert!(stream.data().await.unwrap().is_some());
                (Self::Http2(stream, client), head)
            }
        }
    }

    /// Waits until it has ended, and was not whole.
    async fn breaks(&mut self) {
        match self {
            Self::Http1(client) => {
                let rest = String::from_utf8_lossy(&client.closed().await).into_owned();
                assert!(!rest.contains("0\r\n\r\n"), "{rest}");
            }
            Self::Http2(stream, _) => assert!(stream.data().await.is_err()),
        }
    }

    /// Whether it goes on for now.
    async fn is_open(&mut self) -> bool {
        let more = async {
            match self {
                Self::Http1(client) => drop(client.exactly(100).await),
                Self::Http2(stream, _) => drop(stream.data().await),
            }
        };
        tokio::time::timeout(Duration::from_millis(100), more).await.is_err()
    }
}

fn held(mut client: HttpClient) -> JoinHandle<Response> {
    tokio::spawn(async move { client.send(&Request::new("POST", "/held")).await })
}

#[tokio::test]
async fn a_peer_that_is_killed_breaks_off_what_it_carried_and_the_other_endpoint_serves() {
    for protocol in BOTH {
        let (authority, gate) = (Authority::new("td.test"), Arc::new(Semaphore::new(0)));
        let mut replicas = Vec::new();
        for number in 1..=2 {
            replicas.push(Replica::with_app(&authority, app(protocol, number, &gate).await).await);
        }
        let both = [replicas[0].addr, replicas[1].addr];
        let (caller, addr) = caller(&authority, &both, " as http").await;
        // One that carries less is preferred: each endpoint gets one of either.
        let (mut first, head) = Stream::open(addr, protocol).await;
        let killed = usize::from(head.header("x-by") == ["2"]);
        let (mut second, head) = Stream::open(addr, protocol).await;
        assert_eq!(head.header("x-by"), [(2 - killed).to_string()]);
        let mut waiting = Vec::new();
        for number in 1..=2 {
            waiting.push(held(HttpClient::plain(addr, protocol).await));
            eventually("a request to wait", async || {
                (replicas.iter().map(|replica| replica.app.seen().len()).sum::<usize>() == 2 + number)
                    .then_some(())
            })
            .await;
        }
        assert!(replicas.iter().all(|replica| replica.app.seen().len() == 2));

        let begun = Instant::now();
        replicas[killed].down().await;
        first.breaks().await;
        let (failed, _, others) = futures(waiting).await;
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        assert_eq!((failed.status, failed.error().as_deref()), (502, Some("reset")));
        // A POST is not sent again: whether the dead one has done it nobody knows.
        assert!(replicas.iter().all(|replica| replica.app.seen().len() == 2));
        assert!(second.is_open().await);
        let served = (2 - killed).to_string();
        for _ in 0..5 {
            let mut client = HttpClient::plain(addr, protocol).await;
            let response = client.send(&Request::new("POST", "/")).await;
            assert_eq!((response.status, response.text()), (200, served.clone()));
        }
        // The dead one's app waits too.
        gate.add_permits(2);
        assert_eq!(others.await.unwrap().text(), served, "what waits at the other endpoint");
        if protocol == Protocol::Http1 {
            let labels = [("direction", "outbound"), ("reason", "reset")];
            caller.metric_reaches("mantlet_connections_closed_total", &labels, 1.0).await;
        }

        replicas[killed].up().await;
        eventually("the one that was killed to serve again", async || {
            let mut client = HttpClient::plain(addr, protocol).await;
            let response = client.send(&Request::get("/")).await;
            assert_eq!(response.status, 200, "{:?}", response.error());
            (response.text() != served).then_some(())
        })
        .await;
    }
}

/// The one that ends first, its place, and the other.
async fn futures(mut waiting: Vec<JoinHandle<Response>>) -> (Response, usize, JoinHandle<Response>) {
    let (mut b, mut a) = (waiting.pop().unwrap(), waiting.pop().unwrap());
    within("one of the requests that wait", async {
        tokio::select! {
            first = &mut a => (first.unwrap(), 0, b),
            first = &mut b => (first.unwrap(), 1, a),
        }
    })
    .await
}

async fn kill(mut sidecar: Sidecar) {
    sidecar.signal(Signal::KILL);
    sidecar.exited().await;
}

#[tokio::test]
async fn opaque_bytes_of_a_peer_that_is_killed_end_with_a_reset_on_either_side() {
    let app = TcpApp::banner("hello").await;
    let policy = format!("allow mesh to tcp on {}\n", app.port());
    // The callee's sidecar goes: the caller's app must not take what it has for everything.
    let inbound = Inbound::start(app.addr(), &policy).await;
    let (survivor, addr) = inbound.caller("web/frontend", " as tcp").await;
    let mut io: Io = Box::new(connect(addr).await);
    assert_eq!(exactly(&mut io, 5).await, b"hello");
    kill(inbound.sidecar).await;
    let error = within("the end of the bytes", io.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let labels = [("direction", "outbound"), ("reason", "reset")];
    survivor.metric_reaches("mantlet_connections_closed_total", &labels, 1.0).await;

    // The caller's goes: the same for the callee's app.
    let cable = Cable::to(app.addr()).await;
    let policy = format!("allow mesh to tcp on {}\n", cable.addr().port());
    let inbound = Inbound::start(cable.addr(), &policy).await;
    let (victim, addr) = inbound.caller("web/frontend", " as tcp").await;
    let mut io: Io = Box::new(connect(addr).await);
    assert_eq!(exactly(&mut io, 5).await, b"hello");
    kill(victim).await;
    let labels = [("direction", "inbound"), ("reason", "reset")];
    inbound.sidecar.metric_reaches("mantlet_connections_closed_total", &labels, 1.0).await;
    let mut after = inbound.peer("web/other").alpn(&["mantlet-tcp"]).connect(inbound.addr).await.into_io();
    assert_eq!(exactly(&mut after, 5).await, b"hello");
    after.write_all(b"ping").await.unwrap();
    after.flush().await.unwrap();
    assert_eq!(exactly(&mut after, 4).await, b"ping");
}

#[tokio::test]
async fn a_caller_that_is_killed_while_nothing_is_said_to_it_keeps_nothing() {
    for protocol in BOTH {
        let gate = Arc::new(Semaphore::new(0));
        let app = app(protocol, 1, &gate).await;
        let inbound = Inbound::start(app.addr(), "allow mesh to * /**\n").await;
        let victim = sidecar().identity(&inbound.authority.workload("web/frontend"));
        let victim = victim.outbound(inbound.addr, "shop/orders as http").start().await;
        let addr = victim.outbound(0).await;
        let _stream = Stream::open(addr, protocol).await;
        let waiting = HttpClient::plain(addr, protocol).await;
        let waiting = tokio::spawn(async move {
            let mut waiting = waiting;
            waiting.try_send(&Request::new("POST", "/held")).await
        });
        app.wait_for_requests(2).await;
        kill(victim).await;
        assert!(waiting.await.unwrap().is_err(), "its sidecar is gone");
        app.wait_for_cut(1).await;
        for name in ["mantlet_http_requests_in_flight", "mantlet_connections_active"] {
            eventually(name, async || {
                (inbound.sidecar.metrics().await.sum(name, &[("direction", "inbound")]) == 0.0).then_some(())
            })
            .await;
        }
    }
}
