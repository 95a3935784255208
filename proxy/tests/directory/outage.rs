//! A directory that is away, comes back, or is somebody else.

use mantlet_testkit::client::Request;
use mantlet_testkit::directory::{Directory, Protocol, meshed};
use mantlet_testkit::grpc::Status;
use mantlet_testkit::pki::Authority;

use crate::fixture::{Caller, directory, orders, replica, service};
use crate::replica::own_ip;

#[tokio::test]
async fn what_the_directory_said_holds_while_it_is_away_and_is_asked_again_when_it_is_back() {
    let authority = Authority::new("td.test");
    let (a, b) = (replica(&authority, 1).await, replica(&authority, 2).await);
    let (wanted, new, directory) = (service(), service(), directory(&authority));
    directory.say(wanted, meshed([orders(&a, Protocol::Http)]));
    let caller = Caller::start(&authority, &directory, &[wanted, new]).await;
    let mut open = caller.open(0).await;
    assert_eq!(open.send(&Request::get("/")).await.text(), "1");

    directory.down();
    caller.sidecar.metric_reaches("mantlet_directory_stream", &[("state", "away")], 1.0).await;
    assert_eq!(open.send(&Request::get("/")).await.text(), "1");
    assert_eq!(caller.get(0).await.unwrap().text(), "1", "a new connection to a known destination");
    assert_eq!(caller.sidecar.get("/readyz").await.status, 200, "an outage makes no pod unready");
    // It may be back at once, and later it is not waited for.
    assert!(caller.refuses(1).await);
    let futile = [("result", "futile")];
    let before = caller.count("mantlet_directory_waits_total", &futile).await;
    assert!(caller.refuses(1).await);
    assert_eq!(caller.count("mantlet_directory_waits_total", &futile).await, before + 1.0);

    // Things have changed meanwhile.
    directory.say(wanted, meshed([orders(&b, Protocol::Http)]));
    directory.say(new, meshed([orders(&a, Protocol::Http)]));
    directory.up();
    caller.sidecar.metric_reaches("mantlet_directory_stream", &[("state", "connected")], 1.0).await;
    caller.answers("meshed", 3).await;
    assert_eq!(open.send(&Request::get("/")).await.text(), "2", "on the same connection");
    assert_eq!(caller.get(1).await.unwrap().text(), "1");
    for event in ["directory_connected", "directory_away"] {
        caller.sidecar.event(event, |_| true).await;
    }
}

#[tokio::test]
async fn a_directory_that_does_not_know_the_cluster_yet_takes_nothing_away() {
    let authority = Authority::new("td.test");
    let (a, wanted, directory) = (replica(&authority, 1).await, service(), directory(&authority));
    directory.say(wanted, meshed([orders(&a, Protocol::Http)]));
    let caller = Caller::start(&authority, &directory, &[wanted]).await;
    assert_eq!(caller.get(0).await.unwrap().text(), "1");
    directory.refuse(Some(Status::unavailable("starting")));
    let refused = [("reason", "refused")];
    caller.sidecar.metric_reaches("mantlet_directory_stream_ends_total", &refused, 3.0).await;
    assert_eq!(caller.get(0).await.unwrap().text(), "1");
    directory.refuse(None);
    directory.follows(wanted).await;
}

#[tokio::test]
async fn another_workload_of_the_trust_domain_is_not_the_directory() {
    let authority = Authority::new("td.test");
    let (a, wanted) = (replica(&authority, 1).await, service());
    let addr = (own_ip(), 9444).into();
    let impostor = Directory::start_as(&authority.workload("mantlet-system/other"), addr);
    impostor.say(wanted, meshed([orders(&a, Protocol::Http)]));
    let caller = Caller::start(&authority, &impostor, &[wanted]).await;
    let identity = [("reason", "identity")];
    caller.sidecar.metric_reaches("mantlet_directory_stream_ends_total", &identity, 2.0).await;
    assert!(caller.refuses(0).await);
    assert_eq!((impostor.opened(), impostor.questions()), (0, vec![]));
    // Nor is one of the right name under another authority.
    drop(impostor);
    let foreign = Directory::start(&Authority::new("td.test"), addr);
    let tls = [("reason", "tls")];
    caller.sidecar.metric_reaches("mantlet_directory_stream_ends_total", &tls, 1.0).await;
    assert_eq!(foreign.opened(), 0);
    drop(foreign);
    let directory = Directory::start(&authority, addr);
    directory.say(wanted, meshed([orders(&a, Protocol::Http)]));
    caller.sidecar.metric_reaches("mantlet_directory_stream", &[("state", "connected")], 1.0).await;
    assert_eq!(caller.get(0).await.unwrap().text(), "1");
}
