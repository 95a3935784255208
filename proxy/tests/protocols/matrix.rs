//! Every protocol, allowed and denied, with a sidecar and with a plain rustls peer at the other end.

use std::net::SocketAddr;

use mantlet_testkit::Io;
use mantlet_testkit::apps::{App, Protocol, RawApp, TcpApp};
use mantlet_testkit::client::{Http1, HttpClient, Request, connect, exactly, until_end};
use mantlet_testkit::grpc::{Code, EchoClient, EchoServer};
use mantlet_testkit::peer::TlsPeer;
use mantlet_testkit::pki::Authority;
use mantlet_testkit::sidecar::Sidecar;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::common::{ORDERS, sidecar};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Spoken {
    Http1,
    H2c,
    Grpc,
    WebSocket,
    TcpClientFirst,
    TcpServerFirst,
}

/// Who is at the two ends of the mesh connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Peers {
    /// A sidecar calls a sidecar.
    Sidecars,
    /// A program with rustls and an SVID calls a sidecar.
    RustlsCalls,
    /// A sidecar calls a program with rustls and an SVID.
    RustlsIsCalled,
}

const SPOKEN: [Spoken; 6] = [
    Spoken::Http1,
    Spoken::H2c,
    Spoken::Grpc,
    Spoken::WebSocket,
    Spoken::TcpClientFirst,
    Spoken::TcpServerFirst,
];
const PEERS: [Peers; 3] = [Peers::Sidecars, Peers::RustlsCalls, Peers::RustlsIsCalled];
const BANNER: &[u8] = b"220 ready\r\n";

/// The application at the far end.
enum FarApp {
    Http(App),
    Grpc(EchoServer),
    Raw(RawApp),
    Tcp(TcpApp),
}

/// The way to it: where the near application connects, and what has to stay alive.
struct Way {
    addr: SocketAddr,
    _sidecars: Vec<Sidecar>,
    relays: Vec<JoinHandle<()>>,
}

impl FarApp {
    async fn start(spoken: Spoken) -> Self {
        match spoken {
            Spoken::Http1 => Self::Http(App::start(Protocol::Http1).await),
            Spoken::H2c => Self::Http(App::start(Protocol::H2c).await),
            Spoken::Grpc => Self::Grpc(EchoServer::start().await),
            Spoken::WebSocket => Self::Raw(RawApp::start().await),
            Spoken::TcpClientFirst => Self::Tcp(TcpApp::echo().await),
            Spoken::TcpServerFirst => Self::Tcp(TcpApp::banner(BANNER).await),
        }
    }

    fn addr(&self) -> SocketAddr {
        match self {
            Self::Http(app) => app.addr(),
            Self::Grpc(app) => app.addr(),
            Self::Raw(app) => app.addr(),
            Self::Tcp(app) => app.addr(),
        }
    }
}

impl Spoken {
    fn is_tcp(self) -> bool {
        matches!(self, Self::TcpClientFirst | Self::TcpServerFirst)
    }

    fn policy(self, who: &str, port: u16) -> String {
        match self {
            // h2c of a peer that does not say what its application spoke is declared on the port.
            Self::Http1 | Self::H2c => format!("allow {who} to GET /hello on {port}\n"),
            Self::Grpc => format!("allow {who} to grpc mantlet.test.Echo/Say on {port}\n"),
            Self::WebSocket => format!("allow {who} to WEBSOCKET /chat on {port}\n"),
            Self::TcpClientFirst | Self::TcpServerFirst => format!("allow {who} to tcp on {port}\n"),
        }
    }

    fn alpn(self) -> &'static str {
        match self {
            Self::Http1 | Self::WebSocket => "http/1.1",
            Self::H2c | Self::Grpc => "h2",
            Self::TcpClientFirst | Self::TcpServerFirst => "mantlet-tcp",
        }
    }
}

impl Way {
    /// Denied means: by the policy of the sidecar that is called, or, where a program is called, by
    /// its identity, which is not the expected one.
    async fn open(spoken: Spoken, allowed: bool, peers: Peers, app: SocketAddr) -> Self {
        let authority = Authority::new("td.test");
        let frontend = authority.workload("web/frontend");
        let who = if allowed { "web/frontend" } else { "web/other" };
        let called = async || {
            let policy = spoken.policy(who, app.port());
            let sidecar = sidecar().identity(&authority.svid(ORDERS)).inbound(app).policy(policy);
            sidecar.start().await
        };
        let calling = async |to: SocketAddr, whom: &str| {
            let rest = format!("{whom} as {}", if spoken.is_tcp() { "tcp" } else { "http" });
            sidecar().identity(&frontend).outbound(to, &rest).start().await
        };
        let (mut sidecars, mut relays) = (Vec::new(), Vec::new());
        let addr = match peers {
            Peers::Sidecars => {
                let called = called().await;
                let calling = calling(called.inbound(0).await, "shop/orders").await;
                let addr = calling.outbound(0).await;
                sidecars.extend([called, calling]);
                addr
            }
            Peers::RustlsCalls => {
                let called = called().await;
                let to = called.inbound(0).await;
                sidecars.push(called);
                // What the program sends goes into TLS as it is.
                let client = mantlet_testkit::client::TlsClient::new(&frontend).alpn(&[spoken.alpn()]);
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let addr = listener.local_addr().unwrap();
                relays.push(tokio::spawn(async move {
                    while let Ok((mut near, _)) = listener.accept().await {
                        let client = client.clone();
                        tokio::spawn(async move {
                            let mut far = client.connect(to).await.into_io();
                            let _ = copy_bidirectional(&mut near, &mut far).await;
                        });
                    }
                }));
                addr
            }
            Peers::RustlsIsCalled => {
                let peer = TlsPeer::start(&authority.svid(ORDERS), &[spoken.alpn()]).await;
                let whom = if allowed { "shop/orders" } else { "shop/other" };
                let calling = calling(peer.addr(), whom).await;
                let addr = calling.outbound(0).await;
                sidecars.push(calling);
                relays.push(tokio::spawn(async move {
                    // A handshake that fails is the caller's decision.
                    while let Ok(accepted) = peer.try_accept().await {
                        let (mut near, mut far) = (accepted.into_io(), connect(app).await);
                        tokio::spawn(async move {
                            let _ = copy_bidirectional(&mut near, &mut far).await;
                        });
                    }
                }));
                addr
            }
        };
        Self { addr, _sidecars: sidecars, relays }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.relays.iter().for_each(JoinHandle::abort);
    }
}

/// What a refusal looks like to the near application.
fn refused(status: u16, peers: Peers, cell: &str) {
    // A sidecar that does not meet whom it expects has no upstream; policy is a refusal.
    let expected = if peers == Peers::RustlsIsCalled { 502 } else { 403 };
    assert_eq!(status, expected, "{cell}");
}

async fn http(spoken: Protocol, allowed: bool, peers: Peers, addr: SocketAddr, cell: &str) {
    let mut request = Request::get("/hello");
    if peers == Peers::RustlsCalls && spoken == Protocol::H2c {
        // Another make's way to say that the application behind the sidecar is to get HTTP/2.
        request = request.header("content-type", "application/grpc");
    }
    let response = HttpClient::plain(addr, spoken).await.send(&request).await;
    match allowed {
        true => assert_eq!((response.status, response.text().as_str()), (200, "hello"), "{cell}"),
        false if response.status == 200 => {
            assert_eq!(response.header("grpc-status"), ["7"], "{cell}");
            assert!(response.denied().is_some(), "{cell}");
        }
        false => refused(response.status, peers, cell),
    }
}

async fn grpc(allowed: bool, peers: Peers, addr: SocketAddr, cell: &str) {
    let answer = EchoClient::new(addr).unary("Say", "hello").await;
    let denied = if peers == Peers::RustlsIsCalled { Code::Unavailable } else { Code::PermissionDenied };
    match allowed {
        true => assert_eq!(answer.unwrap(), "hello", "{cell}"),
        false => assert_eq!(answer.unwrap_err().code(), denied, "{cell}"),
    }
}

async fn websocket(app: &RawApp, allowed: bool, peers: Peers, addr: SocketAddr, cell: &str) {
    let mut client = Http1::new(Box::new(connect(addr).await));
    let ask = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
               Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write(ask).await.unwrap();
    if !allowed {
        return refused(client.read().await.unwrap().status, peers, cell);
    }
    let mut io: Io = Box::new(app.accept().await);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(exactly(&mut io, 1).await);
    }
    io.write_all(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    )
    .await
    .unwrap();
    assert_eq!(client.read().await.unwrap().status, 101, "{cell}");
    client.write("frame").await.unwrap();
    assert_eq!(exactly(&mut io, 5).await, b"frame", "{cell}");
    io.write_all(b"answer").await.unwrap();
    assert_eq!(client.exactly(6).await.unwrap(), b"answer", "{cell}");
}

async fn tcp(spoken: Spoken, allowed: bool, addr: SocketAddr, cell: &str) {
    let mut io: Io = Box::new(connect(addr).await);
    if !allowed {
        assert_eq!(until_end(&mut io).await, b"", "{cell}");
        return;
    }
    if spoken == Spoken::TcpServerFirst {
        assert_eq!(exactly(&mut io, BANNER.len()).await, BANNER, "{cell}");
    }
    io.write_all(b"hello").await.unwrap();
    assert_eq!(exactly(&mut io, 5).await, b"hello", "{cell}");
}

#[tokio::test]
async fn every_protocol_is_carried_where_it_is_allowed_and_refused_where_it_is_not() {
    for spoken in SPOKEN {
        for peers in PEERS {
            for allowed in [true, false] {
                let cell = &format!("{spoken:?}, {peers:?}, {}", if allowed { "allowed" } else { "denied" });
                let app = FarApp::start(spoken).await;
                let way = Way::open(spoken, allowed, peers, app.addr()).await;
                match (&app, spoken) {
                    (FarApp::Http(app), _) => {
                        let version = if spoken == Spoken::Http1 { Protocol::Http1 } else { Protocol::H2c };
                        http(version, allowed, peers, way.addr, cell).await;
                        assert_eq!(app.seen().len(), usize::from(allowed), "requests at the app: {cell}");
                    }
                    (FarApp::Grpc(_), _) => grpc(allowed, peers, way.addr, cell).await,
                    (FarApp::Raw(app), _) => {
                        websocket(app, allowed, peers, way.addr, cell).await;
                        assert_eq!(app.connections(), usize::from(allowed), "connections of the app: {cell}");
                    }
                    (FarApp::Tcp(app), _) => {
                        tcp(spoken, allowed, way.addr, cell).await;
                        assert_eq!(app.connections(), usize::from(allowed), "connections of the app: {cell}");
                    }
                }
            }
        }
    }
}
