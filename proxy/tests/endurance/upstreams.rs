//! Upstreams that reset, at every moment: the application behind an inbound listener, the peer's sidecar behind an
//! outbound one. The caller is told, nothing is kept, and the next request is served.

use std::net::SocketAddr;

use mantlet_testkit::apps::{App, Protocol, TcpApp};
use mantlet_testkit::cable::{Cable, Passed, Through};
use mantlet_testkit::client::{Http1, Http2, HttpClient, Request, Response, connect, exactly, until_end};
use mantlet_testkit::sidecar::Sidecar;
use mantlet_testkit::{Io, eventually};
use tokio::io::AsyncWriteExt;

use crate::common::{BOTH, Inbound, sidecar};
use crate::resets::app;

/// More than what an HTTP/2 client says before its first request; the head of any request is longer. One of which
/// nothing was written would be sent again.
const PREFACE: usize = 200;

/// A sidecar whose upstreams are at the other end of a cable.
struct Behind {
    inbound: Inbound,
    caller: Option<Sidecar>,
    cable: Cable,
}

// === impl Behind ===

impl Behind {
    /// The cable is between the sidecar and its application.
    async fn app(app: SocketAddr) -> Self {
        let cable = Cable::to(app).await;
        let policy = format!("allow mesh to * /** on {}\n", cable.addr().port());
        let inbound = Inbound::start(cable.addr(), &policy).await;
        Self { inbound, caller: None, cable }
    }

    /// The cable is between two sidecars.
    async fn peer(app: SocketAddr, policy: &str, rest: &str) -> Self {
        let inbound = Inbound::start(app, policy).await;
        let cable = Cable::to(inbound.addr).await;
        let caller = sidecar().identity(&inbound.authority.workload("web/frontend"));
        let caller = caller.outbound(cable.addr(), &format!("shop/orders{rest}")).start().await;
        Self { inbound, caller: Some(caller), cable }
    }

    fn hit(&self) -> &Sidecar {
        self.caller.as_ref().unwrap_or(&self.inbound.sidecar)
    }

    fn side(&self) -> &'static str {
        if self.caller.is_some() { "outbound" } else { "inbound" }
    }

    async fn open(&self, protocol: Protocol) -> Io {
        let alpn = if protocol == Protocol::Http1 { "http/1.1" } else { "h2" };
        match &self.caller {
            None => {
                let peer = self.inbound.peer("web/frontend").alpn(&[alpn]);
                peer.connect(self.inbound.addr).await.into_io()
            }
            Some(caller) => Box::new(connect(caller.outbound(0).await).await),
        }
    }

    async fn http(&self, protocol: Protocol) -> HttpClient {
        HttpClient::over(self.open(protocol).await, protocol).await
    }

    /// What the application is asked, in the version that it speaks.
    fn ask(&self, method: &str, path: &str, protocol: Protocol) -> Request {
        let request = Request::new(method, path);
        match (&self.caller, protocol) {
            (None, Protocol::H2c) => request.header("x-mantlet-proto", "2"),
            _ => request,
        }
    }

    async fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.hit().metrics().await.sum(name, labels)
    }

    /// Nothing is in hand, and nothing waits.
    async fn settles(&self) {
        eventually("what was reset to be given back", async || {
            let metrics = self.hit().metrics().await;
            let in_flight = metrics.sum("mantlet_http_requests_in_flight", &[("direction", self.side())]);
            let busy = metrics.sum("mantlet_upstream_pool_connections", &[("state", "busy")]);
            (in_flight == 0.0 && busy == 0.0).then_some(())
        })
        .await;
    }
}

fn failed(response: &Response, reason: &str, when: &str) {
    assert_eq!((response.status, response.error().as_deref()), (502, Some(reason)), "{when}");
}

/// Every moment of a request over this upstream, and of the callers' connections in both versions.
async fn every_moment(behind: &Behind, app: &App, upstream: Protocol) {
    let mut client = behind.http(upstream).await;
    let when = |when: &str| format!("{} {upstream:?}: {when}", behind.side());
    assert_eq!(client.send(&behind.ask("GET", "/", upstream)).await.status, 200);

    // Idle: the next request does not notice.
    behind.cable.reset();
    assert_eq!(client.send(&behind.ask("GET", "/", upstream)).await.status, 200, "{}", when("idle"));

    // No answer yet, whether the request was all there or not. A POST is not sent again.
    let waiting = app.seen().len();
    let (held, upload) = (behind.ask("POST", "/held", upstream), behind.ask("POST", "/", upstream));
    let (response, ()) = tokio::join!(client.send(&held), async {
        app.wait_for_requests(waiting + 1).await;
        behind.cable.reset();
    });
    failed(&response, "reset", &when("before the answer"));
    let upload = upload.header("content-length", "10");
    let before = behind.cable.connections();
    let cut = || async {
        // Its own connection, because the one before is broken.
        eventually("a connection", async || (behind.cable.connections() > before).then_some(())).await;
        let arrived = [("direction", "inbound")];
        behind.inbound.sidecar.metric_reaches("mantlet_http_requests_in_flight", &arrived, 1.0).await;
        behind.cable.passed("the request on its way", |passed| passed.there > PREFACE).await;
        behind.cable.read().await;
        behind.cable.reset();
    };
    let response = match behind.open(upstream).await {
        io if upstream == Protocol::Http1 => {
            let mut client = Http1::new(io);
            client.write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").await.unwrap();
            cut().await;
            client.read().await.unwrap()
        }
        io => {
            let mut client = Http2::new(io).await.unwrap();
            let mut stream = client.open(&upload, false).await.unwrap();
            stream.body.send_data("half".into(), false).unwrap();
            cut().await;
            stream.head().await.unwrap()
        }
    };
    failed(&response, "reset", &when("in a body"));

    // In the answer: it breaks off, and cannot be taken for a whole one.
    let open = behind.ask("GET", "/open", upstream);
    match behind.open(upstream).await {
        io if upstream == Protocol::Http1 => {
            let mut client = Http1::new(io);
            client.write("GET /open HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            assert_eq!(client.read_head().await.unwrap().status, 200);
            behind.cable.reset();
            let rest = String::from_utf8_lossy(&client.closed().await).into_owned();
            assert!(!rest.contains("0\r\n\r\n"), "{}: {rest}", when("in the answer"));
            let reset = [("direction", behind.side()), ("reason", "reset")];
            behind.hit().metric_reaches("mantlet_connections_closed_total", &reset, 1.0).await;
        }
        io => {
            let mut client = Http2::new(io).await.unwrap();
            let mut stream = client.open(&open, true).await.unwrap();
            assert_eq!(stream.head().await.unwrap().status, 200);
            assert_eq!(stream.data().await.unwrap().unwrap(), "first");
            behind.cable.reset();
            assert!(stream.data().await.is_err(), "{}", when("in the answer"));
            let next = client.send(&behind.ask("GET", "/", upstream)).await.unwrap();
            assert_eq!(next.status, 200, "its connection goes on");
        }
    }
    assert_eq!(client.send(&behind.ask("GET", "/", upstream)).await.status, 200, "{}", when("afterwards"));
    behind.settles().await;
}

#[tokio::test]
async fn an_app_that_resets_at_any_moment_costs_the_one_request_and_the_caller_is_told() {
    for upstream in BOTH {
        let app = app(upstream).await;
        let behind = Behind::app(app.addr()).await;
        every_moment(&behind, &app, upstream).await;
        // It was reached each time: what failed is no failure to connect.
        assert_eq!(behind.sum("mantlet_upstream_connects_total", &[("result", "error")]).await, 0.0);
    }
}

#[tokio::test]
async fn an_app_that_resets_in_the_head_of_its_answer_or_without_a_word_costs_the_one_request() {
    for (upstream, back) in
        [(Protocol::Http1, 10), (Protocol::Http1, 0), (Protocol::H2c, 10), (Protocol::H2c, 0)]
    {
        let app = app(upstream).await;
        let behind = Behind::app(app.addr()).await;
        behind.cable.let_through(Through::back(back));
        let mut client = behind.http(upstream).await;
        let request = behind.ask("POST", "/", upstream);
        let (response, ()) = tokio::join!(client.send(&request), async {
            let all = |passed: Passed| passed.there > PREFACE && passed.back == back;
            behind.cable.passed("the beginning of an answer", all).await;
            behind.cable.reset();
        });
        failed(&response, "reset", &format!("{upstream:?}: {back} bytes"));
        behind.cable.let_through(Through::ALL);
        assert_eq!(client.send(&behind.ask("GET", "/", upstream)).await.status, 200);
        behind.settles().await;
    }
}

#[tokio::test]
async fn a_peer_whose_sidecar_resets_at_any_moment_costs_the_one_request_and_the_caller_is_told() {
    for upstream in BOTH {
        let app = app(upstream).await;
        let behind = Behind::peer(app.addr(), "allow mesh to * /**\n", " as http").await;
        every_moment(&behind, &app, upstream).await;
    }
}

#[tokio::test]
async fn a_peer_that_resets_before_or_inside_the_handshake_is_told_apart_and_reached_again() {
    let app = TcpApp::banner("hello").await;
    let policy = format!("allow mesh to tcp on {0}\nallow mesh to * /** on 1\n", app.port());
    for rest in [" as http", " as tcp", ""] {
        let behind = Behind::peer(app.addr(), &policy, rest).await;
        // Nothing of the hello arrives; nothing comes back; the server's hello breaks off.
        let phases = [
            (Through { there: 0, back: 0 }, "connect"),
            (Through::back(0), "connect"),
            (Through::back(60), "reset"),
        ];
        for (n, (through, reason)) in phases.into_iter().enumerate() {
            behind.cable.let_through(through);
            let n = n as f64;
            let breaking = async {
                eventually("a connection", async || (behind.cable.connections() as f64 > n).then_some(()))
                    .await;
                let enough = through.there.min(1);
                let passed = |passed: Passed| passed.there >= enough && passed.back == through.back.min(60);
                behind.cable.passed("as much of a handshake", passed).await;
                behind.cable.reset();
            };
            if rest == " as http" {
                let mut client = behind.http(Protocol::Http1).await;
                let request = Request::get("/");
                let (response, ()) = tokio::join!(client.send(&request), breaking);
                failed(&response, reason, &format!("{through:?}"));
            } else {
                let mut io = behind.open(Protocol::Http1).await;
                let (said, ()) = tokio::join!(until_end(&mut io), breaking);
                assert!(said.is_empty(), "{said:?}");
                let labels = [("direction", "outbound"), ("reason", reason)];
                let count = if reason == "connect" { n + 1.0 } else { 1.0 };
                behind.hit().metric_reaches("mantlet_connections_closed_total", &labels, count).await;
            }
            let network = behind.sum("mantlet_upstream_connects_total", &[("result", "error")]).await;
            assert_eq!(network, n + 1.0, "{rest}: {through:?}");
            // The first may be gone before it has begun.
            let broken = [("direction", "outbound"), ("reason", "io")];
            assert!(behind.sum("mantlet_tls_handshakes_total", &broken).await >= n);
        }
        behind.cable.let_through(Through::ALL);
        if rest != " as http" {
            let mut io = behind.open(Protocol::Http1).await;
            assert_eq!(exactly(&mut io, 5).await, b"hello");
        }
    }
}

#[tokio::test]
async fn an_upstream_that_resets_opaque_bytes_ends_the_one_connection_as_reset() {
    let app = TcpApp::banner("hello").await;
    let cable = Cable::to(app.addr()).await;
    let policy = format!("allow mesh to tcp on {}\n", cable.addr().port());
    let inbound = Inbound::start(cable.addr(), &policy).await;
    let behind_app = Behind { inbound, caller: None, cable };
    let policy = format!("allow mesh to tcp on {}\n", app.port());
    let behind_peer = Behind::peer(app.addr(), &policy, " as tcp").await;
    for behind in [behind_app, behind_peer] {
        let open = async || -> Io {
            match &behind.caller {
                None => {
                    let peer = behind.inbound.peer("web/frontend").alpn(&["mantlet-tcp"]);
                    peer.connect(behind.inbound.addr).await.into_io()
                }
                Some(caller) => Box::new(connect(caller.outbound(0).await).await),
            }
        };
        for (n, said) in [(1.0, &b""[..]), (2.0, b"ping")] {
            let mut io = open().await;
            assert_eq!(exactly(&mut io, 5).await, b"hello");
            io.write_all(said).await.unwrap();
            io.flush().await.unwrap();
            exactly(&mut io, said.len()).await;
            behind.cable.reset();
            until_end(&mut io).await;
            let labels = [("direction", behind.side()), ("reason", "reset")];
            behind.hit().metric_reaches("mantlet_connections_closed_total", &labels, n).await;
        }
        assert_eq!(behind.sum("mantlet_connections_active", &[]).await, 0.0);
        assert_eq!(exactly(&mut open().await, 5).await, b"hello");
    }
}
