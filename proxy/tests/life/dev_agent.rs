//! Identities from the development agent, renewed by its own clock and not by the test's.

use std::time::Duration;

use mantlet_devagent::{Cause, Config, Entry, Handle, Selectors, Server};
use mantlet_id::{SpiffeId, TrustDomain};
use mantlet_testkit::sidecar::{Sidecar, SidecarBuilder};
use mantlet_testkit::{TempDir, within};
use tokio::sync::broadcast::Receiver;
use tokio::task::JoinHandle;

use crate::common::{ORDERS, sidecar};
use crate::mesh::{Apps, Doors, FRONTEND, Open, closed_only_for};
use crate::traffic::Traffic;

/// Renewed every three seconds, give or take a tenth.
const TTL: Duration = Duration::from_secs(6);
const RENEWALS: usize = 3;

/// A running agent of `td.test`; it ends with this.
struct Agent {
    handle: Handle,
    endpoint: String,
    running: JoinHandle<()>,
    _dir: TempDir,
}

// === impl Agent ===

impl Agent {
    fn start() -> Self {
        let dir = TempDir::new();
        let socket = dir.path().join("agent.sock");
        let mut config = Config::new(&socket, TrustDomain::parse("td.test").unwrap());
        config.svid_ttl = TTL;
        let server = Server::bind(config).unwrap();
        let handle = server.handle();
        let running = tokio::spawn(async move { server.run(std::future::pending()).await.unwrap() });
        Self { handle, endpoint: format!("unix://{}", socket.display()), running, _dir: dir }
    }

    fn serves(&self, sidecar: SidecarBuilder, id: &str) -> SidecarBuilder {
        sidecar.arg("--workload-api", &self.endpoint).expect_id(id)
    }

    /// This process, and no other of the same program.
    fn register(&self, sidecar: &Sidecar, id: &str) {
        let selectors = Selectors { pid: sidecar.pid(), ..Selectors::default() };
        self.handle.add_entry(Entry::new(SpiffeId::parse(id).unwrap(), selectors)).unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// Waits until each of the two has been renewed so often because its time had come.
async fn renewed(issued: &mut Receiver<mantlet_devagent::Issuance>) {
    let (mut orders, mut frontend) = (0, 0);
    while orders < RENEWALS || frontend < RENEWALS {
        let issuance = within("a renewal at half life", issued.recv()).await.unwrap();
        match (issuance.cause, issuance.id.as_str()) {
            (Cause::HalfLife, ORDERS) => orders += 1,
            (Cause::HalfLife, FRONTEND) => frontend += 1,
            (cause, id) => panic!("{id} was issued again: {cause:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_renews_at_half_life_by_itself_costs_no_request_and_no_open_connection() {
    let (agent, apps) = (Agent::start(), Apps::start().await);
    let callee = apps.behind(agent.serves(sidecar(), ORDERS).policy(apps.allow("mesh"))).spawn();
    let inner = Doors::inbound(&callee).await;
    let caller = inner.before(agent.serves(sidecar(), FRONTEND), "shop/orders").spawn();
    agent.register(&callee, ORDERS);
    agent.register(&caller, FRONTEND);
    callee.ready().await;
    caller.ready().await;

    let outer = Doors::outbound(&caller, 0).await;
    let mut open = Open::through(outer).await;
    let traffic = Traffic::start(outer).await;
    let mut issued = agent.handle.issuances();
    renewed(&mut issued).await;
    traffic.goes_on().await;
    traffic.nothing_was_lost().await;
    open.goes_on().await;
    closed_only_for(&caller, &["eof"]).await;
    closed_only_for(&callee, &["eof"]).await;
}
