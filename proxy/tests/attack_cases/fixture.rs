//! Fixture F: pod `shop/orders` of `td.test` with an HTTP, a gRPC and a database port; `partner.test`
//! is federated.

use std::net::SocketAddr;
use std::sync::Arc;

use mantlet_testkit::apps::{App, Protocol, Reply, TcpApp};
use mantlet_testkit::client::{Http1, Http2, HttpClient, Response, TlsClient};
use mantlet_testkit::pki::Authority;
use mantlet_testkit::sidecar::{Sidecar, SidecarBuilder};
use mantlet_testkit::workload_api::{Answer, WorkloadApi};

use crate::common::{ORDERS, sidecar};

/// The policy of the fixture with this pod's ports.
pub(crate) fn policy(http: u16, grpc: u16, pg: u16) -> String {
    format!(
        "group @readers = web/frontend, web/bff\n\
         allow @readers     to GET,HEAD /orders/**, /public/**  on {http} as read\n\
         allow web/checkout to POST /orders on {http} when header x-tenant = acme as create\n\
         allow mesh         to GET /public/* on {http} as public\n\
         allow ops/*        to * /** on {http} as ops\n\
         deny  mesh except ops/oncall to * /admin/** on {http} as no-admin\n\
         deny  mesh         to * /** on {http} when header x-check = bad as no-bad\n\
         allow pay/ledger   to grpc shop.v1.Orders/Get on {grpc} as rpc\n\
         allow data/etl     to tcp on {pg} as pg\n\
         allow spiffe://partner.test/ns/ful/sa/ship to GET /orders/{{id}} on {http} as partner\n"
    )
}

pub(crate) struct Fixture {
    pub(crate) authority: Authority,
    pub(crate) partner: Authority,
    pub(crate) app: App,
    pub(crate) grpc: App,
    pub(crate) pg: TcpApp,
    pub(crate) sidecar: Sidecar,
    pub(crate) http_addr: SocketAddr,
    pub(crate) grpc_addr: SocketAddr,
    pub(crate) pg_addr: SocketAddr,
}

// === impl Fixture ===

impl Fixture {
    pub(crate) async fn start() -> Self {
        Self::with("", |sidecar| sidecar).await
    }

    /// With further lines of policy, in which `HTTP` stands for the HTTP port, and further flags.
    pub(crate) async fn with(lines: &str, build: impl FnOnce(SidecarBuilder) -> SidecarBuilder) -> Self {
        let app = App::with(Protocol::Http1, |seen| async move { Reply::ok(seen.body) }).await;
        let (grpc, pg) = (App::start(Protocol::H2c).await, TcpApp::banner("220 pg\r\n").await);
        let (authority, partner) = (Authority::new("td.test"), Authority::new("partner.test"));
        let answer = Answer::of(&authority.svid(ORDERS)).federated(&partner);
        let api = Arc::new(WorkloadApi::serving(answer));
        let more = lines.replace("HTTP", &app.port().to_string());
        let sidecar = sidecar()
            .workload_api(&api)
            .expect_id(ORDERS)
            .policy(policy(app.port(), grpc.port(), pg.port()) + &more)
            .inbound(app.addr())
            .inbound(grpc.addr())
            .inbound(pg.addr());
        let sidecar = build(sidecar).start().await;
        let http_addr = sidecar.inbound(0).await;
        let grpc_addr = sidecar.inbound(1).await;
        let pg_addr = sidecar.inbound(2).await;
        Self { authority, partner, app, grpc, pg, sidecar, http_addr, grpc_addr, pg_addr }
    }

    /// The fixture's policy with further lines, for a live change.
    pub(crate) fn policy_and(&self, lines: &str) -> String {
        let more = lines.replace("HTTP", &self.app.port().to_string());
        policy(self.app.port(), self.grpc.port(), self.pg.port()) + &more
    }

    pub(crate) fn peer(&self, short: &str) -> TlsClient {
        TlsClient::new(&self.authority.workload(short))
    }

    /// An HTTP/1 connection of this peer to the HTTP port.
    pub(crate) async fn h1(&self, short: &str) -> Http1 {
        match self.peer(short).http(self.http_addr, Protocol::Http1).await {
            HttpClient::Http1(client) => client,
            HttpClient::Http2(_) => unreachable!("asked for HTTP/1"),
        }
    }

    /// An HTTP/2 connection of this peer to the HTTP port.
    pub(crate) async fn h2(&self, short: &str) -> Http2 {
        match self.peer(short).http(self.http_addr, Protocol::H2c).await {
            HttpClient::Http2(client) => client,
            HttpClient::Http1(_) => unreachable!("asked for HTTP/2"),
        }
    }

    /// Sends one HTTP/1 request head as it is written, on a connection of its own.
    pub(crate) async fn raw(&self, short: &str, request: impl AsRef<[u8]>) -> Response {
        self.h1(short).await.raw(request).await.unwrap()
    }

    /// Sends a GET for this target as it is written.
    pub(crate) async fn get(&self, short: &str, target: &str) -> Response {
        self.raw(short, format!("GET {target} HTTP/1.1\r\nHost: orders.shop\r\n\r\n")).await
    }

    /// How many requests this rule decided.
    pub(crate) async fn decided_by(&self, rule: &str) -> f64 {
        self.sidecar.metrics().await.sum("mantlet_authz_decisions_total", &[("rule", rule)])
    }

    /// Nothing that was refused may have touched the app.
    pub(crate) fn assert_untouched(&self) {
        assert_eq!(self.app.seen(), []);
        assert_eq!(self.app.connections(), 0);
    }
}

/// Status and reason of a refusal.
pub(crate) fn verdict(response: &Response) -> (u16, String) {
    (response.status, response.denied().unwrap_or_default())
}

/// 400 with this defect.
pub(crate) fn malformed(defect: &str) -> (u16, String) {
    (400, format!("malformed({defect})"))
}

/// 403 with this reason.
pub(crate) fn denied(reason: &str) -> (u16, String) {
    (403, reason.to_owned())
}
