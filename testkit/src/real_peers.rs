//! Programs of other projects, built by `testkit/peers/build`: where they are, or why a test cannot run.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::process::Command;

use crate::wait::within;

/// The folder with the built peers.
#[derive(Clone, Debug)]
pub struct RealPeers(PathBuf);

/// Below what the kernel gives out by itself, so that no connection of another test takes a port
/// between its choice and its use.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A TCP port that was free a moment ago, for programs that cannot be told to pick one. Never the same
/// one twice in a process, and in another process most likely another.
///
/// # Panics
/// When none is free.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let count = u32::from(PORTS.end - PORTS.start);
    let first = std::process::id().wrapping_mul(7_919) % count;
    let candidates = (0..count).map(|_| {
        let offset = (first + NEXT.fetch_add(1, Ordering::Relaxed)) % count;
        PORTS.start + u16::try_from(offset).expect("within the range")
    });
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    candidates.into_iter().find(is_free).expect("a free port")
}

/// A program of the distribution, by its name. Without it this prints why the test is skipped and how to
/// enable it, and the test returns; with `TEST_REQUIRE_ALL=1`, as in CI, the test fails instead.
///
/// # Panics
/// When it is required and not there.
pub fn installed(test: &str, program: &str, package: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
    if found.is_none() {
        let how = format!("apt-get install {package}");
        let required = std::env::var_os("TEST_REQUIRE_ALL").is_some_and(|value| value == "1");
        assert!(!required, "{test} needs {program}: {how}");
        eprintln!("SKIP {test}: {program} is not installed; enable: {how}");
    }
    found
}

/// Runs a program to its end and gives what it printed on standard output.
///
/// # Errors
/// What it printed, when it failed.
pub async fn run(command: &mut Command) -> Result<String, String> {
    let what = format!("{:?}", command.as_std());
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = within(&what, output).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(format!("{what}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}

// === impl RealPeers ===

impl RealPeers {
    /// The peers named by `TEST_PEERS`. Without them this prints why the test is skipped and how to
    /// enable it, and the test returns; with `TEST_REQUIRE_ALL=1`, as in CI, the test fails instead.
    ///
    /// # Panics
    /// When they are required and not there.
    pub fn find(test: &str) -> Option<Self> {
        match std::env::var_os("TEST_PEERS") {
            Some(folder) => Some(Self(folder.into())),
            None => {
                let how = "export TEST_PEERS=$(testkit/peers/build)";
                let required = std::env::var_os("TEST_REQUIRE_ALL").is_some_and(|value| value == "1");
                assert!(!required, "{test} needs the real peers: {how}");
                eprintln!(
                    "SKIP {test}: it runs against real SPIRE, Envoy or programs of other SPIFFE libraries, which are not built; enable: {how}"
                );
                None
            }
        }
    }

    /// A program among them, by the path that the kernel reports for its process: links resolved.
    ///
    /// # Panics
    /// When it is not there.
    pub fn program(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

/// A copy of a program under a name of its own, so that an attestor can tell it from the original.
///
/// # Panics
/// When it cannot be made.
pub fn copy_program(program: &Path, to: &Path) -> PathBuf {
    // A link where the file system allows it: a debug build of the sidecar is large.
    std::fs::hard_link(program, to)
        .or_else(|_| std::fs::copy(program, to).map(drop))
        .unwrap_or_else(|error| panic!("{} as {}: {error}", program.display(), to.display()));
    to.to_owned()
}
