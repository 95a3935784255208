//! A private directory that goes with the demo, however the demo ends.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;

/// Beginning of the directory's name.
const NAME: &str = "mantlet-demo-";
/// How long the sweeper tries: a process that is ending may still hold or make something.
const SWEEPING: Duration = Duration::from_secs(5);

/// A directory of mode 0700; dropping it removes it with everything in it. If this process is killed, a small
/// child of it does so: the pipe between them closes.
pub(crate) struct Scratch {
    path: PathBuf,
    sweeper: Option<(ChildStdin, Child)>,
}

/// Arguments of the sweeper, which nobody starts by hand.
#[derive(Debug, Args)]
pub(crate) struct SweepArgs {
    /// What to remove
    directory: PathBuf,
}

// === impl Scratch ===

impl Scratch {
    pub(crate) fn new() -> io::Result<Self> {
        let process = std::process::id();
        for attempt in 0..100 {
            let path = std::env::temp_dir().join(format!("{NAME}{process}-{attempt}"));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    let mut scratch = Self { path, sweeper: None };
                    scratch.sweeper = Some(scratch.start_sweeper()?);
                    return Ok(scratch);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn start_sweeper(&self) -> io::Result<(ChildStdin, Child)> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("demo-sweep")
            .arg(&self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Neither Ctrl-C nor a kill of the whole group may reach it before its work is done.
            .process_group(0)
            .spawn()?;
        let stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok((stdin, child))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
        if let Some((stdin, mut child)) = self.sweeper.take() {
            drop(stdin);
            let _ = child.wait();
        }
    }
}

/// Waits until the demo has ended, and removes what it left.
pub(crate) fn sweep(arguments: &SweepArgs) {
    let ours =
        arguments.directory.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(NAME));
    if !ours {
        return;
    }
    // Nothing is ever written: this returns when the other end is gone.
    let _ = io::stdin().lock().read(&mut [0]);
    let begin = Instant::now();
    while fs::remove_dir_all(&arguments.directory).is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
        && begin.elapsed() < SWEEPING
    {
        std::thread::sleep(Duration::from_millis(20));
    }
}
