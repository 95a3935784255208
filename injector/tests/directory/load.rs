//! A large cluster and many sidecars: what the directory costs, and how long a change takes to the last of them.
//!
//! ```text
//! cargo build --release -p mantlet-injector
//! TEST_REQUIRE_ALL=1 TEST_INJECTOR=target/release/mantlet-injector \
//!     cargo test -p mantlet-injector --test directory load -- --nocapture
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use mantlet_testkit::sidecar::Metrics;
use tokio::sync::{Semaphore, mpsc};

use crate::api::{Api, PODS, SERVICES, SLICES};
use crate::injector::Injector;
use crate::objects::{pod, service, slice};

/// How large it is.
struct Size {
    pods: usize,
    services: usize,
    streams: usize,
    changes: usize,
}

/// Addresses that a sidecar follows besides the one that all follow.
const EACH: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_of_a_large_cluster() {
    let size = match std::env::var_os("TEST_REQUIRE_ALL").is_some_and(|value| value == "1") {
        true => Size { pods: 10_000, services: 2_000, streams: 1_000, changes: 50 },
        false => Size { pods: 300, services: 60, streams: 30, changes: 10 },
    };
    // Each stream is a descriptor here and one there.
    let _ = mantlet_testkit::descriptors::raise();

    let api = Api::start().await;
    let (pod_ip, service_ip) = (address(10), address(172));
    let of_one = size.pods / size.services;
    let members = |n: usize| {
        let pods = (n * of_one..(n + 1) * of_one).map(|n| (format!("pod-{n}"), pod_ip(n)));
        pods.collect::<Vec<_>>()
    };
    let slice_of = |n: usize, count: usize| {
        let members = members(n);
        let pods: Vec<(&str, &str)> =
            members.iter().take(count).map(|(name, ip)| (name.as_str(), ip.as_str())).collect();
        slice(&format!("svc-{n}"), &pods)
    };
    api.put_all(
        PODS,
        (0..size.pods).map(|n| pod(&format!("pod-{n}"), &pod_ip(n), &format!("sa-{}", n / of_one))),
    );
    api.put_all(SERVICES, (0..size.services).map(|n| service(&format!("svc-{n}"), &service_ip(n))));
    api.put_all(SLICES, (0..size.services).map(|n| slice_of(n, of_one)));

    let begun = Instant::now();
    let injector = Injector::spawn(api.kubeconfig(), &["--directory-max-connections", "65536"]).await;
    injector.event("directory_ready").await;
    let synced = begun.elapsed();
    let empty = Cost::of(&injector).await;

    // Each follows Service 0 and some others.
    let (heard, mut hears) = mpsc::unbounded_channel::<(usize, String)>();
    let handshakes = Arc::new(Semaphore::new(16));
    let svid = Arc::new(injector.authority.workload("shop/web"));
    let begun = Instant::now();
    for n in 0..size.streams {
        let follows: Vec<usize> = (0..EACH).map(|m| 1 + (n * 7 + m * 13) % (size.services - 1)).collect();
        let follows: Vec<String> =
            follows.into_iter().chain([0]).map(|n| format!("{}:80", service_ip(n))).collect();
        let (addr, svid) = (injector.addr, Arc::clone(&svid));
        let (heard, handshakes) = (heard.clone(), Arc::clone(&handshakes));
        tokio::spawn(async move {
            let place = handshakes.acquire().await.unwrap();
            let tls = mantlet_testkit::client::TlsClient::new(&svid).alpn(&["h2"]).connect(addr).await;
            let mut client = crate::client::Client::over(tls.into_io()).await.unwrap();
            drop(place);
            for address in &follows {
                client.ask(address).await;
            }
            let _ = heard.send((n, "first".to_owned()));
            while let Ok((address, says)) = client.next_whenever().await {
                let _ = heard.send((n, format!("{address} {says}")));
            }
        });
    }
    wait(&mut hears, size.streams, |said| said == "first").await;
    let asked = begun.elapsed();
    let full = Cost::of(&injector).await;

    // What everybody follows.
    let mut times = Vec::new();
    for n in 0..size.changes {
        let count = if n % 2 == 0 { of_one - 1 } else { of_one };
        // Changes that come sooner are gathered; this is about one that comes alone.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let begun = Instant::now();
        api.put(SLICES, slice_of(0, count));
        let wanted = format!("{}:80 meshed", service_ip(0));
        wait(&mut hears, size.streams, |said| {
            said.starts_with(&wanted) && said.matches("sa-0").count() == count
        })
        .await;
        times.push(begun.elapsed());
    }
    let all = Cost::of(&injector).await;
    times.sort_unstable();

    // What nobody follows, and what few do: pods that come and go in a rollout of one workload.
    let few = size.changes * 4;
    for n in 0..few {
        let workload = 1 + n % (size.services - 1);
        api.put(SLICES, slice_of(workload, of_one - 1));
        api.put(SLICES, slice_of(workload, of_one));
    }
    let version = format!("pod-{}", size.pods - 1);
    let mut last = pod(&version, &pod_ip(size.pods - 1), "last");
    last["metadata"]["uid"] = "last".into();
    api.put(PODS, last);
    let mut client = injector.client("shop/web").await;
    client.follow(&format!("{}:80", pod_ip(size.pods - 1))).await;
    client
        .until(
            &format!("{}:80", pod_ip(size.pods - 1)),
            &format!("meshed {}:80 shop/last ?", pod_ip(size.pods - 1)),
        )
        .await;
    let end = Cost::of(&injector).await;

    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let (middle, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    eprintln!(
        "{} pods, {} Services, {} streams of {} addresses\n\
         known after {synced:?} with {:.2} s of CPU; {:.1} MiB\n\
         all streams answered after {asked:?} with {:.2} s of CPU; {:.1} MiB, {:.1} KiB a stream\n\
         a change that all follow: to the last of them {middle:?} at the median, {slowest:?} at most; {:.1} ms of CPU\n\
         a change that few follow: {:.2} ms of CPU\n\
         in the end {:.1} MiB",
        size.pods,
        size.services,
        size.streams,
        EACH + 1,
        empty.cpu,
        mib(empty.memory),
        full.cpu - empty.cpu,
        mib(full.memory),
        (full.memory - empty.memory) / 1024.0 / size.streams as f64,
        (all.cpu - full.cpu) * 1000.0 / size.changes as f64,
        (end.cpu - all.cpu) * 1000.0 / (2 * few) as f64,
        mib(end.memory),
    );
    assert!(mib(end.memory) < 200.0, "more than the chart gives it");
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    assert_eq!(injector.metric("stream_ends_total", &[]).await, 0.0);
}

/// Waits until each of so many streams has said this.
async fn wait(
    hears: &mut mpsc::UnboundedReceiver<(usize, String)>,
    streams: usize,
    is: impl Fn(&str) -> bool,
) {
    let mut left: std::collections::BTreeSet<usize> = (0..streams).collect();
    // Handshakes of all of them take their time on a busy machine.
    let all = tokio::time::timeout(Duration::from_secs(300), async {
        while !left.is_empty() {
            let (n, said) = hears.recv().await.expect("the streams");
            if is(&said) {
                left.remove(&n);
            }
        }
    });
    let done = all.await;
    assert!(done.is_ok(), "{} streams did not hear it", left.len());
}

struct Cost {
    cpu: f64,
    memory: f64,
}

impl Cost {
    async fn of(injector: &Injector) -> Self {
        let metrics = Metrics::parse(&injector.get("/metrics").await.text());
        let of = |name| metrics.sum(name, &[]);
        Self { cpu: of("process_cpu_seconds_total"), memory: of("process_resident_memory_bytes") }
    }
}

/// Addresses of a network.
fn address(first: u8) -> impl Fn(usize) -> String + Copy {
    move |n| format!("{first}.16.{}.{}", n / 250, 1 + n % 250)
}
