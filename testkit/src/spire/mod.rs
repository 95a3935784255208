//! Real SPIRE: a server and an agent of their own for a test, on a folder that goes with them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::process::{Child, Command};

use crate::real_peers::{RealPeers, free_port, run};
use crate::temp::TempDir;
use crate::wait::eventually;

mod config;
mod entry;

pub use config::SpireOptions;
pub use entry::Entry;

use config::Places;

/// A server and an agent; dropping them kills both.
#[derive(Debug)]
pub struct Spire {
    peers: RealPeers,
    options: SpireOptions,
    server_port: u16,
    server: Option<Child>,
    agent: Option<Child>,
    dir: TempDir,
}

// === impl Spire ===

impl Spire {
    /// A plain server and agent, both answering.
    pub async fn start(peers: &RealPeers, trust_domain: &str) -> Self {
        Self::with(peers, SpireOptions::new(trust_domain)).await
    }

    /// A server and an agent with these options, both answering.
    pub async fn with(peers: &RealPeers, options: SpireOptions) -> Self {
        let mut spire = Self {
            peers: peers.clone(),
            options,
            server_port: free_port(),
            server: None,
            agent: None,
            dir: TempDir::new(),
        };
        spire.start_server().await;
        let bundle = spire.server_cli(&["bundle", "show"]).await;
        spire.dir.file("bootstrap.pem", bundle);
        spire.start_agent().await;
        spire
    }

    /// Starts the server, again or for the first time, and waits until it answers.
    pub async fn start_server(&mut self) {
        let text = self.options.server(&self.places());
        let config = self.dir.file("server.conf", text);
        let child = self.spawn("spire-server", &["run".as_ref(), "-config".as_ref(), config.as_ref()]);
        self.server = Some(child);
        eventually("SPIRE's server to be healthy", async || self.try_server_cli(&["healthcheck"]).await.ok())
            .await;
    }

    /// Starts the agent, again or for the first time, and waits until it answers. The first time it
    /// joins with a token; later it finds its own SVID in its folder.
    pub async fn start_agent(&mut self) {
        let text = self.options.agent(&self.places());
        let config = self.dir.file("agent.conf", text);
        let mut args: Vec<PathBuf> = vec!["run".into(), "-config".into(), config];
        if !self.dir.path().join("agent-data.json").exists() {
            let node = format!("spiffe://{}/node", self.options.trust_domain);
            let token = self.json(&["token", "generate", "-spiffeID", &node, "-ttl", "600"]).await;
            let token = token["value"].as_str().expect("a join token").to_owned();
            args.extend(["-joinToken".into(), token.into()]);
        }
        let args: Vec<&Path> = args.iter().map(PathBuf::as_path).collect();
        let child = self.spawn("spire-agent", &args);
        self.agent = Some(child);
        eventually("SPIRE's agent to be healthy", async || {
            let mut command = Command::new(self.peers.program("spire-agent"));
            command.arg("healthcheck").arg("-socketPath").arg(self.socket());
            run(&mut command).await.ok()
        })
        .await;
    }

    /// Kills the agent where it stands; its socket file stays behind.
    pub async fn kill_agent(&mut self) {
        kill(self.agent.take()).await;
    }

    /// Kills the server where it stands.
    pub async fn kill_server(&mut self) {
        kill(self.server.take()).await;
    }

    /// The Workload API in the form of `SPIFFE_ENDPOINT_SOCKET`.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The socket of the Workload API, and of Envoy's SDS.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// A folder for the test's own files.
    pub fn dir(&self) -> &TempDir {
        &self.dir
    }

    /// Creates an entry and gives its id; the agent learns of it a moment later.
    pub async fn create(&self, entry: &Entry) -> String {
        let node = format!("spiffe://{}/node", self.options.trust_domain);
        let mut args = vec!["entry", "create", "-parentID", &node];
        args.extend(entry.flags());
        let answer = self.json(&args).await;
        let created = &answer["results"][0];
        created["entry"]["id"].as_str().unwrap_or_else(|| panic!("no entry was created: {answer}")).to_owned()
    }

    /// Puts this in the place of the entry with this id.
    pub async fn update(&self, entry_id: &str, entry: &Entry) {
        let node = format!("spiffe://{}/node", self.options.trust_domain);
        let mut args = vec!["entry", "update", "-entryID", entry_id, "-parentID", &node];
        args.extend(entry.flags());
        self.server_cli(&args).await;
    }

    /// Deletes an entry.
    pub async fn delete(&self, entry_id: &str) {
        self.server_cli(&["entry", "delete", "-entryID", entry_id]).await;
    }

    /// Runs a command of the server's CLI against this server.
    ///
    /// # Panics
    /// When it fails.
    pub async fn server_cli(&self, args: &[&str]) -> String {
        self.try_server_cli(args).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same with the answer as JSON.
    ///
    /// # Panics
    /// When it fails.
    pub async fn json(&self, args: &[&str]) -> Value {
        let mut with_output = args.to_vec();
        with_output.extend(["-output", "json"]);
        let text = self.server_cli(&with_output).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    async fn try_server_cli(&self, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(self.peers.program("spire-server"));
        command.args(args).arg("-socketPath").arg(self.dir.path().join("server.sock"));
        run(&mut command).await
    }

    fn places(&self) -> Places<'_> {
        Places { dir: self.dir.path(), port: self.server_port }
    }

    fn spawn(&self, program: &str, args: &[&Path]) -> Child {
        let log = self.dir.path().join(format!("{program}.log"));
        let log = File::options().create(true).append(true).open(log).expect("log file");
        Command::new(self.peers.program(program))
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log file"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"))
    }
}

impl Drop for Spire {
    /// What SPIRE said belongs to a failed test's output.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for program in ["spire-server", "spire-agent"] {
                let log = self.dir.path().join(format!("{program}.log"));
                let text = std::fs::read_to_string(log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                eprintln!("--- {program}, last lines");
                lines.iter().skip(lines.len().saturating_sub(30)).for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

async fn kill(child: Option<Child>) {
    let mut child = child.expect("it is running");
    child.kill().await.expect("a child can be killed");
}
