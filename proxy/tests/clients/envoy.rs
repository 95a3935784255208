//! Envoy on either side of a sidecar, for HTTP/1.1, HTTP/2, gRPC and bytes.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use mantlet_testkit::apps::{App, Protocol, TcpApp};
use mantlet_testkit::client::{HttpClient, Request, connect, exactly};
use mantlet_testkit::grpc::{Code, EchoClient, EchoServer};
use mantlet_testkit::pki::{Authority, TestSvid};
use mantlet_testkit::real_peers::RealPeers;
use mantlet_testkit::sidecar::Sidecar;
use mantlet_testkit::{Io, TempDir, eventually};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::common::{BOTH, ORDERS, sidecar};

const ENVOY: &str = "edge/envoy";

/// A running Envoy; it is killed when this is dropped.
struct Envoy {
    admin: SocketAddr,
    dir: TempDir,
    _child: Child,
}

/// The applications: behind the sidecar, and behind Envoy.
struct Apps {
    http1: App,
    http2: App,
    grpc: EchoServer,
    tcp: TcpApp,
}

impl Apps {
    async fn start() -> Self {
        Self {
            http1: App::start(Protocol::Http1).await,
            http2: App::start(Protocol::H2c).await,
            grpc: EchoServer::start().await,
            tcp: TcpApp::banner("220 ready\r\n").await,
        }
    }
}

impl Envoy {
    /// Starts it; `ports` are what stands between `@` in its configuration.
    async fn start(peers: &RealPeers, svid: &TestSvid, alpn: &str, ports: &[(&str, SocketAddr)]) -> Self {
        let dir = TempDir::new();
        let (cert, key) = (dir.file("own.pem", svid.chain_pem()), dir.file("own.key", svid.key_pem()));
        let root = dir.file("ca.pem", svid.root_pem());
        let trust = format!(
            "validation_context: {{trusted_ca: {{filename: {}}}, match_typed_subject_alt_names: \
             [{{san_type: URI, matcher: {{exact: \"{ORDERS}\"}}}}]}}",
            root.display()
        );
        let certificate = format!(
            "tls_certificates: [{{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}]",
            cert.display(),
            key.display()
        );
        let config = include_str!("envoy.yaml")
            .replace("@CERTIFICATE@", &certificate)
            .replace("@TRUST@", &trust)
            .replace("@CALLED_ALPN@", alpn);
        let config = ports.iter().fold(config, |config, (name, addr)| {
            config.replace(&format!("@{name}@"), &addr.port().to_string())
        });
        let file = dir.file("envoy.yaml", config);
        let admin = dir.path().join("admin");
        let log = File::create(dir.path().join("envoy.log")).unwrap();
        let child = Command::new(peers.program("envoy"))
            .arg("-c")
            .arg(file)
            .arg("--admin-address-path")
            .arg(&admin)
            .args(["--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut envoy = Self { admin: ([127, 0, 0, 1], 0).into(), dir, _child: child };
        envoy.admin = envoy.address(&admin).await;
        envoy
    }

    async fn address(&self, file: &Path) -> SocketAddr {
        eventually("Envoy to say where its admin port is", async || {
            std::fs::read_to_string(file).ok()?.trim().parse().ok()
        })
        .await
    }

    /// Where the listener of this name listens: the kernel has picked the port.
    async fn listener(&self, name: &str) -> SocketAddr {
        eventually(format!("Envoy's listener {name}"), async || {
            let mut client = HttpClient::plain(self.admin, Protocol::Http1).await;
            let text = client.try_send(&Request::get("/listeners")).await.ok()?.text();
            let addr = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("::"))?;
            addr.trim().parse().ok()
        })
        .await
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("envoy.log")).unwrap_or_default();
            eprintln!("--- envoy\n{log}");
        }
    }
}

async fn bytes_pass(addr: SocketAddr) {
    let mut io: Io = Box::new(connect(addr).await);
    assert_eq!(exactly(&mut io, 11).await, b"220 ready\r\n");
    io.write_all(b"HELO\r\n").await.unwrap();
    assert_eq!(exactly(&mut io, 6).await, b"HELO\r\n");
}

async fn grpc_passes(addr: SocketAddr) {
    let mut client = EchoClient::new(addr);
    assert_eq!(client.unary("Say", "hello").await.unwrap(), "hello");
    assert_eq!(client.unary("Say", "fail:9").await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(client.collect(&["a", "b"]).await.unwrap(), "a,b");
    assert_eq!(client.count(50).await.unwrap().len(), 50);
    let mut chat = client.chat("one").await.unwrap();
    assert_eq!(chat.hear().await.unwrap().as_deref(), Some("one"));
    assert_eq!(chat.say("two").await.unwrap().as_deref(), Some("two"));
    chat.end().await.unwrap();
}

#[tokio::test]
async fn envoy_calls_sidecars_in_every_protocol() {
    let Some(peers) = RealPeers::find("Envoy calls") else { return };
    let (authority, apps) = (Authority::new("td.test"), Apps::start().await);
    let policy = format!(
        "allow {ENVOY} to GET,POST /allowed/** on {}\nallow {ENVOY} to grpc mantlet.test.Echo/* on {}\n\
         allow {ENVOY} to tcp on {}\n",
        apps.http1.port(),
        apps.grpc.addr().port(),
        apps.tcp.port()
    );
    let called = sidecar().identity(&authority.svid(ORDERS)).policy(policy);
    let called = called.inbound(apps.http1.addr()).inbound(apps.grpc.addr()).inbound(apps.tcp.addr());
    let called = called.start().await;
    let mut inbound = Vec::new();
    for n in 0..3 {
        inbound.push(called.inbound(n).await);
    }
    let nobody = apps.http2.addr();
    // Once HTTP/2 goes to the HTTP application, once to the gRPC server.
    for http2 in [inbound[0], inbound[1]] {
        let ports = [
            ("PEER_HTTP1", inbound[0]),
            ("PEER_HTTP2", http2),
            ("PEER_TCP", inbound[2]),
            ("APP_HTTP1", nobody),
            ("APP_HTTP2", nobody),
            ("APP_TCP", nobody),
        ];
        let envoy = Envoy::start(&peers, &authority.workload(ENVOY), "h2", &ports).await;
        if http2 == inbound[1] {
            grpc_passes(envoy.listener("call_http2").await).await;
            continue;
        }
        for name in ["call_http1", "call_http2"] {
            let addr = envoy.listener(name).await;
            for protocol in BOTH {
                let mut client = HttpClient::plain(addr, protocol).await;
                let body = vec![b'x'; 200_000];
                let request = Request::new("POST", "/allowed/a?b").body(body.clone());
                let response = client.send(&request).await;
                assert_eq!(
                    (response.status, response.text().as_str()),
                    (200, "hello"),
                    "{name} {protocol:?}"
                );
                let seen = apps.http1.seen().pop().unwrap();
                assert!(seen.body == body && seen.target == "/allowed/a?b", "{seen:?}");
                let response = client.send(&Request::get("/other")).await;
                assert_eq!((response.status, response.denied().as_deref()), (403, Some("default")));
            }
        }
        bytes_pass(envoy.listener("call_tcp").await).await;
    }
}

#[tokio::test]
async fn envoy_is_called_by_sidecars_in_every_protocol() {
    let Some(peers) = RealPeers::find("Envoy is called") else { return };
    let (authority, apps) = (Authority::new("td.test"), Apps::start().await);
    let nobody = apps.http2.addr();
    for alpn in ["h2", "http/1.1", "h2, http/1.1"] {
        let ports = [
            ("PEER_HTTP1", nobody),
            ("PEER_HTTP2", nobody),
            ("PEER_TCP", nobody),
            ("APP_HTTP1", apps.http1.addr()),
            ("APP_HTTP2", apps.grpc.addr()),
            ("APP_TCP", apps.tcp.addr()),
        ];
        let envoy = Envoy::start(&peers, &authority.workload(ENVOY), alpn, &ports).await;
        let svid = authority.svid(ORDERS);
        let (http, tcp) = (envoy.listener("called_http").await, envoy.listener("called_tcp").await);
        let calling = sidecar().identity(&svid).outbound(http, &format!("{ENVOY} as http"));
        // The last two have to ask Envoy what it speaks.
        let calling =
            calling.outbound(tcp, &format!("{ENVOY} as tcp")).outbound(http, ENVOY).outbound(tcp, ENVOY);
        let calling: Sidecar = calling.start().await;
        for n in [0, 2] {
            let addr = calling.outbound(n).await;
            for protocol in BOTH {
                let mut client = HttpClient::plain(addr, protocol).await;
                let response = client.send(&Request::new("POST", "/a?b").body("data")).await;
                assert_eq!(
                    (response.status, response.text().as_str()),
                    (200, "hello"),
                    "{alpn} {protocol:?}"
                );
                let seen = apps.http1.seen().pop().unwrap();
                assert_eq!((seen.target.as_str(), seen.body.as_slice()), ("/a?b", &b"data"[..]));
                assert!(seen.header("x-forwarded-client-cert").join("").contains(ORDERS), "{seen:?}");
            }
            // gRPC needs HTTP/2 on the whole way.
            if alpn.starts_with("h2") {
                grpc_passes(addr).await;
            }
        }
        bytes_pass(calling.outbound(1).await).await;
        bytes_pass(calling.outbound(3).await).await;
        let wrong = sidecar().identity(&svid).outbound(http, "some/other as http").start().await;
        let mut client = HttpClient::plain(wrong.outbound(0).await, Protocol::Http1).await;
        assert_eq!(client.send(&Request::get("/")).await.status, 502);
    }
}
