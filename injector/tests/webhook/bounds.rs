//! What nobody can make of it: more memory, more time, more connections than it has.

use std::time::{Duration, Instant};

use mantlet_testkit::wait::{eventually, within};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::api::Api;
use crate::client::{Caller, post, review, tls};
use crate::injector::Injector;
use crate::pods::{create, pod};

const MIB: usize = 1 << 20;

fn resident(injector: &Injector) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", injector.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// Still does its work, in the time that an API server gives it.
async fn works(injector: &Injector, api: &Api) {
    let begun = Instant::now();
    let response = injector.caller(api).await.review("/mutate", &create(&pod())).await;
    assert_eq!(response["allowed"], true, "{response}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a14_a_review_of_the_largest_objects_is_answered_and_a_larger_one_refused() {
    let api = Api::start().await;
    let injector = Injector::start(&api).await;
    let mut caller = injector.caller(&api).await;
    let mut large = pod();
    large["metadata"]["annotations"]["example.org/large"] = json!("x".repeat(3 * MIB - 4096));
    let mut request = create(&large);
    request["oldObject"] = large;
    assert!(review(&request).len() > 6 * MIB - 16_384);
    let response = caller.review("/mutate", &request).await;
    assert_eq!(response["allowed"], true);
    let reply = caller.post("/mutate", vec![b' '; 10 * MIB + 1]).await;
    assert_eq!((reply.status, reply.text().as_str()), (413, "body\n"));
    // One of ten is no review, but is read.
    assert_eq!(injector.caller(&api).await.post("/mutate", vec![b' '; 10 * MIB]).await.status, 400);
    works(&injector, &api).await;
}

#[tokio::test]
async fn d66_a_random_a_truncated_and_an_oversized_review_are_answered_quickly_and_with_an_error() {
    let api = Api::start().await;
    let injector = Injector::start(&api).await;
    let mut caller = injector.caller(&api).await;
    let mut large = pod();
    large["metadata"]["annotations"]["example.org/large"] = json!("x".repeat(MIB));
    let whole = review(&create(&large)).into_bytes();
    // The same numbers each time, and no text: a multiplicative congruential generator.
    let mut state = 7_u64;
    let random: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(MIB)
    .collect();
    let mut bodies = vec![(random, 400), (vec![b' '; 10 * MIB + 1], 413), (vec![b'['; MIB], 400)];
    bodies.extend([1, 100, 1000, MIB / 2, whole.len() - 1].map(|length| (whole[..length].to_vec(), 400)));
    for (body, status) in bodies {
        let shown = format!("{} bytes that begin with {:?}", body.len(), &body[..body.len().min(8)]);
        let spent = async || injector.metric("process_cpu_seconds_total", &[]).await;
        let before = spent().await;
        for path in ["/mutate", "/validate"].iter().cycle().take(10) {
            let reply = caller.post(path, body.clone()).await;
            assert_eq!(reply.status, status, "{shown}: {}", reply.text());
            assert!(reply.text().len() < 1000 && !reply.text().is_empty(), "{shown}");
        }
        // What it costs, and not how long it took: whoever compiles beside a test makes that longer.
        let each = (spent().await - before) / 10.0;
        assert!(each < 0.05, "{shown}: {each} s of CPU");
    }
    assert!(injector.stderr().iter().all(|line| !line.contains("panicked")));
    works(&injector, &api).await;
}

#[tokio::test]
async fn hostile_documents_cost_bounded_memory() {
    let api = Api::start().await;
    let injector = Injector::start(&api).await;
    works(&injector, &api).await;
    let before = resident(&injector);
    let hostile = format!("[{}0]", "0,".repeat(MIB * 2 - 1024));
    let request = create(&pod());
    let body = review(&request).replace(&request["object"].to_string(), &hostile);
    let mut calls = Vec::new();
    for _ in 0..6 {
        let (mut caller, body) = (injector.caller(&api).await, body.clone());
        calls.push(tokio::spawn(async move {
            caller.send(post("/mutate?timeout=30s", body)).await.map(|r| r.status)
        }));
    }
    let mut most = 0;
    while !calls.iter().all(tokio::task::JoinHandle::is_finished) {
        most = most.max(resident(&injector));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for call in calls {
        let status = call.await.unwrap().unwrap();
        assert!(matches!(status, 200 | 400 | 503), "{status}");
    }
    assert!(most < before + 110 * MIB, "{} MiB", (most - before) / MIB);
    works(&injector, &api).await;
}

#[tokio::test]
async fn bodies_that_never_end_hold_little_and_only_until_their_deadline() {
    let api = Api::start().await;
    let injector = Injector::start(&api).await;
    let bundle = api.bundles().remove(0);
    let mut held = Vec::new();
    for _ in 0..64 {
        let mut stream = tls(injector.addr, &bundle, &["http/1.1"]).await.unwrap();
        let head = "POST /mutate?timeout=2s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10485760\r\n\r\n{";
        stream.write_all(head.as_bytes()).await.unwrap();
        held.push(stream);
    }
    works(&injector, &api).await;
    for mut stream in held {
        let mut answer = Vec::new();
        within("an answer at the deadline", stream.read_to_end(&mut answer)).await.ok();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 504 ") && answer.ends_with("deadline\n"), "{answer}");
    }
    injector.metric_reaches("mantlet_injector_refused_total", &[("limit", "deadline")], 64.0).await;
}

#[tokio::test]
async fn a_flood_of_large_bodies_is_turned_away_and_not_remembered() {
    let api = Api::start().await;
    let injector = Injector::start(&api).await;
    let bundle = api.bundles().remove(0);
    let head = format!(
        "POST /mutate?timeout=30s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        10 * MIB
    );
    // Each stops one byte before its end: what has arrived stays until its deadline.
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = tls(injector.addr, &bundle, &["http/1.1"]).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b' '; 10 * MIB - 1]).await.unwrap();
        held.push(stream);
    }
    let refused = eventually("a body that finds no memory", async || {
        let mut caller = injector.caller(&api).await;
        let reply = caller.send(post("/mutate", vec![b' '; 10 * MIB])).await.ok()?;
        (reply.status == 503).then_some(reply)
    })
    .await;
    assert_eq!(refused.text(), "memory\n");
    // An ordinary review needs little, and finds it.
    works(&injector, &api).await;
    drop(held);
    eventually("the memory to be free", async || {
        let mut caller = injector.caller(&api).await;
        (caller.send(post("/mutate", vec![b' '; 10 * MIB])).await.ok()?.status == 400).then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_address_cannot_take_every_connection_and_silent_ones_are_closed() {
    let api = Api::start().await;
    let injector = Injector::with(&api, "{}", &["--max-connections", "8"]).await;
    let bundle = api.bundles().remove(0);
    // Four of 127.0.0.1, silent from the start.
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(injector.addr).await.unwrap());
    }
    injector.metric_reaches("mantlet_injector_connections", &[], 4.0).await;
    assert!(Caller::try_connect(injector.addr, &bundle).await.is_err(), "the fifth is reset");
    injector.metric_reaches("mantlet_injector_refused_total", &[("limit", "address")], 1.0).await;
    // A handshake that does not begin is over after five seconds, and there is room again.
    injector.metric_reaches("mantlet_injector_handshakes_total", &[("result", "timeout")], 4.0).await;
    works(&injector, &api).await;
    let mut end = [0];
    assert_eq!(silent[0].read(&mut end).await.unwrap_or_default(), 0);
}

#[tokio::test]
async fn bytes_that_are_no_tls_and_heads_without_end_disturb_nobody() {
    let api = Api::start().await;
    let injector = Injector::start(&api).await;
    let bundle = api.bundles().remove(0);
    let mut plain = TcpStream::connect(injector.addr).await.unwrap();
    plain.write_all(b"POST /mutate HTTP/1.1\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ = within("an end", plain.read_to_end(&mut rest)).await;
    injector.metric_reaches("mantlet_injector_handshakes_total", &[("result", "failed")], 1.0).await;

    let mut endless = tls(injector.addr, &bundle, &["http/1.1"]).await.unwrap();
    let mut sent = b"POST /mutate HTTP/1.1\r\n".to_vec();
    while endless.write_all(&sent).await.is_ok() {
        sent = format!("x-filler: {}\r\n", "x".repeat(4096)).into_bytes();
    }
    works(&injector, &api).await;
}

#[tokio::test]
async fn a15_the_deadline_of_the_caller_is_honoured_and_who_hangs_up_costs_nothing() {
    let api = Api::start().await;
    let injector = Injector::start(&api).await;
    // The labels of a namespace are asked for and do not come: the admission does not wait for them.
    api.set_delay(Duration::from_secs(3600));
    let mut caller = injector.caller(&api).await;
    let request = create(&pod());
    let begun = Instant::now();
    let reply = caller.post("/mutate?timeout=1s", review(&request)).await;
    assert_eq!(reply.response(&request)["allowed"], true);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let reply = caller.post("/mutate?timeout=soon", review(&request)).await;
    assert_eq!((reply.status, reply.text().as_str()), (400, "timeout is a duration such as 5s\n"));
    for _ in 0..20 {
        let mut gone = injector.caller(&api).await;
        let (request, body): (Value, _) = (create(&pod()), review(&create(&pod())));
        assert_eq!(request["operation"], "CREATE");
        let sent = tokio::time::timeout(Duration::from_millis(1), gone.send(post("/mutate", body)));
        drop(sent.await);
    }
    works(&injector, &api).await;
}
