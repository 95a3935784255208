//! The own identity is withdrawn or expires: the sidecar fails closed, says so, and recovers.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use mantlet_testkit::apps::{App, Protocol, TcpApp};
use mantlet_testkit::client::{Http1, Request, connect, until_end};
use mantlet_testkit::pki::{Authority, SvidOptions};
use mantlet_testkit::workload_api::{Answer, Status, WorkloadApi};
use mantlet_testkit::{Io, eventually};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::common::{ORDERS, sidecar};
use crate::mesh::{FRONTEND, Mesh, Open, certs, closed, closes, echo, get2, readiness, soon};

/// How the identity goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Withdrawn,
    Expired,
}

/// Both sidecars have an identity of their own, and this one of them is going to lose it.
async fn mesh(end: End, loses: &str) -> Mesh {
    let mesh = Mesh::start().await;
    if end == End::Expired {
        // Long enough to open everything under it.
        let options = SvidOptions::new(loses).expires_in(Duration::from_secs(5));
        mesh.hold(loses, &mesh.authority.issue(&options)).await;
    }
    mesh
}

/// Ten seconds after the loss all is over, and not long after.
fn assert_drained(begun: Instant) {
    let lasted = begun.elapsed();
    assert!(lasted < Duration::from_secs(11), "{lasted:?}");
}

/// Takes the identity away, or waits until it has run out.
async fn lose(sidecar: &mantlet_testkit::sidecar::Sidecar, end: End) -> String {
    let api: &WorkloadApi = sidecar.workload_api();
    if end == End::Withdrawn {
        api.refuse(Status::permission_denied("no identity issued"));
    }
    let text = readiness(sidecar, 503).await;
    let shown = certs(sidecar).await;
    let (state, cause) = match end {
        End::Withdrawn => ("withdrawn", "no identity issued"),
        End::Expired => ("expired", "has expired"),
    };
    assert_eq!(shown["state"], state);
    assert!(text.contains(cause) && text.contains("next: "), "{text}");
    text
}

async fn callee_loses_its_identity(end: End) {
    let mesh = mesh(end, ORDERS).await;
    let peer = mesh.authority.workload("web/other");
    let mut open = Open::as_peer(&peer, mesh.inner).await;
    let mut held = open.h2.open(&get2("/held"), true).await.unwrap();
    mesh.apps.h2.wait_for_requests(2).await;
    lose(&mesh.callee, end).await;
    let begun = Instant::now();

    // New connections are reset at the door.
    let before = closed(&mesh.callee, "inbound", "withdrawn").await;
    is_reset(mesh.inner.h1).await;
    closes(&mesh.callee, "inbound", "withdrawn", before + 1.0).await;
    // What is idle goes at once, what is in hand may finish, and nothing new begins.
    assert_eq!(soon("the end of the idle connection", open.h1.closed()).await, b"");
    eventually("GOAWAY", async || open.h2.open(&get2("/"), true).await.is_err().then_some(())).await;
    mesh.apps.release(1);
    assert_eq!(held.head().await.unwrap().status, 200);
    echo(&mut open.tcp).await;

    // Ten seconds, and all is over.
    assert_eq!(until_end(&mut open.tcp).await, b"");
    assert_drained(begun);
    assert!(open.stream.data().await.is_err(), "cut, not ended");
    closes(&mesh.callee, "inbound", "withdrawn", before + 3.0).await;

    mesh.callee.workload_api().serve(Answer::of(&mesh.authority.svid(ORDERS)));
    readiness(&mesh.callee, 200).await;
    Open::as_peer(&peer, mesh.inner).await.goes_on().await;
}

async fn caller_loses_its_identity(end: End) {
    let mesh = mesh(end, FRONTEND).await;
    let mut open = Open::through(mesh.outer).await;
    lose(&mesh.caller, end).await;
    let begun = Instant::now();

    // The app stays connected, and is told why its requests fail.
    let requests = mesh.apps.h1.seen().len();
    let refused = open.h1.send(&Request::get("/")).await.unwrap();
    assert_eq!((refused.status, refused.error().as_deref()), (502, Some("withdrawn")));
    let refused = open.h2.send(&get2("/")).await.unwrap();
    assert_eq!((refused.status, refused.error().as_deref()), (502, Some("withdrawn")));
    assert_eq!(mesh.apps.h1.seen().len(), requests);
    is_reset(mesh.outer.tcp).await;
    closes(&mesh.caller, "outbound", "withdrawn", 1.0).await;

    assert_eq!(until_end(&mut open.tcp).await, b"");
    assert_drained(begun);
    assert!(open.stream.data().await.is_err(), "cut, not ended");
    closes(&mesh.caller, "outbound", "withdrawn", 2.0).await;

    mesh.caller.workload_api().serve(Answer::of(&mesh.authority.svid(FRONTEND)));
    readiness(&mesh.caller, 200).await;
    // The same connections of the app.
    assert_eq!(open.h1.send(&Request::get("/")).await.unwrap().status, 200);
    assert_eq!(open.h2.send(&get2("/")).await.unwrap().status, 200);
    Open::through(mesh.outer).await.goes_on().await;
}

/// A connection to this address is reset: an end in order could be taken for an answer.
async fn is_reset(addr: SocketAddr) {
    // It may come before the connection is known to be there.
    let used = async { TcpStream::connect(addr).await?.read_u8().await };
    let error = soon("the reset of a new connection", used).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// Callers without identity, whom a rule admits by address, hold connections under ours all the same.
async fn plaintext_callers_end_with_our_identity() {
    let (app, echoing) = (App::start(Protocol::Http1).await, TcpApp::echo().await);
    let rule = |what: &str, port| format!("allow plaintext(127.0.0.0/8) to {what} on {port}\n");
    let policy = rule("* /**", app.port()) + &rule("tcp", echoing.port());
    let authority = Authority::new("td.test");
    let callee = sidecar().identity(&authority.svid(ORDERS)).policy(policy);
    let callee = callee.inbound(app.addr()).inbound(echoing.addr()).start().await;
    let (http, tcp) = (callee.inbound(0).await, callee.inbound(1).await);
    let mut client = Http1::new(Box::new(connect(http).await));
    assert_eq!(client.send(&Request::get("/")).await.unwrap().status, 200);
    let mut bytes: Io = Box::new(connect(tcp).await);
    echo(&mut bytes).await;

    lose(&callee, End::Withdrawn).await;
    let begun = Instant::now();
    is_reset(http).await;
    is_reset(tcp).await;
    assert_eq!(soon("the end of the idle connection", client.closed()).await, b"");
    echo(&mut bytes).await;
    assert_eq!(until_end(&mut bytes).await, b"");
    assert_drained(begun);
    closes(&callee, "inbound", "withdrawn", 3.0).await;

    callee.workload_api().serve(Answer::of(&authority.svid(ORDERS)));
    readiness(&callee, 200).await;
    let mut bytes: Io = Box::new(connect(tcp).await);
    echo(&mut bytes).await;
}

// The ten seconds of each pass at the same time.

#[tokio::test]
async fn an_own_identity_that_is_withdrawn_fails_closed_within_ten_seconds_and_recovers() {
    tokio::join!(
        callee_loses_its_identity(End::Withdrawn),
        caller_loses_its_identity(End::Withdrawn),
        plaintext_callers_end_with_our_identity()
    );
}

#[tokio::test]
async fn an_own_identity_that_expires_fails_closed_within_ten_seconds_and_recovers() {
    tokio::join!(callee_loses_its_identity(End::Expired), caller_loses_its_identity(End::Expired));
}
