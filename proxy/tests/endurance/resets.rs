//! Connections that are reset by whoever opened them, at every moment of their lives and in both directions: each is
//! counted as that, what it had is given back, and the connection beside it goes on.

use std::collections::BTreeMap;
use std::future::pending;

use mantlet_testkit::apps::{App, Protocol, Reply, TcpApp};
use mantlet_testkit::cable::{Cable, Through};
use mantlet_testkit::client::{Http1, Http2, HttpClient, Request, connect, exactly};
use mantlet_testkit::sidecar::{Sidecar, SidecarBuilder};
use mantlet_testkit::{Io, eventually};
use tokio::io::AsyncWriteExt;

use crate::common::{Inbound, sidecar};
use crate::frames::{self, HEADERS, frame, get};

/// Fewer places than there are resets: each that is not given back is missed.
const PLACES: &str = "3";

/// On which side of the sidecar the connections are that are reset.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Inbound,
    Outbound,
}

/// A sidecar, a cable to it that breaks, and a connection beside it that must not notice.
struct Way {
    side: Side,
    inbound: Inbound,
    caller: Option<Sidecar>,
    cable: Cable,
    ended: BTreeMap<String, f64>,
}

/// What the application does; `/held` is never answered, and `/open` does not end.
pub(crate) async fn app(protocol: Protocol) -> App {
    App::with(protocol, |seen| async move {
        match seen.target.as_str() {
            "/held" => pending().await,
            "/open" => Reply::open("first"),
            _ => Reply::ok("hello"),
        }
    })
    .await
}

// === impl Side ===

impl Side {
    const BOTH: [Self; 2] = [Self::Inbound, Self::Outbound];

    fn word(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

// === impl Way ===

impl Way {
    async fn to(side: Side, app: std::net::SocketAddr, policy: &str, rest: &str) -> Self {
        let few = |sidecar: SidecarBuilder| sidecar.arg("--max-connections", PLACES);
        if side == Side::Inbound {
            let inbound = Inbound::with(app, |sidecar| few(sidecar.policy(policy))).await;
            let cable = Cable::to(inbound.addr).await;
            return Self { side, inbound, caller: None, cable, ended: BTreeMap::new() };
        }
        let inbound = Inbound::start(app, policy).await;
        let caller = few(sidecar()).identity(&inbound.authority.workload("web/frontend"));
        let caller = caller.outbound(inbound.addr, &format!("shop/orders{rest}")).start().await;
        let cable = Cable::to(caller.outbound(0).await).await;
        Self { side, inbound, caller: Some(caller), cable, ended: BTreeMap::new() }
    }

    /// The sidecar whose connections are reset.
    fn hit(&self) -> &Sidecar {
        self.caller.as_ref().unwrap_or(&self.inbound.sidecar)
    }

    /// A connection over the cable.
    async fn open(&self, alpn: &str) -> Io {
        match self.side {
            Side::Inbound => {
                self.inbound.peer("web/frontend").alpn(&[alpn]).connect(self.cable.addr()).await.into_io()
            }
            Side::Outbound => Box::new(connect(self.cable.addr()).await),
        }
    }

    /// A connection past the cable.
    async fn beside(&self, alpn: &str) -> Io {
        match &self.caller {
            None => self.inbound.peer("web/other").alpn(&[alpn]).connect(self.inbound.addr).await.into_io(),
            Some(caller) => Box::new(connect(caller.outbound(0).await).await),
        }
    }

    async fn ended(&self) -> BTreeMap<String, f64> {
        let metrics = self.hit().metrics().await;
        let name = "mantlet_connections_closed_total";
        let of = |reason: &String| metrics.sum(name, &[("direction", self.side.word()), ("reason", reason)]);
        metrics.values(name, "reason").into_iter().map(|reason| (of(&reason), reason)).fold(
            BTreeMap::new(),
            |mut all, (count, reason)| {
                all.insert(reason, count);
                all
            },
        )
    }

    /// Breaks the cable: one connection has ended by then, as `reason` says.
    async fn breaks(&mut self, reason: &str, when: &str) {
        self.cable.reset();
        let total = |ended: &BTreeMap<String, f64>| ended.values().sum::<f64>();
        let now = eventually(format!("the end of a connection that was reset {when}"), async || {
            let now = self.ended().await;
            (total(&now) > total(&self.ended)).then_some(now)
        })
        .await;
        self.ended.entry(reason.to_owned()).and_modify(|count| *count += 1.0);
        assert_eq!(now, self.ended, "{:?}, reset {when}", self.side);
    }

    /// Nothing is left but the connection beside.
    async fn settles(&self) {
        let left = [
            ("mantlet_connections_active", 1.0),
            ("mantlet_http_requests_in_flight", 0.0),
            ("mantlet_upstream_pool_connections", 0.0),
        ];
        eventually("what was reset to be given back", async || {
            let metrics = self.hit().metrics().await;
            let labels = |name| match name {
                "mantlet_connections_active" => [("direction", self.side.word())],
                "mantlet_http_requests_in_flight" => [("direction", self.side.word())],
                _ => [("state", "busy")],
            };
            left.iter().all(|(name, count)| metrics.sum(name, &labels(name)) == *count).then_some(())
        })
        .await;
    }
}

async fn ask(beside: &mut HttpClient) {
    let response = beside.send(&Request::get("/")).await;
    assert_eq!((response.status, response.error()), (200, None));
}

#[tokio::test]
async fn a_peer_that_resets_before_or_inside_the_handshake_is_counted_as_reset() {
    let app = app(Protocol::Http1).await;
    let mut way = Way::to(Side::Inbound, app.addr(), "allow mesh to * /**\n", "").await;
    let mut beside = HttpClient::over(way.beside("http/1.1").await, Protocol::Http1).await;
    way.ended = way.ended().await;
    let _whole = way.open("http/1.1").await;
    let hello = way.cable.passed("the server's answer", |passed| passed.back > 0).await.greeting;
    way.cable.read().await;
    way.breaks("reset", "after it").await;

    for (there, when) in [
        (1, "after a byte"),
        (hello / 2, "in the middle of the hello"),
        (hello, "after the hello"),
        (hello + 60, "in the middle of its certificate"),
    ] {
        way.cable.let_through(Through::there(there));
        let peer = way.inbound.peer("web/frontend").alpn(&["http/1.1"]);
        let (number, addr) = (way.cable.connections() + 1, way.cable.addr());
        let broken = tokio::spawn(async move { peer.handshake(addr).await.map(drop) });
        eventually("a connection", async || (way.cable.connections() == number).then_some(())).await;
        way.cable.passed(when, |passed| passed.there == there && (passed.back > 0 || there < hello)).await;
        way.cable.read().await;
        way.breaks("reset", when).await;
        // A client of TLS 1.3 is done once it has spoken.
        let _ = broken.await.unwrap();
        ask(&mut beside).await;
    }

    // Who resets before the sidecar has so much as looked was never there.
    let refused = eventually("a reset without a byte to be counted", async || {
        let _io = connect(way.cable.addr()).await;
        way.cable.read().await;
        way.cable.reset();
        let now = way.ended().await;
        (now["reset"] > way.ended["reset"]).then_some(now)
    })
    .await;
    let others = |ended: &BTreeMap<String, f64>| ended.values().sum::<f64>() - ended["reset"];
    assert_eq!(others(&refused), others(&way.ended));
    ask(&mut beside).await;
    way.settles().await;
}

#[tokio::test]
async fn a_look_at_the_port_without_a_word_is_counted_as_its_end() {
    let app = app(Protocol::Http1).await;
    let way = Way::to(Side::Inbound, app.addr(), "allow mesh to * /**\n", "").await;
    let before = way.ended().await;
    drop(connect(way.inbound.addr).await);
    let now = eventually("its end", async || {
        let now = way.ended().await;
        (now != before).then_some(now)
    })
    .await;
    assert_eq!(now["eof"], before["eof"] + 1.0);
}

#[tokio::test]
async fn a_caller_that_resets_at_any_moment_of_http_1_is_counted_as_reset() {
    for side in Side::BOTH {
        let app = app(Protocol::Http1).await;
        let mut way = Way::to(side, app.addr(), "allow mesh to * /**\n", " as http").await;
        let mut beside = HttpClient::over(way.beside("http/1.1").await, Protocol::Http1).await;
        ask(&mut beside).await;
        way.ended = way.ended().await;

        for (said, when) in [("", "before a byte"), ("GET / HTTP/1.1\r\nHo", "in a head")] {
            let mut io = way.open("http/1.1").await;
            io.write_all(said.as_bytes()).await.unwrap();
            io.flush().await.unwrap();
            way.cable.read().await;
            way.breaks("reset", when).await;
            ask(&mut beside).await;
        }

        let mut io = Http1::new(way.open("http/1.1").await);
        io.write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").await.unwrap();
        let in_flight = ("mantlet_http_requests_in_flight", [("direction", side.word())]);
        way.hit().metric_reaches(in_flight.0, &in_flight.1, 1.0).await;
        way.breaks("reset", "in a body").await;
        ask(&mut beside).await;

        let mut io = Http1::new(way.open("http/1.1").await);
        io.write("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        app.wait_for_requests(app.seen().len() + 1).await;
        way.breaks("reset", "before the answer").await;
        ask(&mut beside).await;

        let mut io = Http1::new(way.open("http/1.1").await);
        io.write("GET /open HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert_eq!(io.read_head().await.unwrap().status, 200);
        let cut = app.cut();
        way.breaks("reset", "while the answer came").await;
        app.wait_for_cut(cut + 1).await;
        ask(&mut beside).await;

        let mut io = Http1::new(way.open("http/1.1").await);
        assert_eq!(io.send(&Request::get("/")).await.unwrap().status, 200);
        way.breaks("reset", "between two requests").await;
        ask(&mut beside).await;
        way.settles().await;
    }
}

#[tokio::test]
async fn a_caller_that_resets_at_any_moment_of_http_2_is_counted_as_reset() {
    for side in Side::BOTH {
        // The version that the caller's app speaks reaches the other app; a peer that is no Mantlet says nothing of it.
        let app = app(if side == Side::Inbound { Protocol::Http1 } else { Protocol::H2c }).await;
        let mut way = Way::to(side, app.addr(), "allow mesh to * /**\n", " as http").await;
        let mut beside = HttpClient::over(way.beside("h2").await, Protocol::H2c).await;
        ask(&mut beside).await;
        way.ended = way.ended().await;

        let preface = frames::preface();
        let head = [&preface[..], &frame(HEADERS, 0, 1, &get("/"))].concat();
        let started =
            [(&[][..], "before a byte"), (&preface[..12], "in the preface"), (&head[..], "in a head")];
        for (said, when) in started {
            let mut io = way.open("h2").await;
            io.write_all(said).await.unwrap();
            io.flush().await.unwrap();
            way.cable.read().await;
            way.breaks("reset", when).await;
            ask(&mut beside).await;
        }

        let mut client = Http2::new(way.open("h2").await).await.unwrap();
        let upload = Request::new("POST", "/").header("content-length", "10");
        let mut stream = client.open(&upload, false).await.unwrap();
        stream.body.send_data("half".into(), false).unwrap();
        let in_flight = ("mantlet_http_requests_in_flight", [("direction", side.word())]);
        way.hit().metric_reaches(in_flight.0, &in_flight.1, 1.0).await;
        way.breaks("reset", "in a body").await;
        ask(&mut beside).await;

        let mut client = Http2::new(way.open("h2").await).await.unwrap();
        let _stream = client.open(&Request::get("/held"), true).await.unwrap();
        app.wait_for_requests(app.seen().len() + 1).await;
        way.breaks("reset", "before the answer").await;
        ask(&mut beside).await;

        let mut client = Http2::new(way.open("h2").await).await.unwrap();
        let mut stream = client.open(&Request::get("/open"), true).await.unwrap();
        assert_eq!(stream.head().await.unwrap().status, 200);
        let cut = app.cut();
        way.breaks("reset", "while the answer came").await;
        app.wait_for_cut(cut + 1).await;
        ask(&mut beside).await;

        let mut client = Http2::new(way.open("h2").await).await.unwrap();
        assert_eq!(client.send(&Request::get("/")).await.unwrap().status, 200);
        way.breaks("reset", "between two requests").await;
        ask(&mut beside).await;
        way.settles().await;
    }
}

#[tokio::test]
async fn a_caller_that_resets_opaque_bytes_is_counted_as_reset_and_so_is_its_app() {
    for side in Side::BOTH {
        let app = TcpApp::banner("hello").await;
        let policy = format!("allow mesh to tcp on {}\n", app.port());
        let mut way = Way::to(side, app.addr(), &policy, " as tcp").await;
        let mut beside = way.beside("mantlet-tcp").await;
        assert_eq!(exactly(&mut beside, 5).await, b"hello");
        way.ended = way.ended().await;
        for (said, when) in [(&b""[..], "while the server spoke"), (b"ping", "while both spoke")] {
            let mut io = way.open("mantlet-tcp").await;
            assert_eq!(exactly(&mut io, 5).await, b"hello");
            io.write_all(said).await.unwrap();
            io.flush().await.unwrap();
            exactly(&mut io, said.len()).await;
            way.breaks("reset", when).await;
            beside.write_all(b"ping").await.unwrap();
            beside.flush().await.unwrap();
            assert_eq!(exactly(&mut beside, 4).await, b"ping");
        }
        app.wait_for_closed(2).await;
        way.settles().await;
    }
}
