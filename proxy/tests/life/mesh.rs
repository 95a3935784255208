//! Two sidecars with three apps between them, and connections of every kind through both.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mantlet_testkit::apps::{App, Protocol, Reply, TcpApp};
use mantlet_testkit::client::{Http1, Http2, Http2Stream, HttpClient, Request, TlsClient, connect, exactly};
use mantlet_testkit::pki::{Authority, TestSvid};
use mantlet_testkit::sidecar::{Sidecar, SidecarBuilder};
use mantlet_testkit::workload_api::{Answer, WorkloadApi};
use mantlet_testkit::{Io, eventually};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::common::{ORDERS, sidecar};

/// Who calls.
pub(crate) const FRONTEND: &str = "spiffe://td.test/ns/web/sa/frontend";

/// Three apps: HTTP/1, HTTP/2 and bytes. `/open` is answered without end, `/held` when the test says
/// so, `/big` with more than any window takes.
pub(crate) struct Apps {
    pub(crate) h1: App,
    pub(crate) h2: App,
    pub(crate) tcp: TcpApp,
    gate: Arc<Semaphore>,
}

/// Where the three apps are reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doors {
    pub(crate) h1: SocketAddr,
    pub(crate) h2: SocketAddr,
    pub(crate) tcp: SocketAddr,
}

/// The sidecar of `web/frontend`, the sidecar of `shop/orders` and the apps behind that.
pub(crate) struct Mesh {
    pub(crate) authority: Authority,
    pub(crate) apps: Apps,
    pub(crate) callee: Sidecar,
    pub(crate) caller: Sidecar,
    /// Inbound, of the callee.
    pub(crate) inner: Doors,
    /// Outbound, of the caller.
    pub(crate) outer: Doors,
}

/// One connection of every kind: an idle HTTP/1 one, an HTTP/2 one with a response that does not end,
/// and bytes.
pub(crate) struct Open {
    pub(crate) h1: Http1,
    pub(crate) h2: Http2,
    pub(crate) stream: Http2Stream,
    pub(crate) tcp: Io,
}

/// More than all windows and buffers on the way together.
pub(crate) const BIG: usize = 32 * 1024 * 1024;

/// What loses its right ends within this time of the change.
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// What has to happen within a second of now.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    within_a_second_of(Instant::now(), what, future).await
}

/// What has to happen within a second of that moment.
pub(crate) async fn within_a_second_of<F: Future>(moment: Instant, what: &str, future: F) -> F::Output {
    let done = tokio::time::timeout_at(moment + SECOND, future).await;
    done.unwrap_or_else(|_| panic!("not within a second: {what}"))
}

/// A GET of the HTTP/2 app's clients; a peer that is no Mantlet says itself what its app speaks.
pub(crate) fn get2(target: &str) -> Request {
    Request::get(target).header("x-mantlet-proto", "2")
}

/// How many connections of this direction have ended for this reason.
pub(crate) async fn closed(sidecar: &Sidecar, direction: &str, reason: &str) -> f64 {
    let labels = [("direction", direction), ("reason", reason)];
    sidecar.metrics().await.sum("mantlet_connections_closed_total", &labels)
}

/// At least so many connections of this direction have ended for this reason.
pub(crate) async fn closes(sidecar: &Sidecar, direction: &str, reason: &str, count: f64) {
    let labels = [("direction", direction), ("reason", reason)];
    sidecar.metric_reaches("mantlet_connections_closed_total", &labels, count).await;
}

/// No connection has ended but for these reasons.
pub(crate) async fn closed_only_for(sidecar: &Sidecar, reasons: &[&str]) {
    let metrics = sidecar.metrics().await;
    let ended =
        |reason: &&String| metrics.sum("mantlet_connections_closed_total", &[("reason", reason)]) > 0.0;
    let others = metrics.values("mantlet_connections_closed_total", "reason");
    let others: Vec<_> =
        others.iter().filter(ended).filter(|reason| !reasons.contains(&reason.as_str())).collect();
    assert!(others.is_empty(), "closed for {others:?}");
}

/// How many handshakes of this direction succeeded.
pub(crate) async fn handshakes(sidecar: &Sidecar, direction: &str) -> f64 {
    let labels = [("direction", direction), ("reason", "ok")];
    sidecar.metrics().await.sum("mantlet_tls_handshakes_total", &labels)
}

/// `/v1/certs`.
pub(crate) async fn certs(sidecar: &Sidecar) -> Value {
    serde_json::from_str(&sidecar.get("/v1/certs").await.text()).unwrap()
}

/// Gives the sidecar this identity, and waits until it has it.
pub(crate) async fn give(sidecar: &Sidecar, answer: Answer) {
    let before = certs(sidecar).await;
    let known = |certs: &Value| (certs["svid"].clone(), certs["bundles"].clone());
    sidecar.workload_api().serve(answer);
    eventually("the identity to be taken", async || {
        (known(&certs(sidecar).await) != known(&before)).then_some(())
    })
    .await;
}

/// Waits until the readiness is this status, and gives the text.
pub(crate) async fn readiness(sidecar: &Sidecar, status: u16) -> String {
    eventually(format!("readiness {status}"), async || {
        let response = sidecar.get("/readyz").await;
        (response.status == status).then(|| response.text())
    })
    .await
}

// === impl Apps ===

impl Apps {
    pub(crate) async fn start() -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let app = |protocol| {
            let gate = Arc::clone(&gate);
            App::with(protocol, move |seen| {
                let gate = Arc::clone(&gate);
                async move {
                    let grpc = seen.header("content-type").contains(&"application/grpc".to_owned());
                    let kind = if grpc { "application/grpc" } else { "text/plain" };
                    match seen.target.as_str() {
                        "/open" => Reply::open("first").header("content-type", kind),
                        "/big" => Reply::ok(vec![7; BIG]).header("content-type", kind),
                        "/held" => {
                            gate.acquire().await.unwrap().forget();
                            Reply::ok("finished")
                        }
                        _ => Reply::ok("hello"),
                    }
                }
            })
        };
        let (h1, h2, tcp) = tokio::join!(app(Protocol::Http1), app(Protocol::H2c), TcpApp::echo());
        Self { h1, h2, tcp, gate }
    }

    /// Lets so many `/held` requests go.
    pub(crate) fn release(&self, count: usize) {
        self.gate.add_permits(count);
    }

    /// Three lines: these peers may do everything.
    pub(crate) fn allow(&self, peers: &str) -> String {
        let (h1, h2, tcp) = (self.h1.port(), self.h2.port(), self.tcp.port());
        format!(
            "allow {peers} to * /** on {h1}\nallow {peers} to * /** on {h2}\nallow {peers} to tcp on {tcp}\n"
        )
    }

    /// A sidecar with an inbound listener for each.
    pub(crate) fn behind(&self, sidecar: SidecarBuilder) -> SidecarBuilder {
        sidecar.inbound(self.h1.addr()).inbound(self.h2.addr()).inbound(self.tcp.addr())
    }
}

// === impl Doors ===

impl Doors {
    pub(crate) async fn inbound(sidecar: &Sidecar) -> Self {
        Self { h1: sidecar.inbound(0).await, h2: sidecar.inbound(1).await, tcp: sidecar.inbound(2).await }
    }

    pub(crate) async fn outbound(sidecar: &Sidecar, first: usize) -> Self {
        Self {
            h1: sidecar.outbound(first).await,
            h2: sidecar.outbound(first + 1).await,
            tcp: sidecar.outbound(first + 2).await,
        }
    }

    /// A sidecar with an outbound listener to each of these, where `who` is expected.
    pub(crate) fn before(&self, sidecar: SidecarBuilder, who: &str) -> SidecarBuilder {
        sidecar
            .outbound(self.h1, &format!("{who} as http"))
            .outbound(self.h2, &format!("{who} as http"))
            .outbound(self.tcp, &format!("{who} as tcp"))
    }
}

// === impl Mesh ===

impl Mesh {
    pub(crate) async fn start() -> Self {
        let authority = Authority::new("td.test");
        let (orders, frontend) = (authority.svid(ORDERS), authority.svid(FRONTEND));
        Self::of(authority, (&orders, &frontend), |sidecar| sidecar).await
    }

    /// With these SVIDs of callee and caller, and further flags of the caller.
    pub(crate) async fn of(
        authority: Authority,
        (orders, frontend): (&TestSvid, &TestSvid),
        flags: impl FnOnce(SidecarBuilder) -> SidecarBuilder,
    ) -> Self {
        let apps = Apps::start().await;
        let callee = apps.behind(sidecar().identity(orders).policy(apps.allow("mesh"))).start().await;
        let inner = Doors::inbound(&callee).await;
        let caller = inner.before(flags(sidecar().identity(frontend)), "shop/orders").start().await;
        let outer = Doors::outbound(&caller, 0).await;
        Self { authority, apps, callee, caller, inner, outer }
    }

    /// Whose identity is `id` has this one from now on, and what is opened uses it.
    pub(crate) async fn hold(&self, id: &str, svid: &TestSvid) {
        give(if id == ORDERS { &self.callee } else { &self.caller }, Answer::of(svid)).await;
    }
}

// === impl Open ===

impl Open {
    /// The app of the caller's pod: plain connections to its outbound listeners.
    pub(crate) async fn through(doors: Doors) -> Self {
        let h1 = HttpClient::plain(doors.h1, Protocol::Http1).await;
        let h2 = HttpClient::plain(doors.h2, Protocol::H2c).await;
        Self::over(h1, h2, Box::new(connect(doors.tcp).await)).await
    }

    /// A peer that speaks mTLS itself.
    pub(crate) async fn as_peer(svid: &TestSvid, doors: Doors) -> Self {
        let peer = TlsClient::new(svid);
        let h1 = peer.http(doors.h1, Protocol::Http1).await;
        let h2 = peer.http(doors.h2, Protocol::H2c).await;
        Self::over(h1, h2, peer.alpn(&["mantlet-tcp"]).connect(doors.tcp).await.into_io()).await
    }

    async fn over(h1: HttpClient, h2: HttpClient, mut tcp: Io) -> Self {
        let (HttpClient::Http1(mut h1), HttpClient::Http2(mut h2)) = (h1, h2) else { unreachable!() };
        assert_eq!(h1.send(&Request::get("/")).await.unwrap().status, 200);
        let stream = open_stream(&mut h2, &get2("/open")).await;
        echo(&mut tcp).await;
        Self { h1, h2, stream, tcp }
    }

    /// Each still carries what it is asked to, and the open response has not ended.
    pub(crate) async fn goes_on(&mut self) {
        assert_eq!(self.h1.send(&Request::get("/")).await.unwrap().status, 200);
        assert_eq!(self.h2.send(&get2("/")).await.unwrap().status, 200);
        echo(&mut self.tcp).await;
        assert!(is_open(&mut self.stream).await, "the open response");
    }
}

/// A response that has begun and does not end.
pub(crate) async fn open_stream(h2: &mut Http2, request: &Request) -> Http2Stream {
    let mut stream = h2.open(request, true).await.unwrap();
    assert_eq!(stream.head().await.unwrap().status, 200);
    assert_eq!(stream.data().await.unwrap().unwrap(), "first");
    stream
}

/// Nothing is there to be read: no byte, no end, no error.
pub(crate) async fn is_open(stream: &mut Http2Stream) -> bool {
    let mut data = std::pin::pin!(stream.data());
    std::future::poll_fn(|cx| std::task::Poll::Ready(data.as_mut().poll(cx).is_pending())).await
}

/// One round trip of bytes.
pub(crate) async fn echo(io: &mut Io) {
    io.write_all(b"there and back").await.unwrap();
    io.flush().await.unwrap();
    assert_eq!(exactly(io, 14).await, b"there and back");
}

/// A Workload API that serves this.
pub(crate) fn serving(answer: Answer) -> Arc<WorkloadApi> {
    Arc::new(WorkloadApi::serving(answer))
}
