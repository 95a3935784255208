//! What goes on in a pod while the test does something else.

use std::process::Stdio;

use mantlet_testkit::cluster::Cluster;
use mantlet_testkit::within;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

/// An application that keeps running in a pod and prints line after line.
pub(crate) struct Running {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Starts it.
    pub(crate) fn start(cluster: &Cluster, namespace: &str, pod: &str, args: &[&str]) -> Self {
        let mut all = vec!["exec", "--namespace", namespace, "--container=app", pod, "--", "/cluster-app"];
        all.extend(args);
        let mut command = cluster.kubectl_command(&all);
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("kubectl runs");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { _child: child, lines }
    }

    /// The next line.
    pub(crate) async fn line(&mut self) -> Value {
        let line = within("a line", self.lines.next_line()).await.expect("a line");
        let line = line.expect("another line");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }
}
