//! From one message of the Workload API to credentials: every entry judged by itself, nothing published that
//! is not complete.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use mantlet_id::{SpiffeId, TrustDomain};

use super::SourceConfig;
use super::status::IdentityErrorKind;
use crate::bundle::TrustBundle;
use crate::svid::Svid;
use crate::workload_api::{SvidEntry, X509Update};
use crate::{Credentials, TrustBundles, provider};

/// More SVIDs than this in one message are not looked at.
const MAX_SVIDS: usize = 100;
/// More trust domains than this in one message are not looked at.
const MAX_TRUST_DOMAINS: usize = 200;

/// What an update came to.
pub(super) enum Outcome {
    /// New credentials.
    Changed(Arc<Credentials>),
    /// It says what is known.
    Unchanged,
}

/// What was left out of an update, for counters and one log line each.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub(super) kind: IdentityErrorKind,
    pub(super) text: String,
}

/// Why a whole update is not taken; the last good state stays (WA 4.5).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// `svids` is empty.
    #[error("agent sent no SVID")]
    Empty,
    /// Beyond the limit.
    #[error("agent sent {0} SVIDs, at most {MAX_SVIDS} are taken")]
    TooManySvids(usize),
    /// Beyond the limit.
    #[error("agent sent bundles of {0} trust domains, at most {MAX_TRUST_DOMAINS} are taken")]
    TooManyTrustDomains(usize),
    /// Every SVID was left out; the text names one and why.
    #[error("no SVID of the agent is usable: {0}")]
    NoneUsable(String),
    /// Nothing has the configured hint.
    #[error("agent sent no SVID with the hint {0:?}")]
    NoHint(String),
    /// Every usable SVID is of another trust domain; ours never changes at run time.
    #[error("agent's SVIDs are of trust domain {found}, this workload's is {expected}")]
    OtherTrustDomain {
        /// The trust domain of an SVID.
        found: TrustDomain,
        /// Ours.
        expected: TrustDomain,
    },
}

/// Turns updates into credentials; remembers what must not change and what is known already.
pub(super) struct Assembler {
    /// Never changes once it is known.
    trust_domain: Option<TrustDomain>,
    /// The last number that was given out, for all kinds of generations.
    generation: u64,
    /// Of the last update that was taken, whatever it contained.
    last_update: Option<[u8; 32]>,
}

/// An SVID that passed, with the bundle that came with it.
struct Candidate {
    svid: Svid,
    bundle: TrustBundle,
}

// === impl Credentials ===

impl Credentials {
    /// The credentials that one update alone makes, outside of a supervisor: for tools and tests.
    ///
    /// # Errors
    /// Why the update would not be taken.
    pub fn from_update(
        config: &SourceConfig,
        update: impl Into<X509Update>,
        now: SystemTime,
    ) -> Result<Arc<Self>, UpdateError> {
        match Assembler::new(config).assemble(config, None, update.into(), now, &mut Vec::new())? {
            Outcome::Changed(credentials) => Ok(credentials),
            // Without anything to compare with, everything is a change.
            Outcome::Unchanged => Err(UpdateError::Empty),
        }
    }
}

// === impl Assembler ===

impl Assembler {
    pub(super) fn new(config: &SourceConfig) -> Self {
        let of_id = || config.expected_id.as_ref().map(|id| id.trust_domain().clone());
        Self { trust_domain: config.trust_domain.clone().or_else(of_id), generation: 0, last_update: None }
    }

    /// Judges an update. `current` is what is published now.
    pub(super) fn assemble(
        &mut self,
        config: &SourceConfig,
        current: Option<&Arc<Credentials>>,
        mut update: X509Update,
        now: SystemTime,
        left_out: &mut Vec<LeftOut>,
    ) -> Result<Outcome, UpdateError> {
        if update.svids.len() > MAX_SVIDS {
            return Err(UpdateError::TooManySvids(update.svids.len()));
        }
        if update.federated_bundles.len() > MAX_TRUST_DOMAINS {
            return Err(UpdateError::TooManyTrustDomains(update.federated_bundles.len()));
        }
        // The map has no order on the wire; with one, equal content is equal bytes.
        update.federated_bundles.sort();
        let fingerprint = fingerprint(&update);
        if current.is_some() && self.last_update == Some(fingerprint) {
            return Ok(Outcome::Unchanged);
        }
        if update.revocation_lists > 0 {
            let text = format!("{} revocation lists are not looked at", update.revocation_lists);
            left_out.push(LeftOut { kind: IdentityErrorKind::RevocationList, text });
        }

        let candidates = self.candidates(&update.svids, now, left_out)?;
        let Candidate { svid, bundle } = select(config, candidates, &update.svids, left_out)?;
        let trust_domain = svid.id.trust_domain().clone();

        let mut parsed = federated(&trust_domain, &update.federated_bundles, now, left_out);
        report_bundle(&trust_domain, &bundle, left_out);
        parsed.insert(trust_domain.clone(), bundle);

        self.trust_domain = Some(trust_domain);
        self.last_update = Some(fingerprint);
        Ok(self.credentials(config, current, svid, parsed))
    }

    /// The SVIDs of our trust domain that pass every check, in the order of the message.
    fn candidates(
        &self,
        entries: &[SvidEntry],
        now: SystemTime,
        left_out: &mut Vec<LeftOut>,
    ) -> Result<Vec<Candidate>, UpdateError> {
        let mut passed: Vec<Candidate> = Vec::new();
        let mut foreign = None;
        for entry in entries {
            match self.candidate(entry, now) {
                Ok(candidate) => {
                    // Before the domain is configured or known, the first SVID that passes decides.
                    let own = passed.first().map(|first| first.svid.id.trust_domain().clone());
                    let expected = self.trust_domain.clone().or(own);
                    match expected {
                        Some(expected) if *candidate.svid.id.trust_domain() != expected => {
                            let found = candidate.svid.id.trust_domain().clone();
                            let text =
                                format!("{}: this workload's trust domain is {expected}", candidate.svid.id);
                            left_out.push(LeftOut { kind: IdentityErrorKind::Svid, text });
                            foreign = Some(UpdateError::OtherTrustDomain { found, expected });
                        }
                        _ => passed.push(candidate),
                    }
                }
                Err(text) => left_out.push(LeftOut { kind: IdentityErrorKind::Svid, text }),
            }
        }
        match (passed.is_empty(), foreign) {
            (false, _) => Ok(passed),
            (true, Some(foreign)) => Err(foreign),
            (true, None) if entries.is_empty() => Err(UpdateError::Empty),
            (true, None) => {
                let why = left_out.iter().find(|entry| entry.kind == IdentityErrorKind::Svid);
                Err(UpdateError::NoneUsable(why.map(|entry| entry.text.clone()).unwrap_or_default()))
            }
        }
    }

    fn candidate(&self, entry: &SvidEntry, now: SystemTime) -> Result<Candidate, String> {
        let id = SpiffeId::parse(&entry.spiffe_id)
            .map_err(|error| format!("{:?}: {error}", shortened(&entry.spiffe_id)))?;
        let trust_domain = id.trust_domain().clone();
        let bundle = TrustBundle::parse(&trust_domain, &entry.bundle, now)
            .ok_or_else(|| format!("{id}: its bundle is too large"))?;
        let bundles = TrustBundles::new(BTreeMap::from([(trust_domain, Arc::new(bundle))]));
        let svid = Svid::parse(&id, &entry.chain, &entry.key, &entry.hint, &bundles, now)
            .map_err(|error| format!("{id}: {error}"))?;
        let bundle = bundles.into_only().ok_or_else(|| format!("{id}: its bundle is gone"))?;
        Ok(Candidate { svid, bundle })
    }

    /// Numbers what is new, keeps what is not, and makes the snapshot.
    fn credentials(
        &mut self,
        config: &SourceConfig,
        current: Option<&Arc<Credentials>>,
        mut svid: Svid,
        parsed: BTreeMap<TrustDomain, TrustBundle>,
    ) -> Outcome {
        let generation = self.generation + 1;
        let mut changed = current.is_none_or(|current| current.bundles().len() != parsed.len());
        let by_domain = parsed
            .into_iter()
            .map(|(trust_domain, bundle)| {
                let known = current.and_then(|current| current.bundles().get(&trust_domain));
                match known.filter(|known| known.fingerprint() == bundle.fingerprint()) {
                    Some(known) => (trust_domain, known.clone()),
                    None => {
                        changed = true;
                        (trust_domain, Arc::new(bundle.with_generation(generation)))
                    }
                }
            })
            .collect();
        let svid = match current.map(|current| current.svid()) {
            Some(known) if known.fingerprint == svid.fingerprint => known.clone(),
            _ => {
                changed = true;
                svid.generation = generation;
                Arc::new(svid)
            }
        };
        if !changed {
            return Outcome::Unchanged;
        }
        self.generation = generation;
        let bundles = TrustBundles::new(by_domain);
        Outcome::Changed(Arc::new(Credentials::new(svid, bundles, generation, config.leaf_constraints)))
    }
}

/// Picks our SVID: the expected id, else the hint, else the first (WA 8).
fn select(
    config: &SourceConfig,
    mut candidates: Vec<Candidate>,
    entries: &[SvidEntry],
    left_out: &[LeftOut],
) -> Result<Candidate, UpdateError> {
    let position = if let Some(expected) = &config.expected_id {
        match candidates.iter().position(|candidate| candidate.svid.id == *expected) {
            Some(found) => Some(found),
            // It is there, and spoilt. To become somebody else until it is repaired would be worse than to
            // stay who we were.
            None if entries.iter().any(|entry| entry.spiffe_id == expected.as_str()) => {
                let why = left_out.iter().find(|entry| entry.text.starts_with(expected.as_str()));
                return Err(UpdateError::NoneUsable(why.map(|entry| entry.text.clone()).unwrap_or_default()));
            }
            None => None,
        }
    } else {
        None
    };
    let position = match (position, &config.hint) {
        (Some(position), _) => position,
        // A hint that nobody has is no reason to take the identity of another purpose.
        (None, Some(hint)) => candidates
            .iter()
            .position(|candidate| candidate.svid.hint.as_ref() == Some(hint))
            .ok_or_else(|| UpdateError::NoHint(hint.clone()))?,
        (None, None) => 0,
    };
    if position < candidates.len() { Ok(candidates.swap_remove(position)) } else { Err(UpdateError::Empty) }
}

/// The bundles of other trust domains. An entry that is wrong is left out alone; an empty bundle stays, and
/// revokes its domain (TB 4.1.3).
fn federated(
    own: &TrustDomain,
    entries: &[(String, Vec<u8>)],
    now: SystemTime,
    left_out: &mut Vec<LeftOut>,
) -> BTreeMap<TrustDomain, TrustBundle> {
    let mut parsed = BTreeMap::new();
    for (key, der) in entries {
        let trust_domain = match TrustDomain::parse_id(key) {
            Ok(trust_domain) if trust_domain != *own => trust_domain,
            Ok(_) => {
                let text = format!("{key:?}: our own trust domain is not federated with itself");
                left_out.push(LeftOut { kind: IdentityErrorKind::BundleKey, text });
                continue;
            }
            Err(error) => {
                let text = format!("{:?}: {error}", shortened(key));
                left_out.push(LeftOut { kind: IdentityErrorKind::BundleKey, text });
                continue;
            }
        };
        match TrustBundle::parse(&trust_domain, der, now) {
            Some(bundle) => {
                report_bundle(&trust_domain, &bundle, left_out);
                parsed.insert(trust_domain, bundle);
            }
            None => {
                let text = format!("{trust_domain}: its bundle is too large");
                left_out.push(LeftOut { kind: IdentityErrorKind::Bundle, text });
            }
        }
    }
    parsed
}

fn report_bundle(trust_domain: &TrustDomain, bundle: &TrustBundle, left_out: &mut Vec<LeftOut>) {
    if bundle.rejected() > 0 {
        let text = format!(
            "{trust_domain}: {} of {} authorities are not usable",
            bundle.rejected(),
            bundle.rejected() + bundle.authorities().len()
        );
        left_out.push(LeftOut { kind: IdentityErrorKind::Bundle, text });
    }
}

/// Of everything in an update. The private key is part of it: a new key is a new SVID.
fn fingerprint(update: &X509Update) -> [u8; 32] {
    // The count in front tells the two lists apart.
    let count = (update.svids.len() as u64).to_be_bytes();
    let svids = update.svids.iter().flat_map(|svid| {
        [
            svid.spiffe_id.as_bytes(),
            svid.chain.as_slice(),
            svid.key.as_slice(),
            svid.bundle.as_slice(),
            svid.hint.as_bytes(),
        ]
    });
    let bundles =
        update.federated_bundles.iter().flat_map(|(key, bundle)| [key.as_bytes(), bundle.as_slice()]);
    provider::fingerprint([count.as_slice()].into_iter().chain(svids).chain(bundles))
}

/// What the agent wrote, short enough for a log line.
fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}
