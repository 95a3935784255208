//! What passes on the node's bridge, as tcpdump sees it.

use std::process::Stdio;

use mantlet_testkit::cluster::{BRIDGE, Cluster};
use mantlet_testkit::within;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// A running capture of everything between pods.
pub(crate) struct Capture {
    tcpdump: Child,
    file: std::path::PathBuf,
}

impl Capture {
    /// Captures from now on.
    pub(crate) async fn start(cluster: &Cluster, name: &str) -> Self {
        let file = cluster.dir().join(format!("{name}.pcap"));
        let mut command = Command::new("tcpdump");
        command
            .args(["--interface", BRIDGE, "--packet-buffered", "-n", "-Z", "root", "-w"])
            .arg(&file)
            .arg("tcp");
        let mut tcpdump = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("tcpdump runs");
        let mut said = BufReader::new(tcpdump.stderr.take().expect("a pipe")).lines();
        // It says so when it listens.
        while let Some(line) = within("tcpdump", said.next_line()).await.expect("a line") {
            if line.contains("listening on") {
                break;
            }
        }
        // What it says at its end goes nowhere.
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        Self { tcpdump, file }
    }

    /// Whether these bytes have passed so far.
    pub(crate) fn has(&self, bytes: &str) -> bool {
        let packets = std::fs::read(&self.file).expect("the capture");
        packets.windows(bytes.len()).any(|window| window == bytes.as_bytes())
    }

    /// Ends.
    pub(crate) async fn stop(mut self) {
        self.tcpdump.kill().await.expect("tcpdump ends");
    }
}
