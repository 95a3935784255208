//! The state of the agent: entries, authorities and the SVIDs that are in use.
//!
//! An SVID belongs to its entry, not to a stream: every caller of one entry holds the same one, so
//! a second caller never makes the first one rotate (spire#5280). It is renewed by the first
//! stream that finds it due; nothing runs for entries that nobody uses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use mantlet_id::{SpiffeId, TrustDomain};
use mantlet_proto::workload::{X509BundlesResponse, X509svid, X509svidResponse};
use thiserror::Error;
use tokio::sync::{broadcast, watch};
use zeroize::Zeroizing;

use crate::authorities::{Authorities, AuthorityError, AuthorityInfo};
use crate::authority::{CertificateError, random};
use crate::caller::Caller;
use crate::entries_file::check_entry;
use crate::entry::{Entry, EntryKey};
use crate::storage;

/// Events that a slow listener may miss before it is told so.
const ISSUANCES_KEPT: usize = 1_024;

/// An SVID was signed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Issuance {
    /// Identity.
    pub id: SpiffeId,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// End of its life.
    pub not_after: SystemTime,
    /// Why it was signed.
    pub cause: Cause,
}

/// Why an SVID was signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    /// Somebody asked for it for the first time.
    First,
    /// Half of its predecessor's life was over.
    HalfLife,
    /// [`Handle::rotate_svids`].
    Command,
    /// Another authority became active.
    Authority,
}

/// Why an entry was refused; the text names the cause and the remedy.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
#[error("{0}")]
pub struct EntryError(String);

/// Why a caller gets nothing.
#[derive(Debug, Error)]
pub(crate) enum Refusal {
    /// The text is fixed: clients recognise it.
    #[error("no identity issued")]
    NoIdentity,
    #[error("cannot sign an identity")]
    Certificate(#[from] CertificateError),
}

/// An answer and the time at which it must be made again.
pub(crate) struct Answer<T> {
    pub(crate) message: T,
    pub(crate) renew_at: SystemTime,
}

pub(crate) struct Core {
    state: Mutex<State>,
    served: Vec<TrustDomain>,
    svid_ttl: Duration,
    ca_directory: Option<PathBuf>,
    version: watch::Sender<u64>,
    issued: broadcast::Sender<Issuance>,
}

struct State {
    authorities: BTreeMap<TrustDomain, Authorities>,
    entries: Vec<Registered>,
    svids: HashMap<EntryKey, Svid>,
    next_key: u64,
    file_problem: Option<String>,
}

struct Registered {
    key: EntryKey,
    from_file: bool,
    entry: Entry,
}

struct Svid {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    renew_at: SystemTime,
    /// Set when it must be replaced before its time.
    replace: Option<Cause>,
}

// === impl Core ===

impl Core {
    pub(crate) fn new(
        authorities: BTreeMap<TrustDomain, Authorities>,
        served: Vec<TrustDomain>,
        svid_ttl: Duration,
        ca_directory: Option<PathBuf>,
    ) -> Self {
        let state = State {
            authorities,
            entries: Vec::new(),
            svids: HashMap::new(),
            next_key: 0,
            file_problem: None,
        };
        Self {
            state: Mutex::new(state),
            served,
            svid_ttl,
            ca_directory,
            version: watch::Sender::new(0),
            issued: broadcast::Sender::new(ISSUANCES_KEPT),
        }
    }

    /// Bumped at each change that a stream may have to show.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub(crate) fn served(&self) -> &[TrustDomain] {
        &self.served
    }

    pub(crate) fn add_entry(&self, entry: Entry, from_file: bool) -> Result<EntryKey, EntryError> {
        check_entry(&entry, &self.served).map_err(EntryError)?;
        let key = self.lock().register(entry, from_file);
        self.bump();
        Ok(key)
    }

    /// Replaces the entries of the file. Those that stand there unchanged keep their SVIDs.
    pub(crate) fn replace_file_entries(&self, entries: Vec<Entry>) {
        let mut state = self.lock();
        let (mut old, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.entries).into_iter().partition(|registered| registered.from_file);
        for entry in entries {
            match old.iter().position(|registered| registered.entry == entry) {
                Some(at) => state.entries.push(old.remove(at)),
                None => {
                    state.register(entry, true);
                }
            }
        }
        state.entries.extend(kept);
        for gone in old {
            state.svids.remove(&gone.key);
        }
        state.file_problem = None;
        drop(state);
        self.bump();
    }

    pub(crate) fn set_file_problem(&self, problem: String) {
        self.lock().file_problem = Some(problem);
    }

    pub(crate) fn file_problem(&self) -> Option<String> {
        self.lock().file_problem.clone()
    }

    pub(crate) fn remove_entry(&self, key: EntryKey) -> bool {
        let mut state = self.lock();
        let before = state.entries.len();
        state.entries.retain(|registered| registered.key != key);
        state.svids.remove(&key);
        let removed = state.entries.len() != before;
        drop(state);
        self.bump();
        removed
    }

    pub(crate) fn entries(&self) -> Vec<(EntryKey, Entry)> {
        let state = self.lock();
        state.entries.iter().map(|registered| (registered.key, registered.entry.clone())).collect()
    }

    pub(crate) fn rotate_svids(&self) {
        self.lock().replace_svids(None, Cause::Command);
        self.bump();
    }

    pub(crate) fn authorities(&self) -> Vec<AuthorityInfo> {
        self.lock().authorities.values().flat_map(Authorities::info).collect()
    }

    pub(crate) fn bundle(&self, domain: &TrustDomain) -> Vec<u8> {
        self.lock().authorities.get(domain).map(Authorities::bundle).unwrap_or_default()
    }

    pub(crate) fn issuances(&self) -> broadcast::Receiver<Issuance> {
        self.issued.subscribe()
    }

    /// The full state for a caller: its SVIDs, their bundles, the bundles it federates with.
    pub(crate) fn x509_svids(
        &self,
        caller: &Caller,
        now: SystemTime,
    ) -> Result<Answer<X509svidResponse>, Refusal> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let mut message = X509svidResponse::default();
        let mut renew_at = now + Duration::from_secs(86_400);
        let mut hints = BTreeSet::new();
        let (mut own, mut federated) = (BTreeSet::new(), BTreeSet::new());
        for registered in state.entries.iter().filter(|r| r.entry.selectors.matches(caller)) {
            let entry = &registered.entry;
            let hint = entry.hint.clone().unwrap_or_default();
            // Hints are unique in a response; the older entry keeps its own (Workload API 5.2.1).
            if !hint.is_empty() && !hints.insert(hint.clone()) {
                continue;
            }
            let Some(authorities) = state.authorities.get_mut(entry.id.trust_domain()) else { continue };
            let old = state.svids.get(&registered.key);
            let cause = match old {
                None => Some(Cause::First),
                Some(svid) if svid.replace.is_some() => svid.replace,
                Some(svid) if svid.renew_at <= now => Some(Cause::HalfLife),
                Some(_) => None,
            };
            if let Some(cause) = cause {
                let svid = self.sign(authorities, entry, cause, now)?;
                state.svids.insert(registered.key, svid);
            }
            let Some(svid) = state.svids.get(&registered.key) else { continue };
            renew_at = renew_at.min(svid.renew_at);
            own.insert(entry.id.trust_domain().clone());
            federated.extend(entry.federates_with.iter().cloned());
            message.svids.push(X509svid {
                spiffe_id: entry.id.as_str().to_owned(),
                x509_svid: svid.certificate.clone(),
                x509_svid_key: svid.key.to_vec(),
                bundle: authorities.bundle(),
                hint,
            });
        }
        if message.svids.is_empty() {
            return Err(Refusal::NoIdentity);
        }
        // A bundle of an own trust domain never stands among the foreign ones.
        for domain in federated.difference(&own) {
            if let Some(authorities) = state.authorities.get(domain) {
                message.federated_bundles.insert(domain.id_string(), authorities.bundle());
            }
        }
        Ok(Answer { message, renew_at })
    }

    /// The bundles for a caller; it needs an entry like any other.
    pub(crate) fn x509_bundles(
        &self,
        caller: &Caller,
        now: SystemTime,
    ) -> Result<Answer<X509BundlesResponse>, Refusal> {
        let state = self.lock();
        let domains: BTreeSet<&TrustDomain> = state
            .entries
            .iter()
            .filter(|registered| registered.entry.selectors.matches(caller))
            .flat_map(|registered| {
                std::iter::once(registered.entry.id.trust_domain()).chain(&registered.entry.federates_with)
            })
            .collect();
        if domains.is_empty() {
            return Err(Refusal::NoIdentity);
        }
        let mut message = X509BundlesResponse::default();
        for domain in domains {
            if let Some(authorities) = state.authorities.get(domain) {
                message.bundles.insert(domain.id_string(), authorities.bundle());
            }
        }
        Ok(Answer { message, renew_at: now + Duration::from_secs(86_400) })
    }

    /// Renews authorities by age.
    pub(crate) fn maintain_authorities(&self, now: SystemTime) -> Result<(), AuthorityError> {
        for domain in &self.served {
            let mut state = self.lock();
            let Some(set) = state.authorities.get_mut(domain) else { continue };
            let due = set.maintain(now)?;
            if !due.changed {
                continue;
            }
            let stored = self.store(domain, set);
            if due.activated {
                state.replace_svids(Some(domain), Cause::Authority);
            }
            drop(state);
            self.bump();
            stored?;
        }
        Ok(())
    }

    fn sign(
        &self,
        authorities: &mut Authorities,
        entry: &Entry,
        cause: Cause,
        now: SystemTime,
    ) -> Result<Svid, CertificateError> {
        let leaf = authorities.issue(&entry.id, &entry.dns, entry.ttl.unwrap_or(self.svid_ttl), now)?;
        let life = leaf.not_after.duration_since(now).unwrap_or_default();
        let issuance =
            Issuance { id: entry.id.clone(), serial: leaf.serial, not_after: leaf.not_after, cause };
        tracing::debug!(id = %issuance.id, serial = issuance.serial, ?cause, "signed an SVID");
        // Nobody may be listening.
        let _ = self.issued.send(issuance);
        let renew_at = now + half_life(life)?;
        Ok(Svid { certificate: leaf.certificate, key: leaf.key, renew_at, replace: None })
    }

    pub(crate) fn change_authorities(
        &self,
        domain: &TrustDomain,
        replace: Option<Cause>,
        change: impl FnOnce(&mut Authorities) -> Result<(), AuthorityError>,
    ) -> Result<(), AuthorityError> {
        let mut state = self.lock();
        let set = state
            .authorities
            .get_mut(domain)
            .ok_or_else(|| AuthorityError::UnknownTrustDomain(domain.clone()))?;
        change(set)?;
        let stored = self.store(domain, set);
        if let Some(cause) = replace {
            state.replace_svids(Some(domain), cause);
        }
        drop(state);
        self.bump();
        stored
    }

    fn store(&self, domain: &TrustDomain, set: &Authorities) -> Result<(), AuthorityError> {
        let Some(directory) = &self.ca_directory else { return Ok(()) };
        storage::store(directory, domain, set).map_err(|error| AuthorityError::Storage(chain(&error)))
    }

    fn bump(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn register(&mut self, entry: Entry, from_file: bool) -> EntryKey {
        let key = EntryKey(self.next_key);
        self.next_key += 1;
        self.entries.push(Registered { key, from_file, entry });
        key
    }

    /// Marks SVIDs, of one trust domain or of all, for replacement by whoever uses them next.
    fn replace_svids(&mut self, domain: Option<&TrustDomain>, cause: Cause) {
        for registered in &self.entries {
            if domain.is_none_or(|domain| domain == registered.entry.id.trust_domain())
                && let Some(svid) = self.svids.get_mut(&registered.key)
            {
                svid.replace = Some(cause);
            }
        }
    }
}

/// Half of a life, give or take a tenth, so that a fleet that started together does not renew
/// together.
fn half_life(life: Duration) -> Result<Duration, CertificateError> {
    let [a, b] = random::<2>()?;
    let jitter = f64::from(u16::from_be_bytes([a, b])) / f64::from(u16::MAX);
    Ok(life.mul_f64(0.45 + 0.1 * jitter))
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_due_at_half_life_give_or_take_a_tenth() {
        let life = Duration::from_secs(1_000);
        let mut seen = BTreeSet::new();
        for _ in 0..200 {
            let due = half_life(life).unwrap();
            assert!((450..=550).contains(&due.as_secs()), "{due:?}");
            seen.insert(due.as_millis());
        }
        assert!(seen.len() > 100, "the jitter is random");
    }
}
