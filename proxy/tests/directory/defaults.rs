//! What the installation says about destinations that are none of the mesh, with a directory that knows.

use mantlet_testkit::apps::{Protocol as Speaks, TcpApp};
use mantlet_testkit::client::{HttpClient, Request, connect, exactly, until_end};
use mantlet_testkit::directory::{NotMeshed, Protocol, Says, meshed};
use mantlet_testkit::pki::Authority;
use mantlet_testkit::sidecar::SidecarBuilder;
use mantlet_testkit::{Io, eventually};
use tokio::io::AsyncWriteExt;

use crate::fixture::{Caller, directory, orders, replica, service};

/// What the n-th destination says to who connects, if it is reached at all.
async fn banner(caller: &Caller, n: usize) -> Option<Vec<u8>> {
    let mut io: Io = Box::new(connect(caller.sidecar.outbound(n).await).await);
    let said = until_end(&mut io).await;
    (!said.is_empty()).then_some(said)
}

fn with<'a>(args: &'a [(&'a str, &'a str)]) -> impl FnOnce(SidecarBuilder) -> SidecarBuilder + 'a {
    |sidecar| args.iter().fold(sidecar, |sidecar, (flag, value)| sidecar.arg(flag, *value))
}

#[tokio::test]
async fn a_workload_without_a_sidecar_gets_plain_bytes_only_where_the_installation_allows_it() {
    let authority = Authority::new("td.test");
    let app = TcpApp::banner("220 plain\r\n").await;
    let directory = directory(&authority);
    directory.say(app.addr(), Says::NotMeshed(NotMeshed {}));
    // `passthrough` is what holds when nobody says anything.
    for args in [&[][..], &[("--unmeshed", "passthrough"), ("--external", "refuse")]] {
        let caller = Caller::with(&authority, &directory, &[app.addr()], with(args)).await;
        let mut io: Io = Box::new(connect(caller.sidecar.outbound(0).await).await);
        assert_eq!(exactly(&mut io, 11).await, b"220 plain\r\n");
        io.write_all(b"ping").await.unwrap();
        assert_eq!(exactly(&mut io, 4).await, b"ping");
        caller.answers("not_meshed", 1).await;
    }
    let before = app.connections();
    let strict = &[("--unmeshed", "refuse"), ("--external", "refuse")];
    let caller = Caller::with(&authority, &directory, &[app.addr()], with(strict)).await;
    assert_eq!(banner(&caller, 0).await, None);
    let labels = [("direction", "outbound"), ("reason", "denied")];
    caller.sidecar.metric_reaches("mantlet_connections_closed_total", &labels, 1.0).await;
    assert_eq!(app.connections(), before);
}

#[tokio::test]
async fn what_lies_outside_the_cluster_is_never_asked_about() {
    let authority = Authority::new("td.test");
    let app = TcpApp::banner("220 outside\r\n").await;
    let directory = directory(&authority);
    // The directory would say something else, if it was asked.
    let real = replica(&authority, 1).await;
    directory.say(app.addr(), meshed([orders(&real, Protocol::Http)]));
    for (external, reached) in [("passthrough", true), ("refuse", false)] {
        let args = [("--external", external), ("--unmeshed", "refuse")];
        let wanted = [app.addr()];
        let caller = Caller::of_cluster("10.0.0.0/8", &authority, &directory, &wanted, with(&args)).await;
        let mut io: Io = Box::new(connect(caller.sidecar.outbound(0).await).await);
        if reached {
            assert_eq!(exactly(&mut io, 13).await, b"220 outside\r\n");
        } else {
            assert!(until_end(&mut io).await.is_empty());
        }
    }
    assert_eq!(directory.questions(), []);
}

#[tokio::test]
async fn silence_of_the_directory_never_means_that_there_is_no_sidecar() {
    let authority = Authority::new("td.test");
    let app = TcpApp::banner("220 plain\r\n").await;
    let directory = directory(&authority);
    directory.keep_silent(app.addr());
    let open = [("--unmeshed", "passthrough"), ("--external", "passthrough")];
    let caller = Caller::with(&authority, &directory, &[app.addr()], with(&open)).await;
    assert_eq!(banner(&caller, 0).await, None);
    directory.down();
    assert_eq!(banner(&caller, 0).await, None);
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn an_unknown_address_is_reached_only_by_opt_in_and_then_shows() {
    let authority = Authority::new("td.test");
    let (real, directory) = (replica(&authority, 1).await, directory(&authority));
    let args = [("--unknown", "any-in-trust-domain")];
    let caller = Caller::with(&authority, &directory, &[real.addr, service()], with(&args)).await;
    assert_eq!(caller.get(0).await.unwrap().text(), "1");
    caller.sidecar.metric_reaches("mantlet_outbound_unpinned_connections_total", &[], 1.0).await;
    // Its answer is enough, and there is no waiting for another.
    assert_eq!(caller.count("mantlet_directory_waits_total", &[("result", "timeout")]).await, 0.0);
    // Nor for any, once it is known to be away.
    directory.down();
    caller.sidecar.metric_reaches("mantlet_directory_stream", &[("state", "away")], 1.0).await;
    assert!(caller.get(1).await.is_none_or(|answer| answer.status == 502), "nobody is there");
    let futile = [("result", "futile")];
    eventually("the directory to be given up", async || {
        let _ = caller.get(1).await;
        (caller.count("mantlet_directory_waits_total", &futile).await >= 1.0).then_some(())
    })
    .await;
    assert_eq!(caller.get(0).await.unwrap().text(), "1");
}

#[tokio::test]
async fn an_application_that_speaks_http_is_told_that_its_destination_is_refused_and_others_are_not_kept_waiting()
 {
    let authority = Authority::new("td.test");
    let app = TcpApp::banner("220 plain\r\n").await;
    let directory = directory(&authority);
    directory.say(app.addr(), Says::NotMeshed(NotMeshed {}));
    let strict = [("--unmeshed", "refuse"), ("--external", "refuse")];
    let caller = Caller::with(&authority, &directory, &[app.addr()], with(&strict)).await;
    let mut ids = Vec::new();
    let (plain, grpc) = ("text/plain", "application/grpc");
    for (speaks, content) in [(Speaks::Http1, plain), (Speaks::H2c, plain), (Speaks::H2c, grpc)] {
        let mut client = HttpClient::plain(caller.sidecar.outbound(0).await, speaks).await;
        let told = client.send(&Request::new("POST", "/").header("content-type", content)).await;
        if content == grpc {
            assert_eq!((told.status, told.header("grpc-status")), (200, vec!["7".to_owned()]), "{told:?}");
        } else {
            let text = "destination refused, see mantlet.dev/upstreams (id ";
            assert!(told.status == 403 && told.text().starts_with(text), "{told:?}");
        }
        assert_eq!(told.error().as_deref(), Some("denied"));
        ids.extend(told.header("x-mantlet-error"));
        // Another connection finds out anew: this one ends, with what was on its way already.
        while let Ok(also) = client.try_send(&Request::get("/")).await {
            assert_eq!(also.error().as_deref(), Some("denied"));
        }
    }
    ids.dedup();
    assert_eq!(ids.len(), 3, "each has an id of its own: {ids:?}");
    let requests = [("direction", "outbound"), ("code", "403")];
    caller.sidecar.metric_reaches("mantlet_http_requests_total", &requests, 2.0).await;

    // Bytes that are no HTTP end it at once, and silence after a second.
    let mut bytes: Io = Box::new(connect(caller.sidecar.outbound(0).await).await);
    bytes.write_all(b"\x16\x03\x01 hello").await.unwrap();
    assert!(until_end(&mut bytes).await.is_empty());
    let begun = std::time::Instant::now();
    assert_eq!(banner(&caller, 0).await, None);
    assert!(begun.elapsed() >= std::time::Duration::from_millis(900), "{:?}", begun.elapsed());
    let denied = [("direction", "outbound"), ("reason", "denied")];
    caller.sidecar.metric_reaches("mantlet_connections_closed_total", &denied, 5.0).await;
    assert_eq!(app.connections(), 0);
}
