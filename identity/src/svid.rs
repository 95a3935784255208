//! Our own X.509-SVID: complete, checked against its bundle, with its key.

use std::sync::Arc;
use std::time::SystemTime;

use mantlet_id::SpiffeId;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::chain::{self, PeerRole};
use crate::handshake::Templates;
use crate::usage::LeafConstraints;
use crate::{HandshakeReason, TrustBundles, certificate, provider};

/// An identity that may be presented. The private key is inside the cryptographic library alone.
pub(crate) struct Svid {
    pub(crate) id: SpiffeId,
    pub(crate) hint: Option<String>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) resolver: Arc<SingleCertAndKey>,
    pub(crate) templates: Templates,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) serial: String,
    pub(crate) issuer: String,
    pub(crate) fingerprint: [u8; 32],
    pub(crate) generation: u64,
}

/// Why an SVID of the Workload API is left out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SvidError {
    #[error("chain or key does not parse: {0}")]
    Parse(String),
    #[error("the certificate is for {certificate}, the Workload API says {wire}")]
    WrongId { certificate: String, wire: String },
    #[error("the private key is not the certificate's")]
    KeyMismatch,
    #[error("the private key is of a kind that cannot be used")]
    Key,
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    #[error("its own trust bundle refuses it: {0} ({explain})", explain = .0.explain())]
    Refused(HandshakeReason),
}

// === impl Svid ===

impl Svid {
    /// Checks what the Workload API gave: the wire id is the certificate's, the key is the leaf's, and the
    /// chain would pass at a peer with the same bundle, in both TLS roles.
    pub(crate) fn parse(
        wire_id: &SpiffeId,
        chain_der: &[u8],
        key: &Zeroizing<Vec<u8>>,
        hint: &str,
        bundles: &TrustBundles,
        now: SystemTime,
    ) -> Result<Self, SvidError> {
        let parsed = spiffe::X509Svid::parse_from_der(chain_der, key)
            .map_err(|error| SvidError::Parse(error.to_string()))?;
        let chain: Vec<_> =
            parsed.cert_chain().iter().map(|cert| CertificateDer::from(cert.as_bytes().to_vec())).collect();
        let (leaf, intermediates) =
            chain.split_first().ok_or(SvidError::Refused(HandshakeReason::NoPeerCert))?;

        let mut not_after = SystemTime::UNIX_EPOCH;
        for role in [PeerRole::Client, PeerRole::Server] {
            let verified = chain::verify(bundles, leaf, intermediates, role, LeafConstraints::default(), now)
                .map_err(SvidError::Refused)?;
            if verified.id != *wire_id {
                return Err(SvidError::WrongId {
                    certificate: verified.id.to_string(),
                    wire: wire_id.to_string(),
                });
            }
            not_after = verified.not_after;
        }
        // webpki counts whole seconds; what is published and withdrawn is held to the moment.
        if now > not_after {
            return Err(SvidError::Refused(HandshakeReason::Expired));
        }

        let cert = certificate::parse(leaf).map_err(SvidError::Refused)?;
        let not_before = certificate::validity(&cert).map_err(SvidError::Refused)?.not_before;
        let serial = certificate::serial(&cert);
        let issuer = cert.issuer().to_string();
        let resolver = certified_key(&chain, parsed.private_key().as_bytes())?;
        let fingerprint =
            provider::fingerprint([wire_id.as_str().as_bytes(), chain_der, key.as_slice(), hint.as_bytes()]);
        Ok(Self {
            id: wire_id.clone(),
            hint: Some(hint).filter(|hint| !hint.is_empty()).map(str::to_owned),
            chain,
            resolver: Arc::new(SingleCertAndKey::from(resolver)),
            templates: Templates::new().map_err(|error| SvidError::Tls(error.to_string()))?,
            not_before,
            not_after,
            serial,
            issuer,
            fingerprint,
            generation: 0,
        })
    }
}

/// The key in the form that signs. The copy that had to be made for parsing is wiped.
fn certified_key(chain: &[CertificateDer<'static>], pkcs8: &[u8]) -> Result<CertifiedKey, SvidError> {
    let mut copy = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.to_vec()));
    let loaded = rustls::crypto::aws_lc_rs::sign::any_supported_type(&copy);
    zeroize::Zeroize::zeroize(&mut copy);
    let certified = CertifiedKey::new(chain.to_vec(), loaded.map_err(|_| SvidError::Key)?);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(_) => Err(SvidError::KeyMismatch),
    }
}
