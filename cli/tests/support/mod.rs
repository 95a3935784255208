//! The built command as a child process, with a directory of its own.

#![allow(dead_code, reason = "not every test file needs all of it")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than anything here takes; reaching it is a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A directory that goes with the test; also the child's TMPDIR, so that what it leaves shows.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mantlet-cli-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a directory");
        Self(path)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// For what a process that was killed leaves to others.
    pub(crate) fn wait_until_empty(&self) {
        let begin = Instant::now();
        while !self.is_empty() {
            assert!(begin.elapsed() < PATIENCE, "something is left behind");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        fs::read_dir(&self.0).expect("the directory").next().is_none()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The command with nothing of the tester's environment that it would look at.
pub(crate) fn mantlet(scratch: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mantlet"));
    command
        .args(arguments)
        .env_clear()
        .env("TMPDIR", scratch)
        .env("LC_ALL", "C.UTF-8")
        .current_dir(scratch)
        .stdin(Stdio::null());
    command
}

pub(crate) fn run(scratch: &Scratch, arguments: &[&str]) -> Output {
    mantlet(&scratch.0, arguments).output().expect("mantlet runs")
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// A command that runs until it is told to end, with JSON lines on standard output.
pub(crate) struct Running {
    child: Child,
    lines: Option<BufReader<ChildStdout>>,
}

impl Running {
    pub(crate) fn start(scratch: &Scratch, arguments: &[&str]) -> Self {
        let mut child = mantlet(&scratch.0, arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("mantlet starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, lines: Some(lines) }
    }

    /// The next event of this name; what comes before it is left out.
    pub(crate) fn event(&mut self, name: &str) -> Value {
        loop {
            let mut line = String::new();
            let lines = self.lines.as_mut().expect("a reader");
            let length = lines.read_line(&mut line).expect("UTF-8 lines");
            if length == 0 {
                let mut log = String::new();
                let _ = self.child.stderr.take().expect("a pipe").read_to_string(&mut log);
                panic!("it ended before the event {name:?}: {log}");
            }
            let event: Value = serde_json::from_str(&line).expect("a JSON line");
            if event["event"] == name {
                return event;
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Closes the reading end of its standard output and waits for the end.
    pub(crate) fn stop_reading(mut self) -> ExitStatus {
        drop(self.lines.take());
        self.wait()
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Sends a signal by its name and waits for the end.
    pub(crate) fn end(mut self, signal: &str) -> ExitStatus {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
        self.wait()
    }

    fn wait(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(begin.elapsed() < PATIENCE, "it did not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until no process has this id any more; one that only waits to be reaped is gone.
pub(crate) fn wait_until_gone(pid: u64) {
    let begin = Instant::now();
    loop {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next());
        if matches!(state, None | Some('Z' | 'X')) {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "process {pid} is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}
