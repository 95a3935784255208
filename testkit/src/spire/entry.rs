//! Registration entries.

use std::path::Path;

/// Which process gets which identity. Sent to the server as JSON.
#[derive(Clone, Debug)]
pub struct Entry {
    flags: Vec<String>,
    id: String,
}

// === impl Entry ===

impl Entry {
    /// This identity for every process that runs this program.
    pub fn new(id: &str, program: &Path) -> Self {
        let entry = Self { flags: Vec::new(), id: id.to_owned() };
        entry.flag("-spiffeID", id).flag("-selector", &format!("unix:path:{}", program.display()))
    }

    /// Lifetime of its SVIDs in seconds. SPIRE renews when half of the lifetime, counted from 10 s
    /// before issue, is left: SVIDs of 20 s live for about 5 s.
    pub fn ttl(self, seconds: u32) -> Self {
        self.flag("-x509SVIDTTL", &seconds.to_string())
    }

    /// Hint for workloads that have several identities.
    pub fn hint(self, hint: &str) -> Self {
        self.flag("-hint", hint)
    }

    /// The entry's own id; the Workload API lists SVIDs in the order of these.
    pub fn entry_id(self, id: &str) -> Self {
        self.flag("-entryID", id)
    }

    /// Also gets the bundle of this trust domain.
    pub fn federates_with(self, trust_domain: &str) -> Self {
        self.flag("-federatesWith", &format!("spiffe://{trust_domain}"))
    }

    /// The SPIFFE ID.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn flags(&self) -> impl Iterator<Item = &str> {
        self.flags.iter().map(String::as_str)
    }

    fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.extend([name.to_owned(), value.to_owned()]);
        self
    }
}
