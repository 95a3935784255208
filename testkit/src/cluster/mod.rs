//! A real cluster of one node: etcd, API server, controllers, scheduler, kubelet, kube-proxy, containerd, DNS, and
//! SPIRE with the attestor for pods. Only for root, and in namespaces of its own (network, mounts, processes):
//! nothing of it touches the machine, and it is gone with its first process.
//!
//! A [`Cluster`] belongs to the process that starts it and ends with it, killed or not. One that is
//! [left](Cluster::leave) runs until `cluster down`.

mod config;
mod figures;
mod image;
mod mantlet;
mod node;
mod objects;
mod process;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::real_peers::RealPeers;
pub use config::{BRIDGE, EXTERNAL, TRUST_DOMAIN};
pub use figures::figures;
pub use image::Image;
pub use mantlet::{Installation, SYSTEM};
pub use node::{Parts, address, serve};
pub use objects::{Pod, in_namespace};

/// How long a node may take to start or to end, on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// What names of folders and control groups begin with.
const PREFIX: &str = "mantlet-cluster-";

/// What a node needs of the machine, by program and package.
const NEEDED: [(&str, &str); 9] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    ("cc", "gcc libc6-dev"),
    ("tcpdump", "tcpdump"),
];

/// A running node, seen from outside.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    peers: RealPeers,
    /// `unshare`, whose only child is the node's first process.
    child: Option<Child>,
    /// The first process, as the machine numbers it.
    first: i32,
}

/// Why no cluster can run here, and what would help.
///
/// # Errors
/// Both, as one line.
pub fn possible() -> Result<(), String> {
    if !rustix::process::getuid().is_root() {
        return Err("only root may make namespaces and run containers; enable: sudo -E".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &str| std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    let missing = NEEDED.iter().filter(|(name, _)| !is_there(name)).map(|(_, package)| *package);
    let mut missing: Vec<&str> = missing.collect();
    if !Path::new("/usr/lib/cni/bridge").exists() {
        missing.push("containernetworking-plugins");
    }
    if missing.is_empty() {
        return Ok(());
    }
    missing.dedup();
    Err(format!("programs are missing; enable: apt-get install {}", missing.join(" ")))
}

// === impl Cluster ===

impl Cluster {
    /// Starts a node that ends with this process. `program` is the built `cluster`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(program: &Path, peers: &RealPeers) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        sweep();
        let name = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        Self::start_in(program, peers, &dir, true)
    }

    /// Starts a node in this folder that goes on without this process.
    ///
    /// # Panics
    /// When it does not start.
    pub fn leave(program: &Path, peers: &RealPeers, dir: &Path) -> Self {
        sweep();
        Self::start_in(program, peers, dir, false)
    }

    fn start_in(program: &Path, peers: &RealPeers, dir: &Path, attached: bool) -> Self {
        std::fs::DirBuilder::new()
            .mode(0o711)
            .create(dir)
            .unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let log = File::create(dir.join("node.log")).expect("log file");
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["--propagation", "private"]).arg(program).arg("serve").arg(dir);
        command.arg(if attached { "--attached" } else { "--left" });
        command.stdin(if attached { Stdio::piped() } else { Stdio::null() });
        command.stdout(log.try_clone().expect("log file")).stderr(log);
        // A terminal's signals are for whoever started it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().expect("unshare runs");
        std::fs::write(dir.join("pid"), format!("{}\n", child.id())).expect("the folder is ours");
        let begun = Instant::now();
        while !dir.join("ready").exists() {
            let ended = child.try_wait().expect("a child of ours").is_some();
            if ended || begun.elapsed() > PATIENCE {
                let said = std::fs::read_to_string(dir.join("node.log")).unwrap_or_default();
                let _ = child.kill();
                panic!("the node did not start, after {} s; it said:\n{said}", begun.elapsed().as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let first = child_of(child.id()).expect("the node's first process");
        Self { dir: dir.to_owned(), peers: peers.clone(), child: Some(child), first }
    }

    /// The node that runs in this folder.
    ///
    /// # Errors
    /// When none does.
    pub fn attach(peers: &RealPeers, dir: &Path) -> Result<Self, String> {
        let none = || format!("no cluster runs in {}; start one: cluster up", dir.display());
        let outer = running(dir).ok_or_else(none)?;
        let first = child_of(outer).ok_or_else(none)?;
        Ok(Self { dir: dir.to_owned(), peers: peers.clone(), child: None, first })
    }

    /// The node's folder: logs, configuration, the audit log.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The first process of the node, as the machine numbers it.
    pub fn first_process(&self) -> i32 {
        self.first
    }

    /// Moves the calling thread, and what it starts, into the node's network.
    ///
    /// # Panics
    /// When the node is gone.
    pub fn enter(&self) {
        let net = File::open(format!("/proc/{}/ns/net", self.first)).expect("the node runs");
        move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
    }

    /// A command to run inside all namespaces of the node.
    pub fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.first))
            .args(["--net", "--mount", "--pid", "--"])
            .arg(program);
        command.env("KUBECONFIG", self.dir.join("kubeconfig")).env("HOME", &self.dir);
        command
    }

    /// kubectl as administrator, for a thread that has [entered](Self::enter).
    pub fn kubectl_command(&self, args: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(self.peers.program("kubectl"));
        command.env("HOME", &self.dir).env("KUBECONFIG", self.dir.join("kubeconfig")).args(args);
        command
    }

    /// A built program of another project.
    pub fn program(&self, name: &str) -> PathBuf {
        self.peers.program(name)
    }

    /// Asks the node: `stop NAME` and `start NAME` of one of its programs, `import FILE` of an image.
    ///
    /// # Panics
    /// When it will not.
    pub fn ask(&self, line: &str) {
        let answer = self.say(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(answer.trim(), "ok", "{line}");
    }

    fn say(&self, line: &str) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(self.dir.join("control"))?;
        stream.write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Ends the node and waits until nothing of it is left.
    ///
    /// # Errors
    /// What is left.
    pub fn down(mut self) -> Result<(), String> {
        let first = self.first;
        // Without an answer: it ends instead.
        let _ = self.say("end");
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
        let begun = Instant::now();
        loop {
            let left = left_behind(&self.dir, first);
            if left.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("left behind: {}", left.join(", ")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What is still there of a node that ran in this folder and whose first process had this number: nothing, after its end.
pub fn left_behind(dir: &Path, first: i32) -> Vec<String> {
    let mut left = Vec::new();
    if Path::new(&format!("/proc/{first}")).exists() {
        left.push(format!("process {first}"));
    }
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    for pid in node::processes() {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let ours = line.contains(&*dir.to_string_lossy()) && !line.contains("cluster down");
        if u32::try_from(pid) != Ok(std::process::id()) && (groups.contains(&*name) || ours) {
            left.push(format!("process {pid} ({line})"));
        }
    }
    left.extend(
        node::mounts().iter().filter(|at| at.starts_with(dir)).map(|at| format!("mount {}", at.display())),
    );
    let groups = node::hierarchies().into_iter().map(|hierarchy| hierarchy.join(&*name));
    left.extend(
        groups.filter(|group| group.exists()).map(|group| format!("control group {}", group.display())),
    );
    if dir.exists() {
        left.push(format!("folder {}", dir.display()));
    }
    left
}

/// Removes folders and control groups of nodes whose processes are gone: somebody killed the first one.
pub fn sweep() {
    let folders = std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    for folder in folders.filter(|folder| folder.file_name().to_string_lossy().starts_with(PREFIX)) {
        let dir = folder.path();
        // Without that file it is just being made.
        if dir.join("pid").exists() && running(&dir).is_none() {
            node::remove(&config::Layout::new(&dir));
        }
    }
}

/// The folder of the node that `cluster up` leaves running.
pub fn left_folder() -> PathBuf {
    std::env::temp_dir().join(format!("{PREFIX}left"))
}

/// The `unshare` of a folder, if it runs.
fn running(dir: &Path) -> Option<u32> {
    let pid: u32 = std::fs::read_to_string(dir.join("pid")).ok()?.trim().parse().ok()?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    // Another process may have its number by now.
    String::from_utf8_lossy(&line).contains(&*dir.to_string_lossy()).then_some(pid)
}

fn child_of(parent: u32) -> Option<i32> {
    node::processes().find(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status
            .lines()
            .any(|line| line.strip_prefix("PPid:").is_some_and(|id| id.trim() == parent.to_string()))
    })
}
