//! Who is calling, as the kernel tells it.

use std::fmt;
use std::path::PathBuf;

use tokio::net::unix::UCred;

/// A caller of the Workload API: the peer credentials of its socket and its executable. Nothing
/// here is said by the caller itself (SPIFFE Workload Endpoint 5).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id; absent when the caller lives in a pid namespace that we cannot see.
    pub pid: Option<u32>,
    /// Executable; absent when the kernel does not let us read it.
    pub exe: Option<PathBuf>,
}

// === impl Caller ===

impl Caller {
    /// Reads what the kernel recorded when the caller connected, and its executable now.
    pub(crate) fn attest(credentials: &UCred) -> Self {
        // 0 stands for a process outside our pid namespace.
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
        let exe = pid.and_then(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).ok());
        Self { uid: credentials.uid(), gid: credentials.gid(), pid, exe }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {} gid {}", self.uid, self.gid)?;
        match self.pid {
            Some(pid) => write!(f, " pid {pid}")?,
            None => write!(f, " pid unknown")?,
        }
        match &self.exe {
            Some(exe) => write!(f, " path {}", exe.display()),
            None => write!(f, " path unknown"),
        }
    }
}
