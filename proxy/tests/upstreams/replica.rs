//! Replicas of one workload: each an app and its sidecar, on an address that stays the same.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};

use mantlet_testkit::apps::{App, Protocol, Reply};
use mantlet_testkit::pki::Authority;
use mantlet_testkit::sidecar::Sidecar;

use crate::common::{ORDERS, sidecar};

/// Where replicas listen; the address is what tells them apart, as in a cluster.
pub(crate) const PORT: u16 = 8443;

/// A loopback address of this process's own. Nobody else listens there, and no connection of
/// anybody's begins there, so a replica that stops finds its port free when it comes back.
pub(crate) fn own_ip() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    // The upper half of 127/8 for tests, away from what systems use below.
    Ipv4Addr::new(127, high | 0x80, low, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A replica of `shop/orders`; its app answers with its own number.
pub(crate) struct Replica {
    pub(crate) app: App,
    pub(crate) addr: SocketAddr,
    pub(crate) sidecar: Option<Sidecar>,
    authority: Authority,
    policy: String,
}

// === impl Replica ===

impl Replica {
    pub(crate) async fn start(authority: &Authority, protocol: Protocol, number: usize) -> Self {
        let app = App::with(protocol, move |_| async move { Reply::ok(number.to_string()) }).await;
        Self::with_app(authority, app).await
    }

    pub(crate) async fn with_app(authority: &Authority, app: App) -> Self {
        let (addr, authority) = (SocketAddr::from((own_ip(), PORT)), authority.clone());
        let policy = "allow mesh to * /**\n".to_owned();
        let mut replica = Self { app, addr, sidecar: None, authority, policy };
        replica.up().await;
        replica
    }

    /// Starts its sidecar.
    pub(crate) async fn up(&mut self) {
        let sidecar = sidecar().identity(&self.authority.svid(ORDERS)).policy(&*self.policy);
        let sidecar = sidecar.arg("--inbound", format!("{}={}", self.addr, self.app.addr()));
        self.sidecar = Some(sidecar.start().await);
    }

    /// Kills its sidecar: nobody listens there any more.
    pub(crate) async fn down(&mut self) {
        let mut sidecar = self.sidecar.take().unwrap();
        sidecar.signal(rustix::process::Signal::KILL);
        sidecar.exited().await;
    }
}

/// The sidecar of a caller whose one listener leads to these, and where it listens.
pub(crate) async fn caller(
    authority: &Authority,
    upstreams: &[SocketAddr],
    rest: &str,
) -> (Sidecar, SocketAddr) {
    let list = upstreams.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let caller = sidecar().identity(&authority.workload("web/frontend"));
    let caller = caller.arg("--outbound", format!("127.0.0.1:0={list} is shop/orders{rest}"));
    let caller = caller.start().await;
    let addr = caller.outbound(0).await;
    (caller, addr)
}
