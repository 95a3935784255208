//! Registration entries: which caller gets which identity.

use std::path::PathBuf;
use std::time::Duration;

use mantlet_id::{SpiffeId, TrustDomain};

use crate::caller::Caller;

/// One registration entry: whoever matches all its selectors gets its identity.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The identity.
    pub id: SpiffeId,
    /// Whom it is for; at least one selector.
    pub selectors: Selectors,
    /// Hint for a caller that gets several identities.
    pub hint: Option<String>,
    /// Lifetime of the SVID, if not the agent's default.
    pub ttl: Option<Duration>,
    /// DNS names in the SVID, for peers that are no SPIFFE peers.
    pub dns: Vec<String>,
    /// Other served trust domains whose bundles the caller gets.
    pub federates_with: Vec<TrustDomain>,
}

/// What the kernel must say about a caller; every selector that is set must match.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Selectors {
    /// User id.
    pub uid: Option<u32>,
    /// Group id.
    pub gid: Option<u32>,
    /// Process id.
    pub pid: Option<u32>,
    /// Executable, as `/proc/PID/exe` shows it.
    pub path: Option<PathBuf>,
}

/// Names an entry in a running agent.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EntryKey(pub(crate) u64);

// === impl Entry ===

impl Entry {
    /// An entry for one process.
    #[must_use]
    pub fn for_pid(id: SpiffeId, pid: u32) -> Self {
        Self::new(id, Selectors { pid: Some(pid), ..Selectors::default() })
    }

    /// An entry for every process of a user.
    #[must_use]
    pub fn for_uid(id: SpiffeId, uid: u32) -> Self {
        Self::new(id, Selectors { uid: Some(uid), ..Selectors::default() })
    }

    /// An entry with the given selectors and nothing else.
    #[must_use]
    pub fn new(id: SpiffeId, selectors: Selectors) -> Self {
        Self { id, selectors, hint: None, ttl: None, dns: Vec::new(), federates_with: Vec::new() }
    }
}

// === impl Selectors ===

impl Selectors {
    /// Whether no selector is set: such an entry would be for everybody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether `caller` satisfies every selector that is set.
    #[must_use]
    pub fn matches(&self, caller: &Caller) -> bool {
        !self.is_empty()
            && self.uid.is_none_or(|uid| uid == caller.uid)
            && self.gid.is_none_or(|gid| gid == caller.gid)
            && self.pid.is_none_or(|pid| caller.pid == Some(pid))
            && self.path.as_ref().is_none_or(|path| caller.exe.as_ref() == Some(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Caller {
        Caller { uid: 1000, gid: 100, pid: Some(7), exe: Some("/bin/a".into()) }
    }

    #[test]
    fn every_selector_that_is_set_must_match() {
        let all = Selectors { uid: Some(1000), gid: Some(100), pid: Some(7), path: Some("/bin/a".into()) };
        assert!(all.matches(&caller()));
        for miss in [
            Selectors { uid: Some(1), ..all.clone() },
            Selectors { gid: Some(1), ..all.clone() },
            Selectors { pid: Some(1), ..all.clone() },
            Selectors { path: Some("/bin/b".into()), ..all.clone() },
        ] {
            assert!(!miss.matches(&caller()), "{miss:?}");
        }
    }

    #[test]
    fn an_entry_without_selectors_matches_nobody() {
        assert!(!Selectors::default().matches(&caller()));
    }

    #[test]
    fn a_caller_that_the_kernel_does_not_show_matches_no_pid_and_no_path() {
        let hidden = Caller { pid: None, exe: None, ..caller() };
        assert!(!Selectors { pid: Some(7), ..Selectors::default() }.matches(&hidden));
        assert!(!Selectors { path: Some("/bin/a".into()), ..Selectors::default() }.matches(&hidden));
        assert!(Selectors { uid: Some(1000), ..Selectors::default() }.matches(&hidden));
    }
}
