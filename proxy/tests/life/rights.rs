//! A right goes, by a policy change or by the end of a grant: whatever was carried by it ends within
//! a second, in whatever state it is, and nothing else does.

use std::future::poll_fn;
use std::time::Duration;

use mantlet_testkit::Io;
use mantlet_testkit::apps::{Protocol, RawApp};
use mantlet_testkit::client::{
    Http1, Http2, Http2Stream, HttpClient, Request, TlsClient, exactly, until_end,
};
use mantlet_testkit::sidecar::Sidecar;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::common::{ORDERS, identified, sidecar};
use crate::mesh::{
    Apps, BIG, Doors, Open, closed, closed_only_for, closes, get2, is_open, open_stream,
    within_a_second_of as ends,
};

/// One peer's work in every state that work can be in.
struct Work {
    open: Open,
    /// A response that has begun, on HTTP/1.
    download: Http1,
    grpc: Http2Stream,
    /// Uploads whose responses have not begun.
    upload1: Http1,
    upload2: Http2Stream,
    /// A response of which nobody reads, on HTTP/1 and in HTTP/2.
    unread1: Http1,
    unread2: Http2Stream,
    /// Bytes of which nobody reads.
    full: Io,
    /// The app that writes them; it ends when it can write no more.
    flood: tokio::task::JoinHandle<()>,
    /// Under the HTTP/2 streams.
    connections: [Http2; 2],
}

// === impl Work ===

impl Work {
    async fn begin(
        peer: &TlsClient,
        svid: &mantlet_testkit::pki::TestSvid,
        doors: Doors,
        raw: (&RawApp, std::net::SocketAddr),
    ) -> Self {
        let open = Open::as_peer(svid, doors).await;
        let h1 = async || match peer.http(doors.h1, Protocol::Http1).await {
            HttpClient::Http1(client) => client,
            HttpClient::Http2(_) => unreachable!(),
        };
        let HttpClient::Http2(mut h2) = peer.http(doors.h2, Protocol::H2c).await else { unreachable!() };
        let mut download = h1().await;
        download.write("GET /open HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert_eq!(download.read_head().await.unwrap().status, 200);
        download.exactly(10).await.unwrap();
        let call = Request::new("POST", "/open").header("content-type", "application/grpc");
        let grpc = open_stream(&mut h2, &call).await;

        let mut upload1 = h1().await;
        upload1.write("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nbegun").await.unwrap();
        let put = Request::new("PUT", "/").header("x-mantlet-proto", "2");
        let mut upload2 = h2.open(&put, false).await.unwrap();
        upload2.body.send_data("begun".into(), false).unwrap();

        let mut unread1 = h1().await;
        unread1.write("GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert_eq!(unread1.read_head().await.unwrap().status, 200);
        // On a connection of its own: it takes the whole window.
        let HttpClient::Http2(mut full_h2) = peer.http(doors.h2, Protocol::H2c).await else { unreachable!() };
        let mut unread2 = full_h2.open(&get2("/big"), true).await.unwrap();
        assert_eq!(unread2.head().await.unwrap().status, 200);

        let full = peer.clone().alpn(&["mantlet-tcp"]).connect(raw.1).await.into_io();
        let mut app = raw.0.accept().await;
        let flood = tokio::spawn(async move { while app.write_all(&[7; 65536]).await.is_ok() {} });
        let connections = [h2, full_h2];
        Self { open, download, grpc, upload1, upload2, unread1, unread2, full, flood, connections }
    }

    /// Everything ends within a second of `change`, and gRPC is told so.
    async fn ends(&mut self, callee: &Sidecar, change: Instant, reason: &str) {
        let mut grpc = None;
        // All of it is watched at once: nothing gets a second of its own.
        let ((), (), (), upload1, upload2, (), (), (), ()) = tokio::join!(
            ends(change, "bytes without a reader", async { (&mut self.flood).await.unwrap() }),
            ends(change, "bytes without bytes", async {
                assert_eq!(until_end(&mut self.open.tcp).await, b"")
            }),
            ends(change, "an open response of HTTP/1", async { drop(self.download.closed().await) }),
            ends(change, "an upload of HTTP/1", self.upload1.closed()),
            ends(change, "an upload of HTTP/2", self.upload2.head()),
            ends(change, "an open response of HTTP/2", async {
                assert!(self.open.stream.data().await.is_err());
            }),
            ends(change, "gRPC", async {
                assert_eq!(self.grpc.data().await.unwrap(), None);
                grpc = Some(self.grpc.trailers().await.unwrap());
            }),
            // A reset needs no window, so that it is seen without reading.
            ends(change, "a response of HTTP/2 without a reader", async {
                poll_fn(|cx| self.unread2.body.poll_reset(cx)).await.unwrap();
            }),
            // Bytes twice, and the HTTP/1 connections of a download, an upload and an unread response.
            ends(
                change,
                "every connection that carries nothing else",
                closes(callee, "inbound", reason, 5.0)
            ),
        );
        // Requests without an answer get one that says why.
        let refusal = format!("x-mantlet-error: {reason}; id=");
        let upload1 = String::from_utf8_lossy(&upload1);
        assert!(upload1.starts_with("HTTP/1.1 403 ") && upload1.contains(&refusal), "{upload1}");
        let upload2 = upload2.unwrap();
        assert_eq!(upload2.status, 403);
        assert!(upload2.header("x-mantlet-error")[0].starts_with(&format!("{reason}; id=")), "{upload2:?}");
        let trailers = grpc.unwrap();
        let value =
            |name: &str| trailers.iter().find(|(field, _)| field == name).map(|(_, value)| value.clone());
        assert_eq!(value("grpc-status"), Some(b"7".to_vec()), "{trailers:?}");
        assert_eq!(value("grpc-message"), Some(reason.as_bytes().to_vec()));
        // What was on its way may still be read; then it is cut.
        assert!(self.unread1.closed().await.len() < BIG);
        while self.unread2.data().await.is_ok_and(|data| data.is_some()) {}
        assert!(self.unread2.data().await.is_err() || self.unread2.trailers().await.is_err());
        until_end(&mut self.full).await;
    }

    /// Nothing has ended.
    async fn goes_on(&mut self) {
        self.open.goes_on().await;
        assert!(is_open(&mut self.grpc).await);
        assert_eq!(self.connections[0].send(&get2("/")).await.unwrap().status, 200);
        self.upload2.body.send_data("done".into(), true).unwrap();
        assert_eq!(self.upload2.head().await.unwrap().status, 200);
        self.upload1.write([b'x'; 95]).await.unwrap();
        assert_eq!(self.upload1.read().await.unwrap().status, 200);
        assert!(!self.flood.is_finished());
        exactly(&mut self.full, 1 << 20).await;
        self.unread1.exactly(1 << 20).await.unwrap();
        let mut read = 0;
        while read < 1 << 20 {
            read += self.unread2.data().await.unwrap().unwrap().len();
        }
    }
}

struct Fixture {
    apps: Apps,
    raw: RawApp,
    authority: mantlet_testkit::pki::Authority,
    callee: Sidecar,
    loses: Work,
    keeps: Work,
}

/// The grants of both peers; `until` ends the first peer's.
fn policy(apps: &Apps, raw: &RawApp, loses: &str) -> String {
    let tcp = |peer: &str| format!("allow {peer} to tcp on {}\n", raw.port());
    let first = apps.allow("web/loses") + &tcp("web/loses");
    let until = first.lines().map(|line| format!("{line}{loses}\n")).collect::<String>();
    until + &apps.allow("web/keeps") + &tcp("web/keeps")
}

// === impl Fixture ===

impl Fixture {
    async fn start() -> Self {
        let authority = mantlet_testkit::pki::Authority::new("td.test");
        let (apps, raw) = (Apps::start().await, RawApp::start().await);
        let callee = sidecar().identity(&authority.svid(ORDERS)).policy(policy(&apps, &raw, ""));
        let callee = apps.behind(callee).inbound(raw.addr()).start().await;
        identified(&callee).await;
        let (doors, fourth) = (Doors::inbound(&callee).await, callee.inbound(3).await);
        let begin = async |short: &str| {
            let svid = authority.workload(short);
            Work::begin(&TlsClient::new(&svid), &svid, doors, (&raw, fourth)).await
        };
        let (loses, keeps) = (begin("web/loses").await, begin("web/keeps").await);
        Self { apps, raw, authority, callee, loses, keeps }
    }

    async fn only_the_loser_ends(mut self, change: Instant, reason: &str) {
        Box::pin(self.loses.ends(&self.callee, change, reason)).await;
        self.keeps.goes_on().await;
        closed_only_for(&self.callee, &[reason]).await;
        let refused = self.loses.open.h1.send(&Request::get("/")).await.unwrap();
        assert_eq!(refused.status, 403);
        drop((self.apps, self.raw, self.authority));
    }
}

#[tokio::test]
async fn a_policy_change_ends_what_lost_its_right_in_whatever_state_and_nothing_else() {
    let f = Fixture::start().await;
    let without: String = policy(&f.apps, &f.raw, "")
        .lines()
        .filter(|line| !line.contains("loses"))
        .map(|line| format!("{line}\n"))
        .collect();
    f.callee.set_policy(&without);
    f.only_the_loser_ends(Instant::now(), "policy").await;
}

#[tokio::test]
async fn a_deny_that_is_added_ends_what_it_stops_and_nothing_else() {
    let f = Fixture::start().await;
    let (h1, h2) = (f.apps.h1.port(), f.apps.h2.port());
    let mut denied = policy(&f.apps, &f.raw, "");
    denied.push_str(&format!("deny web/loses to * /** on {h1}\ndeny web/loses to * /** on {h2}\n"));
    let (tcp, raw) = (f.apps.tcp.port(), f.raw.port());
    denied.push_str(&format!("deny web/loses to tcp on {tcp}\ndeny web/loses to tcp on {raw}\n"));
    f.callee.set_policy(&denied);
    f.only_the_loser_ends(Instant::now(), "policy").await;
}

#[tokio::test]
async fn the_end_of_a_grant_ends_what_it_carried_in_whatever_state_and_nothing_else() {
    let f = Fixture::start().await;
    // The grant gets its end when everything has begun, which takes as long as it takes.
    let (begun, now) = (OffsetDateTime::now_utc(), Instant::now());
    let end = (begun + Duration::from_secs(3)).replace_nanosecond(0).unwrap();
    f.callee.set_policy(&policy(&f.apps, &f.raw, &format!(" until {}", end.format(&Rfc3339).unwrap())));
    f.callee.event("policy_loaded", |event| event["generation"] == 2).await;
    let end = now + Duration::try_from(end - begun).unwrap();
    tokio::time::sleep_until(end).await;
    assert_eq!(closed(&f.callee, "inbound", "policy").await, 0.0, "nothing ends before its time");
    f.only_the_loser_ends(end, "expired").await;
}
