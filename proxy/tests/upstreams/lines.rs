//! The lines of the upstreams language at work, over listeners that stand for redirected connections.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use mantlet_testkit::apps::{Protocol, TcpApp};
use mantlet_testkit::client::{HttpClient, Request, Response, connect, exactly, until_end};
use mantlet_testkit::dns::DnsServer;
use mantlet_testkit::pki::Authority;
use mantlet_testkit::sidecar::{Sidecar, SidecarBuilder};
use mantlet_testkit::{Io, TempDir, eventually};
use tokio::io::AsyncWriteExt;

use crate::common::sidecar;
use crate::replica::{PORT, Replica};

/// A caller whose listeners say where their clients want to go and nothing else.
struct Caller {
    dir: TempDir,
    sidecar: Sidecar,
}

// === impl Caller ===

impl Caller {
    async fn start(authority: &Authority, wanted: &[SocketAddr], lines: &str) -> Self {
        Self::with(authority, wanted, lines, |sidecar| sidecar).await
    }

    async fn with(
        authority: &Authority,
        wanted: &[SocketAddr],
        lines: &str,
        build: impl FnOnce(SidecarBuilder) -> SidecarBuilder,
    ) -> Self {
        let dir = TempDir::new();
        let path = dir.file("upstreams", lines).display().to_string();
        let sidecar = sidecar().identity(&authority.workload("web/frontend")).arg("--upstreams", path);
        let sidecar = wanted
            .iter()
            .fold(sidecar, |sidecar, wanted| sidecar.arg("--outbound", format!("127.0.0.1:0={wanted}")));
        Self { dir, sidecar: build(sidecar).start().await }
    }

    /// New lines, in force when this returns.
    async fn set(&self, lines: &str) {
        let loaded =
            async || self.sidecar.stdout().iter().filter(|line| line.contains("upstreams_loaded")).count();
        let before = loaded().await;
        self.dir.replace("upstreams", lines);
        eventually("the lines to be loaded", async || (loaded().await > before).then_some(())).await;
    }

    /// The answer on a new connection to the n-th destination; none when it is closed, or the destination refused.
    async fn get(&self, n: usize) -> Option<Response> {
        self.said(n).await.filter(|answer| answer.error().as_deref() != Some("denied"))
    }

    async fn said(&self, n: usize) -> Option<Response> {
        let mut client = HttpClient::plain(self.sidecar.outbound(n).await, Protocol::Http1).await;
        client.try_send(&Request::get("/")).await.ok()
    }

    /// Whether an application that speaks HTTP is told that it may not go to the n-th destination.
    async fn refuses(&self, n: usize) -> bool {
        self.said(n).await.is_some_and(|told| told.status == 403 && told.error().as_deref() == Some("denied"))
    }

    async fn closed(&self, reason: &str) {
        let labels = [("direction", "outbound"), ("reason", reason)];
        self.sidecar.metric_reaches("mantlet_connections_closed_total", &labels, 1.0).await;
    }
}

async fn replica(authority: &Authority, number: usize) -> Replica {
    Replica::start(authority, Protocol::Http1, number).await
}

#[tokio::test]
async fn a_line_says_whom_to_expect_and_a_change_takes_effect_at_once() {
    for protocol in ["", " as http"] {
        let authority = Authority::new("td.test");
        let orders = replica(&authority, 1).await;
        let line = |who: &str| format!("{} is {who}{protocol}\n", orders.addr);
        let caller = Caller::start(&authority, &[orders.addr], &line("shop/orders")).await;
        let mut open = HttpClient::plain(caller.sidecar.outbound(0).await, Protocol::Http1).await;
        assert_eq!(open.send(&Request::get("/")).await.text(), "1");

        caller.set(&line("shop/other")).await;
        // A connection that was made under the old line does not go on under it.
        if let Ok(last) = open.try_send(&Request::get("/")).await {
            assert_eq!((last.status, last.error().as_deref()), (403, Some("policy")));
        }
        match caller.get(0).await {
            Some(failed) => assert_eq!((failed.status, failed.error().as_deref()), (502, Some("tls"))),
            // Without a protocol the peer is asked before a request is read.
            None => assert_eq!(protocol, ""),
        }
        caller.set(&format!("{}# and back\n", line("shop/other, ./nobody,shop/orders"))).await;
        assert_eq!(caller.get(0).await.expect("an answer").text(), "1");
    }
}

#[tokio::test]
async fn a_refused_destination_is_closed_and_so_is_what_was_open_when_its_line_went() {
    let authority = Authority::new("td.test");
    let app = TcpApp::echo().await;
    let policy = format!("allow mesh to tcp on {}\n", app.port());
    let inbound = sidecar().identity(&authority.workload("data/db")).policy(policy).inbound(app.addr());
    let inbound = inbound.start().await;
    let db = inbound.inbound(0).await;
    let caller = Caller::start(&authority, &[db], &format!("{db} is data/db as tcp\n")).await;
    let mut open: Io = Box::new(connect(caller.sidecar.outbound(0).await).await);
    open.write_all(b"ping").await.unwrap();
    assert_eq!(exactly(&mut open, 4).await, b"ping");
    for lines in ["* refuse\n", "# nothing\n"] {
        caller.set(lines).await;
        assert!(until_end(&mut open).await.is_empty());
        let mut refused: Io = Box::new(connect(caller.sidecar.outbound(0).await).await);
        let _ = refused.write_all(b"ping").await;
        assert!(until_end(&mut refused).await.is_empty());
    }
    caller.closed("policy").await;
    caller.closed("denied").await;
    assert_eq!(app.connections(), 1);
}

#[tokio::test]
async fn a_change_elsewhere_disturbs_nothing() {
    let authority = Authority::new("td.test");
    let orders = replica(&authority, 1).await;
    let line = format!("{} is shop/orders\n", orders.addr);
    let caller = Caller::start(&authority, &[orders.addr], &line).await;
    let mut open = HttpClient::plain(caller.sidecar.outbound(0).await, Protocol::Http1).await;
    assert_eq!(open.send(&Request::get("/")).await.text(), "1");
    caller.set(&format!("10.0.0.0/8:* refuse\n{line}* refuse\n")).await;
    assert_eq!(open.send(&Request::get("/")).await.text(), "1");
    // What cannot be understood keeps the last good lines, and shows.
    caller.dir.replace("upstreams", "* is anybody\n");
    caller.sidecar.event("upstreams_rejected", |_| true).await;
    assert_eq!(caller.sidecar.metrics().await.sum("mantlet_upstreams_last_reload_success", &[]), 0.0);
    assert_eq!(open.send(&Request::get("/")).await.text(), "1");
    assert_eq!(caller.get(0).await.expect("an answer").text(), "1");
    assert_eq!(caller.sidecar.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_line_with_a_name_means_all_its_addresses() {
    let (authority, dns) = (Authority::new("td.test"), DnsServer::start().await);
    let (a, b, c) =
        (replica(&authority, 1).await, replica(&authority, 2).await, replica(&authority, 3).await);
    dns.set("orders.shop", &[a.addr.ip(), b.addr.ip()], 3600);
    let lines = format!("orders.shop:{PORT} is shop/orders as http\n");
    let conf = dns.resolv_conf("");
    let caller =
        Caller::with(&authority, &[a.addr, c.addr], &lines, |sidecar| sidecar.arg("--resolv-conf", conf))
            .await;
    let mut seen = BTreeSet::new();
    let mut open = HttpClient::plain(caller.sidecar.outbound(0).await, Protocol::Http1).await;
    for _ in 0..50 {
        seen.insert(open.send(&Request::get("/")).await.text());
    }
    assert_eq!(seen, BTreeSet::from(["1".to_owned(), "2".to_owned()]));
    assert!(caller.refuses(1).await, "nobody names that address");
    // The name moves on while its old answer still holds: the first connection to a new address finds out.
    dns.set("orders.shop", &[c.addr.ip()], 3600);
    eventually("the new address to be known", async || {
        caller.get(1).await.is_some_and(|response| response.text() == "3").then_some(())
    })
    .await;
    assert_eq!(open.send(&Request::get("/")).await.text(), "3", "open connections go with the name");
}

#[tokio::test]
async fn a_name_that_leads_to_somebody_else_gives_him_no_byte() {
    let (authority, dns) = (Authority::new("td.test"), DnsServer::start().await);
    let (a, b) = (replica(&authority, 1).await, replica(&authority, 2).await);
    dns.set("ledger.bank", &[a.addr.ip()], 3600);
    dns.set("books.bank", &[b.addr.ip()], 3600);
    // Both are another workload than the one that is meant; the second line asks the peer how to speak.
    let lines = format!("ledger.bank:{PORT} is bank/ledger as http\nbooks.bank:{PORT} is bank/ledger\n");
    let conf = dns.resolv_conf("");
    let caller =
        Caller::with(&authority, &[a.addr, b.addr], &lines, |sidecar| sidecar.arg("--resolv-conf", conf))
            .await;
    let response = eventually("the name to be known", async || caller.get(0).await).await;
    assert_eq!((response.status, response.error().as_deref()), (502, Some("tls")));
    caller.sidecar.metric_reaches("mantlet_dns_lookups_total", &[("result", "ok")], 2.0).await;
    assert!(caller.get(1).await.is_none(), "there is nobody to ask");
    let labels = [("direction", "outbound"), ("reason", "peer_not_expected")];
    caller.sidecar.metric_reaches("mantlet_tls_handshakes_total", &labels, 2.0).await;
    assert_eq!(a.app.connections() + b.app.connections(), 0);
}

#[tokio::test]
async fn what_is_passed_through_arrives_as_it_was_sent() {
    let authority = Authority::new("td.test");
    let app = TcpApp::banner("220 ready\r\n").await;
    let inside = ["--mesh-cidrs", "10.0.0.0/8"];
    let cases: [(&str, Vec<[&str; 2]>); 4] = [
        ("127.0.0.0/8:* passthrough\n* refuse\n", vec![inside]),
        // A word for those who read the line: bytes go on as they are, whatever they are.
        ("127.0.0.0/8:* passthrough as http\n* refuse\n", vec![inside]),
        ("# nothing\n", vec![inside]),
        ("# nothing\n", vec![["--kubernetes-service-host", "127.0.0.1"], ["--external", "refuse"]]),
    ];
    for (lines, arguments) in cases {
        let port = app.port().to_string();
        let caller = Caller::with(&authority, &[app.addr()], lines, |sidecar| {
            let sidecar = sidecar.arg("--kubernetes-service-port", port);
            arguments.iter().fold(sidecar, |sidecar, [flag, value]| sidecar.arg(flag, *value))
        })
        .await;
        let mut io: Io = Box::new(connect(caller.sidecar.outbound(0).await).await);
        assert_eq!(exactly(&mut io, 11).await, b"220 ready\r\n", "{arguments:?}");
        io.write_all(b"\x16\x03\x01 a hello of its own").await.unwrap();
        assert_eq!(exactly(&mut io, 22).await, b"\x16\x03\x01 a hello of its own");
    }
}

#[tokio::test]
async fn what_nobody_knows_is_refused_unless_the_installation_says_otherwise() {
    let authority = Authority::new("td.test");
    let orders = replica(&authority, 1).await;
    let closed: [&[[&str; 2]]; 3] = [
        &[],
        &[["--mesh-cidrs", "127.0.0.0/8"]],
        &[["--mesh-cidrs", "10.0.0.0/8"], ["--external", "refuse"]],
    ];
    for arguments in closed {
        let caller = Caller::with(&authority, &[orders.addr], "# nothing\n", |sidecar| {
            arguments.iter().fold(sidecar, |sidecar, [flag, value]| sidecar.arg(flag, *value))
        })
        .await;
        assert!(caller.refuses(0).await, "{arguments:?}");
        caller.closed("denied").await;
    }
    let caller = Caller::with(&authority, &[orders.addr], "# nothing\n", |sidecar| {
        sidecar.arg("--unknown", "any-in-trust-domain")
    })
    .await;
    assert_eq!(caller.get(0).await.expect("an answer").text(), "1");
    caller.sidecar.metric_reaches("mantlet_outbound_unpinned_connections_total", &[], 1.0).await;
    // Somebody of another authority is nobody at all.
    let foreign = replica(&Authority::new("td.test"), 2).await;
    let caller = Caller::with(&authority, &[foreign.addr], "# nothing\n", |sidecar| {
        sidecar.arg("--unknown", "any-in-trust-domain")
    })
    .await;
    assert!(caller.get(0).await.is_none());
    assert_eq!(foreign.app.connections(), 0);
}

#[tokio::test]
async fn lines_that_were_never_good_let_nothing_out_and_the_sidecar_says_so() {
    let authority = Authority::new("td.test");
    let orders = replica(&authority, 1).await;
    let dir = TempDir::new();
    let path = dir.file("upstreams", "* passthru\n").display().to_string();
    let caller = sidecar().identity(&authority.workload("web/frontend")).arg("--upstreams", path);
    let caller = caller.arg("--outbound", format!("127.0.0.1:0={}", orders.addr)).spawn();
    caller.event("upstreams_rejected", |_| true).await;
    let ready = caller.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("passthru"), "{}", ready.text());
    let mut client = HttpClient::plain(caller.outbound(0).await, Protocol::Http1).await;
    assert_eq!(client.send(&Request::get("/")).await.error().as_deref(), Some("denied"));
    dir.replace("upstreams", format!("{} is shop/orders\n", orders.addr));
    caller.ready().await;
    let mut client = HttpClient::plain(caller.outbound(0).await, Protocol::Http1).await;
    assert_eq!(client.send(&Request::get("/")).await.text(), "1");
}

#[tokio::test]
async fn the_lines_of_the_annotation_are_those_of_the_pod() {
    let authority = Authority::new("td.test");
    let orders = replica(&authority, 1).await;
    let dir = TempDir::new();
    let annotations = |who: &str| {
        format!(
            "kubectl.kubernetes.io/x=\"y\"\nmantlet.dev/upstreams=\"{} is {who} as http\\n\"",
            orders.addr
        )
    };
    let path = dir.file("annotations", annotations("shop/orders")).display().to_string();
    let caller = sidecar().identity(&authority.workload("web/frontend")).arg("--annotations", path);
    let caller = caller.arg("--outbound", format!("127.0.0.1:0={}", orders.addr)).start().await;
    // A connection that is made while the lines change may be closed: its destination is another by then.
    let get = async || {
        let mut client = HttpClient::plain(caller.outbound(0).await, Protocol::Http1).await;
        client.try_send(&Request::get("/")).await.ok()
    };
    assert_eq!(get().await.expect("an answer").text(), "1");
    dir.replace("annotations", annotations("./nobody"));
    eventually("the new annotation", async || {
        get().await.is_some_and(|response| response.error().as_deref() == Some("tls")).then_some(())
    })
    .await;
}
