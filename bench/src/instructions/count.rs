//! Counting: a sidecar under callgrind is asked for its counts while it runs.

use std::io;
use std::path::Path;

use mantlet_testkit::TempDir;
use mantlet_testkit::real_peers::run;
use tokio::process::Command;

use crate::scenario::{Running, Scenario, request};

/// Requests before the first reading: pools are filled, tables grown, lazy things made.
const WARM_UP: u64 = 50;

/// User instructions for one request.
pub(crate) async fn per_request(
    binary: &Path,
    scenario: &Scenario,
    requests: u64,
    keep: Option<&Path>,
) -> io::Result<u64> {
    let temporary = TempDir::new();
    let dir = match keep {
        Some(keep) => keep.join(scenario.name),
        None => temporary.path().to_owned(),
    };
    std::fs::create_dir_all(&dir)?;
    let (out, pipe) = (dir.join("out"), temporary.path().join("vgdb"));
    let under = [
        "valgrind".to_owned(),
        "--tool=callgrind".to_owned(),
        format!("--callgrind-out-file={}", out.display()),
        format!("--vgdb-prefix={}", pipe.display()),
    ];
    let Running { sidecar, mut client, app: _app } = scenario.start(binary, &under).await?;
    let pid = sidecar.pid().ok_or_else(|| io::Error::other("the sidecar has ended"))?;
    let reading = async || {
        // The counts since the last reading go into a file of their own, and start again from nothing.
        let mut vgdb = Command::new("vgdb");
        vgdb.arg(format!("--vgdb-prefix={}", pipe.display())).arg(format!("--pid={pid}")).arg("dump");
        run(&mut vgdb).await.map_err(io::Error::other)
    };
    let mut send = async |count: u64| {
        for _ in 0..count {
            let response = client.send(&request()).await;
            assert_eq!(response.status, 200, "{response:?}");
        }
    };
    send(WARM_UP).await;
    reading().await?;
    send(requests).await;
    reading().await?;
    let counted = std::fs::read_to_string(dir.join("out.2"))?;
    let total = total(&counted).ok_or_else(|| io::Error::other("callgrind wrote no total"))?;
    Ok(total / requests)
}

/// callgrind's file ends with `totals: N`, and says `summary: N` before.
fn total(counted: &str) -> Option<u64> {
    let line = |name| counted.lines().find_map(|line| line.strip_prefix(name));
    line("totals:").or_else(|| line("summary:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_a_reading_is_found() {
        assert_eq!(total("version: 1\nevents: Ir\nsummary: 12\n\nfn=a\n1 12\n\ntotals: 12\n"), Some(12));
        assert_eq!(total("version: 1\n"), None);
    }
}
