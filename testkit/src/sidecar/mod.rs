//! Sidecar processes: started with what a test needs, ready when they say so, gone when dropped.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::apps::Protocol;
use crate::client::{HttpClient, Request, Response};
use crate::pki::TestSvid;
use crate::temp::TempDir;
use crate::wait::{eventually, within};
use crate::workload_api::{Answer, WorkloadApi};

mod metrics;

pub use metrics::Metrics;

/// A sidecar that is being put together.
#[derive(Debug)]
pub struct SidecarBuilder {
    under: Vec<String>,
    binary: PathBuf,
    args: Vec<String>,
    policy: Option<String>,
    workload_api: Option<Arc<WorkloadApi>>,
    identity: Option<String>,
    user: Option<u32>,
}

/// A running `mantlet-proxy`.
#[derive(Debug)]
pub struct Sidecar {
    child: Child,
    dir: TempDir,
    stdout: watch::Receiver<Lines>,
    stderr: watch::Receiver<Lines>,
    workload_api: Option<Arc<WorkloadApi>>,
}

/// What a stream of the process has said so far.
#[derive(Clone, Debug, Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

// === impl SidecarBuilder ===

impl SidecarBuilder {
    /// A sidecar of this binary: `env!("CARGO_BIN_EXE_mantlet-proxy")` in the proxy's own tests.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        let builder = Self {
            under: Vec::new(),
            binary: binary.into(),
            args: Vec::new(),
            policy: None,
            workload_api: None,
            identity: None,
            user: None,
        };
        builder.arg("--admin", "127.0.0.1:0")
    }

    /// Health and metrics at this address, in place of a free port of loopback.
    pub fn admin(mut self, addr: SocketAddr) -> Self {
        let value = self.args.iter().position(|arg| arg == "--admin").map(|flag| flag + 1);
        if let Some(value) = value.and_then(|at| self.args.get_mut(at)) {
            *value = addr.to_string();
        }
        self
    }

    /// Runs it under another program, which is given with its own arguments.
    pub fn under(mut self, program: &[String]) -> Self {
        self.under = program.to_vec();
        self
    }

    /// A further flag with its value.
    pub fn arg(mut self, flag: &str, value: impl Into<String>) -> Self {
        self.args.extend([flag.to_owned(), value.into()]);
        self
    }

    /// A flag without a value.
    pub fn switch(mut self, flag: &str) -> Self {
        self.args.push(flag.to_owned());
        self
    }

    /// Identity from a Workload API of its own, which serves this SVID with the root above it.
    pub fn identity(self, svid: &TestSvid) -> Self {
        let api = Arc::new(WorkloadApi::serving(Answer::of(svid)));
        self.workload_api(&api).expect_id(&svid.id)
    }

    /// Identity from this Workload API.
    pub fn workload_api(mut self, api: &Arc<WorkloadApi>) -> Self {
        self.workload_api = Some(Arc::clone(api));
        let endpoint = api.endpoint();
        self.arg("--workload-api", endpoint)
    }

    /// Tells the sidecar who it is meant to be: trust domain, namespace and service account of this id.
    pub fn expect_id(mut self, id: &str) -> Self {
        self.identity = Some(id.to_owned());
        let parts: Vec<&str> = id.trim_start_matches("spiffe://").split('/').collect();
        match parts[..] {
            [trust_domain, "ns", namespace, "sa", account] => self
                .arg("--trust-domain", trust_domain)
                .arg("--namespace", namespace)
                .arg("--service-account", account),
            [trust_domain, ..] => self.arg("--trust-domain", trust_domain),
            [] => self,
        }
    }

    /// An inbound listener in front of this app, on a free port.
    pub fn inbound(self, upstream: SocketAddr) -> Self {
        self.arg("--inbound", format!("127.0.0.1:0={upstream}"))
    }

    /// An outbound listener to this peer, on a free port; `rest` is what follows `is`.
    pub fn outbound(self, upstream: SocketAddr, rest: &str) -> Self {
        self.arg("--outbound", format!("127.0.0.1:0={upstream} is {rest}"))
    }

    /// Runs it as this user and the group of the same number, which only root can ask for. What it reads
    /// becomes that user's.
    pub fn user(mut self, id: u32) -> Self {
        self.user = Some(id);
        self
    }

    /// Policy text; it is a watched file, see [`Sidecar::set_policy`].
    pub fn policy(mut self, text: impl Into<String>) -> Self {
        self.policy = Some(text.into());
        self
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self) -> Sidecar {
        let sidecar = self.spawn();
        sidecar.ready().await;
        sidecar
    }

    /// Starts it and waits for nothing.
    ///
    /// # Panics
    /// When the binary does not start.
    pub fn spawn(self) -> Sidecar {
        let dir = TempDir::new();
        let mut command = match &self.under[..] {
            [] => Command::new(&self.binary),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(&self.binary);
                command
            }
        };
        // Nothing of the machine's environment configures a sidecar of the tests.
        command.env_clear().env("RUST_BACKTRACE", "1").args(&self.args);
        if let Some(text) = &self.policy {
            command.arg("--policy").arg(dir.file("policy", text));
        }
        if let Some(id) = self.user {
            let owned = |path: &Path| std::os::unix::fs::chown(path, Some(id), Some(id)).expect("chown");
            owned(dir.path());
            if let Some(socket) = self.workload_api.as_ref().map(|api| api.socket()) {
                socket.parent().into_iter().chain([socket]).for_each(owned);
            }
            command.uid(id).gid(id);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("{} starts: {error}", self.binary.display()));
        let stdout = collect(child.stdout.take().expect("piped"));
        let stderr = collect(child.stderr.take().expect("piped"));
        Sidecar { child, dir, stdout, stderr, workload_api: self.workload_api }
    }
}

// === impl Sidecar ===

impl Sidecar {
    /// Waits until identity and policy are usable.
    pub async fn ready(&self) {
        self.event("ready", |_| true).await;
    }

    /// Waits for an event on standard output that satisfies `matches`.
    pub async fn event(&self, name: &str, matches: impl Fn(&Value) -> bool) -> Value {
        self.nth_event(name, 0, matches).await
    }

    /// Where the n-th inbound listener listens, from 0.
    pub async fn inbound(&self, n: usize) -> SocketAddr {
        self.listener("inbound", n).await
    }

    /// Where the n-th outbound listener listens, from 0.
    pub async fn outbound(&self, n: usize) -> SocketAddr {
        self.listener("outbound", n).await
    }

    /// Where health and metrics are.
    pub async fn admin(&self) -> SocketAddr {
        self.listener("admin", 0).await
    }

    /// A GET on the admin port.
    pub async fn get(&self, path: &str) -> Response {
        let addr = self.admin().await;
        let mut client = HttpClient::plain(addr, Protocol::Http1).await;
        // The dumps answer to a loopback name alone.
        client.send(&Request::get(path).host(&addr.to_string()).header("connection", "close")).await
    }

    /// Its metrics now.
    pub async fn metrics(&self) -> Metrics {
        let response = self.get("/metrics").await;
        assert_eq!(response.status, 200, "{}", response.text());
        Metrics::parse(&response.text())
    }

    /// Waits until the sum of the matching samples is at least `value`: what is counted at the end of a
    /// connection is counted after the client has seen it.
    pub async fn metric_reaches(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        eventually(format!("{name}{labels:?} >= {value}"), async || {
            (self.metrics().await.sum(name, labels) >= value).then_some(())
        })
        .await;
    }

    /// Replaces the policy file in one step. The new policy is in force a moment later.
    pub fn set_policy(&self, text: &str) {
        self.dir.replace("policy", text);
    }

    /// The Workload API it was started with.
    ///
    /// # Panics
    /// When it was started without one.
    pub fn workload_api(&self) -> &WorkloadApi {
        self.workload_api.as_ref().expect("started with a Workload API")
    }

    /// Asks it to stop, as the kubelet does.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id as i32));
        if let Some(pid) = pid {
            kill_process(pid, signal).expect("signal to a child");
        }
    }

    /// Waits for its end.
    pub async fn exited(&mut self) -> ExitStatus {
        within("the sidecar to exit", self.child.wait()).await.expect("a child")
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Lines of standard output so far.
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.borrow().lines.clone()
    }

    /// Lines of standard error so far.
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.borrow().lines.clone()
    }

    async fn listener(&self, role: &str, n: usize) -> SocketAddr {
        let event = self.nth_event("listening", n, |event| event["role"] == role).await;
        let addr = event["addr"].as_str().expect("an address");
        addr.parse().unwrap_or_else(|error| panic!("address {addr:?}: {error}"))
    }

    async fn nth_event(&self, name: &str, n: usize, matches: impl Fn(&Value) -> bool) -> Value {
        let find = |lines: &Lines| {
            let events = lines.lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            events.filter(|event| event["event"] == name && matches(event)).nth(n)
        };
        let mut stdout = self.stdout.clone();
        let found = stdout.wait_for(|lines| lines.ended || find(lines).is_some());
        let lines = within(format!("event {name:?} of the sidecar"), found).await;
        let event = lines.ok().and_then(|lines| find(&lines));
        event.unwrap_or_else(|| panic!("the sidecar ended without the event {name:?}"))
    }
}

impl Drop for Sidecar {
    /// What the process said belongs to a failed test's output.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- sidecar {:?}, standard output", self.child.id());
            self.stdout().iter().for_each(|line| eprintln!("{line}"));
            eprintln!("--- sidecar {:?}, standard error", self.child.id());
            self.stderr().iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

fn collect(stream: impl AsyncRead + Send + Unpin + 'static) -> watch::Receiver<Lines> {
    let (sender, receiver) = watch::channel(Lines::default());
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            sender.send_modify(|all| all.lines.push(line));
        }
        sender.send_modify(|all| all.ended = true);
    });
    receiver
}
