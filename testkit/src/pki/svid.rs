//! Leaves: what an SVID says, and the key that belongs to it.

use std::fmt;
use std::time::Duration;

use rcgen::{CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

use super::{Authority, KeyType, next_serial, now, subject, uri};

/// What the basicConstraints of a leaf say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeafConstraints {
    /// `cA=false`, explicitly.
    #[default]
    NotCa,
    /// The extension is left out.
    Absent,
    /// `cA=true`.
    Ca,
}

/// How a leaf differs from a conforming SVID that is valid for an hour.
#[derive(Clone, Debug)]
pub struct SvidOptions {
    /// URI SANs in this order.
    pub uris: Vec<String>,
    /// DNS SANs, after the URIs.
    pub dns: Vec<String>,
    /// Common name of the subject; `None` leaves the subject empty, which makes the SAN critical.
    pub common_name: Option<String>,
    /// Start of validity.
    pub not_before: OffsetDateTime,
    /// End of validity.
    pub not_after: OffsetDateTime,
    /// basicConstraints.
    pub constraints: LeafConstraints,
    /// keyUsage; empty leaves the extension out.
    pub key_usages: Vec<KeyUsagePurpose>,
    /// extendedKeyUsage; empty leaves the extension out.
    pub ext_key_usages: Vec<ExtendedKeyUsagePurpose>,
    /// Algorithm of the key.
    pub key: KeyType,
    /// Further extensions, written as they are.
    pub extensions: Vec<CustomExtension>,
}

/// An SVID with its private key, as the Workload API would deliver it.
pub struct TestSvid {
    /// The SPIFFE ID on the wire (`X509SVID.spiffe_id`); tests may make it differ from the leaf's.
    pub id: String,
    /// Leaf first, then intermediates; the root is never among them.
    pub chain: Vec<CertificateDer<'static>>,
    /// Unencrypted PKCS#8.
    pub key: PrivatePkcs8KeyDer<'static>,
    /// The root above the leaf.
    pub root: CertificateDer<'static>,
    /// End of the leaf's validity.
    pub not_after: OffsetDateTime,
}

pub(super) fn issue(authority: &Authority, options: &SvidOptions) -> TestSvid {
    let key = options.key.generate();
    let leaf: CertificateDer<'static> =
        options.params().signed_by(&key, &authority.issuer()).expect("leaf").into();
    let mut chain = vec![leaf];
    chain.extend(authority.0.presented.iter().cloned());
    TestSvid {
        id: options.uris.first().cloned().unwrap_or_default(),
        chain,
        key: PrivatePkcs8KeyDer::from(key.serialize_der()),
        root: authority.root().clone(),
        not_after: options.not_after,
    }
}

// === impl SvidOptions ===

impl SvidOptions {
    /// A conforming SVID for this id.
    pub fn new(id: &str) -> Self {
        let now = now();
        Self {
            uris: vec![id.to_owned()],
            dns: Vec::new(),
            common_name: Some("workload".to_owned()),
            not_before: now - Duration::from_secs(10),
            not_after: now + Duration::from_secs(3600),
            constraints: LeafConstraints::NotCa,
            key_usages: vec![
                KeyUsagePurpose::DigitalSignature,
                KeyUsagePurpose::KeyEncipherment,
                KeyUsagePurpose::KeyAgreement,
            ],
            ext_key_usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            key: KeyType::default(),
            extensions: Vec::new(),
        }
    }

    /// The same with this end of validity, counted from now.
    pub fn expires_in(mut self, ttl: Duration) -> Self {
        self.not_after = now() + ttl;
        self
    }

    /// The same with a key of this type.
    pub fn with_key(mut self, key: KeyType) -> Self {
        self.key = key;
        self
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.not_before = self.not_before;
        params.not_after = self.not_after;
        params.serial_number = Some(next_serial());
        params.distinguished_name = match &self.common_name {
            Some(name) => subject(name),
            None => rcgen::DistinguishedName::new(),
        };
        params.subject_alt_names = self.uris.iter().map(|id| uri(id)).collect();
        for name in &self.dns {
            let name = name.as_str().try_into().expect("DNS name of ASCII characters");
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.is_ca = match self.constraints {
            LeafConstraints::NotCa => IsCa::ExplicitNoCa,
            LeafConstraints::Absent => IsCa::NoCa,
            LeafConstraints::Ca => IsCa::Ca(rcgen::BasicConstraints::Unconstrained),
        };
        params.key_usages.clone_from(&self.key_usages);
        params.extended_key_usages.clone_from(&self.ext_key_usages);
        params.custom_extensions.clone_from(&self.extensions);
        params.use_authority_key_identifier_extension = true;
        params
    }
}

// === impl TestSvid ===

impl TestSvid {
    /// The leaf certificate.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    /// The chain as the Workload API carries it: concatenated DER, leaf first.
    pub fn chain_der(&self) -> Vec<u8> {
        self.chain.iter().flat_map(|certificate| certificate.to_vec()).collect()
    }

    /// The private key as the Workload API carries it.
    pub fn key_der(&self) -> Vec<u8> {
        self.key.secret_pkcs8_der().to_vec()
    }

    /// SHA-256 of the leaf in lower-case hex, as the identity header carries it.
    pub fn sha256_hex(&self) -> String {
        let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
        let hash = suite.tls13().expect("a TLS 1.3 suite").common.hash_provider.hash(self.leaf());
        hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// This chain with the key of another SVID: own material that does not fit together (X22).
    pub fn with_key_of(mut self, other: &Self) -> Self {
        self.key = other.key.clone_key();
        self
    }
}

impl Clone for TestSvid {
    fn clone(&self) -> Self {
        Self {
            id: self.id.clone(),
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            root: self.root.clone(),
            not_after: self.not_after,
        }
    }
}

impl fmt::Debug for TestSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, chain, key: _, root: _, not_after } = self;
        f.debug_struct("TestSvid")
            .field("id", id)
            .field("certificates", &chain.len())
            .field("not_after", not_after)
            .finish_non_exhaustive()
    }
}
