//! Workloads written with other SPIFFE libraries, in both TLS roles (sources: `testkit/peers/gospiffe`
//! and `testkit/peers/spiffe-rustls`). All have the same flags and say the same.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::real_peers::{RealPeers, run};
use crate::wait::within;

/// The library that a workload is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// go-spiffe, the reference in Go.
    GoSpiffe,
    /// The crate spiffe-rustls.
    SpiffeRustls,
}

/// What a program speaks: the flags `-mode` and `-alpn`.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    /// `http` or `tcp`.
    pub mode: &'static str,
    /// Comma-separated; empty for a program that does not speak ALPN.
    pub alpn: &'static str,
}

/// A running server; it is killed when this is dropped.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    _child: Child,
}

/// Starts a server that admits only this caller and waits until it listens.
///
/// # Panics
/// When it ends before it listens.
pub async fn serve(
    peers: &RealPeers,
    library: Library,
    workload_api: &str,
    mode: Mode,
    allow: &str,
) -> Server {
    let name = library.server();
    let mut child = Command::new(peers.program(name))
        .args(["-workload-api", workload_api, "-allow", allow, "-mode", mode.mode, "-alpn", mode.alpn])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let addr = within(&format!("{name} to listen"), async {
        while let Some(line) = lines.next_line().await.expect("text") {
            if let Some(addr) = line.strip_prefix("LISTEN ") {
                return addr.parse().expect("an address");
            }
        }
        panic!("{name} ended before it listened")
    })
    .await;
    // Its standard output must be read, or the program stops when the pipe is full.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Server { addr, _child: child }
}

/// Calls an address once and gives what the client reported (see its source for the lines).
///
/// # Errors
/// Why it got no answer.
pub async fn call(
    peers: &RealPeers,
    library: Library,
    workload_api: &str,
    mode: Mode,
    addr: SocketAddr,
    expect: &str,
) -> Result<String, String> {
    let mut command = Command::new(peers.program(library.client()));
    command.args(["-workload-api", workload_api, "-mode", mode.mode, "-alpn", mode.alpn]);
    command.args(["-addr", &addr.to_string(), "-expect", expect]);
    run(&mut command).await
}

// === impl Library ===

impl Library {
    /// Every one of them.
    pub const ALL: [Self; 2] = [Self::GoSpiffe, Self::SpiffeRustls];

    /// The program that is called.
    pub fn server(self) -> &'static str {
        match self {
            Self::GoSpiffe => "gospiffe-server",
            Self::SpiffeRustls => "spiffe-rustls-server",
        }
    }

    /// The program that calls.
    pub fn client(self) -> &'static str {
        match self {
            Self::GoSpiffe => "gospiffe-client",
            Self::SpiffeRustls => "spiffe-rustls-client",
        }
    }
}

// === impl Server ===

impl Server {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}
