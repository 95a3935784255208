//! Hosts that are gone without a word: every packet to and from them is lost.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mantlet_testkit::apps::{App, Protocol, Reply};
use mantlet_testkit::client::{Http1, HttpClient, Request, TlsClient, connect};
use mantlet_testkit::netns::{Lab, NODE, POD, Place, runnable};
use mantlet_testkit::pki::Authority;
use mantlet_testkit::sidecar::{Sidecar, SidecarBuilder};
use mantlet_testkit::{Io, eventually, in_namespaces};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const ALLOW: &str = "allow mesh to * /**\n";
/// What the sidecar is told; it looks in whole seconds, so it may take one more.
const DEAD_AFTER: &str = "3s";
/// Far below what the kernel would take by itself, far above what it takes on a busy machine.
const FOUND: Duration = Duration::from_secs(15);

/// A sidecar in the pod, whose callers, peers and apps are on the node too.
struct Cut {
    lab: Lab,
    sidecar: Arc<Sidecar>,
    peer: Arc<Sidecar>,
    authority: Authority,
    _apps: [App; 2],
}

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// `/held` is never answered.
async fn app(place: &Place, addr: SocketAddr) -> App {
    place
        .run(async move {
            App::on(TcpListener::bind(addr).await.unwrap(), Protocol::Http1, |seen| async move {
                if seen.target == "/held" {
                    std::future::pending::<()>().await;
                }
                Reply::ok("hello")
            })
        })
        .await
}

impl Cut {
    async fn start() -> Self {
        let lab = Lab::new().await;
        let authority = Authority::new("td.test");
        let [near, far] = [at(POD[0], 8080), at(NODE[0], 8080)];
        let apps = [app(&lab.pod, near).await, app(&lab.node, far).await];
        let peer = SidecarBuilder::new(runnable(env!("CARGO_BIN_EXE_mantlet-proxy")))
            .identity(&authority.workload("shop/ledger"))
            .arg("--inbound", format!("{}={far}", at(NODE[0], 8443)))
            .policy(ALLOW);
        let peer = lab.node.run(async move { Arc::new(peer.start().await) }).await;
        let ledger = format!("{}={} is shop/ledger as http", at(POD[0], 9000), at(NODE[0], 8443));
        let sidecar = SidecarBuilder::new(runnable(env!("CARGO_BIN_EXE_mantlet-proxy")))
            .identity(&authority.workload("shop/orders"))
            .arg("--inbound", format!("{}={near}", at(POD[0], 8443)))
            .arg("--inbound", format!("{}={far}", at(POD[0], 8444)))
            .arg("--outbound", ledger)
            .arg("--metrics-level", "full")
            .arg("--dead-after", DEAD_AFTER)
            .arg("--stall-timeout", DEAD_AFTER)
            .policy(ALLOW);
        let sidecar = lab.pod.run(async move { Arc::new(sidecar.start().await) }).await;
        Self { lab, sidecar, peer, authority, _apps: apps }
    }

    /// A peer's connection to the inbound listener on this port, after one request.
    async fn peer(&self, place: &Place, port: u16, protocol: Protocol) -> HttpClient {
        let tls = TlsClient::new(&self.authority.workload("web/frontend"));
        place
            .run(async move {
                let mut client = tls.http(at(POD[0], port), protocol).await;
                assert_eq!(client.send(&Request::get("/")).await.status, 200);
                client
            })
            .await
    }

    /// An app's connection to the outbound listener, after one request.
    async fn caller(&self, place: &Place) -> Http1 {
        place
            .run(async {
                let io: Io = Box::new(connect(at(POD[0], 9000)).await);
                let mut client = Http1::new(io);
                assert_eq!(client.send(&Request::get("/")).await.unwrap().status, 200);
                client
            })
            .await
    }

    /// Loses every packet between pod and node, or no longer.
    async fn cut(&self, lost: bool) {
        if !lost {
            self.lab.node.command("nft delete table inet cut").await;
            return;
        }
        for line in [
            "add table inet cut",
            "add chain inet cut in { type filter hook input priority 0 ; }",
            "add chain inet cut out { type filter hook output priority 0 ; }",
            "add rule inet cut in iifname veth0 drop",
            "add rule inet cut out oifname veth0 drop",
        ] {
            self.lab.node.command(&format!("nft {line}")).await;
        }
    }

    async fn sum(&self, name: &'static str, labels: &'static [(&'static str, &'static str)]) -> f64 {
        let sidecar = Arc::clone(&self.sidecar);
        self.lab.pod.run(async move { sidecar.metrics().await.sum(name, labels) }).await
    }

    async fn reaches(&self, name: &'static str, labels: &'static [(&'static str, &'static str)], value: f64) {
        eventually(format!("{name}{labels:?} = {value}"), async || {
            (self.sum(name, labels).await == value).then_some(())
        })
        .await;
    }
}

/// Sends a request that nobody answers, and gives status and error of what comes instead.
fn held(mut client: HttpClient, method: &'static str) -> JoinHandle<(u16, Option<String>)> {
    tokio::spawn(async move {
        let response = client.send(&Request::new(method, "/held")).await;
        (response.status, response.error())
    })
}

#[test]
fn connections_of_hosts_that_vanished_are_found_closed_and_counted_and_the_others_go_on() {
    in_namespaces!(async || {
        let cut = Cut::start().await;
        let (pod, node) = (&cut.lab.pod, &cut.lab.node);
        let closed = "mantlet_connections_closed_total";
        // Those who vanish: peers of either version, and an app.
        let _idle = cut.peer(node, 8443, Protocol::Http1).await;
        let _streams = cut.peer(node, 8443, Protocol::H2c).await;
        let _app = cut.caller(node).await;
        // Those who stay and wait for somebody who vanishes: for the app, and for the peer.
        let mut stays = cut.peer(pod, 8443, Protocol::H2c).await;
        let to_app = cut.peer(pod, 8444, Protocol::H2c).await;
        let to_app = held(to_app, "POST");
        let to_peer = pod.run(async { HttpClient::plain(at(POD[0], 9000), Protocol::Http1).await }).await;
        let to_peer = held(to_peer, "POST");
        let arrived = ["mantlet_http_requests_in_flight", "inbound", "outbound"];
        cut.reaches(arrived[0], &[("direction", "inbound")], 1.0).await;
        cut.reaches(arrived[0], &[("direction", "outbound")], 1.0).await;
        eventually("the request to be at the peer's app", async || {
            let peer = Arc::clone(&cut.peer);
            let metrics = node.run(async move { peer.metrics().await }).await;
            (metrics.sum(arrived[0], &[("direction", "inbound")]) == 1.0).then_some(())
        })
        .await;

        cut.cut(true).await;
        let since = Instant::now();
        // One more on the same connection, of which nothing is ever acknowledged.
        let unseen = pod.run(async { HttpClient::plain(at(POD[0], 9000), Protocol::Http1).await }).await;
        let unseen = held(unseen, "GET");
        let timeout = (504, Some("timeout".to_owned()));
        assert_eq!(to_app.await.unwrap(), timeout);
        assert_eq!(to_peer.await.unwrap(), timeout);
        // It may be sent again, to nobody.
        let unseen = unseen.await.unwrap();
        assert!(unseen == timeout || unseen == (503, Some("timeout".to_owned())), "{unseen:?}");
        cut.reaches(closed, &[("direction", "inbound"), ("reason", "timeout")], 2.0).await;
        cut.reaches(closed, &[("direction", "outbound"), ("reason", "timeout")], 1.0).await;
        assert!(since.elapsed() < FOUND, "found after {:?}", since.elapsed());
        let response = pod.run(async move { (stays.send(&Request::get("/")).await.status, stays) }).await;
        assert_eq!(response.0, 200, "a connection that has nothing to do with it");

        cut.cut(false).await;
        let mut back = cut.caller(node).await;
        assert_eq!(node.run(async move { back.send(&Request::get("/")).await.unwrap().status }).await, 200);
    });
}
