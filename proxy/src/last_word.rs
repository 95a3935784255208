//! The last word of a process that never came to work: why, where an operator of Kubernetes looks first.
//!
//! The kubelet reads the file of a container's `terminationMessagePath` when the container has ended, and shows it in
//! the pod's status. It reads at most 4096 bytes. Whoever ends before the log is read by anybody can be understood by it.

use std::{error::Error, path::PathBuf};

use tracing::warn;

use crate::{
    readiness::{Condition, Snapshot},
    sys,
};

/// As much as the kubelet reads (`kubecontainer.MaxContainerTerminationMessageLength`).
const MOST_BYTES: usize = 4096;

/// Where the last word goes, if anywhere.
#[derive(Clone, Debug, Default)]
pub struct LastWord(Option<PathBuf>);

// === impl LastWord ===

impl LastWord {
    /// To this file, which exists, or nowhere.
    #[must_use]
    pub fn to(path: Option<PathBuf>) -> Self {
        Self(path)
    }

    /// Ended by `signal` in this state. What has been ready once has worked, and needs no explanation.
    pub fn ended(&self, signal: &str, now: &Snapshot) {
        // A stop that was announced is no reason for not having been ready.
        let missing = now.conditions().filter(|condition| condition.name != "drain");
        let missing: Vec<String> = missing.map(Condition::to_string).collect();
        if now.has_started() || missing.is_empty() {
            return;
        }
        self.write(format!("ended by {signal} before it was ready\n{}\n", missing.join("\n")));
    }

    /// Could not start.
    pub fn failed(&self, error: &dyn Error) {
        self.write(format!("could not start: {}\n", whole(error)));
    }

    fn write(&self, mut text: String) {
        let Some(path) = &self.0 else { return };
        text.truncate(text.floor_char_boundary(MOST_BYTES));
        // The end is the same, with it or without.
        if let Err(error) = sys::overwrite(path, text.as_bytes()) {
            let path = path.display();
            warn!(event = "termination_message", %path, %error, "the reason for the end was not written");
        }
    }
}

/// Every level of an error, from what was attempted to what the kernel said.
#[must_use]
pub fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(&format!(": {next}"));
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use mantlet_testkit::temp::TempDir;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;
    use crate::readiness::Readiness;

    #[test]
    fn what_was_missing_is_written_and_a_stop_in_order_is_not() {
        let dir = TempDir::new();
        let file =
            dir.file("message", "of before, and longer than what follows it, which is a sentence or two");
        let word = LastWord::to(Some(file.clone()));
        let readiness = Readiness::new();
        let identity = readiness.blocker("identity");
        identity.set("agent says no identity issued", "register it");
        let drain = readiness.blocker("drain");
        drain.set("stopping (drain)", "nothing");
        word.ended("SIGTERM", &readiness.snapshot());
        let said = fs::read_to_string(&file).unwrap();
        let line = "identity: agent says no identity issued (next: register it)";
        assert_eq!(said, format!("ended by SIGTERM before it was ready\n{line}\n"));

        fs::write(&file, "").unwrap();
        identity.clear();
        word.ended("SIGTERM", &readiness.snapshot());
        drop(drain);
        identity.set("expired", "see the agent");
        word.ended("SIGTERM", &readiness.snapshot());
        assert_eq!(fs::read_to_string(&file).unwrap(), "");
    }

    #[test]
    fn no_more_is_written_than_the_kubelet_reads() {
        let dir = TempDir::new();
        let file = dir.file("message", "");
        let error = std::io::Error::other("\u{e9}".repeat(MOST_BYTES));
        LastWord::to(Some(file.clone())).failed(&error);
        let said = fs::read_to_string(&file).unwrap();
        assert!(said.starts_with("could not start: \u{e9}"));
        assert!((MOST_BYTES - 1..=MOST_BYTES).contains(&said.len()), "{}", said.len());
    }

    #[test]
    fn a_file_that_is_no_file_holds_nobody_up_and_changes_nothing_else() {
        let dir = TempDir::new();
        let (other, link) = (dir.file("other", "as before"), dir.path().join("link"));
        std::os::unix::fs::symlink(&other, &link).unwrap();
        let (pipe, absent) = (dir.path().join("pipe"), dir.path().join("absent"));
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let folder = dir.path().to_owned();
        for path in [link, pipe.clone(), absent.clone(), folder] {
            LastWord::to(Some(path)).failed(&std::io::Error::other("no"));
        }
        assert_eq!(fs::read_to_string(&other).unwrap(), "as before");
        assert!(!absent.exists());
        // With a reader it could be written to, and still is not.
        let reader =
            rustix::fs::open(&pipe, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK, Mode::empty());
        let reader = fs::File::from(reader.unwrap());
        LastWord::to(Some(pipe)).failed(&std::io::Error::other("no"));
        assert_eq!(std::io::Read::read(&mut &reader, &mut [0; 8]).unwrap(), 0);
    }
}
