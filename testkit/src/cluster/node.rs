//! The node itself: the first process of its namespaces, which starts everything and is told what to do
//! through a socket. When it ends the kernel ends all the others.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Command;

use super::config::{AGENT_FOLDER, EXTERNAL, KERNEL, Layout, NODE, TRUST_DOMAIN, node_addresses};
use super::image::{self, Image};
use super::process::Processes;
use crate::real_peers::{RealPeers, run};

/// What a node is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The built programs of Kubernetes, SPIRE, etcd and CoreDNS.
    pub peers: RealPeers,
    /// The folder with Mantlet's images, as `deploy/images/build` writes them.
    pub images: Option<PathBuf>,
    /// The application of the tests, which becomes an image.
    pub app: PathBuf,
}

/// Runs the node in this folder until it is told to end, or, where `attached`, until standard input ends: whoever
/// started it is gone then. Then removes the folder.
///
/// # Panics
/// When a part does not start.
pub async fn serve(dir: &Path, parts: Parts, attached: bool) {
    let layout = Layout::new(dir);
    let control = UnixListener::bind(layout.path("control")).expect("control socket");
    let end = async {
        if !attached {
            std::future::pending::<()>().await;
        }
        let mut sink = Vec::new();
        let _ = tokio::io::stdin().read_to_end(&mut sink).await;
    };
    tokio::select! {
        () = end => {}
        () = live(&layout, parts, control) => {}
    }
    finish(&layout);
}

async fn live(layout: &Layout, parts: Parts, control: UnixListener) {
    layout.write();
    namespaces(layout).await;
    let mut processes = Processes::new(&layout.path("log"));
    start(layout, &parts, &mut processes).await;
    std::fs::write(layout.path("ready"), "").expect("the folder is ours");
    loop {
        tokio::select! {
            accepted = control.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                if converse(stream, &mut processes, layout).await.is_none() {
                    return;
                }
            }
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                if let Some(what) = processes.ended() {
                    eprintln!("{what}");
                }
            }
        }
    }
}

/// One line asks, one line answers. `None`: the node is to end.
async fn converse(stream: UnixStream, processes: &mut Processes, layout: &Layout) -> Option<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let _ = BufReader::new(read).read_line(&mut line).await;
    let done = match line.trim().split_once(' ') {
        None if line.trim() == "end" => return None,
        Some(("stop", name)) => processes.stop(name).await,
        Some(("start", name)) => processes.again(name),
        Some(("import", file)) => import(layout, Path::new(file)).await,
        _ => Err(format!("what is {line:?}?")),
    };
    let answer = done.map_or_else(|error| format!("{error}\n"), |()| "ok\n".to_owned());
    let _ = write.write_all(answer.as_bytes()).await;
    Some(())
}

/// Makes the namespaces a machine of their own: what programs write at fixed places goes elsewhere.
async fn namespaces(layout: &Layout) {
    let command = async |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let mut command = Command::new(words.next().expect("a command"));
        run(command.args(words)).await.unwrap_or_else(|error| panic!("{error}"));
    };
    let dir = layout.dir.display();
    command("mount --make-rshared /").await;
    for folder in ["/run", "/var/lib"] {
        command(&format!("mount -t tmpfs -o mode=755 node {folder}")).await;
    }
    command(&format!("mount --bind {dir}/log /var/log")).await;
    command(&format!("mount --bind {dir}/hosts /etc/hosts")).await;
    for (name, value) in KERNEL {
        let file = layout.path(&name.replace('/', "-"));
        std::fs::write(&file, format!("{value}\n")).expect("the folder is ours");
        command(&format!("mount --bind {} /proc/sys/{name}", file.display())).await;
    }
    std::fs::create_dir_all(AGENT_FOLDER).expect("a folder in memory");
    for (name, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
    ] {
        // A kernel without IPv6 has none of the others.
        let _ = std::fs::write(format!("/proc/sys/net/{name}"), value);
    }
    command("ip link set lo up").await;
    for address in node_addresses() {
        command(&format!("ip address add {address} dev lo")).await;
    }
    // Addresses of services are behind the default route, as on any node; nothing is at the other end.
    command("ip link add uplink type veth peer name nowhere").await;
    command("ip link set uplink up").await;
    command("ip link set nowhere up").await;
    command(&format!("ip route add default dev uplink src {NODE}")).await;
    command("ip -6 route add default dev uplink").await;
    command(&format!("ip address add {EXTERNAL}/32 dev lo")).await;
    for hierarchy in hierarchies() {
        make_group(&hierarchy, &layout.cgroup);
    }
}

async fn start(layout: &Layout, parts: &Parts, processes: &mut Processes) {
    let program = |name: &str| parts.peers.program(name);
    let installed = |name: &str| {
        let folders = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
        let found = folders.iter().map(|folder| Path::new(folder).join(name)).find(|file| file.is_file());
        found.unwrap_or_else(|| panic!("{name} is not installed"))
    };
    processes.start(&program("etcd"), layout.etcd());
    processes.start(&program("kube-apiserver"), layout.api_server());
    processes.start(&installed("containerd"), layout.containerd_flags());
    std::fs::write(layout.path("names"), "").expect("the folder is ours");
    spire_server(layout, parts, processes).await;
    let images = images(layout, parts);
    let api = async {
        let kubeconfig = layout.path("kubeconfig");
        started("the API server to be ready", async || {
            let mut kubectl = Command::new(program("kubectl"));
            kubectl.env("HOME", &layout.dir).env("KUBECONFIG", &kubeconfig).args(["get", "--raw", "/readyz"]);
            run(&mut kubectl).await.ok()
        })
        .await;
    };
    tokio::join!(images, api);
    processes.start(&program("kube-controller-manager"), layout.controller_manager());
    processes.start(&program("kube-scheduler"), layout.scheduler());
    processes.start(&program("kubelet"), layout.kubelet_flags());
    processes.start(&program("kube-proxy"), layout.kube_proxy());
    processes.start(&program("coredns"), layout.dns());
    spire_agent(layout, parts, processes).await;
}

async fn images(layout: &Layout, parts: &Parts) {
    started("containerd to answer", async || {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(layout.path("containerd.sock")).args(["plugins", "list"]);
        run(&mut ctr).await.ok()
    })
    .await;
    let pause = image::pause(&layout.path("pause")).await;
    let app = Image::of_program("mantlet-test-app:1", &parts.app).await.write(&layout.path("app")).await;
    import(layout, &pause).await.unwrap_or_else(|error| panic!("{error}"));
    import(layout, &app).await.unwrap_or_else(|error| panic!("{error}"));
    for name in ["proxy", "init", "injector"] {
        if let Some(folder) = &parts.images {
            let file = folder.join(format!("mantlet-{name}.tar"));
            import(layout, &file).await.unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

async fn import(layout: &Layout, file: &Path) -> Result<(), String> {
    let mut ctr = Command::new("ctr");
    ctr.arg("--address").arg(layout.path("containerd.sock"));
    run(ctr.args(["--namespace", "k8s.io", "images", "import", "--snapshotter", "native"]).arg(file))
        .await
        .map(drop)
}

async fn spire_server(layout: &Layout, parts: &Parts, processes: &mut Processes) {
    let config = layout.path("spire/server.conf").display().to_string();
    processes.start(&parts.peers.program("spire-server"), vec!["run".into(), "-config".into(), config]);
    let socket = layout.path("spire/server.sock");
    started("SPIRE's server to be healthy", async || {
        let mut cli = Command::new(parts.peers.program("spire-server"));
        run(cli.args(["healthcheck", "-socketPath"]).arg(&socket)).await.ok()
    })
    .await;
}

async fn spire_agent(layout: &Layout, parts: &Parts, processes: &mut Processes) {
    let cli = async |args: &[&str]| {
        let mut cli = Command::new(parts.peers.program("spire-server"));
        cli.args(args).arg("-socketPath").arg(layout.path("spire/server.sock"));
        run(&mut cli).await.unwrap_or_else(|error| panic!("{error}"))
    };
    std::fs::write(layout.path("spire/bootstrap.pem"), cli(&["bundle", "show"]).await).expect("bundle");
    let node = format!("spiffe://{TRUST_DOMAIN}/node");
    let injector = format!("spiffe://{TRUST_DOMAIN}/ns/mantlet-system/sa/mantlet-injector");
    let mut entry = vec!["entry", "create", "-parentID", &node, "-spiffeID", &injector];
    let selectors = ["k8s:ns:mantlet-system", "k8s:sa:mantlet-injector", "k8s:container-name:injector"];
    entry.extend(selectors.iter().flat_map(|selector| ["-selector", *selector]));
    cli(&entry).await;
    let token = cli(&["token", "generate", "-spiffeID", &node, "-ttl", "600", "-output", "json"]).await;
    let token: serde_json::Value = serde_json::from_str(&token).expect("a token as JSON");
    let token = token["value"].as_str().expect("a token").to_owned();
    let config = layout.path("spire/agent.conf").display().to_string();
    let args = vec!["run".to_owned(), "-config".to_owned(), config];
    let joining = args.iter().cloned().chain(["-joinToken".to_owned(), token]).collect();
    processes.start(&parts.peers.program("spire-agent"), joining);
    // Started again it knows itself.
    processes.set_args("spire-agent", args);
    started("SPIRE's agent to be healthy", async || {
        let mut cli = Command::new(parts.peers.program("spire-agent"));
        let socket = Path::new(AGENT_FOLDER).join("spire-agent.sock");
        run(cli.args(["healthcheck", "-socketPath"]).arg(socket)).await.ok()
    })
    .await;
}

/// Ends every other process of the namespaces, and removes what would outlive them.
fn finish(layout: &Layout) {
    // All but this one, which is the first here. Where it is not, somebody called it by hand.
    if std::process::id() == 1 {
        loop {
            for pid in processes().filter(|pid| *pid != 1) {
                let _ = kill_process(Pid::from_raw(pid).expect("not zero"), Signal::KILL);
            }
            // Whoever has no parent left is a child of this process.
            if let Err(rustix::io::Errno::CHILD) = waitpid(None, WaitOptions::empty()) {
                break;
            }
        }
    }
    remove(layout);
}

/// Removes control groups and folder; in namespaces where something is still mounted below the folder, that first.
pub(super) fn remove(layout: &Layout) {
    for hierarchy in hierarchies() {
        remove_group(&hierarchy.join(&layout.cgroup));
    }
    let below = |mount: &Path| mount.starts_with(&layout.dir);
    let mut mounts: Vec<PathBuf> = mounts().into_iter().filter(|mount| below(mount)).collect();
    mounts.reverse();
    for mount in mounts {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(mount).status();
    }
    // Never through a mount that is still there.
    if !self::mounts().iter().any(|mount| below(mount)) {
        let _ = std::fs::remove_dir_all(&layout.dir);
    }
}

/// Ids of all processes that this one sees.
pub(super) fn processes() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Where something is mounted, in order.
pub(super) fn mounts() -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from).collect()
}

/// The roots of the control groups: one of version 2, or one for each controller of version 1.
pub(super) fn hierarchies() -> BTreeSet<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let groups = fields.filter(|fields| matches!(fields.get(2), Some(&"cgroup" | &"cgroup2")));
    groups.filter_map(|fields| fields.get(1).map(PathBuf::from)).collect()
}

fn make_group(hierarchy: &Path, name: &str) {
    let group = hierarchy.join(name);
    let _ = std::fs::create_dir(&group);
    // Version 1 gives a new group no processors.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(value) = std::fs::read(hierarchy.join(file)) {
            let _ = std::fs::write(group.join(file), value);
        }
    }
    // Version 2 gives a group the controllers that its parent hands on.
    for folder in [hierarchy, &group] {
        let _ = std::fs::write(folder.join("cgroup.subtree_control"), "+cpu +cpuset +memory +pids");
    }
}

/// The kernel frees a group a moment after its last process is gone.
fn remove_group(group: &Path) {
    for _ in 0..100 {
        if !group.exists() {
            return;
        }
        let output =
            std::process::Command::new("find").arg(group).args(["-depth", "-type", "d", "-delete"]).output();
        if output.is_ok_and(|output| output.status.success()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asks again and again until a part answers. Each asking is a process of its own, and the part needs the processors.
/// Whoever waits for the whole node has less patience than this.
async fn started<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = tokio::time::Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < super::PATIENCE, "waited {} s for: {what}", super::PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The node's address, for what listens outside of pods.
pub const fn address() -> &'static str {
    NODE
}
