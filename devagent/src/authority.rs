//! One certificate authority: a key, a self-signed certificate, and the leaves it signs.

use std::time::{Duration, SystemTime};

use mantlet_id::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber, string::Ia5String,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use thiserror::Error;
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// How far back `notBefore` lies, as SPIRE does it: clocks of peers on one machine or one cluster
/// differ by less.
const BACKDATE: Duration = Duration::from_secs(10);

/// A certificate authority of one trust domain.
pub(crate) struct Authority {
    name: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    not_before: SystemTime,
    not_after: SystemTime,
    last_leaf: SystemTime,
}

/// A signed leaf with its key.
pub(crate) struct Leaf {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Zeroizing<Vec<u8>>,
    pub(crate) serial: String,
    pub(crate) not_after: SystemTime,
}

/// What can fail in making certificates.
#[derive(Debug, Error)]
pub(crate) enum CertificateError {
    #[error("cannot make a certificate")]
    Rcgen(#[from] rcgen::Error),
    #[error("no random numbers from the kernel")]
    Random(#[source] std::io::Error),
    #[error("not a certificate that this program made")]
    Parse,
}

// === impl Authority ===

impl Authority {
    /// Makes a new authority. Subject and key identifier are unique to it: webpki tries every
    /// anchor of one subject, and a rotation puts two into one bundle.
    pub(crate) fn generate(
        domain: &TrustDomain,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Self, CertificateError> {
        let key = KeyPair::generate()?;
        let serial = random::<16>()?;
        let name = hex(serial.get(..4).unwrap_or_default());
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Mantlet development CA");
        params.distinguished_name.push(DnType::CommonName, format!("{domain} {name}"));
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(domain.id_string())?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // No name constraints: current webpki refuses every chain that has one on URIs.
        let (not_before, not_after) = validity(&mut params, ttl, now);
        let certificate = params.self_signed(&key)?.der().clone();
        let issuer = Issuer::new(params, key);
        Ok(Self { name, certificate, issuer, not_before, not_after, last_leaf: now })
    }

    /// Takes up an authority that was stored.
    pub(crate) fn from_stored(
        certificate: CertificateDer<'static>,
        key: &PrivatePkcs8KeyDer<'_>,
        last_leaf: SystemTime,
    ) -> Result<Self, CertificateError> {
        let key = KeyPair::try_from(key)?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|_| CertificateError::Parse)?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(CertificateError::Parse);
        }
        let name = hex(parsed.raw_serial().iter().skip_while(|b| **b == 0).take(4).copied());
        let at = |time: x509_parser::time::ASN1Time| SystemTime::from(time.to_datetime());
        let (not_before, not_after) = (at(parsed.validity().not_before), at(parsed.validity().not_after));
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { name, certificate, issuer, not_before, not_after, last_leaf })
    }

    /// Signs a leaf that satisfies X509-SVID 2 to 4: one URI SAN, explicit `cA=false`, critical key
    /// usage, both extended key usages. It never outlives the authority.
    pub(crate) fn issue(
        &mut self,
        id: &SpiffeId,
        dns: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Leaf, CertificateError> {
        let key = KeyPair::generate()?;
        let serial = random::<16>()?;
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Mantlet development");
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(id.as_str())?)];
        for name in dns {
            params.subject_alt_names.push(SanType::DnsName(Ia5String::try_from(name.as_str())?));
        }
        // NoCa would leave basicConstraints out, and strict verifiers refuse a leaf without it.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyAgreement,
        ];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let left = self.not_after.duration_since(now).unwrap_or_default();
        let (_, not_after) = validity(&mut params, ttl.min(left), now);
        let not_after = not_after.min(self.not_after);
        params.not_after = not_after.into();
        let certificate = params.signed_by(&key, &self.issuer)?.der().to_vec();
        self.last_leaf = self.last_leaf.max(not_after);
        Ok(Leaf { certificate, key: Zeroizing::new(key.serialize_der()), serial: hex(serial), not_after })
    }

    /// Short name for people: the first four bytes of the serial number.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The private key, PKCS#8 DER.
    pub(crate) fn key(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.issuer.key().serialize_der())
    }

    pub(crate) fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// When the last leaf that it signed expires.
    pub(crate) fn last_leaf(&self) -> SystemTime {
        self.last_leaf
    }

    /// The share of its life that is over, in sixths.
    pub(crate) fn sixths_over(&self, now: SystemTime) -> u32 {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        let age = now.duration_since(self.not_before).unwrap_or_default();
        (1..=6).rev().find(|sixths| age * 6 >= life * *sixths).unwrap_or(0)
    }
}

/// Sets the validity, in whole seconds as X.509 has them: the end is rounded up, so that a short
/// life is never cut by the fraction.
fn validity(params: &mut CertificateParams, ttl: Duration, now: SystemTime) -> (SystemTime, SystemTime) {
    let not_before = whole_second(now - BACKDATE);
    let end = now + ttl;
    let floor = whole_second(end);
    let not_after = if floor == end { end } else { floor + Duration::from_secs(1) };
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    (not_before, not_after)
}

fn whole_second(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    OffsetDateTime::from(SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())).into()
}

/// Random bytes from the kernel.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], CertificateError> {
    let mut bytes = [0; N];
    // At most 256 bytes are never cut short (getrandom(2)).
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| CertificateError::Random(error.into()))?;
    Ok(bytes)
}

fn hex(bytes: impl IntoIterator<Item = impl std::borrow::Borrow<u8>>) -> String {
    use std::fmt::Write as _;
    bytes.into_iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{:02x}", byte.borrow());
        text
    })
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::*;

    use super::*;

    const TTL: Duration = Duration::from_secs(3_600);

    fn domain() -> TrustDomain {
        TrustDomain::parse("demo.local").unwrap()
    }

    fn id() -> SpiffeId {
        SpiffeId::parse("spiffe://demo.local/ns/shop/sa/web").unwrap()
    }

    fn key_identifiers(certificate: &X509Certificate<'_>) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let mut found = (None, None);
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => found.0 = Some(id.0.to_vec()),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    found.1 = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                _ => {}
            }
        }
        found
    }

    #[test]
    fn an_authority_is_a_ca_by_the_standard() {
        let now = SystemTime::now();
        let ca = Authority::generate(&domain(), TTL, now).unwrap();
        let (_, parsed) = parse_x509_certificate(ca.certificate()).unwrap();
        let constraints = parsed.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        let usage = parsed.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
        assert!(!usage.value.digital_signature());
        let names = &parsed.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert!(matches!(names.as_slice(), [GeneralName::URI("spiffe://demo.local")]), "{names:?}");
        assert!(parsed.name_constraints().unwrap().is_none());
        assert!(key_identifiers(&parsed).0.is_some());
    }

    #[test]
    fn two_authorities_of_one_trust_domain_never_share_subject_or_key_identifier() {
        let now = SystemTime::now();
        let first = Authority::generate(&domain(), TTL, now).unwrap();
        let second = Authority::generate(&domain(), TTL, now).unwrap();
        let (_, a) = parse_x509_certificate(first.certificate()).unwrap();
        let (_, b) = parse_x509_certificate(second.certificate()).unwrap();
        assert_ne!(a.subject(), b.subject());
        assert_ne!(key_identifiers(&a).0, key_identifiers(&b).0);
    }

    #[test]
    fn a_leaf_is_an_x509_svid_by_the_standard() {
        let now = SystemTime::now();
        let mut ca = Authority::generate(&domain(), TTL, now).unwrap();
        let leaf = ca.issue(&id(), &["web.shop".to_owned()], Duration::from_secs(8), now).unwrap();
        let (_, authority) = parse_x509_certificate(ca.certificate()).unwrap();
        let (rest, parsed) = parse_x509_certificate(&leaf.certificate).unwrap();
        assert!(rest.is_empty());
        assert!(!parsed.basic_constraints().unwrap().expect("explicit basicConstraints").value.ca);
        let usage = parsed.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.digital_signature());
        assert!(!usage.value.key_cert_sign() && !usage.value.crl_sign());
        let extended = parsed.extended_key_usage().unwrap().unwrap();
        assert!(extended.value.server_auth && extended.value.client_auth);
        let names = &parsed.subject_alternative_name().unwrap().unwrap().value.general_names;
        let uris: Vec<_> = names.iter().filter(|name| matches!(name, GeneralName::URI(_))).collect();
        assert!(matches!(uris.as_slice(), [GeneralName::URI("spiffe://demo.local/ns/shop/sa/web")]));
        assert_eq!(key_identifiers(&parsed).1, key_identifiers(&authority).0);
        assert_eq!(parsed.issuer(), authority.subject());
        assert!(leaf.key.len() > 32);
        assert_eq!(leaf.serial.len(), 32);
    }

    #[test]
    fn a_leaf_begins_ten_seconds_ago_and_lives_its_time_to_the_second() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_500);
        let mut ca = Authority::generate(&domain(), TTL, now).unwrap();
        let leaf = ca.issue(&id(), &[], Duration::from_secs(8), now).unwrap();
        let (_, parsed) = parse_x509_certificate(&leaf.certificate).unwrap();
        assert_eq!(parsed.validity().not_before.timestamp(), 1_799_999_990);
        assert_eq!(parsed.validity().not_after.timestamp(), 1_800_000_009);
        assert_eq!(leaf.not_after, SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_009));
        assert_eq!(ca.last_leaf(), leaf.not_after);
    }

    #[test]
    fn a_leaf_never_outlives_its_authority() {
        let now = SystemTime::now();
        let mut ca = Authority::generate(&domain(), Duration::from_secs(20), now).unwrap();
        let leaf = ca.issue(&id(), &[], TTL, now).unwrap();
        assert_eq!(leaf.not_after, ca.not_after());
    }

    #[test]
    fn serial_numbers_and_keys_are_never_used_twice() {
        let now = SystemTime::now();
        let mut ca = Authority::generate(&domain(), TTL, now).unwrap();
        let a = ca.issue(&id(), &[], TTL, now).unwrap();
        let b = ca.issue(&id(), &[], TTL, now).unwrap();
        assert_ne!(a.serial, b.serial);
        assert_ne!(a.key, b.key);
    }

    #[test]
    fn a_stored_authority_goes_on_signing_under_the_same_name() {
        let now = SystemTime::now();
        let ca = Authority::generate(&domain(), TTL, now).unwrap();
        let key = ca.key();
        let key = PrivatePkcs8KeyDer::from(key.as_slice());
        let mut again = Authority::from_stored(ca.certificate().clone(), &key, now).unwrap();
        assert_eq!(again.name(), ca.name());
        assert_eq!(again.not_after(), ca.not_after());
        let leaf = again.issue(&id(), &[], TTL, now).unwrap();
        let (_, leaf) = parse_x509_certificate(&leaf.certificate).unwrap();
        let (_, root) = parse_x509_certificate(ca.certificate()).unwrap();
        assert_eq!(leaf.tbs_certificate.issuer.as_raw(), root.tbs_certificate.subject.as_raw());
        assert_eq!(key_identifiers(&leaf).1, key_identifiers(&root).0);
        let other = Authority::generate(&domain(), TTL, now).unwrap();
        assert!(Authority::from_stored(other.certificate().clone(), &key, now).is_err());
    }

    #[test]
    fn life_is_counted_in_sixths() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_010);
        let ca = Authority::generate(&domain(), Duration::from_secs(590), now).unwrap();
        let at = |seconds| ca.sixths_over(now + Duration::from_secs(seconds));
        assert_eq!((at(0), at(289), at(290), at(490), at(590), at(5_000)), (0, 2, 3, 5, 6, 6));
    }
}
