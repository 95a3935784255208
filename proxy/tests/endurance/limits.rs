//! Peers that want too much, each held to a limit of docs/limits.md, while another is served.

use std::net::SocketAddr;
use std::time::Duration;

use mantlet_testkit::apps::{App, Protocol, Reply};
use mantlet_testkit::client::{Http1, Http2, HttpClient, Request};
use mantlet_testkit::sidecar::{Sidecar, SidecarBuilder};
use mantlet_testkit::{Io, eventually, within};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::common::Inbound;
use crate::frames::{self, CONTINUATION, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, frame, get};

const ALLOW: &str = "allow mesh to * /**\n";

async fn behind(app: SocketAddr, flags: &[(&str, &str)]) -> Inbound {
    let flagged = |sidecar: SidecarBuilder| {
        flags.iter().fold(sidecar.policy(ALLOW), |sidecar, (flag, value)| sidecar.arg(flag, *value))
    };
    Inbound::with(app, flagged).await
}

/// The limit was run into so often, at least.
async fn reached(sidecar: &Sidecar, limit: &str, count: f64) {
    sidecar.metric_reaches("mantlet_limits_reached_total", &[("limit", limit)], count).await;
}

/// So many inbound connections ended for this reason, at least.
async fn closed(sidecar: &Sidecar, reason: &str, count: f64) {
    let labels = [("direction", "inbound"), ("reason", reason)];
    sidecar.metric_reaches("mantlet_connections_closed_total", &labels, count).await;
}

async fn h1(inbound: &Inbound, short: &str) -> Http1 {
    match inbound.http(short, Protocol::Http1).await {
        HttpClient::Http1(client) => client,
        HttpClient::Http2(_) => unreachable!("asked for HTTP/1"),
    }
}

async fn h2(inbound: &Inbound, short: &str) -> Http2 {
    match inbound.http(short, Protocol::H2c).await {
        HttpClient::Http2(client) => client,
        HttpClient::Http1(_) => unreachable!("asked for HTTP/2"),
    }
}

/// A connection of HTTP/2 on which the test writes frames.
async fn h2_frames(inbound: &Inbound) -> Io {
    let mut io = inbound.peer("web/hostile").alpn(&["h2"]).connect(inbound.addr).await.into_io();
    io.write_all(&frames::preface()).await.unwrap();
    io.flush().await.unwrap();
    io
}

/// A bare connection from another address of this host. One that is reset at once fails or ends.
async fn try_from(address: &str, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
    socket.connect(to).await
}

async fn from(address: &str, to: SocketAddr) -> TcpStream {
    try_from(address, to).await.unwrap()
}

/// Whether a bare connection from this address is let in, and not reset.
async fn is_let_in(address: &str, to: SocketAddr) -> bool {
    let Ok(mut io) = try_from(address, to).await else { return false };
    let mut sink = [0; 1];
    tokio::time::timeout(Duration::from_millis(300), io.read(&mut sink)).await.is_err()
}

/// The sidecar has ended this connection.
async fn ended(io: &mut (impl AsyncReadExt + Unpin)) {
    let mut sink = [0; 1024];
    within("the end of a connection", async { while io.read(&mut sink).await.is_ok_and(|n| n > 0) {} }).await;
}

async fn assert_served(inbound: &Inbound) {
    assert_eq!(h1(inbound, "web/other").await.send(&Request::get("/")).await.unwrap().status, 200);
}

#[tokio::test]
async fn an_address_that_holds_too_many_connections_gets_no_more_and_others_do() {
    let app = App::start(Protocol::Http1).await;
    let inbound = behind(app.addr(), &[("--max-connections-per-peer", "4")]).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(from("127.0.0.2", inbound.addr).await);
    }
    for n in 1..=3 {
        if let Ok(mut refused) = try_from("127.0.0.2", inbound.addr).await {
            ended(&mut refused).await;
        }
        reached(&inbound.sidecar, "peer_connections", f64::from(n)).await;
    }
    closed(&inbound.sidecar, "limit", 3.0).await;
    assert_served(&inbound).await;
    held.pop();
    eventually("a place", async || is_let_in("127.0.0.2", inbound.addr).await.then_some(())).await;
}

#[tokio::test]
async fn connections_past_the_limit_wait_and_are_served() {
    let app = App::start(Protocol::Http1).await;
    let flags = [("--max-connections", "3"), ("--workers", "1"), ("--handshake-timeout", "2s")];
    let inbound = behind(app.addr(), &flags).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(from("127.0.0.1", inbound.addr).await);
    }
    // Waits in the kernel's queue until the silent ones have had their time.
    assert_served(&inbound).await;
    reached(&inbound.sidecar, "connections", 1.0).await;
}

#[tokio::test]
async fn requests_past_the_limit_are_refused_and_those_in_flight_finish() {
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let held = gate.clone();
    let app = App::with(Protocol::Http1, move |_| {
        let held = held.clone();
        async move {
            held.acquire().await.unwrap().forget();
            Reply::ok("finished")
        }
    })
    .await;
    let inbound = behind(app.addr(), &[("--max-requests", "2")]).await;
    let mut client = h2(&inbound, "web/frontend").await;
    let mut first = client.open(&Request::get("/"), true).await.unwrap();
    let mut second = client.open(&Request::get("/"), true).await.unwrap();
    app.wait_for_requests(2).await;
    let refused = client.send(&Request::get("/")).await.unwrap();
    assert_eq!((refused.status, refused.error().as_deref()), (503, Some("limit")));
    reached(&inbound.sidecar, "requests", 1.0).await;
    gate.add_permits(3);
    assert_eq!(first.head().await.unwrap().status, 200);
    assert_eq!(second.head().await.unwrap().status, 200);
    drop((first, second));
    eventually("room again", async || {
        (client.send(&Request::get("/")).await.unwrap().status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_sidecar_that_is_short_of_memory_takes_nothing_new() {
    let app = App::start(Protocol::Http1).await;
    let inbound = behind(app.addr(), &[("--max-memory", "1")]).await;
    eventually("a reset", async || (!is_let_in("127.0.0.1", inbound.addr).await).then_some(())).await;
    reached(&inbound.sidecar, "memory", 1.0).await;
    assert_eq!(inbound.sidecar.get("/livez").await.status, 200);
    assert_eq!(app.seen().len(), 0);
}

#[tokio::test]
async fn a_request_is_refused_while_memory_is_short() {
    let app = App::start(Protocol::Http1).await;
    let inbound = behind(app.addr(), &[]).await;
    let caller = crate::common::sidecar().identity(&inbound.authority.workload("web/frontend"));
    let caller = caller.arg("--max-memory", "1").outbound(inbound.addr, "shop/orders as http").start().await;
    let addr = caller.outbound(0).await;
    for protocol in crate::common::BOTH {
        let mut client = HttpClient::plain(addr, protocol).await;
        let refused = eventually("a refusal", async || {
            let response = client.send(&Request::get("/")).await;
            (response.status != 200).then_some(response)
        })
        .await;
        assert_eq!((refused.status, refused.error().as_deref()), (503, Some("limit")), "{protocol:?}");
    }
    reached(&caller, "memory", 2.0).await;
    // Another sidecar's callers are served.
    assert_served(&inbound).await;
}

#[tokio::test]
async fn an_idle_http_1_connection_is_closed_and_others_are_not() {
    let app = App::start(Protocol::Http1).await;
    let inbound = behind(app.addr(), &[("--idle-timeout", "1s")]).await;
    let mut idle = h1(&inbound, "web/frontend").await;
    assert_eq!(idle.send(&Request::get("/")).await.unwrap().status, 200);
    let mut busy = h1(&inbound, "web/other").await;
    let busy = async {
        loop {
            assert_eq!(busy.send(&Request::get("/")).await.unwrap().status, 200);
        }
    };
    tokio::select! {
        rest = idle.closed() => assert_eq!(rest, b""),
        () = busy => {}
    }
    closed(&inbound.sidecar, "eof", 1.0).await;
}

#[tokio::test]
async fn without_descriptors_those_who_are_connected_are_served_and_the_rest_when_there_are_some() {
    let app = App::start(Protocol::H2c).await;
    let inbound = behind(app.addr(), &[]).await;
    let mut client = h2(&inbound, "web/frontend").await;
    let request = Request::get("/").header("x-mantlet-proto", "2");
    assert_eq!(client.send(&request).await.unwrap().status, 200);
    let mut admin = HttpClient::plain(inbound.sidecar.admin().await, Protocol::Http1).await;
    assert_eq!(admin.send(&Request::get("/livez")).await.status, 200);

    let pid = inbound.sidecar.pid().unwrap();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
    let limit = |current| {
        // The sidecar has inherited this process's hard limit, which only root may raise.
        let limit = Rlimit { current: Some(current), maximum: getrlimit(Resource::Nofile).maximum };
        let process = Pid::from_raw(i32::try_from(pid).unwrap());
        prlimit(process, Resource::Nofile, limit)
    };
    let before = limit(open + 4).unwrap();
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(from("127.0.0.3", inbound.addr).await);
    }
    eventually("the shortage to be counted", async || {
        let metrics = admin.send(&Request::get("/metrics")).await.text();
        let counted = metrics.lines().find(|line| line.contains("limit=\"descriptors\""))?;
        (!counted.ends_with(" 0")).then_some(())
    })
    .await;
    for _ in 0..10 {
        assert_eq!(client.send(&request).await.unwrap().status, 200);
    }
    waiting.clear();
    limit(before.current.unwrap_or(1024)).unwrap();
    assert_served_by_h2c(&inbound).await;
    assert_eq!(client.send(&request).await.unwrap().status, 200);
}

async fn assert_served_by_h2c(inbound: &Inbound) {
    let request = Request::get("/").header("x-mantlet-proto", "2");
    assert_eq!(h2(inbound, "web/other").await.send(&request).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let app = App::start(Protocol::Http1).await;
    let inbound = behind(app.addr(), &[("--stall-timeout", "1s")]).await;
    let mut client = h1(&inbound, "web/slow").await;
    client.write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").await.unwrap();
    let response = client.read().await.unwrap();
    assert_eq!((response.status, response.error().as_deref()), (408, Some("timeout")));
    assert_served(&inbound).await;
    closed(&inbound.sidecar, "timeout", 1.0).await;

    let mut client = h2(&inbound, "web/slow").await;
    let mut stream =
        client.open(&Request::new("POST", "/").header("content-length", "10"), false).await.unwrap();
    assert_eq!(stream.head().await.unwrap().status, 408);
    inbound.sidecar.metric_reaches("mantlet_http_requests_total", &[("code", "408")], 2.0).await;
    assert_eq!(client.send(&Request::get("/")).await.unwrap().status, 200, "the connection goes on");
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_given_up() {
    let app = App::with(Protocol::Http1, |seen| async move {
        Reply::ok(if seen.target == "/big" { vec![7; 32 * 1024 * 1024] } else { Vec::new() })
    })
    .await;
    let inbound = behind(app.addr(), &[("--stall-timeout", "1s")]).await;
    let mut client = h1(&inbound, "web/slow").await;
    client.write("GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    closed(&inbound.sidecar, "timeout", 1.0).await;
    assert_served(&inbound).await;
}

#[tokio::test]
async fn an_http_2_head_that_does_not_end_is_given_up() {
    let app = App::start(Protocol::Http1).await;
    let inbound = behind(app.addr(), &[("--header-timeout", "1s")]).await;
    let head = get("/");
    let starts = [
        frame(HEADERS, END_STREAM, 1, &head),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)[..12].to_vec(),
        [frame(HEADERS, END_STREAM, 1, &head), frame(CONTINUATION, 0, 1, &[])].concat(),
    ];
    for (n, start) in starts.iter().enumerate() {
        let mut io = h2_frames(&inbound).await;
        io.write_all(start).await.unwrap();
        io.flush().await.unwrap();
        ended(&mut io).await;
        closed(&inbound.sidecar, "timeout", n as f64 + 1.0).await;
    }
    assert_served(&inbound).await;
    assert_eq!(app.seen().len(), 1);
}

#[tokio::test]
async fn an_idle_http_2_connection_is_ended_in_order() {
    let app = App::start(Protocol::Http1).await;
    let inbound = behind(app.addr(), &[("--idle-timeout", "1s")]).await;
    let mut client = h2(&inbound, "web/frontend").await;
    assert_eq!(client.send(&Request::get("/")).await.unwrap().status, 200);
    client.ended().await;
    closed(&inbound.sidecar, "eof", 1.0).await;
}

#[tokio::test]
async fn window_updates_without_reason_end_the_connection() {
    const WINDOW_UPDATE: u8 = 8;
    let app = App::start(Protocol::Http1).await;
    let inbound = behind(app.addr(), &[]).await;
    let mut io = h2_frames(&inbound).await;
    let flood = frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()).repeat(10_000);
    let (end, ()) = tokio::join!(frames::flood(&mut io, &flood, |_| false), assert_served(&inbound));
    assert!(end.closed || end.goaway.is_some(), "{end:?}");
    reached(&inbound.sidecar, "frames", 1.0).await;
    closed(&inbound.sidecar, "limit", 1.0).await;
}

#[tokio::test]
async fn streams_that_are_opened_only_to_be_reset_end_the_connection_however_slowly_they_come() {
    let app = App::start(Protocol::Http1).await;
    let inbound = behind(app.addr(), &[]).await;
    let mut io = h2_frames(&inbound).await;
    // Each in a write of its own, so that every one is looked at before it is reset.
    let hostile = async {
        for stream in (0..5_000).map(|n| 2 * n + 1) {
            let head = frame(HEADERS, END_HEADERS | END_STREAM, stream, &get("/"));
            let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
            if io.write_all(&head).await.is_err() || io.flush().await.is_err() {
                return true;
            }
            if io.write_all(&reset).await.is_err() || io.flush().await.is_err() {
                return true;
            }
        }
        false
    };
    let (cut, ()) = tokio::join!(within("the connection to be cut", hostile), assert_served(&inbound));
    assert!(cut);
    closed(&inbound.sidecar, "limit", 1.0).await;
    assert!(app.seen().len() < 1000, "{} requests reached the app", app.seen().len());
}

#[tokio::test]
async fn streams_that_are_reset_once_they_are_answered_end_the_connection_by_their_rate() {
    /// Fewer than may be reset before anybody has looked at them.
    const AT_ONCE: u32 = 50;
    let app = App::with(Protocol::Http1, |_| async { Reply::open("first") }).await;
    let inbound = behind(app.addr(), &[]).await;
    let mut io = h2_frames(&inbound).await;
    let mut next = 1;
    let hostile = async {
        loop {
            let streams: Vec<u32> = (0..AT_ONCE).map(|n| next + 2 * n).collect();
            next += 2 * AT_ONCE;
            let heads: Vec<u8> = streams
                .iter()
                .flat_map(|stream| frame(HEADERS, END_HEADERS | END_STREAM, *stream, &get("/")))
                .collect();
            let end = frames::flood(&mut io, &heads, |end| end.heads.len() == AT_ONCE as usize).await;
            if end.closed || end.goaway.is_some() {
                return;
            }
            let resets: Vec<u8> = streams
                .iter()
                .flat_map(|stream| frame(RST_STREAM, 0, *stream, &8_u32.to_be_bytes()))
                .collect();
            if io.write_all(&resets).await.is_err() || io.flush().await.is_err() {
                return;
            }
        }
    };
    within("the connection to be cut", hostile).await;
    reached(&inbound.sidecar, "resets", 1.0).await;
    closed(&inbound.sidecar, "limit", 1.0).await;
    let mut other = h1(&inbound, "web/other").await;
    other.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(other.read_head().await.unwrap().status, 200);
}

#[tokio::test]
async fn an_app_that_gives_up_on_a_third_of_its_requests_hurts_nobody_on_its_connection() {
    let app = App::start(Protocol::Http1).await;
    let inbound = behind(app.addr(), &[]).await;
    let mut client = h2(&inbound, "web/frontend").await;
    for _ in 0..100 {
        let mut streams = Vec::new();
        for _ in 0..15 {
            streams.push(client.open(&Request::get("/"), true).await.unwrap());
        }
        // Dropped without an answer: reset.
        streams.truncate(10);
        for mut stream in streams {
            assert_eq!(stream.head().await.unwrap().status, 200);
        }
    }
    let metrics = inbound.sidecar.metrics().await;
    assert_eq!(metrics.sum("mantlet_limits_reached_total", &[]), 0.0);
    assert_eq!(metrics.sum("mantlet_connections_closed_total", &[]), 0.0);
}

#[tokio::test]
async fn what_an_app_gave_up_on_while_the_sidecar_stood_still_costs_it_nothing() {
    // 0.2 s of 1 000 requests in a second, as many as may be open, and 300 resets in a second.
    const GIVEN_UP: u32 = 60;
    const KEPT: u32 = 90;
    let app = App::start(Protocol::Http1).await;
    let inbound = behind(app.addr(), &[]).await;
    let mut io = h2_frames(&inbound).await;
    let mut burst = Vec::new();
    for n in 0..GIVEN_UP + KEPT {
        burst.extend(frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &get("/")));
        if n < GIVEN_UP {
            burst.extend(frame(RST_STREAM, 0, 2 * n + 1, &8_u32.to_be_bytes()));
        }
    }
    assert!(burst.len() < 16 * 1024, "one TLS record, so that it is one read");
    let end = frames::flood(&mut io, &burst, |end| end.heads.len() == KEPT as usize).await;
    assert_eq!((end.goaway, end.heads.len()), (None, KEPT as usize), "{end:?}");
    let metrics = inbound.sidecar.metrics().await;
    assert_eq!(metrics.sum("mantlet_limits_reached_total", &[]), 0.0);
    assert_eq!(metrics.sum("mantlet_connections_closed_total", &[]), 0.0);
}

#[tokio::test]
async fn streams_past_the_limit_are_refused_and_those_who_insist_are_cut() {
    let app = App::with(Protocol::Http1, |_| std::future::pending::<Reply>()).await;
    let inbound = behind(app.addr(), &[]).await;
    let mut io = h2_frames(&inbound).await;
    let open = |n: u32| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &get("/"));
    let some: Vec<u8> = (0..150).flat_map(open).collect();
    let end = frames::flood(&mut io, &some, |end| end.resets.len() == 50).await;
    assert_eq!((end.resets.len(), end.goaway), (50, None));
    assert!(end.resets.iter().all(|code| *code == 7), "REFUSED_STREAM: {:?}", end.resets);
    app.wait_for_requests(100).await;
    let more: Vec<u8> = (150..1_000).flat_map(open).collect();
    let end = frames::flood(&mut io, &more, |_| false).await;
    assert_eq!(end.goaway, Some(frames::ENHANCE_YOUR_CALM));
    assert_eq!(app.seen().len(), 100);
    drop(io);
    reached(&inbound.sidecar, "http2", 1.0).await;
    closed(&inbound.sidecar, "limit", 1.0).await;
}
