//! The own SVID rotates: nothing closes, and what is new uses what is new.

use mantlet_testkit::client::Request;
use mantlet_testkit::workload_api::Answer;

use crate::common::ORDERS;
use crate::mesh::{FRONTEND, Mesh, Open, closed_only_for, closes, get2, give, handshakes};

#[tokio::test]
async fn d75_after_the_callers_rotation_idle_connections_go_busy_ones_finish_and_requests_use_new_ones() {
    let mesh = Mesh::start().await;
    let mut open = Open::through(mesh.outer).await;
    let mut held = open.h2.open(&get2("/held"), true).await.unwrap();
    mesh.apps.h2.wait_for_requests(2).await;
    let before = handshakes(&mesh.callee, "inbound").await;
    assert_eq!(before, 3.0, "h1, h2 and bytes");

    give(&mesh.caller, Answer::of(&mesh.authority.svid(FRONTEND))).await;
    // The pooled HTTP/1 connection carries nothing: it is closed without waiting for a request.
    closes(&mesh.callee, "inbound", "eof", 1.0).await;
    open.goes_on().await;
    assert_eq!(handshakes(&mesh.callee, "inbound").await, before + 2.0, "one for h1, one for h2");

    mesh.apps.release(1);
    assert_eq!(held.head().await.unwrap().status, 200);
    assert_eq!(held.data().await.unwrap().unwrap(), "finished", "on the connection where it began");
    closed_only_for(&mesh.callee, &["eof"]).await;
    closed_only_for(&mesh.caller, &[]).await;
    assert_eq!(mesh.apps.h2.cut(), 0);
}

#[tokio::test]
async fn the_callees_rotation_closes_nothing_and_moves_nothing() {
    let mesh = Mesh::start().await;
    let mut open = Open::through(mesh.outer).await;
    let before = handshakes(&mesh.callee, "inbound").await;
    for _ in 0..3 {
        give(&mesh.callee, Answer::of(&mesh.authority.svid(ORDERS))).await;
        open.goes_on().await;
    }
    assert_eq!(handshakes(&mesh.callee, "inbound").await, before, "every connection was reused");
    closed_only_for(&mesh.callee, &[]).await;
    closed_only_for(&mesh.caller, &[]).await;
    let mut another = Open::through(mesh.outer).await;
    another.goes_on().await;
}

#[tokio::test]
async fn many_requests_that_cross_a_rotation_are_answered() {
    let mesh = Mesh::start().await;
    let mut open = Open::through(mesh.outer).await;
    let mut held = Vec::new();
    for n in 0..20 {
        held.push(open.h2.open(&get2("/held"), true).await.unwrap());
        mesh.apps.h2.wait_for_requests(2 + n).await;
        if n % 5 == 0 {
            give(&mesh.caller, Answer::of(&mesh.authority.svid(FRONTEND))).await;
        }
    }
    mesh.apps.release(held.len());
    for mut stream in held {
        assert_eq!(stream.head().await.unwrap().status, 200);
        assert_eq!(stream.data().await.unwrap().unwrap(), "finished");
    }
    assert_eq!(open.h1.send(&Request::get("/")).await.unwrap().status, 200);
    open.goes_on().await;
}
