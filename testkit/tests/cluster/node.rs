//! The node itself: it is a real one, and leaves nothing behind.

use std::collections::BTreeSet;
use std::io::BufRead as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mantlet_testkit::cluster::{self, Cluster, Pod};
use rustix::process::{Pid, Signal, kill_process};

use crate::stage::{peers, perform, program};

#[test]
fn a_service_is_served_and_afterwards_nothing_of_the_node_is_left() {
    let Some(peers) = peers("a_service_is_served_and_afterwards_nothing_of_the_node_is_left") else { return };
    let cluster = Cluster::start(program(), &peers);
    perform(&cluster, async |cluster| {
        cluster.must(&["wait", "--for=condition=Ready", "node/n1", "--timeout=60s"]).await;
        cluster.namespace("plain", &[], &[]).await;
        let app = Pod::new("web", &["serve", "http=8080"]);
        cluster.apply("plain", &app.service(false)).await;
        cluster.apply("plain", &app.deployment(2)).await;
        cluster.run("plain", &Pod::caller("caller")).await;
        cluster.rolled_out("plain", "deployment/web").await;
        let mut served = BTreeSet::new();
        cluster
            .until("both pods to be reached by the name of their service", async || {
                let answer = cluster.call("plain", "caller", &["get", "http://web:8080/"]).await;
                served.extend(answer["seen"]["app"].as_str().map(ToOwned::to_owned));
                (served.len() == 2).then_some(())
            })
            .await;
    });
    let (dir, first) = (cluster.dir().to_owned(), cluster.first_process());
    assert!(!cluster::left_behind(&dir, first).is_empty(), "what looks for leftovers finds a running node");
    let ours = namespaces_of(i32::try_from(std::process::id()).unwrap());
    let its: BTreeSet<String> = namespaces_of(first).difference(&ours).cloned().collect();
    assert!(its.len() >= 3, "network, mounts and processes: {its:?}");
    assert!(!still_there(&its).is_empty(), "what looks for namespaces finds those of a running node");
    cluster.down().unwrap();
    assert!(cluster::left_behind(&dir, first).is_empty());
    assert!(still_there(&its).is_empty(), "{:?}", still_there(&its));
}

/// The namespaces of a process, such as `net:[4026531840]`.
fn namespaces_of(pid: i32) -> BTreeSet<String> {
    let links = std::fs::read_dir(format!("/proc/{pid}/ns")).into_iter().flatten().flatten();
    links
        .filter_map(|link| Some(std::fs::read_link(link.path()).ok()?.to_string_lossy().into_owned()))
        .collect()
}

/// Who is in one of these namespaces, or keeps one by a mount.
fn still_there(namespaces: &BTreeSet<String>) -> Vec<String> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let inside = pids.filter(|pid| !namespaces_of(*pid).is_disjoint(namespaces));
    let mut there: Vec<String> = inside.map(|pid| format!("process {pid}")).collect();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let keeps = |line: &&str| namespaces.iter().any(|namespace| line.contains(namespace.as_str()));
    there.extend(mounts.lines().filter(keeps).map(ToOwned::to_owned));
    there
}

#[test]
fn a_node_whose_owner_is_killed_ends_and_leaves_nothing() {
    let Some(peers) = peers("a_node_whose_owner_is_killed_ends_and_leaves_nothing") else { return };
    let mut owner = Command::new(program());
    owner.arg("hold").stdout(Stdio::piped());
    let mut owner = owner.spawn().expect("the owner runs");
    let mut line = String::new();
    std::io::BufReader::new(owner.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let (first, dir) = line.trim().split_once(' ').expect("a running node");
    let (first, dir) = (first.parse().unwrap(), std::path::PathBuf::from(dir));
    owner.kill().unwrap();
    owner.wait().unwrap();
    until("the node to end", || cluster::left_behind(&dir, first));

    // Killed where it stands, it cannot even remove its folder: who comes next does.
    let cluster = Cluster::start(program(), &peers);
    let (dir, first) = (cluster.dir().to_owned(), cluster.first_process());
    kill_process(Pid::from_raw(first).unwrap(), Signal::KILL).unwrap();
    drop(cluster);
    until("it to be swept", || {
        cluster::sweep();
        cluster::left_behind(&dir, first)
    });
}

/// Waits until nothing of `left` is there.
fn until(what: &str, left: impl Fn() -> Vec<String>) {
    let begun = Instant::now();
    loop {
        let left = left();
        if left.is_empty() {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {left:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
