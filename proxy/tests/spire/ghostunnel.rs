//! R15: ghostunnel talks to a sidecar and is talked to. It is a tunnel for bytes that speaks no ALPN.

use std::fs::File;
use std::net::SocketAddr;
use std::process::Stdio;

use mantlet_testkit::apps::{App, Protocol, TcpApp};
use mantlet_testkit::client::{connect, exactly, until_end};
use mantlet_testkit::eventually;
use mantlet_testkit::real_peers::{RealPeers, free_port};
use mantlet_testkit::spire::{Entry, Spire};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::mesh::{CLIENT, LONG, SERVER, TRUST_DOMAIN, entry, sidecar, try_call};

const TUNNEL: &str = "spiffe://spire.test/ns/edge/sa/tunnel";
const OTHER: &str = "spiffe://spire.test/ns/some/sa/other";

/// A running tunnel; it is killed when this is dropped.
#[derive(Debug)]
struct Ghostunnel {
    addr: SocketAddr,
    _child: Child,
}

// === impl Ghostunnel ===

impl Ghostunnel {
    /// From plain connections to this mesh address, where this identity must answer.
    fn client(peers: &RealPeers, spire: &Spire, target: SocketAddr, expect: &str) -> Self {
        Self::start(peers, spire, "client", target, &["--verify-uri", expect])
    }

    /// From mesh connections of this caller to this application.
    fn server(peers: &RealPeers, spire: &Spire, target: SocketAddr, caller: &str) -> Self {
        Self::start(peers, spire, "server", target, &["--allow-uri", caller])
    }

    fn start(peers: &RealPeers, spire: &Spire, role: &str, target: SocketAddr, rest: &[&str]) -> Self {
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let log = spire.dir().path().join(format!("ghostunnel-{}.log", addr.port()));
        let log = File::create(log).unwrap();
        let child = Command::new(peers.program("ghostunnel"))
            .args([role, "--use-workload-api-addr", &spire.endpoint()])
            .args(["--listen", &addr.to_string(), "--target", &target.to_string()])
            .args(rest)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { addr, _child: child }
    }
}

/// A tunnel that starts up meanwhile: asks until the answer is 200.
async fn answered(addr: SocketAddr, what: &str) {
    eventually(what, async || try_call(addr).await.ok().filter(|response| response.status == 200).map(drop))
        .await;
}

/// One line there and back.
async fn echoed(addr: SocketAddr) {
    let mut io: mantlet_testkit::Io = Box::new(connect(addr).await);
    io.write_all(b"there and back").await.unwrap();
    assert_eq!(exactly(&mut io, 14).await, b"there and back");
}

#[tokio::test]
async fn r15_ghostunnel_calls_a_sidecar() {
    let Some(peers) = RealPeers::find("r15") else { return };
    let spire = Spire::start(&peers, TRUST_DOMAIN).await;
    spire.create(&entry(&spire, "server", SERVER, LONG)).await;
    spire.create(&Entry::new(TUNNEL, &peers.program("ghostunnel"))).await;
    let (app, echo) = (App::start(Protocol::Http1).await, TcpApp::echo().await);
    let (http, tcp) = (app.port(), echo.port());
    let policy = format!("allow edge/tunnel to * /** on {http}\nallow edge/tunnel to tcp on {tcp}\n");
    let server = sidecar(&spire, "server", SERVER).inbound(app.addr()).inbound(echo.addr()).policy(policy);
    let server = server.start().await;

    let tunnel = Ghostunnel::client(&peers, &spire, server.inbound(0).await, SERVER);
    answered(tunnel.addr, "ghostunnel to get through to the sidecar").await;
    let named = app.seen().last().cloned().unwrap().header("x-forwarded-client-cert").join("");
    assert!(named.contains(&format!("URI={TUNNEL}")), "{named}");
    let bytes = Ghostunnel::client(&peers, &spire, server.inbound(1).await, SERVER);
    eventually("the second tunnel to listen", async || {
        tokio::net::TcpStream::connect(bytes.addr).await.ok().map(drop)
    })
    .await;
    echoed(bytes.addr).await;

    // It demands its peer's identity: to somebody else it sends nothing.
    let before = app.seen().len();
    let wrong = Ghostunnel::client(&peers, &spire, server.inbound(0).await, OTHER);
    eventually("the third tunnel to listen", async || {
        tokio::net::TcpStream::connect(wrong.addr).await.ok().map(drop)
    })
    .await;
    assert!(try_call(wrong.addr).await.is_err());
    assert_eq!(app.seen().len(), before);
}

#[tokio::test]
async fn r15_ghostunnel_is_called_by_a_sidecar() {
    let Some(peers) = RealPeers::find("r15") else { return };
    let spire = Spire::start(&peers, TRUST_DOMAIN).await;
    spire.create(&entry(&spire, "client", CLIENT, LONG)).await;
    spire.create(&Entry::new(TUNNEL, &peers.program("ghostunnel"))).await;
    let (app, echo) = (App::start(Protocol::Http1).await, TcpApp::echo().await);
    let http = Ghostunnel::server(&peers, &spire, app.addr(), CLIENT);
    let tcp = Ghostunnel::server(&peers, &spire, echo.addr(), CLIENT);
    let closed = Ghostunnel::server(&peers, &spire, echo.addr(), OTHER);
    let client = sidecar(&spire, "client", CLIENT)
        .outbound(http.addr, "edge/tunnel as http")
        .outbound(tcp.addr, "edge/tunnel as tcp")
        .outbound(tcp.addr, "edge/tunnel")
        .outbound(http.addr, "some/other as http")
        .outbound(closed.addr, "edge/tunnel as tcp");
    let client = client.start().await;

    answered(client.outbound(0).await, "the sidecar to get through to ghostunnel").await;
    for tunnel in [&tcp, &closed] {
        eventually("a tunnel to listen", async || {
            tokio::net::TcpStream::connect(tunnel.addr).await.ok().map(drop)
        })
        .await;
    }
    // Declared as bytes, and found to be: a peer without ALPN.
    echoed(client.outbound(1).await).await;
    echoed(client.outbound(2).await).await;
    assert_eq!(try_call(client.outbound(3).await).await.unwrap().status, 502);
    let mut refused: mantlet_testkit::Io = Box::new(connect(client.outbound(4).await).await);
    assert_eq!(until_end(&mut refused).await, b"");
}
