//! Is this chain an X.509-SVID of a trust domain that we know? One function, both TLS roles.
//!
//! The order is the point. Sizes are looked at before anything is parsed, the SAN and the leaf's usage before
//! any signature, the trust domain before the path: a chain is verified against the bundle of *its* trust
//! domain and no other (WA 4.6), so there is no pool in which one domain could vouch for another. RFC 5280
//! path validation is webpki's, chain only: no name is verified, so none can be swallowed.

use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::certificate;
use crate::issuers::{self, Issuer};
use crate::peer::Verified;
use crate::usage::{self, LeafConstraints};
use crate::{HandshakeReason, TrustBundles, provider};

/// A leaf above this size is refused unread.
const MAX_LEAF_BYTES: usize = 16 << 10;
/// A chain of more certificates is refused unread: without a cap one handshake costs 0.6 s of CPU.
const MAX_CHAIN_CERTS: usize = 8;
/// A chain above this size is refused unread; it is also rustls' cap on the message.
const MAX_CHAIN_BYTES: usize = 64 << 10;

/// What the peer is in TLS: decides the extended key usage that its leaf needs if it names any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerRole {
    /// The peer dialled us.
    Client,
    /// We dialled the peer.
    Server,
}

/// Verifies a chain at `now`. Every refusal is one reason.
pub(crate) fn verify(
    bundles: &TrustBundles,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    role: PeerRole,
    constraints: LeafConstraints,
    now: SystemTime,
) -> Result<Verified, HandshakeReason> {
    check_sizes(leaf, intermediates)?;

    let cert = certificate::parse(leaf)?;
    let id = certificate::spiffe_id(&cert)?;
    usage::check_leaf(&cert, constraints)?;

    let bundle = bundles
        .get(id.trust_domain())
        .filter(|bundle| !bundle.authorities().is_empty())
        .ok_or(HandshakeReason::NoBundle)?;

    let (issuers, dropped) = issuers::eligible(intermediates)?;
    let issuers = issuers::genuine(&cert, issuers, bundle)?;
    let key_ids: Vec<&[u8]> = certificate::authority_key_id(&cert)
        .into_iter()
        .chain(issuers.iter().filter_map(Issuer::authority_key_id))
        .collect();
    let anchors = bundle.anchors(now, &key_ids);
    let ders: Vec<CertificateDer<'_>> =
        issuers.iter().map(|issuer| CertificateDer::from(issuer.der.as_ref())).collect();
    let end_entity = EndEntityCert::try_from(leaf).map_err(|error| HandshakeReason::of_webpki(&error))?;
    let usage = match role {
        PeerRole::Client => KeyUsage::client_auth(),
        PeerRole::Server => KeyUsage::server_auth(),
    };
    let path = end_entity
        .verify_for_usage(
            provider::signature_algorithms().all,
            &anchors,
            &ders,
            unix_time(now)?,
            usage,
            None,
            None,
        )
        .map_err(|error| match HandshakeReason::of_webpki(&error) {
            // The path is missing because of an issuer that may not sign: say that.
            HandshakeReason::UnknownIssuer if dropped => HandshakeReason::KeyUsage,
            reason => reason,
        })?;

    let mut not_after = certificate::validity(&cert)?.not_after;
    for used in path.intermediate_certificates() {
        let issuer = issuers.iter().find(|issuer| issuer.der.as_ref() == used.der().as_ref());
        not_after = not_after.min(issuer.ok_or(HandshakeReason::CertMalformed)?.not_after);
    }
    let anchor_end = bundle.anchor_not_after(path.anchor()).ok_or(HandshakeReason::UnknownIssuer)?;

    Ok(Verified { id, not_after: not_after.min(anchor_end), serial: certificate::serial(&cert) })
}

fn check_sizes(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Result<(), HandshakeReason> {
    let total = intermediates.iter().fold(leaf.len(), |sum, der| sum.saturating_add(der.len()));
    if leaf.len() > MAX_LEAF_BYTES || intermediates.len() >= MAX_CHAIN_CERTS || total > MAX_CHAIN_BYTES {
        return Err(HandshakeReason::CertLimits);
    }
    Ok(())
}

/// The time as webpki wants it. A clock before 1970 verifies nothing.
fn unix_time(now: SystemTime) -> Result<UnixTime, HandshakeReason> {
    now.duration_since(SystemTime::UNIX_EPOCH)
        .map(UnixTime::since_unix_epoch)
        .map_err(|_| HandshakeReason::NotValidYet)
}

// === impl TrustBundles ===

impl TrustBundles {
    /// Verifies a chain outside of a handshake, leaf first: what a peer of this role would be taken for. It
    /// says nothing about who holds the key.
    ///
    /// # Errors
    /// The reason for which a handshake would be refused.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        role: PeerRole,
        now: SystemTime,
    ) -> Result<(mantlet_id::SpiffeId, SystemTime), HandshakeReason> {
        let (leaf, intermediates) = chain.split_first().ok_or(HandshakeReason::NoPeerCert)?;
        let verified = verify(self, leaf, intermediates, role, LeafConstraints::default(), now)?;
        Ok((verified.id, verified.not_after))
    }
}
