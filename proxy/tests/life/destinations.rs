//! The line of a destination goes: whatever the application has open there ends within a second, and what
//! goes elsewhere does not lose a byte.

use std::net::SocketAddr;

use mantlet_testkit::apps::{RawApp, TcpApp};
use mantlet_testkit::client::{Http1, Http2Stream, Request, connect, exactly, until_end};
use mantlet_testkit::pki::Authority;
use mantlet_testkit::sidecar::Sidecar;
use mantlet_testkit::{Io, TempDir, eventually, within};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::common::{ORDERS, sidecar};
use crate::mesh::{Apps, Doors, Open, closes, get2, is_open, open_stream, within_a_second_of as ends};

const WEBSOCKET: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A workload with an app of every kind.
struct Called {
    apps: Apps,
    raw: RawApp,
    plain: TcpApp,
    _sidecar: Sidecar,
    doors: Doors,
    chat: SocketAddr,
}

/// What an application has open to it.
struct Work {
    open: Open,
    /// A response that has begun, on HTTP/1.
    download: Http1,
    grpc: Http2Stream,
    /// Requests that nobody has begun to answer.
    held1: Http1,
    held2: Http2Stream,
    chat: Http1,
    /// The app's end of it.
    chat_app: Io,
    /// To an app outside the mesh.
    passed: Io,
}

// === impl Called ===

impl Called {
    async fn start(authority: &Authority) -> Self {
        let (apps, raw, plain) = tokio::join!(Apps::start(), RawApp::start(), TcpApp::echo());
        let policy = apps.allow("mesh") + &format!("allow mesh to WEBSOCKET /chat on {}\n", raw.port());
        let sidecar = apps.behind(sidecar().identity(&authority.svid(ORDERS)).policy(policy));
        let sidecar = sidecar.inbound(raw.addr()).start().await;
        let (doors, chat) = (Doors::inbound(&sidecar).await, sidecar.inbound(3).await);
        Self { apps, raw, plain, _sidecar: sidecar, doors, chat }
    }

    /// Where the application wants to go.
    fn wanted(&self) -> [SocketAddr; 5] {
        [self.doors.h1, self.doors.h2, self.doors.tcp, self.chat, self.plain.addr()]
    }

    /// The line of each; nothing says what is spoken where there is no `http`.
    fn lines(&self, http: &str) -> String {
        let [h1, h2, tcp, chat, plain] = self.wanted();
        let mesh = [(h1, http), (h2, http), (tcp, ""), (chat, http)];
        let mesh = mesh.map(|(addr, proto)| format!("{addr} is shop/orders{proto}\n"));
        mesh.concat() + &format!("{plain} passthrough\n")
    }

    async fn open(&self, caller: &Sidecar, first: usize) -> Work {
        let doors = Doors::outbound(caller, first).await;
        let (chat, passed) = (caller.outbound(first + 3).await, caller.outbound(first + 4).await);
        let h1 = async |addr| Http1::new(Box::new(connect(addr).await));
        let mut open = Open::through(doors).await;
        let mut download = h1(doors.h1).await;
        download.write("GET /open HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert_eq!(download.read_head().await.unwrap().status, 200);
        download.exactly(10).await.unwrap();
        let call = Request::new("POST", "/open").header("content-type", "application/grpc");
        let grpc = open_stream(&mut open.h2, &call).await;
        let mut held1 = h1(doors.h1).await;
        held1.write("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let held2 = open.h2.open(&get2("/held"), true).await.unwrap();
        let is_held = |seen: &mantlet_testkit::apps::Seen| seen.target == "/held";
        eventually("both requests to be held", async || {
            let held = [&self.apps.h1, &self.apps.h2].map(|app| app.seen().iter().any(is_held));
            (held == [true, true]).then_some(())
        })
        .await;
        let mut chat = h1(chat).await;
        chat.write(WEBSOCKET).await.unwrap();
        let mut chat_app: Io = Box::new(self.raw.accept().await);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(exactly(&mut chat_app, 1).await);
        }
        chat_app.write_all(SWITCH).await.unwrap();
        assert_eq!(chat.read().await.unwrap().status, 101);
        let mut passed: Io = Box::new(connect(passed).await);
        crate::mesh::echo(&mut passed).await;
        Work { open, download, grpc, held1, held2, chat, chat_app, passed }
    }
}

// === impl Work ===

impl Work {
    /// Everything ends within a second of `change`; who can be told is told why.
    async fn ends(&mut self, caller: &Sidecar, change: Instant) {
        let mut trailers = None;
        let ((), (), (), (), (), (), held1, held2, ()) = tokio::join!(
            ends(change, "bytes", async { assert_eq!(until_end(&mut self.open.tcp).await, b"") }),
            ends(change, "bytes outside the mesh", async {
                assert_eq!(until_end(&mut self.passed).await, b"");
            }),
            ends(change, "an open response of HTTP/2", async {
                assert!(self.open.stream.data().await.is_err());
            }),
            ends(change, "an open response of HTTP/1", async { drop(self.download.closed().await) }),
            ends(change, "gRPC", async {
                assert_eq!(self.grpc.data().await.unwrap(), None);
                trailers = Some(self.grpc.trailers().await.unwrap());
            }),
            ends(change, "a WebSocket", async {
                assert_eq!(self.chat.closed().await, b"");
                assert_eq!(until_end(&mut self.chat_app).await, b"");
            }),
            ends(change, "a request of HTTP/1", self.held1.closed()),
            ends(change, "a request of HTTP/2", self.held2.head()),
            // Bytes in and outside the mesh, the WebSocket, and both HTTP/1 connections with a request.
            ends(change, "to count them", closes(caller, "outbound", "policy", 5.0)),
        );
        let held1 = String::from_utf8_lossy(&held1);
        assert!(
            held1.starts_with("HTTP/1.1 403 ") && held1.contains("x-mantlet-error: policy; id="),
            "{held1}"
        );
        let held2 = held2.unwrap();
        assert_eq!((held2.status, held2.error().as_deref()), (403, Some("policy")));
        let status = ("grpc-status".to_owned(), b"7".to_vec());
        assert!(trailers.as_ref().unwrap().contains(&status), "{trailers:?}");
    }

    /// Nothing has ended, and every byte arrives.
    async fn goes_on(&mut self, apps: &Apps) {
        self.open.goes_on().await;
        assert!(is_open(&mut self.grpc).await);
        crate::mesh::echo(&mut self.passed).await;
        self.chat_app.write_all(b" second half").await.unwrap();
        assert_eq!(self.chat.exactly(22).await.unwrap(), b"first half second half");
        self.chat.write("back").await.unwrap();
        assert_eq!(exactly(&mut self.chat_app, 4).await, b"back");
        apps.release(2);
        assert_eq!(within("the answer", self.held1.read()).await.unwrap().text(), "finished");
        assert_eq!(within("the answer", self.held2.head()).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn removing_the_line_ends_its_streams_within_a_second() {
    // The line goes; it refuses; it means somebody else; it goes, and another refuses the rest. Protocols are said,
    // or asked of the peer.
    let changes = [
        (" as http", ""),
        ("", "WANTED refuse\n"),
        (" as http", "WANTED is shop/other\n"),
        ("", "* refuse\n"),
    ];
    for (http, change) in changes {
        let authority = Authority::new("td.test");
        let (loses, keeps) = (Called::start(&authority).await, Called::start(&authority).await);
        let dir = TempDir::new();
        let path = dir.file("upstreams", loses.lines(http) + &keeps.lines(http)).display().to_string();
        let caller = sidecar().identity(&authority.workload("web/frontend")).arg("--upstreams", path);
        let wanted = loses.wanted().into_iter().chain(keeps.wanted());
        let caller =
            wanted.fold(caller, |caller, wanted| caller.arg("--outbound", format!("127.0.0.1:0={wanted}")));
        let caller = caller.start().await;
        let (mut lost, mut kept) = (loses.open(&caller, 0).await, keeps.open(&caller, 5).await);
        // On its way while the lines change.
        kept.chat_app.write_all(b"first half").await.unwrap();

        let change = |wanted: SocketAddr| change.replace("WANTED", &wanted.to_string());
        let mut changed: Vec<String> = loses.wanted().into_iter().map(change).collect();
        changed.dedup();
        dir.replace("upstreams", changed.concat() + &keeps.lines(http));
        Box::pin(lost.ends(&caller, Instant::now())).await;
        kept.goes_on(&keeps.apps).await;
        // A connection that carries nothing is told to go, or refused with its next request.
        if let Ok(response) = lost.open.h1.send(&Request::get("/")).await {
            assert_eq!((response.status, response.error().as_deref()), (403, Some("policy")));
        }
        // The apps' requests ended with those of their callers.
        loses.apps.h1.wait_for_cut(1).await;
    }
}

#[tokio::test]
async fn what_holds_by_default_ends_when_a_line_says_otherwise() {
    let authority = Authority::new("td.test");
    let (app, other) = (TcpApp::echo().await, TcpApp::echo().await);
    let dir = TempDir::new();
    let path = dir.file("upstreams", "# nothing\n").display().to_string();
    let caller = sidecar().identity(&authority.workload("web/frontend")).arg("--upstreams", path);
    let caller = caller.arg("--mesh-cidrs", "10.0.0.0/8");
    let caller = [app.addr(), other.addr()]
        .into_iter()
        .fold(caller, |caller, wanted| caller.arg("--outbound", format!("127.0.0.1:0={wanted}")));
    let caller = caller.start().await;
    let open = async |n| {
        let mut io: Io = Box::new(connect(caller.outbound(n).await).await);
        crate::mesh::echo(&mut io).await;
        io
    };
    let (mut lost, mut kept) = (open(0).await, open(1).await);
    // The bytes went on as they are, and still do.
    dir.replace("upstreams", format!("{} passthrough\n{} refuse\n", other.addr(), app.addr()));
    let change = Instant::now();
    ends(change, "what is refused", async { assert_eq!(until_end(&mut lost).await, b"") }).await;
    closes(&caller, "outbound", "policy", 1.0).await;
    crate::mesh::echo(&mut kept).await;
    // And by which line they do is the same to them.
    dir.replace("upstreams", format!("127.0.0.0/8:* passthrough\n{} refuse\n", app.addr()));
    let loaded = |line: &String| line.contains("upstreams_loaded");
    eventually("the lines to be loaded", async || {
        (caller.stdout().iter().filter(|line| loaded(line)).count() == 3).then_some(())
    })
    .await;
    let mut new = open(1).await;
    crate::mesh::echo(&mut new).await;
    crate::mesh::echo(&mut kept).await;
}
