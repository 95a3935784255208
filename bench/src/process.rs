//! Processes that end with the value that holds them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running program. Dropping it asks it to end and, if it does not, kills it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: std::path::PathBuf,
}

/// Sends one GET and returns the status; the connection is closed afterwards.
pub(crate) fn get(port: u16) -> io::Result<u16> {
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench.local\r\nConnection: close\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    std::str::from_utf8(&head[9..12])
        .ok()
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer"))
}

/// Asks until the answer has this status, every millisecond, at most 20 s. Says how long it took.
pub(crate) fn wait_for_status(port: u16, wanted: u16, who: &str) -> io::Result<Duration> {
    let begun = Instant::now();
    loop {
        let answer = get(port);
        if matches!(answer, Ok(status) if status == wanted) {
            return Ok(begun.elapsed());
        }
        if begun.elapsed() > Duration::from_secs(20) {
            return Err(io::Error::other(format!(
                "{who}: no {wanted} on port {port} within 20 s, last: {answer:?}"
            )));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

// === impl Process ===

impl Process {
    /// Starts a program with its output in `<dir>/<name>.log`.
    pub(crate) fn start(name: &str, dir: &Path, command: &mut Command) -> io::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let out = File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{name} ({command:?}): {error}")))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The last lines of what it printed, for an error message.
    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("{} said:\n{}", self.name, lines[lines.len().saturating_sub(8)..].join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A master process (nginx) must be able to end its workers, so SIGTERM comes first.
        let pid = self.pid().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).stderr(Stdio::null()).status();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
