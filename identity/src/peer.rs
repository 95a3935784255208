//! The other side of a connection: whom to expect, and who it turned out to be.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use mantlet_id::{SpiffeId, TrustDomain};
use rustls_pki_types::CertificateDer;

use crate::{HandshakeReason, PeerRole};

/// Whom a client accepts at the other end. There is no "anyone".
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ExpectedPeer {
    /// Any authenticated workload of one trust domain.
    AnyIn(TrustDomain),
    /// One of these workloads. An empty set accepts nobody.
    OneOf(Arc<BTreeSet<SpiffeId>>),
}

/// Who the peer is: exists only after its chain, and its possession of the key, were verified.
#[derive(Clone)]
pub struct PeerIdentity {
    inner: Arc<Inner>,
}

struct Inner {
    id: SpiffeId,
    role: PeerRole,
    verified_at: SystemTime,
    not_after: SystemTime,
    serial: String,
    leaf_sha256: [u8; 32],
    chain: Arc<[CertificateDer<'static>]>,
}

/// What verification establishes about a chain.
pub(crate) struct Verified {
    pub(crate) id: SpiffeId,
    pub(crate) not_after: SystemTime,
    pub(crate) serial: String,
}

// === impl ExpectedPeer ===

impl ExpectedPeer {
    /// Exactly this workload.
    #[must_use]
    pub fn one(id: SpiffeId) -> Self {
        Self::one_of([id])
    }

    /// One of these workloads.
    #[must_use]
    pub fn one_of(ids: impl IntoIterator<Item = SpiffeId>) -> Self {
        Self::OneOf(Arc::new(ids.into_iter().collect()))
    }

    /// Whether `id` is expected.
    ///
    /// # Errors
    /// [`HandshakeReason::TrustDomain`] or [`HandshakeReason::PeerNotExpected`].
    pub fn check(&self, id: &SpiffeId) -> Result<(), HandshakeReason> {
        match self {
            Self::AnyIn(trust_domain) if id.trust_domain() == trust_domain => Ok(()),
            Self::AnyIn(_) => Err(HandshakeReason::TrustDomain),
            Self::OneOf(ids) if ids.contains(id) => Ok(()),
            Self::OneOf(_) => Err(HandshakeReason::PeerNotExpected),
        }
    }
}

// === impl PeerIdentity ===

impl PeerIdentity {
    pub(crate) fn new(
        verified: Verified,
        role: PeerRole,
        chain: Arc<[CertificateDer<'static>]>,
        verified_at: SystemTime,
    ) -> Self {
        let leaf_sha256 = crate::provider::sha256(chain.first().map_or(&[], |leaf| leaf.as_ref()));
        let Verified { id, not_after, serial } = verified;
        Self { inner: Arc::new(Inner { id, role, verified_at, not_after, serial, leaf_sha256, chain }) }
    }

    /// The SPIFFE id of the peer.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.inner.id
    }

    /// Whether the peer was the TLS client or the server.
    #[must_use]
    pub fn role(&self) -> PeerRole {
        self.inner.role
    }

    /// When the chain was verified, by the clock of that moment.
    pub(crate) fn verified_at(&self) -> SystemTime {
        self.inner.verified_at
    }

    /// The earliest notAfter on the verified path, the authority included.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.inner.not_after
    }

    /// The serial number of the leaf, hex.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.inner.serial
    }

    /// SHA-256 of the leaf's DER: what `x-forwarded-client-cert` calls `Hash`.
    #[must_use]
    pub fn leaf_sha256(&self) -> [u8; 32] {
        self.inner.leaf_sha256
    }

    /// The chain that was verified, leaf first, as the peer sent it.
    #[must_use]
    pub fn chain(&self) -> &Arc<[CertificateDer<'static>]> {
        &self.inner.chain
    }
}

impl PartialEq for PeerIdentity {
    fn eq(&self, other: &Self) -> bool {
        self.inner.role == other.inner.role && self.inner.chain == other.inner.chain
    }
}

impl Eq for PeerIdentity {}

impl std::fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerIdentity")
            .field("id", &self.inner.id.as_str())
            .field("role", &self.inner.role)
            .field("serial", &self.inner.serial)
            .finish_non_exhaustive()
    }
}
