//! Test authorities and the X.509-SVIDs they issue.
//!
//! rcgen's defaults break the SPIFFE rules in several ways (no basicConstraints on a leaf, validity
//! 1975..4096, one subject for everything, a serial number that is a hash of the key), so everything
//! is said explicitly here. [`Malformed`] names what can be wrong with a certificate, one clause each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber, SignatureAlgorithm,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

mod der;
mod malformed;
mod pem;
mod svid;

pub use malformed::Malformed;
pub use svid::{LeafConstraints, SvidOptions, TestSvid};

/// Key algorithm of an authority or a leaf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA P-256, what SPIRE issues by default.
    #[default]
    P256,
    /// ECDSA P-384.
    P384,
    /// RSA with 2048 bits.
    Rsa2048,
}

/// How an authority differs from a conforming one that is valid now.
#[derive(Clone, Debug)]
pub struct CaOptions {
    /// Algorithm of its key.
    pub key: KeyType,
    /// Start of validity.
    pub not_before: OffsetDateTime,
    /// End of validity.
    pub not_after: OffsetDateTime,
    /// `cA` in basicConstraints; `false` makes a certificate that must not issue.
    pub is_ca: bool,
    /// keyUsage; empty leaves the extension out.
    pub key_usages: Vec<KeyUsagePurpose>,
    /// The SPIFFE ID in the certificate; the trust domain's own without a path where `None`.
    pub id: Option<String>,
    /// URI name constraint (a permitted host), which current webpki refuses whatever it says.
    pub permitted_uri: Option<String>,
    /// Common name; a unique one where `None`, since two authorities with one subject make path
    /// building ambiguous. Tests that want the ambiguity set it.
    pub common_name: Option<String>,
}

/// A certificate authority of one trust domain: a root, or an intermediate below one. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Authority(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    trust_domain: String,
    params: CertificateParams,
    key: KeyPair,
    certificate: CertificateDer<'static>,
    /// Certificates to present after a leaf: this authority first, the root never.
    presented: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
}

/// Now, as a certificate says it: whole seconds.
pub fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc().replace_millisecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

// === impl KeyType ===

impl KeyType {
    fn algorithm(self) -> &'static SignatureAlgorithm {
        match self {
            Self::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Self::Rsa2048 => &rcgen::PKCS_RSA_SHA256,
        }
    }

    fn generate(self) -> KeyPair {
        KeyPair::generate_for(self.algorithm()).expect("key generation")
    }
}

// === impl CaOptions ===

impl Default for CaOptions {
    fn default() -> Self {
        let now = now();
        Self {
            key: KeyType::default(),
            not_before: now - Duration::from_secs(10),
            not_after: now + Duration::from_secs(24 * 3600),
            is_ca: true,
            key_usages: vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign],
            id: None,
            permitted_uri: None,
            common_name: None,
        }
    }
}

impl CaOptions {
    /// An authority that ended an hour ago.
    pub fn expired() -> Self {
        let now = now();
        Self {
            not_before: now - Duration::from_secs(7200),
            not_after: now - Duration::from_secs(3600),
            ..Self::default()
        }
    }

    /// An authority with a key of this type.
    pub fn with_key(key: KeyType) -> Self {
        Self { key, ..Self::default() }
    }

    fn params(&self, trust_domain: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.not_before = self.not_before;
        params.not_after = self.not_after;
        params.serial_number = Some(next_serial());
        params.distinguished_name = match &self.common_name {
            Some(name) => subject(name),
            None => subject(&format!("{trust_domain} CA {}", unique())),
        };
        let id = self.id.clone().unwrap_or_else(|| format!("spiffe://{trust_domain}"));
        params.subject_alt_names = vec![uri(&id)];
        params.is_ca = match self.is_ca {
            true => IsCa::Ca(BasicConstraints::Unconstrained),
            false => IsCa::ExplicitNoCa,
        };
        params.key_usages.clone_from(&self.key_usages);
        if let Some(host) = &self.permitted_uri {
            params.custom_extensions.push(der::permitted_uri(host));
        }
        params.use_authority_key_identifier_extension = true;
        params
    }
}

// === impl Authority ===

impl Authority {
    /// A conforming root of this trust domain.
    pub fn new(trust_domain: &str) -> Self {
        Self::with(trust_domain, &CaOptions::default())
    }

    /// A root that differs from a conforming one as the options say.
    pub fn with(trust_domain: &str, options: &CaOptions) -> Self {
        let key = options.key.generate();
        let params = options.params(trust_domain);
        let certificate: CertificateDer<'static> =
            params.self_signed(&key).expect("self-signed authority").into();
        Self(Arc::new(Inner {
            trust_domain: trust_domain.to_owned(),
            params,
            key,
            root: certificate.clone(),
            certificate,
            presented: Vec::new(),
        }))
    }

    /// A conforming intermediate below this authority; its SVIDs carry it in their chain.
    pub fn intermediate(&self) -> Self {
        self.intermediate_with(&CaOptions::default())
    }

    /// An intermediate that differs from a conforming one as the options say.
    pub fn intermediate_with(&self, options: &CaOptions) -> Self {
        let key = options.key.generate();
        let params = options.params(&self.0.trust_domain);
        let certificate: CertificateDer<'static> =
            params.signed_by(&key, &self.issuer()).expect("intermediate").into();
        let mut presented = vec![certificate.clone()];
        presented.extend(self.0.presented.iter().cloned());
        Self(Arc::new(Inner {
            trust_domain: self.0.trust_domain.clone(),
            params,
            key,
            certificate,
            presented,
            root: self.0.root.clone(),
        }))
    }

    /// The trust domain this authority belongs to.
    pub fn trust_domain(&self) -> &str {
        &self.0.trust_domain
    }

    /// This authority's own certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.0.certificate
    }

    /// The root above this authority (itself if it is one): what a bundle holds.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.0.root
    }

    /// A conforming SVID for this id, valid for an hour.
    pub fn svid(&self, id: &str) -> TestSvid {
        self.issue(&SvidOptions::new(id))
    }

    /// A conforming SVID for `spiffe://<trust domain>/ns/<ns>/sa/<sa>`, from the short form `ns/sa`.
    pub fn workload(&self, short: &str) -> TestSvid {
        let (ns, sa) = short.split_once('/').expect("ns/sa");
        self.svid(&format!("spiffe://{}/ns/{ns}/sa/{sa}", self.0.trust_domain))
    }

    /// A leaf that differs from a conforming SVID as the options say.
    pub fn issue(&self, options: &SvidOptions) -> TestSvid {
        svid::issue(self, options)
    }

    /// A certificate that breaks exactly this clause and is conforming otherwise.
    pub fn malformed(&self, clause: Malformed, id: &str) -> TestSvid {
        malformed::issue(self, clause, id)
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.0.params, &self.0.key)
    }
}

fn subject(name: &str) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    dn.push(DnType::CommonName, name);
    dn
}

fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().expect("URI of ASCII characters"))
}

fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Unique across the test processes of one run too: no two certificates share a serial number.
fn next_serial() -> SerialNumber {
    let mut bytes = vec![1];
    bytes.extend_from_slice(&std::process::id().to_be_bytes());
    bytes.extend_from_slice(&OffsetDateTime::now_utc().unix_timestamp().to_be_bytes());
    bytes.extend_from_slice(&unique().to_be_bytes()[4..]);
    SerialNumber::from(bytes)
}
