//! Streams that nobody reads, on one connection of HTTP/2 beside one that somebody does.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use mantlet_testkit::sidecar::Sidecar;
use mantlet_testkit::{Io, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::common::Inbound;
use crate::memory::Memory;

const ALLOW: &str = "allow mesh to * /**\n";
/// Of the hundred streams that a connection may have.
const STALLED: usize = 99;
/// What a sidecar may hold for them all.
const ALLOWANCE: u64 = 8 * 1024 * 1024;
/// What they may delay the hundredth.
const DELAY: Duration = Duration::from_millis(50);
/// More than the sockets and windows between sender and receiver take together.
const BODY: usize = 8 * 1024 * 1024;
static DATA: [u8; BODY] = [7; BODY];

/// Who does not read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stall {
    /// The application leaves the bodies of requests where they are.
    Application,
    /// The client takes the heads of responses and leaves their bodies.
    Client,
    /// Nobody: there are no bodies, and no answers either.
    Nobody,
}

/// Whose connection the stalled streams share.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Side {
    /// That of a peer with the sidecar of the application that it calls.
    Inbound,
    /// That of an application with its own sidecar; which has two to the peer, for so many streams.
    Outbound,
}

/// What the application speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum App {
    Http1,
    H2c,
}

/// One connection of HTTP/2 with its stalled streams.
struct Streams {
    sender: SendRequest<Bytes>,
    proto: &'static str,
    stalled: Vec<(Option<RecvStream>, SendStream<Bytes>, Option<ResponseFuture>)>,
}

/// Answers `GET /` at once and `GET /big` with a body without end; reads no body and answers nothing else.
async fn app(speaks: App) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (io, _) = listener.accept().await.unwrap();
            io.set_nodelay(true).unwrap();
            match speaks {
                App::Http1 => tokio::spawn(serve_h1(io)),
                App::H2c => tokio::spawn(serve_h2(io)),
            };
        }
    });
    addr
}

async fn serve_h1(mut io: TcpStream) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match io.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let length = if head.starts_with(b"GET /big") { BODY } else { 0 };
        if !head.starts_with(b"GET") {
            std::future::pending::<()>().await;
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        if io.write_all(answer.as_bytes()).await.is_err() || io.write_all(&DATA[..length]).await.is_err() {
            return;
        }
    }
}

async fn serve_h2(io: TcpStream) {
    // One stalled stream of an application must not use up the window of its connection.
    let settings = h2::server::Builder::new().initial_connection_window_size(1 << 30).clone();
    let mut server = settings.handshake::<_, Bytes>(io).await.unwrap();
    let mut open = Vec::new();
    while let Some(Ok((request, mut respond))) = server.accept().await {
        let body = (request.method() == "GET").then(|| {
            let big = request.uri().path() == "/big";
            let mut body = respond.send_response(http::Response::new(()), !big).unwrap();
            if big {
                body.send_data(Bytes::from_static(&DATA), true).unwrap();
            }
            body
        });
        open.push((request, respond, body));
    }
}

// === impl Streams ===

impl Streams {
    async fn new(io: Io, speaks: App) -> Self {
        let handshake = h2::client::Builder::new().initial_connection_window_size(1 << 30).handshake(io);
        let (sender, connection) = within("the preface", handshake).await.unwrap();
        tokio::spawn(connection);
        let proto = if speaks == App::H2c { "2" } else { "1.1" };
        let mut streams = Self { sender, proto, stalled: Vec::new() };
        streams.beside().await;
        streams
    }

    async fn stall(&mut self, stall: Stall) {
        for _ in 0..STALLED {
            let stream = match stall {
                Stall::Application => {
                    let (response, mut send) = self.request("PUT", "/", false).await;
                    send.send_data(Bytes::from_static(&DATA), true).unwrap();
                    (None, send, Some(response))
                }
                Stall::Nobody => {
                    let (response, send) = self.request("PUT", "/", true).await;
                    (None, send, Some(response))
                }
                Stall::Client => {
                    let (response, send) = self.request("GET", "/big", true).await;
                    (Some(within("a head", response).await.unwrap().into_body()), send, None)
                }
            };
            self.stalled.push(stream);
        }
    }

    async fn request(&mut self, method: &str, path: &str, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let request = http::Request::builder().method(method).uri(format!("http://app.test{path}"));
        let request = request.header("x-mantlet-proto", self.proto).body(()).unwrap();
        let ready = std::future::poll_fn(|cx| self.sender.poll_ready(cx));
        within("room for a stream", ready).await.unwrap();
        self.sender.send_request(request, end).unwrap()
    }

    /// How long a request takes that everybody reads.
    async fn beside(&mut self) -> Duration {
        let begun = Instant::now();
        let (response, _) = self.request("GET", "/", true).await;
        assert_eq!(within("an answer", response).await.unwrap().status(), 200);
        begun.elapsed()
    }
}

/// Waits until nothing moves any more, and says how much more memory the sidecar has than before.
async fn settled(sidecar: &Sidecar, before: Memory) -> u64 {
    let mut last = None;
    eventually("nothing to move any more", async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let moved = sidecar.metrics().await.sum("mantlet_connection_bytes_total", &[]);
        let now = Some((moved, Memory::of(sidecar).since(before)));
        let calm = now == last;
        last = now;
        last.filter(|_| calm).map(|(_, grown)| grown)
    })
    .await
}

async fn stalled_streams(side: Side, speaks: App, stall: Stall) {
    let inbound = Inbound::start(app(speaks).await, ALLOW).await;
    let (caller, addr) = inbound.caller("web/frontend", " as http").await;
    let (sidecar, io): (_, Io) = match side {
        Side::Inbound => {
            let peer = inbound.peer("web/frontend").alpn(&["h2"]);
            (&inbound.sidecar, peer.connect(inbound.addr).await.into_io())
        }
        Side::Outbound => (&caller, Box::new(mantlet_testkit::client::connect(addr).await)),
    };
    let mut streams = Streams::new(io, speaks).await;
    // What as many requests at once take anyhow, the sidecar has by then.
    let idle = Memory::of(sidecar);
    streams.stall(Stall::Nobody).await;
    streams.beside().await;
    streams.stalled.clear();
    let taken = settled(sidecar, idle).await;
    let before = Memory::of(sidecar);
    streams.stall(stall).await;
    let grown = settled(sidecar, before).await;
    let mut best = Duration::MAX;
    for _ in 0..20 {
        best = best.min(streams.beside().await);
    }
    eprintln!(
        "{side:?}, {speaks:?}, stalled by the {stall:?}: {} KiB, {best:?}; {} KiB without bodies",
        grown / 1024,
        taken / 1024
    );
    assert!(grown <= ALLOWANCE, "{speaks:?}, stalled by the {stall:?}: {} KiB more", grown / 1024);
    // A stall delays every one of them; a busy machine does not.
    assert!(best < DELAY, "{speaks:?}, stalled by the {stall:?}: {best:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ninety_nine_requests_that_an_app_does_not_read_delay_nobody_and_cost_at_most_eight_mebibytes() {
    stalled_streams(Side::Inbound, App::Http1, Stall::Application).await;
    stalled_streams(Side::Inbound, App::H2c, Stall::Application).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ninety_nine_responses_that_a_client_does_not_read_delay_nobody_and_cost_at_most_eight_mebibytes() {
    stalled_streams(Side::Inbound, App::Http1, Stall::Client).await;
    stalled_streams(Side::Inbound, App::H2c, Stall::Client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ninety_nine_stalled_streams_of_an_app_cost_its_own_sidecar_at_most_eight_mebibytes() {
    stalled_streams(Side::Outbound, App::H2c, Stall::Application).await;
    stalled_streams(Side::Outbound, App::H2c, Stall::Client).await;
}
