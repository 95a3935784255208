//! The real API server with its store, and nothing else of a cluster: enough for admission, which is
//! over before a pod would be scheduled.
//!
//! No controller runs, so nothing makes the `default` service account of a namespace, which the
//! ServiceAccount admission plugin wants to see: [`ApiServer::namespace`] makes both.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::real_peers::{RealPeers, free_port, run};
use crate::temp::TempDir;
use crate::wait::eventually;

/// Whom the API server takes for an administrator.
const TOKEN: &str = "administrator-of-the-tests";

/// etcd and kube-apiserver; dropping them kills both.
#[derive(Debug)]
pub struct ApiServer {
    peers: RealPeers,
    port: u16,
    _etcd: Child,
    _server: Child,
    dir: TempDir,
}

// === impl ApiServer ===

impl ApiServer {
    /// An API server that answers, with what Kubernetes enables by itself.
    pub async fn start(peers: &RealPeers) -> Self {
        Self::with(peers, &[]).await
    }

    /// An API server that answers, with further flags of its own.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn with(peers: &RealPeers, flags: &[String]) -> Self {
        let dir = TempDir::new();
        let store = format!("http://127.0.0.1:{}", free_port());
        let among_peers = format!("http://127.0.0.1:{}", free_port());
        let etcd = [
            format!("--data-dir={}", dir.path().join("etcd").display()),
            "--unsafe-no-fsync".to_owned(),
            format!("--listen-client-urls={store}"),
            format!("--advertise-client-urls={store}"),
            format!("--listen-peer-urls={among_peers}"),
            format!("--initial-advertise-peer-urls={among_peers}"),
            format!("--initial-cluster=default={among_peers}"),
        ];
        let etcd = spawn(peers, &dir, "etcd", &etcd);

        let port = free_port();
        let key = KeyPair::generate().expect("a key");
        let private = dir.file("accounts.key", key.serialize_pem());
        let public = dir.file("accounts.pub", key.public_key_pem());
        let tokens = dir.file("tokens.csv", format!("{TOKEN},admin,admin,system:masters\n"));
        let mut server = vec![
            format!("--etcd-servers={store}"),
            format!("--cert-dir={}", dir.path().join("pki").display()),
            format!("--secure-port={port}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            format!("--token-auth-file={}", tokens.display()),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", public.display()),
            format!("--service-account-signing-key-file={}", private.display()),
        ];
        server.extend_from_slice(flags);
        let server = spawn(peers, &dir, "kube-apiserver", &server);
        let this = Self { peers: peers.clone(), port, _etcd: etcd, _server: server, dir };
        // Its certificate exists once it has begun; that is also when a client can know it.
        let authority = this.dir.path().join("pki/apiserver.crt");
        eventually("the API server to begin", async || authority.exists().then_some(())).await;
        this.dir.file("kubeconfig", this.kubeconfig(&authority));
        for stage in ["/livez", "/readyz"] {
            eventually(stage, async || this.kubectl(&["get", "--raw", stage]).await.ok()).await;
        }
        this
    }

    /// What a client needs to be its administrator.
    pub fn kubeconfig_path(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// A folder for the test's own files.
    pub fn dir(&self) -> &TempDir {
        &self.dir
    }

    /// Runs kubectl as administrator and gives what it printed.
    ///
    /// # Errors
    /// What it printed, when it failed: the API server's words are among it.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        run(&mut self.command(args)).await
    }

    /// kubectl as administrator, not yet run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.peers.program("kubectl"));
        // Where it keeps what it learnt of the API server.
        command.env("HOME", self.dir.path()).env("KUBECONFIG", self.kubeconfig_path()).args(args);
        command
    }

    /// What the API server answers to a GET.
    ///
    /// # Panics
    /// When that is no JSON.
    pub async fn get(&self, path: &str) -> Value {
        let text = self.kubectl(&["get", "--raw", path]).await.unwrap_or_else(|error| panic!("{error}"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    /// Creates an object, and gives it as the API server has it.
    ///
    /// # Errors
    /// Why the API server refuses it.
    pub async fn create(&self, object: &Value) -> Result<Value, String> {
        self.send("create", object, &[]).await
    }

    /// What would become of creating an object; nothing is kept.
    ///
    /// # Errors
    /// Why the API server refuses it.
    pub async fn try_create(&self, object: &Value) -> Result<Value, String> {
        self.send("create", object, &["--dry-run=server"]).await
    }

    /// Makes a namespace with these labels, and its `default` service account.
    ///
    /// # Panics
    /// When the API server refuses either.
    pub async fn namespace(&self, name: &str, labels: &[(&str, &str)]) {
        let labels: serde_json::Map<String, Value> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        for object in [
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}),
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}),
        ] {
            self.create(&object).await.unwrap_or_else(|error| panic!("{error}"));
        }
    }

    async fn send(&self, verb: &str, object: &Value, more: &[&str]) -> Result<Value, String> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("object-{}.json", NEXT.fetch_add(1, Ordering::Relaxed));
        let file = self.dir.file(&name, object.to_string());
        let mut args = vec![verb, "--output=json", "--filename", file.to_str().expect("a path in UTF-8")];
        args.extend(more);
        let text = self.kubectl(&args).await?;
        let _ = std::fs::remove_file(&file);
        serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
    }

    fn kubeconfig(&self, authority: &Path) -> String {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority": authority,
            }}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        })
        .to_string()
    }
}

impl Drop for ApiServer {
    /// What the two said belongs to a failed test's output.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for program in ["etcd", "kube-apiserver"] {
                let log = self.dir.path().join(format!("{program}.log"));
                let text = std::fs::read_to_string(log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                eprintln!("--- {program}, last lines");
                lines.iter().skip(lines.len().saturating_sub(20)).for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

fn spawn(peers: &RealPeers, dir: &TempDir, program: &str, args: &[String]) -> Child {
    let log = File::create(dir.path().join(format!("{program}.log"))).expect("log file");
    // A test binary that is killed drops nothing: its end is theirs all the same.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(peers.program(program))
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("log file"))
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}
