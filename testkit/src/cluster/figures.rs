//! What Mantlet costs a pod, measured on the node that the tests use.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Cluster, Pod, node};

/// How often everything is measured that is measured by the clock.
const RUNS: usize = 10;
/// How many sidecars are weighed after work, on either side of it.
const WORKERS: usize = 5;
const WITH: &str = "figures";
const WITHOUT: &str = "figures-plain";

/// Lines that a program prints, each with the moment at which it came.
struct Lines {
    _child: Child,
    lines: mpsc::UnboundedReceiver<(Instant, String)>,
}

/// One measure, in one unit.
#[derive(Default)]
struct Figure(Vec<f64>);

/// What a sidecar takes, in MiB.
#[derive(Default)]
struct Memory {
    /// The process' proportional share of what is in memory.
    pss: Figure,
    /// What the container's control group is charged with.
    usage: Figure,
    /// The same without what the kernel would give up first: what the kubelet and `kubectl top` count.
    working_set: Figure,
}

/// Measures on a node with Mantlet in it, and gives a line for each figure: the median, and from where to where.
///
/// # Panics
/// When the node does not do what it should.
pub async fn figures(cluster: &Cluster) -> Vec<String> {
    cluster.meshed(WITH, &["orders", "web"]).await;
    cluster.namespace(WITHOUT, &[], &[]).await;
    let mut idle = Memory::default();
    let (mut with, mut without) = (Figure::default(), Figure::default());
    // The first of each finds nothing in any cache.
    for run in 0..=RUNS {
        let plain = start(cluster, WITHOUT, None).await;
        let meshed = start(cluster, WITH, (run > 0).then_some(&mut idle)).await;
        if run > 0 {
            without.0.push(plain);
            with.0.push(meshed);
        }
    }
    let annotated = annotated(cluster).await;
    let (callee, caller) = worked(cluster).await;
    let mut lines = vec![
        without.line("pod scheduled to ready, without Mantlet", "ms", 0),
        with.line("pod scheduled to ready, with Mantlet", "ms", 0),
        annotated.line("end of kubectl annotate to its effect on a caller", "ms", 0),
    ];
    lines.extend(idle.lines("idle"));
    lines.extend(callee.lines("after 1000 requests, as callee"));
    lines.extend(caller.lines("after 1000 requests, as caller"));
    lines
}

/// From the moment at which a pod is seen to be scheduled to the moment at which it is seen to be ready, in
/// milliseconds; weighs its sidecar where there is something to add that to.
async fn start(cluster: &Cluster, namespace: &str, memory: Option<&mut Memory>) -> f64 {
    let args = ["get", "pods", "--namespace", namespace, "--watch-only", "--output=json"];
    let mut watch = Lines::of(cluster.kubectl_command(&args));
    // It does not say when it has begun.
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.apply(namespace, &Pod::new("app", &["serve", "http=8080"]).pod()).await;
    let scheduled = watch.until_condition("PodScheduled").await;
    let ready = watch.until_condition("Ready").await;
    if let Some(memory) = memory {
        // What it does at the start is done.
        tokio::time::sleep(Duration::from_secs(2)).await;
        memory.weigh(cluster, "app").await;
    }
    cluster.must(&["delete", "pod/app", "--namespace", namespace, "--wait"]).await;
    milliseconds(scheduled, ready)
}

/// From the end of `kubectl annotate` to the first answer that is another, in milliseconds.
async fn annotated(cluster: &Cluster) -> Figure {
    let policy = |status: u64| {
        format!("allow ./web to GET {} on http", if status == 200 { "/**" } else { "/elsewhere" })
    };
    let orders = Pod::new("orders", &["serve", "http=8080"])
        .account("orders")
        .annotate("mantlet.dev/policy", &policy(200));
    cluster.run(WITH, &orders).await;
    cluster.run(WITH, &Pod::caller("web").account("web")).await;
    let url = format!("http://{}:8080/x", cluster.pod_address(WITH, "orders").await);
    let exec = ["exec", "--namespace", WITH, "--container=app", "web", "--", "/cluster-app", "changes", &url];
    let mut answers = Lines::of(cluster.kubectl_command(&exec));
    answers.until("200").await;
    let mut took = Figure::default();
    for status in [403, 200].into_iter().cycle().take(RUNS) {
        let policy = format!("mantlet.dev/policy={}", policy(status));
        cluster.must(&["annotate", "pod/orders", "--namespace", WITH, "--overwrite", &policy]).await;
        let done = Instant::now();
        took.0.push(milliseconds(done, answers.until(&status.to_string()).await));
    }
    took
}

/// Sidecars that have carried a thousand requests from one to the other: of the callees, and of the callers.
async fn worked(cluster: &Cluster) -> (Memory, Memory) {
    let (mut callees, mut callers) = (Memory::default(), Memory::default());
    for number in 0..WORKERS {
        let (callee, caller) = (format!("callee-{number}"), format!("caller-{number}"));
        let orders = Pod::new(&callee, &["serve", "http=8080"])
            .account("orders")
            .annotate("mantlet.dev/policy", "allow ./web to GET /** on http");
        cluster.run(WITH, &orders).await;
        cluster.run(WITH, &Pod::caller(&caller).account("web")).await;
        let url = format!("http://{}:8080/x", cluster.pod_address(WITH, &callee).await);
        let answer = cluster.call(WITH, &caller, &["load", &url, "1000", "4", "0"]).await;
        assert_eq!(answer["ok"], 1000, "{answer}");
        callees.weigh(cluster, &callee).await;
        callers.weigh(cluster, &caller).await;
        let pods = [format!("pod/{callee}"), format!("pod/{caller}")];
        cluster.must(&["delete", &pods[0], &pods[1], "--namespace", WITH, "--wait"]).await;
    }
    (callees, callers)
}

fn milliseconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1000.0
}

fn kilobytes(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().trim_end_matches(" kB").parse().ok())
}

/// The folder of a process in the hierarchy of control groups that counts memory, of either version.
fn memory_group(groups: &str) -> PathBuf {
    let found = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let of_memory = controllers.split(',').any(|controller| controller == "memory");
        (of_memory || controllers.is_empty()).then_some((of_memory, path))
    });
    let (of_memory, path) = found.expect("a control group");
    let path = path.trim_start_matches('/');
    let mut roots = node::hierarchies().into_iter();
    let root = roots.find(|root| !of_memory || root.ends_with("memory")).expect("a hierarchy");
    root.join(path)
}

fn number(file: &Path) -> Option<f64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

// === impl Lines ===

impl Lines {
    fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("kubectl runs");
        let mut printed = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let (send, lines) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = printed.next_line().await {
                let _ = send.send((Instant::now(), line));
            }
        });
        Self { _child: child, lines }
    }

    /// When the first line with this text came.
    async fn until(&mut self, text: &str) -> Instant {
        self.find(text, |line| line.contains(text)).await
    }

    /// When the first object that has this condition had come, of those that are printed as kubectl prints JSON: the
    /// last line of each is all that stands at the beginning of its line.
    async fn until_condition(&mut self, kind: &str) -> Instant {
        let mut text = String::new();
        let has = |line: &str| {
            text.push_str(line);
            if line != "}" {
                return false;
            }
            let object: Value = serde_json::from_str(&std::mem::take(&mut text)).expect("an object");
            let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
            conditions.any(|is| is["type"] == kind && is["status"] == "True")
        };
        self.find(kind, has).await
    }

    async fn find(&mut self, what: &str, mut is_it: impl FnMut(&str) -> bool) -> Instant {
        let found = async {
            loop {
                let (at, line) = self.lines.recv().await.expect("another line");
                if is_it(&line) {
                    return at;
                }
            }
        };
        let in_time = tokio::time::timeout(super::PATIENCE, found).await;
        in_time.unwrap_or_else(|_| panic!("waited {} s for: {what}", super::PATIENCE.as_secs()))
    }
}

// === impl Memory ===

impl Memory {
    async fn weigh(&mut self, cluster: &Cluster, pod: &str) {
        let id = cluster.container_id(WITH, pod, "mantlet-proxy").await;
        let pid = node::processes().find(|pid| {
            let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            groups.contains(&id)
        });
        let proc = PathBuf::from(format!("/proc/{}", pid.expect("a process")));
        let share = std::fs::read_to_string(proc.join("smaps_rollup")).expect("its memory");
        let groups = std::fs::read_to_string(proc.join("cgroup")).expect("its control groups");
        let group = memory_group(&groups);
        let usage =
            number(&group.join("memory.current")).or_else(|| number(&group.join("memory.usage_in_bytes")));
        let usage = usage.expect("the control group's memory");
        let stat = std::fs::read_to_string(group.join("memory.stat")).expect("the control group's memory");
        let given_up =
            kilobytes(&stat, "total_inactive_file ").or_else(|| kilobytes(&stat, "inactive_file "));
        self.pss.0.push(kilobytes(&share, "Pss:").expect("a share") / 1024.0);
        self.usage.0.push(usage / 1_048_576.0);
        self.working_set.0.push((usage - given_up.unwrap_or(0.0)) / 1_048_576.0);
    }

    fn lines(&self, when: &str) -> [String; 3] {
        [("PSS", &self.pss), ("control group", &self.usage), ("working set", &self.working_set)]
            .map(|(what, figure)| figure.line(&format!("memory of the sidecar, {when}: {what}"), "MiB", 1))
    }
}

// === impl Figure ===

impl Figure {
    fn line(&self, what: &str, unit: &str, digits: usize) -> String {
        let mut values = self.0.clone();
        values.sort_by(f64::total_cmp);
        let (count, middle) = (values.len(), values.len() / 2);
        let median = match count % 2 {
            1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        };
        let (least, most) = (values[0], values[count - 1]);
        format!("{what}: {median:.digits$} {unit} ({least:.digits$} to {most:.digits$}, {count} runs)")
    }
}
