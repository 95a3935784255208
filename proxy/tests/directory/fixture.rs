//! A directory, and a sidecar that asks it.

use std::net::SocketAddr;

use mantlet_testkit::apps::Protocol as Speaks;
use mantlet_testkit::client::{HttpClient, Request, Response};
use mantlet_testkit::directory::{Directory, Endpoint, INJECTOR, Protocol, endpoint};
use mantlet_testkit::pki::Authority;
use mantlet_testkit::sidecar::{Sidecar, SidecarBuilder};

use crate::common::sidecar;
use crate::replica::{Replica, own_ip};

/// Where the directory listens, on an address of its own.
pub(crate) const PORT: u16 = 9444;

/// An address of the cluster behind which nobody is by himself, as a Service has.
pub(crate) fn service() -> SocketAddr {
    SocketAddr::from((own_ip(), 80))
}

pub(crate) fn directory(authority: &Authority) -> Directory {
    Directory::start(authority, SocketAddr::from((own_ip(), PORT)))
}

/// A replica of `shop/orders` as the directory names it.
pub(crate) fn orders(replica: &Replica, protocol: Protocol) -> Endpoint {
    endpoint(replica.addr, "shop/orders", protocol)
}

pub(crate) async fn replica(authority: &Authority, number: usize) -> Replica {
    Replica::start(authority, Speaks::Http1, number).await
}

/// A sidecar whose listeners say where their clients want to go, and nothing else.
pub(crate) struct Caller {
    pub(crate) sidecar: Sidecar,
}

// === impl Caller ===

impl Caller {
    pub(crate) async fn start(authority: &Authority, directory: &Directory, wanted: &[SocketAddr]) -> Self {
        Self::with(authority, directory, wanted, |sidecar| sidecar).await
    }

    pub(crate) async fn with(
        authority: &Authority,
        directory: &Directory,
        wanted: &[SocketAddr],
        build: impl FnOnce(SidecarBuilder) -> SidecarBuilder,
    ) -> Self {
        Self::of_cluster("127.0.0.0/8", authority, directory, wanted, build).await
    }

    /// One whose cluster has these networks.
    pub(crate) async fn of_cluster(
        networks: &str,
        authority: &Authority,
        directory: &Directory,
        wanted: &[SocketAddr],
        build: impl FnOnce(SidecarBuilder) -> SidecarBuilder,
    ) -> Self {
        let build = |sidecar: SidecarBuilder| build(sidecar.arg("--mesh-cidrs", networks));
        Self::asking(&directory.addr().to_string(), authority, wanted, build).await
    }

    /// One that asks whom it finds there.
    pub(crate) async fn asking(
        server: &str,
        authority: &Authority,
        wanted: &[SocketAddr],
        build: impl FnOnce(SidecarBuilder) -> SidecarBuilder,
    ) -> Self {
        let (namespace, account) = INJECTOR.split_once('/').unwrap();
        let caller = sidecar()
            .identity(&authority.workload("web/frontend"))
            .arg("--directory", server)
            .arg("--directory-id", format!("spiffe://td.test/ns/{namespace}/sa/{account}"));
        let caller = wanted
            .iter()
            .fold(caller, |caller, wanted| caller.arg("--outbound", format!("127.0.0.1:0={wanted}")));
        Self { sidecar: build(caller).start().await }
    }

    /// A connection of the application to the n-th destination.
    pub(crate) async fn open(&self, n: usize) -> HttpClient {
        HttpClient::plain(self.sidecar.outbound(n).await, Speaks::Http1).await
    }

    /// The answer on a new connection; none when it is closed, or the destination refused.
    pub(crate) async fn get(&self, n: usize) -> Option<Response> {
        self.said(n).await.filter(|answer| answer.error().as_deref() != Some("denied"))
    }

    async fn said(&self, n: usize) -> Option<Response> {
        self.open(n).await.try_send(&Request::get("/")).await.ok()
    }

    /// Whether an application that speaks HTTP is told that it may not go to the n-th destination.
    pub(crate) async fn refuses(&self, n: usize) -> bool {
        self.said(n).await.is_some_and(|told| told.status == 403 && told.error().as_deref() == Some("denied"))
    }

    /// So many answers of this kind have been taken over or dropped.
    pub(crate) async fn answers(&self, kind: &str, count: usize) {
        let labels = [("kind", kind)];
        self.sidecar.metric_reaches("mantlet_directory_answers_total", &labels, count as f64).await;
    }

    /// How often that has been counted by now.
    pub(crate) async fn count(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.sidecar.metrics().await.sum(name, labels)
    }
}
