//! What a program that runs an agent can do to it while it runs.

use std::sync::Arc;
use std::time::SystemTime;

use mantlet_id::TrustDomain;
use tokio::sync::broadcast;

use crate::authorities::{Authorities, AuthorityError, AuthorityInfo};
use crate::core::{Cause, Core, EntryError, Issuance};
use crate::entry::{Entry, EntryKey};

/// Talks to a running [`Server`](crate::Server). Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(crate) core: Arc<Core>,
}

// === impl Handle ===

impl Handle {
    /// Adds an entry; open streams that it concerns get it at once.
    ///
    /// # Errors
    /// [`EntryError`] when the entry has no selector, is in a foreign trust domain, or is invalid.
    pub fn add_entry(&self, entry: Entry) -> Result<EntryKey, EntryError> {
        self.core.add_entry(entry, false)
    }

    /// Removes an entry; open streams that it was the only one for end with `PermissionDenied`.
    /// Says whether there was one.
    pub fn remove_entry(&self, key: EntryKey) -> bool {
        self.core.remove_entry(key)
    }

    /// Every entry, in the order in which a caller gets its identities.
    #[must_use]
    pub fn entries(&self) -> Vec<(EntryKey, Entry)> {
        self.core.entries()
    }

    /// Renews every SVID that is in use, now.
    pub fn rotate_svids(&self) {
        self.core.rotate_svids();
    }

    /// Puts a new authority into the bundle of `domain`.
    ///
    /// # Errors
    /// [`AuthorityError`] when one is prepared already or it cannot be stored.
    pub fn prepare_authority(&self, domain: &TrustDomain) -> Result<(), AuthorityError> {
        let now = SystemTime::now();
        self.core.change_authorities(domain, None, |set| set.prepare(now))
    }

    /// Lets the prepared authority of `domain` sign, and renews every SVID of that domain.
    ///
    /// # Errors
    /// [`AuthorityError`] when none is prepared or the change cannot be stored.
    pub fn activate_authority(&self, domain: &TrustDomain) -> Result<(), AuthorityError> {
        self.core.change_authorities(domain, Some(Cause::Authority), Authorities::activate)
    }

    /// Takes the old authorities of `domain` out of its bundle. What they have signed is refused
    /// from then on; without this call they leave when their last SVID has expired.
    ///
    /// # Errors
    /// [`AuthorityError`] when there is no old one or the change cannot be stored.
    pub fn retire_authority(&self, domain: &TrustDomain) -> Result<(), AuthorityError> {
        self.core.change_authorities(domain, None, Authorities::retire)
    }

    /// The authorities of every trust domain.
    #[must_use]
    pub fn authorities(&self) -> Vec<AuthorityInfo> {
        self.core.authorities()
    }

    /// The bundle of a trust domain, concatenated DER; empty when it is not served.
    #[must_use]
    pub fn bundle(&self, domain: &TrustDomain) -> Vec<u8> {
        self.core.bundle(domain)
    }

    /// The served trust domains, the default one first.
    #[must_use]
    pub fn trust_domains(&self) -> &[TrustDomain] {
        self.core.served()
    }

    /// What is wrong with the entries file, if its last version could not be used.
    #[must_use]
    pub fn entries_problem(&self) -> Option<String> {
        self.core.file_problem()
    }

    /// Every SVID that is signed from now on.
    #[must_use]
    pub fn issuances(&self) -> broadcast::Receiver<Issuance> {
        self.core.issuances()
    }
}
