//! Two hundred pods a second: what a cluster of ten thousand pods creates at its worst.

use std::time::{Duration, Instant};

use mantlet_testkit::sidecar::Metrics;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use crate::api::Api;
use crate::injector::Injector;
use crate::pods::{create, pod};

/// Reviews a second.
const RATE: u32 = 200;
/// Connections that they come by: those of a few API servers.
const CALLERS: usize = 4;

/// Prints p50, p99, CPU time per admission and memory: the figures of docs/injector.md are from it. TEST_INJECTOR names another
/// build than the tested one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_pods_a_second_are_answered_in_time_and_leave_nothing_behind() {
    let api = Api::start().await;
    api.namespace("shop", json!({"mantlet.dev/inject": "enabled"}));
    let injector = Injector::start(&api).await;
    let seconds = if std::env::var_os("TEST_REQUIRE_ALL").is_some_and(|value| value == "1") { 10 } else { 1 };
    let metrics = async || Metrics::parse(&injector.get("/metrics").await.text());
    let before = metrics().await.sum("process_cpu_seconds_total", &[]);
    let mut tasks = Vec::new();
    for _ in 0..CALLERS {
        let mut caller = injector.caller(&api).await;
        tasks.push(tokio::spawn(async move {
            let mut ticks = interval(Duration::from_secs(1) * CALLERS as u32 / RATE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut took = Vec::new();
            for _ in 0..RATE as usize * seconds / CALLERS {
                ticks.tick().await;
                let begun = Instant::now();
                let response = caller.review("/mutate", &create(&pod())).await;
                took.push(begun.elapsed());
                assert!(response["patch"].is_string());
            }
            took
        }));
    }
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await.unwrap());
    }
    took.sort_unstable();
    let after = metrics().await;
    let count = took.len();
    let cpu = (after.sum("process_cpu_seconds_total", &[]) - before) / count as f64;
    let memory = after.sum("process_resident_memory_bytes", &[]);
    eprintln!(
        "{count} admissions: p50 {:?}, p99 {:?}, {:.0} us of CPU each, {:.1} MiB resident",
        took[count / 2],
        took[count * 99 / 100],
        cpu * 1e6,
        memory / f64::from(1 << 20)
    );
    assert_eq!(after.sum("mantlet_injector_admissions_total", &[("result", "injected")]), count as f64);
    assert!(
        took[count - 1] < Duration::from_secs(5),
        "the API server would have given up: {:?}",
        took[count - 1]
    );
    // What the chart gives a replica.
    assert!(memory < f64::from(128 << 20), "{memory}");
}
