//! Programs of the node, each with a log of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

/// Everything that the node runs, by the name of the program.
#[derive(Debug)]
pub(super) struct Processes {
    logs: PathBuf,
    programs: BTreeMap<String, Program>,
}

#[derive(Debug)]
struct Program {
    path: PathBuf,
    args: Vec<String>,
    child: Option<Child>,
}

// === impl Processes ===

impl Processes {
    /// None yet; what they say goes to this folder.
    pub(super) fn new(logs: &Path) -> Self {
        Self { logs: logs.to_owned(), programs: BTreeMap::new() }
    }

    /// Starts a program under the name of its file.
    pub(super) fn start(&mut self, path: &Path, args: Vec<String>) {
        let name = path.file_name().expect("a program").to_string_lossy().into_owned();
        self.programs.insert(name.clone(), Program { path: path.to_owned(), args, child: None });
        self.again(&name).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Starts a program that was stopped, with other arguments if any are given.
    pub(super) fn again(&mut self, name: &str) -> Result<(), String> {
        let log = File::options().create(true).append(true).open(self.logs.join(format!("{name}.log")));
        let log = log.map_err(|error| error.to_string())?;
        let program = self.programs.get_mut(name).ok_or("no such program")?;
        if program.child.is_some() {
            return Err("it runs".to_owned());
        }
        let child = Command::new(&program.path)
            .args(&program.args)
            .env("NODE", "n1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|error| error.to_string())?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        program.child = Some(child.map_err(|error| error.to_string())?);
        Ok(())
    }

    /// Changes what a program is given when it starts again.
    pub(super) fn set_args(&mut self, name: &str, args: Vec<String>) {
        if let Some(program) = self.programs.get_mut(name) {
            program.args = args;
        }
    }

    /// Kills a program where it stands.
    pub(super) async fn stop(&mut self, name: &str) -> Result<(), String> {
        let program = self.programs.get_mut(name).ok_or("no such program")?;
        let mut child = program.child.take().ok_or("it does not run")?;
        child.kill().await.map_err(|error| error.to_string())
    }

    /// The first program that ended by itself.
    pub(super) fn ended(&mut self) -> Option<String> {
        self.programs.iter_mut().find_map(|(name, program)| {
            let status = program.child.as_mut()?.try_wait().ok()??;
            Some(format!("{name} ended: {status}"))
        })
    }
}
