//! A key with its certificate: of an authority, or of the port that it vouches for.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber, string::Ia5String,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use time::OffsetDateTime;

/// How far back `notBefore` lies: clocks of one cluster differ by less.
const BACKDATE: Duration = Duration::from_secs(10);

/// A certificate and its key, as PEM.
#[derive(Clone, Eq, PartialEq)]
pub(super) struct Pair {
    pub(super) certificate: Certificate,
    key: String,
}

/// A certificate, as PEM, with what is read of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Certificate {
    pub(super) pem: String,
    der: CertificateDer<'static>,
    pub(super) issued: SystemTime,
    pub(super) not_after: SystemTime,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// It could not be made.
    #[error("cannot make a certificate: {0}")]
    Rcgen(#[from] rcgen::Error),
    /// It could not be read.
    #[error("no certificate that this program made: {0}")]
    Unreadable(String),
}

// === impl Pair ===

impl Pair {
    /// A new authority. Its name and key identifier are its own: a rotation puts two into one bundle.
    pub(super) fn authority(life: Duration, now: SystemTime) -> Result<Self, CertificateError> {
        let key = KeyPair::generate()?;
        let serial = random()?;
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.distinguished_name = DistinguishedName::new();
        let name: String = serial.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        params.distinguished_name.push(DnType::CommonName, format!("mantlet-injector {name}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity(&mut params, now + life, now);
        let certificate = params.self_signed(&key)?.pem();
        Self::read(&certificate, &key.serialize_pem())
    }

    /// A certificate for a server of these names, which never outlives its authority.
    pub(super) fn serving(
        &self,
        names: &[String],
        life: Duration,
        now: SystemTime,
    ) -> Result<Self, CertificateError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(&random()?));
        params.distinguished_name = DistinguishedName::new();
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(Ia5String::try_from(name.as_str())?),
            });
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, (now + life).min(self.certificate.not_after), now);
        let issuer = Issuer::from_ca_cert_pem(&self.certificate.pem, KeyPair::from_pem(&self.key)?)?;
        let certificate = params.signed_by(&key, &issuer)?.pem();
        Self::read(&certificate, &key.serialize_pem())
    }

    /// A pair that was stored. Its halves belong together.
    pub(super) fn read(certificate: &str, key: &str) -> Result<Self, CertificateError> {
        let certificate = Certificate::read(certificate)?;
        let parsed = KeyPair::from_pem(key)?;
        let public = certificate.parsed(|parsed| parsed.public_key().subject_public_key.data.to_vec())?;
        if public != parsed.public_key_raw() {
            return Err(CertificateError::Unreadable("the key is of another certificate".to_owned()));
        }
        Ok(Self { certificate, key: key.to_owned() })
    }

    pub(super) fn key_pem(&self) -> &str {
        &self.key
    }

    /// What rustls serves with.
    pub(super) fn for_rustls(
        &self,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), CertificateError> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(self.key.as_bytes());
        let key = key.map_err(|error| CertificateError::Unreadable(error.to_string()))?;
        Ok((self.certificate.der.clone(), PrivateKeyDer::Pkcs8(key)))
    }
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate.pem).finish_non_exhaustive()
    }
}

// === impl Certificate ===

impl Certificate {
    /// The first certificate of a PEM text.
    pub(super) fn read(pem: &str) -> Result<Self, CertificateError> {
        let unreadable = |error: String| CertificateError::Unreadable(error);
        let der =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| unreadable(error.to_string()))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&der).map_err(|error| unreadable(error.to_string()))?;
        let at = |time: x509_parser::time::ASN1Time| SystemTime::from(time.to_datetime());
        let (not_before, not_after) = (at(parsed.validity().not_before), at(parsed.validity().not_after));
        let pem = pem::encode_config(
            &pem::Pem::new("CERTIFICATE", der.as_ref()),
            pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
        );
        Ok(Self { pem, der, issued: not_before + BACKDATE, not_after })
    }

    /// Whether two thirds of its life are over: time for the next one, with time for that to fail.
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        let life = self.not_after.duration_since(self.issued).unwrap_or_default();
        now >= self.issued + life * 2 / 3
    }

    pub(super) fn is_over(&self, now: SystemTime) -> bool {
        now >= self.not_after
    }

    /// Whether `authority` has signed it, as far as names tell: they are unique to each authority.
    pub(super) fn is_of(&self, authority: &Certificate) -> bool {
        let issuer = self.parsed(|parsed| parsed.issuer().as_raw().to_vec());
        let subject = authority.parsed(|parsed| parsed.subject().as_raw().to_vec());
        matches!((issuer, subject), (Ok(issuer), Ok(subject)) if issuer == subject)
    }

    /// Whether it is for these names and no other.
    pub(super) fn is_for(&self, names: &[String]) -> bool {
        use x509_parser::extensions::GeneralName;
        let found = self.parsed(|parsed| {
            let names = parsed.subject_alternative_name().ok().flatten();
            let names = names.iter().flat_map(|names| &names.value.general_names);
            names
                .map(|name| match name {
                    GeneralName::DNSName(name) => (*name).to_owned(),
                    GeneralName::IPAddress(bytes) => address(bytes).unwrap_or_default(),
                    other => other.to_string(),
                })
                .collect::<Vec<_>>()
        });
        found.is_ok_and(|found| found == names)
    }

    fn parsed<T>(
        &self,
        look: impl FnOnce(&x509_parser::certificate::X509Certificate<'_>) -> T,
    ) -> Result<T, CertificateError> {
        let (_, parsed) = x509_parser::parse_x509_certificate(&self.der)
            .map_err(|error| CertificateError::Unreadable(error.to_string()))?;
        Ok(look(&parsed))
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let address = v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()?;
    Some(address.to_string())
}

fn validity(params: &mut CertificateParams, not_after: SystemTime, now: SystemTime) {
    params.not_before = OffsetDateTime::from(now - BACKDATE);
    params.not_after = OffsetDateTime::from(not_after);
}

/// 128 random bits, positive and never short.
fn random() -> Result<[u8; 16], CertificateError> {
    let mut bytes = [0; 16];
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    provider
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| CertificateError::Unreadable("no random numbers".to_owned()))?;
    if let Some(first) = bytes.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_pair_is_read_as_it_was_written_and_its_halves_belong_together() {
        let now = SystemTime::now();
        let (one, other) = (Pair::authority(DAY, now).unwrap(), Pair::authority(DAY, now).unwrap());
        let read = |certificate: &Pair, key: &Pair| Pair::read(&certificate.certificate.pem, key.key_pem());
        assert_eq!(read(&one, &one).unwrap(), one);
        assert!(read(&one, &other).is_err());
        assert!(!format!("{one:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_serving_certificate_is_for_its_names_and_of_its_authority() {
        let now = SystemTime::now();
        let (authority, other) = (Pair::authority(DAY, now).unwrap(), Pair::authority(DAY, now).unwrap());
        let names = ["mantlet-injector.mantlet.svc".to_owned(), "127.0.0.1".to_owned(), "fd00::1".to_owned()];
        let serving = authority.serving(&names, DAY * 7, now).unwrap().certificate;
        assert!(serving.is_for(&names) && !serving.is_for(&names[..1]) && !serving.is_for(&[]));
        assert!(serving.is_of(&authority.certificate) && !serving.is_of(&other.certificate));
        assert_eq!(serving.not_after, authority.certificate.not_after, "it does not outlive its authority");
    }

    #[test]
    fn a_certificate_is_due_after_two_thirds_of_its_life() {
        let now = SystemTime::now();
        let certificate = Pair::authority(DAY, now).unwrap().certificate;
        let second = Duration::from_secs(1);
        assert!(!certificate.is_due(now + DAY * 2 / 3 - second * 2));
        assert!(certificate.is_due(now + DAY * 2 / 3 + second));
        assert!(!certificate.is_over(now + DAY - second * 2));
        assert!(certificate.is_over(now + DAY + second));
    }
}
