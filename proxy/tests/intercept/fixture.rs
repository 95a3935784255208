//! A pod with rules, a sidecar and an app.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mantlet_redirect::{Config, Ruleset, apply};
use mantlet_testkit::apps::{App, Protocol, Reply};
use mantlet_testkit::client::connect;
use mantlet_testkit::eventually;
use mantlet_testkit::netns::{Lab, POD, Place, SIDECAR, runnable};
use mantlet_testkit::pki::Authority;
use mantlet_testkit::sidecar::{Metrics, Sidecar, SidecarBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// The identity of the sidecar under test.
pub(crate) const ORDERS: &str = "spiffe://td.test/ns/shop/sa/orders";

/// A pod of `shop/orders`.
pub(crate) struct Pod {
    pub(crate) lab: Lab,
    pub(crate) authority: Authority,
    pub(crate) sidecar: Arc<Sidecar>,
}

/// Installs the rules in a pod.
pub(crate) async fn install(lab: &Lab) {
    let rules = Ruleset::new(Config::new(SIDECAR, SIDECAR)).unwrap();
    lab.pod.run(async move { apply(&rules).unwrap() }).await;
}

/// A sidecar of this authority's `shop/orders` that takes what is redirected for these addresses.
pub(crate) fn sidecar(authority: &Authority, pod_ips: &[IpAddr]) -> SidecarBuilder {
    let pod_ips: Vec<String> = pod_ips.iter().map(ToString::to_string).collect();
    SidecarBuilder::new(runnable(env!("CARGO_BIN_EXE_mantlet-proxy")))
        .user(SIDECAR)
        .identity(&authority.svid(ORDERS))
        .switch("--intercept")
        .arg("--pod-ips", pod_ips.join(","))
}

// === impl Pod ===

impl Pod {
    /// With rules, and a sidecar of this policy that is ready. Without one it lets everybody in, without
    /// TLS too: what is refused then is not refused by policy.
    pub(crate) async fn start(policy: &str) -> Self {
        Self::with(policy, |builder| builder).await
    }

    /// The same, built further by the test.
    pub(crate) async fn with(policy: &str, build: impl FnOnce(SidecarBuilder) -> SidecarBuilder) -> Self {
        let lab = Lab::new().await;
        install(&lab).await;
        let authority = Authority::new("td.test");
        let builder = build(sidecar(&authority, &POD));
        let builder = match policy {
            "" => builder.arg("--unconfigured", "permissive"),
            policy => builder.policy(policy),
        };
        let sidecar = lab.pod.run(async move { Arc::new(builder.start().await) }).await;
        Self { lab, authority, sidecar }
    }

    /// The sidecar's metrics now.
    pub(crate) async fn metrics(&self) -> Metrics {
        let sidecar = Arc::clone(&self.sidecar);
        self.lab.pod.run(async move { sidecar.metrics().await }).await
    }

    /// Waits until so many connections have been closed for this reason.
    pub(crate) async fn closed(&self, direction: &str, reason: &str, count: f64) {
        let labels = [("direction", direction), ("reason", reason)];
        eventually(format!("{count} {direction} connections closed: {reason}"), async || {
            let closed = self.metrics().await.sum("mantlet_connections_closed_total", &labels);
            (closed >= count).then_some(())
        })
        .await;
    }
}

/// An HTTP application of the pod's ordinary user at these addresses, which answers with what it saw.
pub(crate) async fn http_app(place: &Place, addrs: impl IntoIterator<Item = SocketAddr>) -> Vec<Arc<App>> {
    let addrs: Vec<SocketAddr> = addrs.into_iter().collect();
    let start = async move {
        let mut apps = Vec::new();
        for addr in addrs {
            let listener = TcpListener::bind(addr).await.unwrap();
            let app = App::on(listener, Protocol::Http1, |seen| async move {
                Reply::ok(format!("saw {}", seen.target))
            });
            apps.push(Arc::new(app));
        }
        apps
    };
    place.run(start).await
}

/// What comes back to a plain HTTP request, until the connection ends; nothing, when it is closed at once.
pub(crate) async fn plain_get(place: &Place, addr: SocketAddr) -> String {
    let get = async move {
        let mut tcp = connect(addr).await;
        let _ = tcp.write_all(b"GET /plain HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n").await;
        let mut all = Vec::new();
        let read = async { while tcp.read_buf(&mut all).await.is_ok_and(|count| count > 0) {} };
        mantlet_testkit::within(format!("the end of a connection to {addr}"), read).await;
        String::from_utf8_lossy(&all).into_owned()
    };
    place.run(get).await
}
