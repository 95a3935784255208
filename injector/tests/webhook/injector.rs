//! A running `mantlet-injector`.

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};

use mantlet_testkit::TempDir;
use mantlet_testkit::apps::Protocol;
use mantlet_testkit::client::{HttpClient, Request, Response};
use mantlet_testkit::sidecar::Metrics;
use mantlet_testkit::wait::{eventually, within};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::api::{Api, NAMESPACE};
use crate::client::Caller;

/// A running injector; it ends when this is dropped.
pub(crate) struct Injector {
    child: Child,
    stdout: watch::Receiver<Lines>,
    stderr: watch::Receiver<Lines>,
    pub(crate) addr: SocketAddr,
    pub(crate) health: SocketAddr,
    _dir: TempDir,
}

#[derive(Clone, Debug, Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

/// How an injector is started.
pub(crate) fn command(api: &Api, dir: &TempDir, injection: &str, more: &[&str]) -> Command {
    // A release build, where figures are wanted.
    let other = std::env::var_os("TEST_INJECTOR");
    let mut command = Command::new(other.unwrap_or_else(|| env!("CARGO_BIN_EXE_mantlet-injector").into()));
    // Nothing of the machine's environment configures what is tested.
    command.env_clear().env("RUST_BACKTRACE", "1").env("KUBECONFIG", api.kubeconfig());
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--namespace", NAMESPACE]);
    command.args(["--certificate-poll", "50ms", "--certificate-settle", "300ms", "--stop-delay", "0s"]);
    command.arg("--config").arg(dir.file("config.yaml", injection));
    command.args(more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

// === impl Injector ===

impl Injector {
    /// Starts one that is ready.
    pub(crate) async fn start(api: &Api) -> Self {
        Self::with(api, "{}", &[]).await
    }

    /// Starts one with this document of injections and further flags, and waits until it is ready.
    pub(crate) async fn with(api: &Api, injection: &str, more: &[&str]) -> Self {
        let injector = Self::spawn(api, injection, more).await;
        injector.event("ready").await;
        injector
    }

    /// Starts one and waits until it listens.
    pub(crate) async fn spawn(api: &Api, injection: &str, more: &[&str]) -> Self {
        let dir = TempDir::new();
        let command = command(api, &dir, injection, more);
        Self::run(command, dir).await
    }

    /// Starts this command and waits until it listens; its files live in `dir`.
    pub(crate) async fn run(mut command: Command, dir: TempDir) -> Self {
        let mut child = command.spawn().unwrap();
        let stdout = collect(child.stdout.take().unwrap());
        let stderr = collect(child.stderr.take().unwrap());
        let listening = line(&stdout, "listening", |line| line["event"] == "listening").await;
        let addr = |name: &str| listening[name].as_str().unwrap().parse().unwrap();
        Self { addr: addr("listen"), health: addr("admin"), child, stdout, stderr, _dir: dir }
    }

    /// A connection as of an API server that works with the webhook configuration as it is now.
    pub(crate) async fn caller(&self, api: &Api) -> Caller {
        Caller::try_connect(self.addr, &api.bundles()[0]).await.unwrap()
    }

    /// Waits for an event of its life.
    pub(crate) async fn event(&self, name: &str) -> Value {
        line(&self.stdout, name, |line| line["event"] == name).await
    }

    /// Waits for the line of an admission.
    pub(crate) async fn admission(&self, uid: &str) -> Value {
        line(&self.stdout, uid, |line| line["stream"] == "admission" && line["uid"] == uid).await
    }

    pub(crate) fn stdout(&self) -> Vec<String> {
        self.stdout.borrow().lines.clone()
    }

    pub(crate) fn stderr(&self) -> Vec<String> {
        self.stderr.borrow().lines.clone()
    }

    /// A GET on the port of health and metrics.
    pub(crate) async fn get(&self, path: &str) -> Response {
        let mut client = HttpClient::plain(self.health, Protocol::Http1).await;
        client.send(&Request::get(path).header("connection", "close")).await
    }

    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        Metrics::parse(&self.get("/metrics").await.text()).sum(name, labels)
    }

    /// Waits until the sum of the matching samples is at least `value`.
    pub(crate) async fn metric_reaches(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let reached = async || (self.metric(name, labels).await >= value).then_some(());
        eventually(format!("{name}{labels:?} >= {value}"), reached).await;
    }

    pub(crate) fn terminate(&self) {
        kill_process(Pid::from_raw(self.pid() as i32).unwrap(), Signal::TERM).unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    pub(crate) async fn exited(&mut self) -> ExitStatus {
        within("the injector to exit", self.child.wait()).await.unwrap()
    }
}

impl Drop for Injector {
    /// What the process said belongs to a failed test's output.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- injector {:?}", self.child.id());
            self.stdout().iter().chain(&self.stderr()).for_each(|line| eprintln!("{line}"));
        }
    }
}

async fn line(from: &watch::Receiver<Lines>, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
    let find = |lines: &Lines| {
        lines
            .lines
            .iter()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|line| matches(line))
    };
    let mut from = from.clone();
    let found = from.wait_for(|lines| lines.ended || find(lines).is_some());
    let lines = within(format!("{what} of the injector"), found).await;
    let found = lines.ok().and_then(|lines| find(&lines));
    found.unwrap_or_else(|| panic!("the injector ended without {what}"))
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
