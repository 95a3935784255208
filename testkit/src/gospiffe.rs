//! Workloads written with go-spiffe, in both TLS roles (sources: `testkit/peers/gospiffe`).

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::real_peers::{RealPeers, run};
use crate::wait::within;

/// What a go-spiffe program speaks: the flags `-mode` and `-alpn`.
#[derive(Clone, Copy, Debug)]
pub struct GoMode {
    /// `http` or `tcp`.
    pub mode: &'static str,
    /// Comma-separated; empty for a program that does not speak ALPN.
    pub alpn: &'static str,
}

/// A running server; it is killed when this is dropped.
#[derive(Debug)]
pub struct GoServer {
    addr: SocketAddr,
    _child: Child,
}

/// Starts a server that admits only this caller and waits until it listens.
///
/// # Panics
/// When it ends before it listens.
pub async fn serve(peers: &RealPeers, workload_api: &str, mode: GoMode, allow: &str) -> GoServer {
    let mut child = Command::new(peers.program("gospiffe-server"))
        .args(["-workload-api", workload_api, "-allow", allow, "-mode", mode.mode, "-alpn", mode.alpn])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("gospiffe-server starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let addr = within("gospiffe-server to listen", async {
        while let Some(line) = lines.next_line().await.expect("text") {
            if let Some(addr) = line.strip_prefix("LISTEN ") {
                return addr.parse().expect("an address");
            }
        }
        panic!("gospiffe-server ended before it listened")
    })
    .await;
    // Its standard output must be read, or the program stops when the pipe is full.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    GoServer { addr, _child: child }
}

/// Calls an address once and gives what the client reported (see its source for the lines).
///
/// # Errors
/// Why it got no answer.
pub async fn call(
    peers: &RealPeers,
    workload_api: &str,
    mode: GoMode,
    addr: SocketAddr,
    expect: &str,
) -> Result<String, String> {
    let mut command = Command::new(peers.program("gospiffe-client"));
    command.args(["-workload-api", workload_api, "-mode", mode.mode, "-alpn", mode.alpn]);
    command.args(["-addr", &addr.to_string(), "-expect", expect]);
    run(&mut command).await
}

// === impl GoServer ===

impl GoServer {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}
