//! Start, stop and what changes while connections are open.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use mantlet_testkit::apps::{App, Protocol, Reply};
use mantlet_testkit::client::{HttpClient, Request, TlsClient};
use mantlet_testkit::pki::Authority;
use mantlet_testkit::workload_api::{Answer, WorkloadApi};
use mantlet_testkit::{TempDir, eventually, within};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::common::{BOTH, Inbound, ORDERS, app_and_inbound, sidecar};

const ALLOW: &str = "allow mesh to * /**\n";

#[tokio::test]
async fn readiness_waits_for_the_identity() {
    let authority = Authority::new("td.test");
    let app = App::start(Protocol::Http1).await;
    let api = Arc::new(WorkloadApi::scripted());
    let sidecar = sidecar().workload_api(&api).expect_id(ORDERS).inbound(app.addr()).policy(ALLOW).spawn();
    let call = api.next_call().await;
    assert_eq!(api.calls()[0].header, ["true"]);
    assert_eq!(sidecar.get("/readyz").await.status, 503);
    assert_eq!(sidecar.get("/livez").await.status, 200);
    call.send(Answer::of(&authority.svid(ORDERS)));
    sidecar.ready().await;
    assert_eq!(sidecar.get("/readyz").await.status, 200);
    let client = TlsClient::new(&authority.workload("web/frontend"));
    let mut client = client.http(sidecar.inbound(0).await, Protocol::Http1).await;
    assert_eq!(client.send(&Request::get("/")).await.status, 200);
    assert_eq!(api.calls().len(), 1);
}

#[tokio::test]
async fn a_stop_lets_requests_in_flight_finish() {
    for protocol in BOTH {
        let gate = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&gate);
        let app = App::with(protocol, move |_| {
            let held = Arc::clone(&held);
            async move {
                held.acquire().await.unwrap().forget();
                Reply::ok("finished")
            }
        })
        .await;
        let mut inbound = Inbound::start(app.addr(), ALLOW).await;
        let (mut caller, addr) = inbound.caller("web/frontend", " as http").await;
        let mut client = HttpClient::plain(addr, protocol).await;
        let request = Request::get("/slow");
        let stop = async {
            app.wait_for_requests(1).await;
            inbound.sidecar.terminate();
            caller.terminate();
            // Draining is visible before the answer is let go.
            for sidecar in [&inbound.sidecar, &caller] {
                eventually("unreadiness", async || {
                    let socket = TcpStream::connect(sidecar.admin().await).await;
                    match socket {
                        Ok(_) => (sidecar.get("/readyz").await.status == 503).then_some(()),
                        Err(_) => Some(()),
                    }
                })
                .await;
            }
            gate.add_permits(1);
        };
        let (response, ()) = tokio::join!(client.send(&request), stop);
        assert_eq!((response.status, response.text().as_str()), (200, "finished"), "{protocol:?}");
        drop(client);
        assert!(inbound.sidecar.exited().await.success());
        assert!(caller.exited().await.success());
    }
}

#[tokio::test]
async fn an_idle_sidecar_stops_at_once_and_accepts_nothing_more() {
    let (_app, mut inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
    inbound.sidecar.terminate();
    assert!(inbound.sidecar.exited().await.success());
    let refused = within("a refused connection", TcpStream::connect(inbound.addr)).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn a_rotation_keeps_connections_and_new_ones_use_the_new_svid() {
    let (app, inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
    let peer = inbound.peer("web/frontend").alpn(&["http/1.1"]);
    let before = peer.connect(inbound.addr).await;
    assert_eq!(before.chain, inbound.svid.chain);
    let mut open = before.http(Protocol::Http1).await;
    assert_eq!(open.send(&Request::get("/")).await.status, 200);
    let rotated = inbound.authority.svid(ORDERS);
    inbound.sidecar.workload_api().serve(Answer::of(&rotated));
    eventually("the new SVID", async || {
        (peer.connect(inbound.addr).await.chain == rotated.chain).then_some(())
    })
    .await;
    assert_eq!(open.send(&Request::get("/")).await.status, 200, "the open connection goes on");
    assert_eq!(app.seen().len(), 2);
}

#[tokio::test]
async fn a_policy_change_applies_to_the_next_request_of_an_open_connection() {
    let (app, inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
    let mut client = inbound.http("web/frontend", Protocol::H2c).await;
    assert_eq!(client.send(&Request::get("/")).await.status, 200);
    inbound.sidecar.set_policy("allow web/other to * /**\n");
    // A request that the change meets in flight is cut; the connection goes on.
    eventually("the refusal", async || {
        let response = client.try_send(&Request::get("/")).await.ok()?;
        (response.status == 403).then_some(())
    })
    .await;
    let seen = app.seen().len();
    assert_eq!(client.send(&Request::get("/")).await.status, 403);
    assert_eq!(app.seen().len(), seen);
}

#[tokio::test]
async fn an_open_stream_ends_when_its_grant_goes() {
    for protocol in BOTH {
        let app = App::with(protocol, |_| std::future::ready(Reply::open("first"))).await;
        let inbound = Inbound::start(app.addr(), ALLOW).await;
        let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
        let mut client = HttpClient::plain(addr, protocol).await;
        match &mut client {
            HttpClient::Http1(client) => {
                client.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
                assert_eq!(client.read_head().await.unwrap().status, 200);
                client.exactly(10).await.unwrap();
                inbound.sidecar.set_policy("# nobody\n");
                assert!(!client.closed().await.ends_with(b"0\r\n\r\n"), "cut, not ended");
            }
            HttpClient::Http2(client) => {
                let mut stream = client.open(&Request::get("/"), true).await.unwrap();
                assert_eq!(stream.head().await.unwrap().status, 200);
                assert_eq!(stream.data().await.unwrap().unwrap(), "first");
                inbound.sidecar.set_policy("# nobody\n");
                assert!(stream.data().await.is_err(), "cut, not ended");
            }
        }
        app.wait_for_cut(1).await;
    }
}

#[tokio::test]
async fn x15_x16_bundles_are_believed_as_they_are_now() {
    let (old, new) = (Authority::new("td.test"), Authority::new("td.test"));
    let partner = Authority::new("partner.test");
    let app = App::start(Protocol::Http1).await;
    let svid = old.svid(ORDERS);
    let both = Answer::of(&svid).bundle([&old, &new]).federated(&partner);
    let api = Arc::new(WorkloadApi::serving(both));
    let policy = "allow mesh to GET /\nallow spiffe://partner.test/ns/a/sa/b to GET /\n";
    let sidecar = sidecar().workload_api(&api).expect_id(ORDERS).inbound(app.addr()).policy(policy);
    let sidecar = sidecar.start().await;
    let addr = sidecar.inbound(0).await;
    let peers =
        [old.workload("a/b"), new.workload("a/b"), partner.workload("a/b")].map(|svid| TlsClient::new(&svid));
    for peer in &peers {
        let mut client = peer.http(addr, Protocol::Http1).await;
        assert_eq!(client.send(&Request::get("/")).await.status, 200);
    }
    // The barrier is the sidecar's new leaf: it comes with the new bundles or not at all.
    let rotated = new.svid(ORDERS);
    api.serve(Answer::of(&rotated).bundle([&new]));
    eventually("the new bundles", async || {
        (peers[1].clone().alpn(&["h2"]).connect(addr).await.chain == rotated.chain).then_some(())
    })
    .await;
    for gone in [&peers[0], &peers[2]] {
        gone.clone().alpn(&["h2"]).refused(addr).await;
    }
    let mut client = peers[1].http(addr, Protocol::Http1).await;
    assert_eq!(client.send(&Request::get("/")).await.status, 200);
}

#[tokio::test]
async fn d61_the_admin_port_shows_and_only_a_private_socket_changes() {
    let app = App::start(Protocol::Http1).await;
    let dir = TempDir::new();
    let socket = dir.path().join("admin.sock");
    let inbound = Inbound::with(app.addr(), |sidecar| {
        sidecar.policy(ALLOW).arg("--admin-socket", socket.display().to_string())
    })
    .await;
    for path in ["/livez", "/readyz", "/startupz", "/metrics"] {
        assert_eq!(inbound.sidecar.get(path).await.status, 200, "{path}");
        let mut client = HttpClient::plain(inbound.sidecar.admin().await, Protocol::Http1).await;
        let response = client.send(&Request::new("POST", path).body("x")).await;
        assert_eq!(response.status, 405, "{path}");
    }
    assert_eq!(inbound.sidecar.get("/drain").await.status, 403);
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
