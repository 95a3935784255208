//! What one handshake needs, as one immutable snapshot: our SVID and the bundles to judge a peer by.

use std::sync::Arc;
use std::time::SystemTime;

use mantlet_id::{SpiffeId, TrustDomain};
use rustls::sign::SingleCertAndKey;
use rustls_pki_types::CertificateDer;

use crate::peer::Verified;
use crate::svid::Svid;
use crate::usage::LeafConstraints;
use crate::{HandshakeReason, PeerIdentity, PeerRole, TrustBundles, chain};

/// Our identity and whom it trusts. Complete before anyone sees it, and never changed: what rotates is
/// replaced (XS 5, WA 4.4).
pub struct Credentials {
    svid: Arc<Svid>,
    bundles: TrustBundles,
    generation: u64,
    constraints: LeafConstraints,
}

// === impl Credentials ===

impl Credentials {
    pub(crate) fn new(
        svid: Arc<Svid>,
        bundles: TrustBundles,
        generation: u64,
        constraints: LeafConstraints,
    ) -> Self {
        Self { svid, bundles, generation, constraints }
    }

    /// Our SPIFFE id.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.svid.id
    }

    /// When our SVID began to be valid.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.svid.not_before
    }

    /// When our SVID stops being valid: the earliest notAfter of its chain and authority.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.svid.not_after
    }

    /// The serial number of our leaf, hex.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.svid.serial
    }

    /// Who issued our leaf, for people.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.svid.issuer
    }

    /// The hint that came with the SVID (WA 5.2.1).
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.svid.hint.as_deref()
    }

    /// The chain that we present, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.svid.chain
    }

    /// Grows with every published change.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Grows when our own SVID changes, and not when only bundles do: part of a connection pool's key.
    #[must_use]
    pub fn svid_generation(&self) -> u64 {
        self.svid.generation
    }

    /// The trust bundles.
    #[must_use]
    pub fn bundles(&self) -> &TrustBundles {
        &self.bundles
    }

    /// Grows when the authorities of this trust domain change; `None` without a bundle.
    #[must_use]
    pub fn bundle_generation(&self, trust_domain: &TrustDomain) -> Option<u64> {
        self.bundles.get(trust_domain).map(|bundle| bundle.generation())
    }

    /// Whether a live connection's peer would still be let in with these bundles: its chain is verified again
    /// at `min(now, notAfter)`, and not before it was verified first. A peer that has merely expired is not the
    /// matter of a bundle change, nor is a clock that was set back.
    ///
    /// # Errors
    /// Why the peer would be refused now.
    pub fn reverify(&self, peer: &PeerIdentity, now: SystemTime) -> Result<(), HandshakeReason> {
        let (leaf, intermediates) = peer.chain().split_first().ok_or(HandshakeReason::NoPeerCert)?;
        self.verify(leaf, intermediates, peer.role(), now.max(peer.verified_at()).min(peer.not_after()))
            .map(drop)
    }

    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: PeerRole,
        now: SystemTime,
    ) -> Result<Verified, HandshakeReason> {
        chain::verify(&self.bundles, leaf, intermediates, role, self.constraints, now)
    }

    pub(crate) fn svid(&self) -> &Arc<Svid> {
        &self.svid
    }

    pub(crate) fn resolver(&self) -> Arc<SingleCertAndKey> {
        self.svid.resolver.clone()
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("id", &self.svid.id.as_str())
            .field("serial", &self.svid.serial)
            .field("not_after", &self.svid.not_after)
            .field("generation", &self.generation)
            .field("bundles", &self.bundles)
            .field("key", &"<redacted>")
            .finish()
    }
}
