//! D31-D37: nobody else pays for a peer that floods.

use std::time::Duration;

use mantlet_testkit::client::{Http1, Request, connect, exactly};
use mantlet_testkit::{Io, descriptors, eventually, within};
use tokio::io::AsyncWriteExt;

use crate::fixture::Fixture;
use crate::frames::{
    self, CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, frame, get,
};

/// An HTTP/2 connection to the HTTP port on which the test writes frames.
async fn h2_frames(f: &Fixture, short: &str) -> Io {
    let session = f.peer(short).alpn(&["h2"]).connect(f.http_addr).await;
    let mut io = session.into_io();
    io.write_all(&frames::preface()).await.unwrap();
    io.flush().await.unwrap();
    io
}

/// Another peer is served while and after the flood.
async fn assert_served(f: &Fixture) {
    let response = f.h2("web/bff").await.send(&Request::get("/orders/1")).await.unwrap();
    assert_eq!(response.status, 200);
}

/// So many limits were run into, and as many connections ended for it.
async fn counted(f: &Fixture, limits: &[&str], count: f64) {
    let closed = [("direction", "inbound"), ("reason", "limit")];
    f.sidecar.metric_reaches("mantlet_connections_closed_total", &closed, count).await;
    let metrics = f.sidecar.metrics().await;
    let sum = |limit: &&str| metrics.sum("mantlet_limits_reached_total", &[("limit", limit)]);
    assert_eq!(limits.iter().map(sum).sum::<f64>(), count, "{limits:?}");
}

/// `count` streams that are opened and reset at once.
fn rapid_resets(count: u32) -> Vec<u8> {
    let mut flood = Vec::new();
    for stream in (0..count).map(|n| 2 * n + 1) {
        flood.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &get("/orders/1")));
        flood.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    flood
}

#[tokio::test]
async fn d31_rapid_resets_end_the_connection() {
    let f = Fixture::start().await;
    let mut io = h2_frames(&f, "ops/dev").await;
    let flood = rapid_resets(10_000);
    let (end, ()) = tokio::join!(frames::flood(&mut io, &flood, |_| false), assert_served(&f));
    let goaway = end.goaway.expect("GOAWAY");
    assert_eq!(goaway, frames::ENHANCE_YOUR_CALM);
    assert!(f.app.seen().len() < 1000, "{} requests reached the app", f.app.seen().len());
    drop(io);
    counted(&f, &["http2"], 1.0).await;
    assert_served(&f).await;
}

/// Others may wait twice as long as they do without the flood. A neighbour whose connection is full of
/// ordinary requests takes half of the sidecar from them, and no more: so a flood may cost no more work
/// than such a neighbour. Work is counted, because a stopwatch on a shared machine measures the machine.
#[tokio::test]
async fn d31_a_flood_of_resets_costs_no_more_than_a_connection_of_ordinary_requests() {
    /// Streams that an ordinary peer may have open at once.
    const STREAMS: u32 = 100;
    const FLOODS: u32 = 20;
    let f = Fixture::start().await;
    let (mut bystander, read) = (f.h2("web/bff").await, Request::get("/orders/1"));
    let mut sent = 0;
    for _ in 0..FLOODS {
        let mut io = h2_frames(&f, "ops/dev").await;
        let resets = rapid_resets(10_000);
        let flood = frames::flood(&mut io, &resets, |_| false);
        let mut flood = std::pin::pin!(flood);
        let end = loop {
            sent += 1;
            tokio::select! {
                end = &mut flood => break end,
                response = bystander.send(&read) => assert_eq!(response.unwrap().status, 200),
            }
        };
        assert_eq!(end.goaway, Some(frames::ENHANCE_YOUR_CALM));
        assert!(end.last_stream <= 2 * STREAMS, "{} streams were looked at", end.last_stream.div_ceil(2));
        sent += 1;
        assert_eq!(bystander.send(&read).await.unwrap().status, 200);
    }
    let judged = f.decided_by("ops").await;
    assert!(judged <= f64::from(FLOODS * STREAMS), "{judged} requests of the floods were judged");
    let app = f.app.seen().len();
    let most = sent + (FLOODS * STREAMS) as usize;
    assert!(app <= most, "{app} requests reached the app, {sent} were meant to");
}

#[tokio::test]
async fn d32_endless_continuation_ends_the_connection_and_costs_no_memory() {
    let f = Fixture::start().await;
    assert_served(&f).await;
    let before = frames::resident_kib(&f.sidecar);
    let mut io = h2_frames(&f, "web/bff").await;
    let mut flood = frame(HEADERS, 0, 1, &get("/orders/1"));
    // A field that never ends its block: 0x00 = literal without indexing.
    let field = [&[0, 1, b'a', 0x7f, 0x81, 0x7d][..], &[b'v'; 16_000]].concat();
    for _ in 0..2_000 {
        flood.extend(frame(CONTINUATION, 0, 1, &field));
    }
    let end = frames::flood(&mut io, &flood, |_| false).await;
    assert!(end.closed || end.goaway.is_some(), "{end:?}");
    drop(io);
    let protocol = [("direction", "inbound"), ("reason", "protocol")];
    f.sidecar.metric_reaches("mantlet_connections_closed_total", &protocol, 1.0).await;
    // Frames that are small instead of large.
    let mut io = h2_frames(&f, "web/bff").await;
    let flood =
        [frame(HEADERS, 0, 1, &get("/orders/1")), frame(CONTINUATION, 0, 1, &[]).repeat(100_000)].concat();
    let end = frames::flood(&mut io, &flood, |_| false).await;
    assert_eq!(end.goaway, Some(frames::ENHANCE_YOUR_CALM), "{end:?}");
    drop(io);
    counted(&f, &["http2"], 1.0).await;
    let grown = frames::resident_kib(&f.sidecar).saturating_sub(before);
    assert!(grown <= 8 * 1024, "{grown} KiB more");
    assert_served(&f).await;
    assert_eq!(f.app.seen().len(), 2);
}

#[tokio::test]
async fn d33_repeated_table_entries_are_counted_as_what_they_decode_to() {
    let f = Fixture::start().await;
    assert_served(&f).await;
    let before = frames::resident_kib(&f.sidecar);
    let mut io = h2_frames(&f, "web/bff").await;
    // `cookie` (static entry 32) with 3000 bytes, entered into the dynamic table, then named 4000 times.
    let mut block = get("/orders/1");
    block.extend([0x40 | 32, 0x7f, 0xb9, 0x16]);
    block.extend([b'c'; 3000]);
    block.extend([0xbe; 4000]);
    let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block);
    let end = frames::flood(&mut io, &head, frames::End::refused).await;
    assert!(end.refused(), "{end:?}");
    let grown = frames::resident_kib(&f.sidecar).saturating_sub(before);
    assert!(grown <= 16 * 1024, "{grown} KiB more");
    assert_served(&f).await;
    assert_eq!(f.app.seen().len(), 2);
}

#[tokio::test]
async fn d36_silent_connections_are_closed_and_hinder_no_handshake() {
    /// Descriptors for everything else that this process does meanwhile.
    const OTHERS: usize = 500;
    let room = descriptors::raise();
    let count = room.saturating_sub(OTHERS).clamp(300, 5000);
    if count < 5000 {
        eprintln!("{count} instead of 5000 connections: the limit of descriptors is {room} (ulimit -Hn)");
    }
    let f = Fixture::with("", |sidecar| sidecar.arg("--max-connections-per-peer", "10000")).await;
    assert_served(&f).await;
    let before = frames::resident_kib(&f.sidecar);
    let mut silent = Vec::new();
    for _ in 0..count {
        silent.push(Http1::new(Box::new(connect(f.http_addr).await)));
    }
    let descriptors = format!("/proc/{}/fd", f.sidecar.pid().unwrap());
    let open = || std::fs::read_dir(&descriptors).unwrap().count();
    eventually("all of them to be accepted", async || (open() >= count).then_some(())).await;
    let grown = frames::resident_kib(&f.sidecar).saturating_sub(before);
    // A little for the allocator, which takes memory in pieces.
    assert!(grown <= 4 * count as u64 + 4096, "{grown} KiB for {count} connections");
    assert_served(&f).await;
    for mut client in silent {
        assert_eq!(client.closed().await, b"");
    }
    let timeout = [("direction", "inbound"), ("reason", "timeout")];
    f.sidecar.metric_reaches("mantlet_tls_handshakes_total", &timeout, count as f64).await;
}

#[tokio::test]
async fn one_ping_is_answered_and_no_flood() {
    let f = Fixture::start().await;
    let mut io = h2_frames(&f, "web/bff").await;
    io.write_all(&frame(PING, 0, 0, b"12345678")).await.unwrap();
    io.flush().await.unwrap();
    let pong = async {
        loop {
            let head = exactly(&mut io, 9).await;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let payload = exactly(&mut io, length).await;
            if head[3] == PING {
                return (head[4], payload);
            }
            assert_ne!(head[3], GOAWAY);
        }
    };
    assert_eq!(within("the answer to a PING", pong).await, (1, b"12345678".to_vec()));
}

#[tokio::test]
async fn d34_101_header_fields_are_too_many() {
    let f = Fixture::start().await;
    let fields: Vec<_> = (0..100).map(|n| format!("x-{n}: a\r\n")).collect();
    let request =
        |count: usize| format!("GET /orders/1 HTTP/1.1\r\nHost: a\r\n{}\r\n", fields[..count].concat());
    assert_eq!(f.raw("web/bff", request(100)).await.status, 431);
    f.assert_untouched();
    assert_eq!(f.raw("web/bff", request(90)).await.status, 200);
    let closed = [("direction", "inbound"), ("reason", "protocol")];
    f.sidecar.metric_reaches("mantlet_connections_closed_total", &closed, 1.0).await;

    let mut request = Request::get("/orders/1");
    for n in 0..101 {
        request = request.header(&format!("x-{n}"), "a");
    }
    let response = f.h2("web/bff").await.send(&request).await.unwrap();
    assert_eq!(response.status, 431);
    f.sidecar.metric_reaches("mantlet_authz_decisions_total", &[("reason", "malformed")], 1.0).await;
    assert_eq!(f.app.seen().len(), 1);
}

#[tokio::test]
async fn oversized_heads_are_refused() {
    let f = Fixture::start().await;
    let closed = [("direction", "inbound"), ("reason", "protocol")];
    let malformed = [("reason", "malformed")];
    let big = "v".repeat(40 * 1024);
    let response = f.raw("web/bff", format!("GET /orders/1 HTTP/1.1\r\nHost: a\r\nx-a: {big}\r\n\r\n")).await;
    assert_eq!(response.status, 431);
    f.sidecar.metric_reaches("mantlet_connections_closed_total", &closed, 1.0).await;
    let response = f.get("web/bff", &format!("/orders/{}", "a".repeat(9 * 1024))).await;
    assert_eq!(response.status, 414);
    f.sidecar.metric_reaches("mantlet_authz_decisions_total", &malformed, 1.0).await;
    let response = f.h2("web/bff").await.send(&Request::get("/orders/1").header("x-a", &big)).await.unwrap();
    assert_eq!(response.status, 431);
    f.assert_untouched();
    assert_served(&f).await;
}

#[tokio::test]
async fn d35_a_head_that_trickles_is_closed_at_its_deadline() {
    let f = Fixture::with("", |sidecar| sidecar.arg("--header-timeout", "1s")).await;
    let mut io = f.peer("web/bff").alpn(&["http/1.1"]).connect(f.http_addr).await.into_io();
    io.write_all(b"GET /orders/1 HTTP/1.1\r\n").await.unwrap();
    io.flush().await.unwrap();
    // One byte at a time is the attack: each would restart a timer that waits for silence.
    let trickle = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if io.write_all(b"x").await.is_err() || io.flush().await.is_err() {
                return;
            }
        }
    };
    within("the sidecar to give up", trickle).await;
    f.assert_untouched();
    let timeout = [("direction", "inbound"), ("reason", "timeout")];
    f.sidecar.metric_reaches("mantlet_connections_closed_total", &timeout, 1.0).await;
}

#[tokio::test]
async fn d37_frames_without_progress_end_the_connection_whatever_their_type() {
    const DATA: u8 = 0;
    const PRIORITY: u8 = 2;
    /// PRIORITY_UPDATE (RFC 9218, 7.1), and one that is nobody's.
    const UNKNOWN: [u8; 2] = [0x10, 0xf0];
    let f = Fixture::start().await;
    let begun = frame(HEADERS, END_HEADERS, 1, &get("/orders/1"));
    let all = [
        frame(PING, 0, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &[]),
        frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 0]),
        frame(DATA, 0, 1, &[]),
        frame(UNKNOWN[0], 0, 0, &[0, 0, 0, 1]),
        frame(UNKNOWN[1], 0, 0, &[]),
    ];
    for (n, one) in all.iter().enumerate() {
        let mut io = h2_frames(&f, "web/bff").await;
        let flood = [begun.clone(), one.repeat(20_000)].concat();
        let end = frames::flood(&mut io, &flood, |_| false).await;
        assert!(end.closed || end.goaway.is_some(), "{:?}: {end:?}", &one[..9]);
        drop(io);
        // The HTTP library has a limit of its own for DATA without a byte.
        counted(&f, &["frames", "http2"], n as f64 + 1.0).await;
        assert_served(&f).await;
    }
}
