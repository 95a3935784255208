//! Trust bundles: the authorities of each trust domain, never pooled (WA 4.6).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use mantlet_id::TrustDomain;
use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::certificate::{self, Validity};
use crate::{der, provider, usage};

/// More bytes than this in the bundle of one trust domain are refused.
pub(crate) const MAX_BUNDLE_BYTES: usize = 4 << 20;
/// More authorities than this in one bundle are refused.
pub(crate) const MAX_AUTHORITIES: usize = 500;

/// One CA certificate of a bundle.
pub struct Authority {
    der: CertificateDer<'static>,
    validity: Validity,
    serial: String,
    subject: String,
    key_id: Option<Vec<u8>>,
}

/// The authorities of one trust domain. An empty one trusts nobody (TB 4.1.3).
pub struct TrustBundle {
    authorities: Vec<Authority>,
    /// In the order of `authorities`.
    anchors: Vec<TrustAnchor<'static>>,
    fingerprint: [u8; 32],
    generation: u64,
    rejected: usize,
}

/// Bundles by trust domain. Cheap to clone.
#[derive(Clone, Default)]
pub struct TrustBundles {
    by_domain: Arc<BTreeMap<TrustDomain, Arc<TrustBundle>>>,
}

// === impl Authority ===

impl Authority {
    /// An authority, or why the certificate is none (XS 3.2, 4.1, 4.3).
    fn parse(der: &[u8], now: SystemTime) -> Option<(Self, TrustAnchor<'static>)> {
        let cert = certificate::parse(der).ok()?;
        let validity = certificate::validity(&cert).ok()?;
        // webpki never looks at an anchor's validity; Go does. Both ends drop it, then.
        if validity.not_after < now || !usage::may_issue(&cert) {
            return None;
        }
        let owned = CertificateDer::from(der.to_vec());
        let anchor = webpki::anchor_from_trusted_cert(&owned).ok()?.to_owned();
        let authority = Self {
            validity,
            serial: certificate::serial(&cert),
            subject: cert.subject().to_string(),
            key_id: certificate::subject_key_id(&cert).map(<[u8]>::to_vec),
            der: owned,
        };
        Some((authority, anchor))
    }

    /// The certificate.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The start of its validity.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.validity.not_before
    }

    /// The end of its validity.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.validity.not_after
    }

    /// Its serial number, hex.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Its subject, for people.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }
}

// === impl TrustBundle ===

impl TrustBundle {
    /// Reads concatenated DER certificates (WA 5.1). What is no usable authority is left out and counted;
    /// the others stay. `None` where the whole is beyond the limits.
    pub(crate) fn parse(trust_domain: &TrustDomain, concatenated: &[u8], now: SystemTime) -> Option<Self> {
        if concatenated.len() > MAX_BUNDLE_BYTES {
            return None;
        }
        let mut bundle = Self::empty();
        let mut reader = der::Reader::new(concatenated);
        loop {
            match reader.next() {
                Ok(None) => break,
                Ok(Some(_)) if bundle.authorities.len() + bundle.rejected >= MAX_AUTHORITIES => return None,
                Ok(Some(element)) => bundle.add(trust_domain, element.whole, now),
                Err(der::NotDer) => {
                    // Nothing behind this point can be told apart.
                    bundle.rejected += 1;
                    break;
                }
            }
        }
        Some(bundle.complete())
    }

    /// The bundle of these certificates, each judged by itself. How many there are is limited by whoever calls.
    pub(crate) fn of<'a>(
        trust_domain: &TrustDomain,
        certificates: impl Iterator<Item = &'a [u8]>,
        now: SystemTime,
    ) -> Self {
        let mut bundle = Self::empty();
        certificates.for_each(|der| bundle.add(trust_domain, der, now));
        bundle.complete()
    }

    fn empty() -> Self {
        Self {
            authorities: Vec::new(),
            anchors: Vec::new(),
            fingerprint: [0; 32],
            generation: 0,
            rejected: 0,
        }
    }

    fn complete(mut self) -> Self {
        self.fingerprint = provider::fingerprint(self.authorities.iter().map(|a| a.der.as_ref()));
        self
    }

    fn add(&mut self, trust_domain: &TrustDomain, der: &[u8], now: SystemTime) {
        let known = |authority: &Authority| authority.der.as_ref() == der;
        if self.authorities.iter().any(known) {
            return;
        }
        match Authority::parse(der, now).filter(|_| accepted_by_spiffe(trust_domain, der)) {
            Some((authority, anchor)) => {
                self.authorities.push(authority);
                self.anchors.push(anchor);
            }
            None => self.rejected += 1,
        }
    }

    /// The usable authorities.
    #[must_use]
    pub fn authorities(&self) -> &[Authority] {
        &self.authorities
    }

    /// How many certificates of the bundle were no usable authority.
    #[must_use]
    pub fn rejected(&self) -> usize {
        self.rejected
    }

    /// Grows each time that the authorities of this trust domain change.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// When the first authority expires.
    #[must_use]
    pub fn not_after(&self) -> Option<SystemTime> {
        self.authorities.iter().map(Authority::not_after).min()
    }

    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    pub(crate) fn with_generation(mut self, generation: u64) -> Self {
        self.generation = generation;
        self
    }

    /// The anchors to try for a chain at `now`, the likely ones first.
    ///
    /// Expiry is looked at again, because a bundle may be old. The order matters to bundles with many roots of
    /// one subject: webpki tries each by a signature and gives up after a hundred, so those whose key the chain
    /// names go first.
    pub(crate) fn anchors<'a>(
        &'a self,
        now: SystemTime,
        issuer_key_ids: &[&[u8]],
    ) -> std::borrow::Cow<'a, [TrustAnchor<'a>]> {
        let usable = |authority: &Authority| authority.validity.not_after >= now;
        if self.anchors.len() <= 1 && self.authorities.iter().all(usable) {
            return std::borrow::Cow::Borrowed(&self.anchors);
        }
        let named = |authority: &Authority| {
            authority.key_id.as_deref().is_some_and(|key_id| issuer_key_ids.contains(&key_id))
        };
        let both = || self.authorities.iter().zip(&self.anchors).filter(|(authority, _)| usable(authority));
        let first = both().filter(|(authority, _)| named(authority));
        let rest = both().filter(|(authority, _)| !named(authority));
        std::borrow::Cow::Owned(first.chain(rest).map(|(_, anchor)| borrow(anchor)).collect())
    }

    /// The latest notAfter among the authorities that are `anchor`: a root may be reissued with its old key.
    pub(crate) fn anchor_not_after(&self, anchor: &TrustAnchor<'_>) -> Option<SystemTime> {
        self.authorities
            .iter()
            .zip(&self.anchors)
            .filter(|(_, candidate)| {
                candidate.subject.as_ref() == anchor.subject.as_ref()
                    && candidate.subject_public_key_info.as_ref() == anchor.subject_public_key_info.as_ref()
            })
            .map(|(authority, _)| authority.not_after())
            .max()
    }
}

// === impl TrustBundles ===

impl TrustBundles {
    pub(crate) fn new(by_domain: BTreeMap<TrustDomain, Arc<TrustBundle>>) -> Self {
        Self { by_domain: Arc::new(by_domain) }
    }

    /// Bundles from concatenated DER certificates per trust domain, for tools and tests. What is no usable
    /// authority at `now` is left out.
    #[must_use]
    pub fn from_der<'a>(bundles: impl IntoIterator<Item = (TrustDomain, &'a [u8])>, now: SystemTime) -> Self {
        let parsed = bundles.into_iter().filter_map(|(trust_domain, der)| {
            let bundle = TrustBundle::parse(&trust_domain, der, now)?;
            Some((trust_domain, Arc::new(bundle)))
        });
        Self::new(parsed.collect())
    }

    /// The bundle, where there is exactly one and nobody else holds it.
    pub(crate) fn into_only(self) -> Option<TrustBundle> {
        let by_domain = Arc::into_inner(self.by_domain)?;
        by_domain.into_values().next().and_then(Arc::into_inner)
    }

    /// The bundle of a trust domain.
    #[must_use]
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&Arc<TrustBundle>> {
        self.by_domain.get(trust_domain)
    }

    /// All bundles, in the order of the trust domains.
    pub fn iter(&self) -> impl Iterator<Item = (&TrustDomain, &Arc<TrustBundle>)> {
        self.by_domain.iter()
    }

    /// How many trust domains have a bundle.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_domain.len()
    }

    /// Whether nobody is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_domain.is_empty()
    }
}

impl std::fmt::Debug for TrustBundles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(
                self.by_domain.iter().map(|(domain, bundle)| (domain.as_str(), bundle.authorities.len())),
            )
            .finish()
    }
}

/// A second opinion on each authority: what the reference library does not take, we do not trust.
fn accepted_by_spiffe(trust_domain: &TrustDomain, der: &[u8]) -> bool {
    spiffe::TrustDomain::new(trust_domain.as_str())
        .is_ok_and(|domain| spiffe::X509Bundle::new(domain).add_authority(der).is_ok())
}

fn borrow<'a>(anchor: &'a TrustAnchor<'static>) -> TrustAnchor<'a> {
    TrustAnchor {
        subject: anchor.subject.as_ref().into(),
        subject_public_key_info: anchor.subject_public_key_info.as_ref().into(),
        name_constraints: anchor.name_constraints.as_ref().map(|constraints| constraints.as_ref().into()),
    }
}
