//! What the black-box tests of the sidecar share.

#![allow(dead_code)]

use std::net::SocketAddr;

use mantlet_testkit::apps::{App, Protocol};
use mantlet_testkit::client::{HttpClient, TlsClient};
use mantlet_testkit::eventually;
use mantlet_testkit::pki::{Authority, TestSvid};
use mantlet_testkit::sidecar::{Sidecar, SidecarBuilder};

/// Both HTTP versions that apps speak.
pub(crate) const BOTH: [Protocol; 2] = [Protocol::Http1, Protocol::H2c];

/// The identity of the sidecar under test.
pub(crate) const ORDERS: &str = "spiffe://td.test/ns/shop/sa/orders";

pub(crate) fn sidecar() -> SidecarBuilder {
    SidecarBuilder::new(env!("CARGO_BIN_EXE_mantlet-proxy"))
}

/// One sidecar of `shop/orders` in front of an app, and the authority that makes its peers.
pub(crate) struct Inbound {
    pub(crate) authority: Authority,
    pub(crate) svid: TestSvid,
    pub(crate) sidecar: Sidecar,
    pub(crate) addr: SocketAddr,
}

// === impl Inbound ===

impl Inbound {
    /// In front of this app, with this policy.
    pub(crate) async fn start(app: SocketAddr, policy: &str) -> Self {
        Self::with(app, |sidecar| sidecar.policy(policy)).await
    }

    /// In front of this app, built further by the test.
    pub(crate) async fn with(app: SocketAddr, build: impl FnOnce(SidecarBuilder) -> SidecarBuilder) -> Self {
        let authority = Authority::new("td.test");
        let svid = authority.svid(ORDERS);
        let sidecar = build(sidecar().identity(&svid).inbound(app)).start().await;
        let addr = sidecar.inbound(0).await;
        Self { authority, svid, sidecar, addr }
    }

    /// A peer of the same trust domain, from its short form.
    pub(crate) fn peer(&self, short: &str) -> TlsClient {
        TlsClient::new(&self.authority.workload(short))
    }

    /// An HTTP connection of such a peer.
    pub(crate) async fn http(&self, short: &str, protocol: Protocol) -> HttpClient {
        self.peer(short).http(self.addr, protocol).await
    }

    /// The sidecar of another workload, whose outbound listener leads here; `rest` follows the ids.
    pub(crate) async fn caller(&self, short: &str, rest: &str) -> (Sidecar, SocketAddr) {
        let caller = sidecar().identity(&self.authority.workload(short));
        let caller = caller.outbound(self.addr, &format!("shop/orders{rest}")).start().await;
        let addr = caller.outbound(0).await;
        (caller, addr)
    }
}

/// An app of this protocol that answers `hello`, and a sidecar in front of it.
pub(crate) async fn app_and_inbound(protocol: Protocol, policy: &str) -> (App, Inbound) {
    let app = App::start(protocol).await;
    let inbound = Inbound::start(app.addr(), policy).await;
    (app, inbound)
}

/// So many TLS handshakes of one direction have ended with this reason. They are counted after the
/// alert is on its way, so this waits for the last of them.
pub(crate) async fn assert_handshakes(sidecar: &Sidecar, direction: &str, reason: &str, count: f64) {
    let labels = [("direction", direction), ("reason", reason)];
    let metrics = eventually(format!("{count} {direction} handshakes that end with {reason}"), async || {
        let metrics = sidecar.metrics().await;
        (metrics.sum("mantlet_tls_handshakes_total", &labels) >= count).then_some(metrics)
    })
    .await;
    assert_eq!(metrics.sum("mantlet_tls_handshakes_total", &labels), count, "{metrics:?}");
}

/// Waits for the own identity: a sidecar that is not ready for another reason answers from then on.
pub(crate) async fn identified(sidecar: &Sidecar) {
    sidecar.metric_reaches("mantlet_identity_usable", &[], 1.0).await;
}
