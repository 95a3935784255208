//! What is counted: one sidecar between a client and a server that are not counted.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use mantlet_testkit::apps::{App, Protocol};
use mantlet_testkit::client::{HttpClient, Request, TlsClient, connect};
use mantlet_testkit::peer::TlsPeer;
use mantlet_testkit::pki::Authority;
use mantlet_testkit::sidecar::{Sidecar, SidecarBuilder};
use tokio::io::copy_bidirectional;

/// Which sidecar, and the HTTP version of the mesh connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    role: Role,
    hop: Protocol,
}

#[derive(Clone, Copy, Debug)]
enum Role {
    Inbound,
    Outbound,
}

/// Everything that runs, and the connection that the requests go over.
pub(crate) struct Running {
    pub(crate) sidecar: Sidecar,
    pub(crate) client: HttpClient,
    pub(crate) app: App,
}

pub(crate) const SCENARIOS: [Scenario; 4] = [
    Scenario { name: "inbound-h1", role: Role::Inbound, hop: Protocol::Http1 },
    Scenario { name: "inbound-h2", role: Role::Inbound, hop: Protocol::H2c },
    Scenario { name: "outbound-h1", role: Role::Outbound, hop: Protocol::Http1 },
    Scenario { name: "outbound-h2", role: Role::Outbound, hop: Protocol::H2c },
];

const OWN: &str = "spiffe://bench.test/ns/shop/sa/orders";
const POLICY: &str = "allow web/frontend to GET,HEAD /orders/** as read\nallow web/bff to * /**\n";

/// A request as a browser's back end makes it.
pub(crate) fn request() -> Request {
    Request::get("/orders/4711?expand=lines")
        .header("accept", "application/json")
        .header("accept-encoding", "gzip")
        .header("user-agent", "frontend/1.0")
        .header("x-request-id", "7c1e0c6a-54a6-4b39-9f0e-0a54c2d2c9b1")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
}

/// Hands on what a mesh connection carries to an application that speaks the same.
async fn terminate(peer: TlsPeer, app: SocketAddr) {
    while let Ok(accepted) = peer.try_accept().await {
        tokio::spawn(async move {
            let (mut near, mut far) = (accepted.into_io(), connect(app).await);
            let _ = copy_bidirectional(&mut near, &mut far).await;
        });
    }
}

impl Scenario {
    /// Starts everything; the sidecar runs under `under`.
    pub(crate) async fn start(&self, binary: &Path, under: &[String]) -> io::Result<Running> {
        let authority = Authority::new("bench.test");
        let sidecar = SidecarBuilder::new(binary).under(under).arg("--workers", "1");
        match self.role {
            Role::Inbound => {
                let app = App::start(Protocol::Http1).await;
                let sidecar = sidecar.identity(&authority.svid(OWN)).inbound(app.addr()).policy(POLICY);
                let sidecar = sidecar.start().await;
                let peer = TlsClient::new(&authority.workload("web/frontend"));
                let client = peer.http(sidecar.inbound(0).await, self.hop).await;
                Ok(Running { sidecar, client, app })
            }
            Role::Outbound => {
                // The peer is told by its ALPN; the application behind it speaks what arrives there.
                let app = App::start(self.hop).await;
                let alpn = if self.hop == Protocol::H2c { "h2" } else { "http/1.1" };
                let peer = TlsPeer::start(&authority.svid(OWN), &[alpn]).await;
                let addr = peer.addr();
                tokio::spawn(terminate(peer, app.addr()));
                let caller = authority.workload("web/frontend");
                let sidecar = sidecar.identity(&caller).outbound(addr, "shop/orders as http");
                let sidecar = sidecar.start().await;
                let client = HttpClient::plain(sidecar.outbound(0).await, Protocol::Http1).await;
                Ok(Running { sidecar, client, app })
            }
        }
    }
}
