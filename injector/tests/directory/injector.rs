//! A running `mantlet-injector` with its directory, and the identities around it.

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};

use mantlet_testkit::TempDir;
use mantlet_testkit::apps::Protocol;
use mantlet_testkit::client::{HttpClient, Request, Response, TlsClient};
use mantlet_testkit::pki::{Authority, TestSvid};
use mantlet_testkit::sidecar::Metrics;
use mantlet_testkit::wait::{eventually, within};
use mantlet_testkit::workload_api::{Answer, WorkloadApi};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::api::Api;
use crate::client::Client;

/// Whom sidecars expect.
pub(crate) const ID: &str = "spiffe://prod.test/ns/mantlet/sa/mantlet-injector";

/// A running injector whose directory is in order; it ends when this is dropped.
pub(crate) struct Injector {
    pub(crate) child: Child,
    lines: watch::Receiver<Vec<String>>,
    pub(crate) addr: SocketAddr,
    pub(crate) health: SocketAddr,
    pub(crate) authority: Authority,
    pub(crate) workload_api: WorkloadApi,
    _dir: TempDir,
}

// === impl Injector ===

impl Injector {
    /// Starts one and waits until it knows the cluster.
    pub(crate) async fn start(api: &Api) -> Self {
        let injector = Self::spawn(api.kubeconfig(), &[]).await;
        injector.event("directory_ready").await;
        injector
    }

    /// Starts one and waits until it listens.
    pub(crate) async fn spawn(kubeconfig: std::path::PathBuf, more: &[&str]) -> Self {
        let authority = Authority::new("prod.test");
        let workload_api = WorkloadApi::serving(Answer::of(&authority.svid(ID)).message());
        Self::with(kubeconfig, more, authority, workload_api).await
    }

    pub(crate) async fn with(
        kubeconfig: std::path::PathBuf,
        more: &[&str],
        authority: Authority,
        workload_api: WorkloadApi,
    ) -> Self {
        let dir = TempDir::new();
        let document = format!(
            "trustDomain: prod.test\nworkloadApi: {{csi: {{}}}}\ndirectory: {{address: 'x.y.svc:8444', id: '{ID}'}}\n"
        );
        // A release build, where figures are wanted.
        let other = std::env::var_os("TEST_INJECTOR");
        let program = other.unwrap_or_else(|| env!("CARGO_BIN_EXE_mantlet-injector").into());
        let mut command = Command::new(program);
        command.env_clear().env("RUST_BACKTRACE", "1").env("KUBECONFIG", kubeconfig);
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--namespace", "mantlet"]);
        command.args(["--directory-listen", "127.0.0.1:0", "--stop-delay", "0s"]);
        command.arg("--workload-api").arg(workload_api.endpoint());
        command.arg("--config").arg(dir.file("config.yaml", document)).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (sender, lines) = watch::channel(Vec::new());
        collect(child.stdout.take().unwrap(), sender.clone());
        collect(child.stderr.take().unwrap(), sender);
        let listening = event(&lines, "listening").await;
        let addr = |name: &str| listening[name].as_str().unwrap().parse().unwrap();
        let (addr, health) = (addr("directory"), addr("admin"));
        Self { child, lines, addr, health, authority, workload_api, _dir: dir }
    }

    /// Waits for an event of its life.
    pub(crate) async fn event(&self, name: &str) -> Value {
        event(&self.lines, name).await
    }

    /// A stream of this workload.
    pub(crate) async fn client(&self, workload: &str) -> Client {
        Client::over(self.connect(&self.authority.workload(workload)).await).await.unwrap()
    }

    /// A connection with this identity, its handshake done.
    pub(crate) async fn connect(&self, svid: &TestSvid) -> mantlet_testkit::Io {
        TlsClient::new(svid).alpn(&["h2"]).connect(self.addr).await.into_io()
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        let mut client = HttpClient::plain(self.health, Protocol::Http1).await;
        client.send(&Request::get(path).header("connection", "close")).await
    }

    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let name = format!("mantlet_injector_directory_{name}");
        Metrics::parse(&self.get("/metrics").await.text()).sum(&name, labels)
    }

    /// Waits until a metric of the directory is this.
    pub(crate) async fn metric_is(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let reached = async || (self.metric(name, labels).await == value).then_some(());
        eventually(format!("{name}{labels:?} is {value}"), reached).await;
    }

    /// Waits until a metric of the directory is at least this.
    pub(crate) async fn metric_reaches(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let reached = async || (self.metric(name, labels).await >= value).then_some(());
        eventually(format!("{name}{labels:?} >= {value}"), reached).await;
    }

    pub(crate) fn terminate(&self) {
        kill_process(Pid::from_raw(self.child.id().unwrap() as i32).unwrap(), Signal::TERM).unwrap();
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
            self.lines.borrow().iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

async fn event(lines: &watch::Receiver<Vec<String>>, name: &str) -> Value {
    let find = |lines: &Vec<String>| {
        let mut parsed = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        parsed.find(|line| line["event"] == name)
    };
    let mut lines = lines.clone();
    let found = within(name, lines.wait_for(|lines| find(lines).is_some())).await;
    found.ok().and_then(|lines| find(&lines)).unwrap_or_else(|| panic!("the injector ended without {name}"))
}

fn collect(stream: impl AsyncRead + Send + Unpin + 'static, sender: watch::Sender<Vec<String>>) {
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            sender.send_modify(|all| all.push(line));
        }
    });
}
