//! Two sidecars under SPIRE, an application behind one of them, and a caller at the other.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use mantlet_testkit::apps::{App, Protocol};
use mantlet_testkit::client::{HttpClient, Request, Response, TlsClient};
use mantlet_testkit::eventually;
use mantlet_testkit::real_peers::{RealPeers, copy_program};
use mantlet_testkit::sidecar::{Sidecar, SidecarBuilder};
use mantlet_testkit::spire::{Entry, Spire, SpireOptions};
use serde_json::Value;
use tokio::net::TcpStream;

pub(crate) const TRUST_DOMAIN: &str = "spire.test";
pub(crate) const SERVER: &str = "spiffe://spire.test/ns/shop/sa/orders";
pub(crate) const CLIENT: &str = "spiffe://spire.test/ns/web/sa/frontend";

/// Lifetime at which SPIRE renews after 2 to 4 s.
pub(crate) const SHORT: u32 = 16;
/// Lifetime that no test outlives.
pub(crate) const LONG: u32 = 3600;

/// SPIRE, an application, and a sidecar on either side of it. The sidecars run copies of the program,
/// so that the attestor can tell them apart by path.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) server: Sidecar,
    pub(crate) client: Sidecar,
    pub(crate) app: App,
    pub(crate) spire: Spire,
    pub(crate) server_entry: String,
    pub(crate) client_entry: String,
}

/// The sidecar's program under a name of its own in this SPIRE's folder.
pub(crate) fn sidecar_program(spire: &Spire, name: &str) -> PathBuf {
    let to = spire.dir().path().join(name);
    if to.exists() { to } else { copy_program(env!("CARGO_BIN_EXE_mantlet-proxy").as_ref(), &to) }
}

/// A sidecar with this identity from this SPIRE.
pub(crate) fn sidecar(spire: &Spire, name: &str, id: &str) -> SidecarBuilder {
    SidecarBuilder::new(sidecar_program(spire, name)).arg("--workload-api", spire.endpoint()).expect_id(id)
}

/// An entry for the sidecar of this name.
pub(crate) fn entry(spire: &Spire, name: &str, id: &str, ttl: u32) -> Entry {
    Entry::new(id, &sidecar_program(spire, name)).ttl(ttl)
}

/// The receiving sidecar in front of this application; only [`CLIENT`] may call.
pub(crate) fn server_of(spire: &Spire, app: &App) -> SidecarBuilder {
    let policy = format!("allow web/frontend to * /** on {}\n", app.port());
    sidecar(spire, "server", SERVER).inbound(app.addr()).policy(policy)
}

/// The sending sidecar to this receiving one.
pub(crate) async fn client_of(spire: &Spire, server: &Sidecar) -> SidecarBuilder {
    sidecar(spire, "client", CLIENT).outbound(server.inbound(0).await, "shop/orders")
}

/// Sends one request on a connection of its own; an answer that is no 200 is an answer.
pub(crate) async fn try_call(outbound: SocketAddr) -> io::Result<Response> {
    let io = TcpStream::connect(outbound).await?;
    let mut client = HttpClient::over(Box::new(io), Protocol::Http1).await;
    client.try_send(&Request::get("/").header("connection", "close")).await
}

/// `/v1/certs` of a sidecar.
pub(crate) async fn certs(sidecar: &Sidecar) -> Value {
    let response = sidecar.get("/v1/certs").await;
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{error}: {}", response.text()))
}

/// The serial number of the SVID that a sidecar holds; none while it has no usable identity.
pub(crate) async fn serial(sidecar: &Sidecar) -> Option<String> {
    certs(sidecar).await["svid"]["serial"].as_str().map(ToOwned::to_owned)
}

/// Waits until a sidecar's SVID is another one than `before`, and gives its serial number.
pub(crate) async fn another_serial(sidecar: &Sidecar, before: &str) -> String {
    eventually("a new SVID", async || serial(sidecar).await.filter(|serial| serial != before)).await
}

/// Waits until readiness answers with this status.
pub(crate) async fn readiness(sidecar: &Sidecar, status: u16) {
    eventually(format!("readiness {status}"), async || {
        (sidecar.get("/readyz").await.status == status).then_some(())
    })
    .await;
}

/// The chain that an inbound listener presents, leaf first.
pub(crate) async fn presented(server: &Sidecar) -> Vec<Vec<u8>> {
    // Without a certificate we are refused, but only after the server has shown its own.
    let session = TlsClient::anonymous().connect(server.inbound(0).await).await;
    session.chain.iter().map(|certificate| certificate.to_vec()).collect()
}

/// Failed handshakes of a sidecar, in either direction.
pub(crate) async fn failed_handshakes(sidecar: &Sidecar) -> f64 {
    sidecar.metrics().await.sum("mantlet_tls_handshakes_total", &[("result", "error")])
}

// === impl Mesh ===

impl Mesh {
    /// Everything ready, with SVIDs of this lifetime.
    pub(crate) async fn start(peers: &RealPeers, ttl: u32) -> Self {
        Self::on(Spire::start(peers, TRUST_DOMAIN).await, ttl).await
    }

    /// The same under a SPIRE with these options.
    pub(crate) async fn with(peers: &RealPeers, options: SpireOptions) -> Self {
        Self::on(Spire::with(peers, options).await, LONG).await
    }

    async fn on(spire: Spire, ttl: u32) -> Self {
        let server_entry = spire.create(&entry(&spire, "server", SERVER, ttl)).await;
        let client_entry = spire.create(&entry(&spire, "client", CLIENT, ttl)).await;
        let app = App::start(Protocol::Http1).await;
        let server = server_of(&spire, &app).start().await;
        let client = client_of(&spire, &server).await.start().await;
        Self { server, client, app, spire, server_entry, client_entry }
    }

    /// Where the caller sends its requests.
    pub(crate) async fn outbound(&self) -> SocketAddr {
        self.client.outbound(0).await
    }

    /// One request from end to end.
    pub(crate) async fn call(&self) -> io::Result<Response> {
        try_call(self.outbound().await).await
    }

    /// One request that must be answered, by the application, who was told who called.
    pub(crate) async fn call_as_client(&self) {
        let before = self.app.seen().len();
        let response = self.call().await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "hello"), "{response:?}");
        let seen = self.app.seen()[before..].last().cloned().unwrap();
        let named = seen.header("x-forwarded-client-cert").join("");
        assert!(named.contains(&format!("URI={CLIENT}")), "{named}");
    }

    /// One request that must not reach the application.
    pub(crate) async fn call_fails(&self) {
        let before = self.app.seen().len();
        if let Ok(response) = self.call().await {
            assert!(response.status >= 500, "{response:?}");
        }
        assert_eq!(self.app.seen().len(), before, "a request reached the application");
    }
}
