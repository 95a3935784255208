//! File descriptors: tests that open thousands of connections need more than a shell gives.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of this process, and of what it starts from here on, as far as it may, and gives it.
#[must_use]
pub fn raise() -> usize {
    let limit = getrlimit(Resource::Nofile);
    // Refused only where the limit is fixed; then it is what it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let now = getrlimit(Resource::Nofile).current;
    now.map_or(usize::MAX, |now| usize::try_from(now).unwrap_or(usize::MAX))
}

/// How many the process with this id has open.
///
/// # Panics
/// When it is gone, or another user's.
#[must_use]
pub fn open(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a running process").count()
}
