//! D48-D54: a policy change is in force within a second, removals included.

use std::time::Duration;

use mantlet_testkit::apps::{App, Protocol, Reply};
use mantlet_testkit::client::{HttpClient, Request, exactly, until_end};
use mantlet_testkit::{TempDir, eventually, within};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use crate::common::{Inbound, ORDERS, identified, sidecar};
use crate::fixture::{Fixture, denied, policy, verdict};

/// What is no longer allowed ends within this time of the moment when the change can be seen.
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn d48_a_removed_allow_refuses_the_next_request_of_an_open_connection() {
    let f = Fixture::start().await;
    let mut client = f.h1("web/bff").await;
    let get = "GET /orders/1 HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(client.raw(get).await.unwrap().status, 200);
    f.sidecar.set_policy("# nobody\n");
    let change = Instant::now();
    let refused = loop {
        match client.raw(get).await {
            Ok(response) if response.status == 200 => {
                assert!(change.elapsed() < SECOND, "served {:?} after the change", change.elapsed());
            }
            other => break other,
        }
    };
    assert!(change.elapsed() < SECOND, "refused {:?} after the change", change.elapsed());
    // The connection may be closed by then, and a request that was on its way is ended; none is served.
    if let Ok(response) = refused {
        let ended = (response.status, response.error()) == (403, Some("policy".to_owned()));
        assert!(ended || verdict(&response) == denied("default"), "{response:?}");
    }
    assert_eq!(verdict(&f.get("web/bff", "/orders/2").await), denied("default"));
    assert!(f.app.seen().iter().all(|seen| seen.target == "/orders/1"), "{:?}", f.app.seen());
}

#[tokio::test]
async fn d49_a_removed_rule_closes_its_open_tcp_connections() {
    let f = Fixture::start().await;
    let mut io = f.peer("data/etl").alpn(&["mantlet-tcp"]).connect(f.pg_addr).await.into_io();
    exactly(&mut io, 8).await;
    let without = policy(f.app.port(), f.grpc.port(), f.pg.port()).replace("data/etl", "data/other");
    f.sidecar.set_policy(&without);
    let closed = tokio::time::timeout(SECOND, until_end(&mut io)).await;
    assert_eq!(closed.expect("closed in time"), b"");
    f.pg.wait_for_closed(1).await;
    let policy = [("direction", "inbound"), ("reason", "policy")];
    f.sidecar.metric_reaches("mantlet_connections_closed_total", &policy, 1.0).await;
}

#[tokio::test]
async fn a_change_that_still_allows_touches_no_open_connection() {
    let f = Fixture::start().await;
    let mut io = f.peer("data/etl").alpn(&["mantlet-tcp"]).connect(f.pg_addr).await.into_io();
    exactly(&mut io, 8).await;
    f.sidecar.set_policy(&f.policy_and("allow web/new to GET /new on HTTP\n"));
    eventually("the new rule", async || (f.get("web/new", "/new").await.status == 200).then_some(())).await;
    tokio::io::AsyncWriteExt::write_all(&mut io, b"still here").await.unwrap();
    tokio::io::AsyncWriteExt::flush(&mut io).await.unwrap();
    assert_eq!(exactly(&mut io, 10).await, b"still here");
}

#[tokio::test]
async fn d50_a_broken_change_keeps_the_last_good_policy_and_shows() {
    let f = Fixture::start().await;
    let success = async || f.sidecar.metrics().await.sum("mantlet_policy_last_reload_success", &[]);
    assert_eq!(success().await, 1.0);
    f.sidecar.set_policy("allow everybody to do anything\n");
    eventually("the mark of staleness", async || (success().await == 0.0).then_some(())).await;
    assert_eq!(f.get("web/bff", "/orders/1").await.status, 200);
    assert_eq!(verdict(&f.get("ops/dev", "/admin").await), denied("deny_rule"));
    assert_eq!(f.sidecar.get("/readyz").await.status, 200, "readiness is unchanged");
    f.sidecar.set_policy(&f.policy_and(""));
    eventually("the mark to go", async || (success().await == 1.0).then_some(())).await;
}

#[tokio::test]
async fn d51_a_broken_policy_at_the_start_denies_everything_and_is_not_ready() {
    let f = Fixture::start().await;
    let svid = f.authority.svid(ORDERS);
    let broken = sidecar().identity(&svid).inbound(f.app.addr()).policy("allow everybody\n").spawn();
    let addr = broken.inbound(0).await;
    identified(&broken).await;
    let mut client = f.peer("ops/dev").http(addr, Protocol::H2c).await;
    assert_eq!(verdict(&client.send(&Request::get("/orders/1")).await), denied("policy_invalid"));
    assert_eq!(broken.get("/readyz").await.status, 503);
    f.assert_untouched();
    broken.set_policy("allow ops/dev to GET /orders/**\n");
    broken.ready().await;
    assert_eq!(client.send(&Request::get("/orders/1")).await.status, 200);
}

#[tokio::test]
async fn d53_a_grant_that_ends_takes_its_open_stream_with_it() {
    let head = Reply::open([0, 0, 0, 0, 0]).header("content-type", "application/grpc");
    let app = App::with(Protocol::H2c, move |_| std::future::ready(head.clone())).await;
    let end = OffsetDateTime::now_utc() + Duration::from_secs(8);
    let end = end.replace_nanosecond(0).unwrap();
    let policy = format!(
        "allow pay/ledger to grpc shop.v1.Orders/Watch until {} as watch\n",
        end.format(&Rfc3339).unwrap()
    );
    let inbound = Inbound::start(app.addr(), &policy).await;
    let HttpClient::Http2(mut client) = inbound.http("pay/ledger", Protocol::H2c).await else {
        unreachable!()
    };
    let call = Request::new("POST", "/shop.v1.Orders/Watch").header("content-type", "application/grpc");
    let mut stream = client.open(&call, true).await.unwrap();
    assert_eq!(stream.head().await.unwrap().status, 200);
    assert_eq!(stream.data().await.unwrap().unwrap().len(), 5);
    // Trailers or a reset: either ends it.
    let rest = within("the end of the grant", stream.data()).await;
    let now = OffsetDateTime::now_utc();
    assert!(now >= end && now < end + SECOND, "ended at {now}, the grant at {end}");
    if let Ok(rest) = rest {
        assert_eq!(rest, None);
        let trailers = stream.trailers().await.unwrap();
        assert!(trailers.iter().any(|(name, value)| name == "grpc-status" && value == b"7"), "{trailers:?}");
    }
    app.wait_for_cut(1).await;
    let response = client.send(&call).await.unwrap();
    assert_eq!((response.status, response.denied().as_deref()), (200, Some("expired")));
    assert_eq!(response.header("grpc-status"), ["7"]);
}

#[tokio::test]
async fn d52_deleted_annotations_deny_everything() {
    let app = App::start(Protocol::Http1).await;
    let dir = TempDir::new();
    let file = annotations(&dir, 1, "mantlet.dev/policy=\"allow web/bff to GET /\\n\"\nother=\"x\"\n");
    let inbound =
        Inbound::with(app.addr(), |sidecar| sidecar.arg("--annotations", file.display().to_string())).await;
    let mut client = inbound.http("web/bff", Protocol::Http1).await;
    assert_eq!(client.send(&Request::get("/")).await.status, 200);
    annotations(&dir, 2, "other=\"x\"\n");
    let refused = eventually("the refusal", async || {
        let response = inbound.http("web/bff", Protocol::Http1).await.send(&Request::get("/")).await;
        // One that was on its way when the policy went is ended, and says so; it is no decision.
        response.denied().is_some().then_some(response)
    })
    .await;
    assert_eq!(verdict(&refused), denied("no_policy"));
}

/// A downward-API volume: `..data` is a link that is swapped, and the file is reached through it.
fn annotations(dir: &TempDir, version: u32, lines: &str) -> std::path::PathBuf {
    let real = dir.path().join(format!("..{version}"));
    std::fs::create_dir(&real).unwrap();
    std::fs::write(real.join("annotations"), lines).unwrap();
    let new = dir.path().join("..data_tmp");
    std::os::unix::fs::symlink(&real, &new).unwrap();
    std::fs::rename(&new, dir.path().join("..data")).unwrap();
    let file = dir.path().join("annotations");
    if !file.exists() {
        std::os::unix::fs::symlink("..data/annotations", &file).unwrap();
    }
    file
}

#[tokio::test]
async fn d54_no_request_is_judged_by_a_policy_older_than_the_one_that_was_shown() {
    let f = Fixture::start().await;
    let mut clients = Vec::new();
    for _ in 0..64 {
        clients.push(f.h1("web/toggle").await);
    }
    let generation = async || {
        let shown = f.sidecar.get("/v1/policy").await;
        let shown: serde_json::Value = serde_json::from_slice(&shown.body).unwrap();
        shown["generation"].as_u64().unwrap()
    };
    let mut last = generation().await;
    for round in 0..200 {
        let allowed = round % 2 == 0;
        f.sidecar.set_policy(&f.policy_and(match allowed {
            true => "allow web/toggle to GET /toggle on HTTP\n",
            false => "",
        }));
        last = eventually("the next generation", async || {
            let now = generation().await;
            (now > last).then_some(now)
        })
        .await;
        for n in 0..4 {
            let client = &mut clients[(4 * round + n) % 64];
            let response = client.raw("GET /toggle HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            assert_eq!(response.status == 200, allowed, "round {round}: {response:?}");
        }
    }
}
