//! One certificate: its times, its serial, and the SPIFFE id in its only URI SAN.

use std::time::{Duration, SystemTime};

use mantlet_id::SpiffeId;
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{
    OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_SUBJECT_ALT_NAME, OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
};
use x509_parser::prelude::{ASN1Time, FromDer as _, ParsedExtension};

use crate::HandshakeReason;
use crate::der::Reader;

/// More names than this in one SAN extension are refused before they are looked at.
const MAX_SAN_ENTRIES: usize = 64;
/// `uniformResourceIdentifier [6]` in its primitive and in its (wrong) constructed form.
const URI_TAGS: [u8; 2] = [0x86, 0xa6];

/// The window in which a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// Parses exactly one certificate: bytes after it are refused.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, HandshakeReason> {
    match X509Certificate::from_der(der) {
        Ok(([], cert)) => Ok(cert),
        _ => Err(HandshakeReason::CertMalformed),
    }
}

/// The SPIFFE id of an X.509-SVID. URI SANs are counted in the raw extension: a parser that drops what it
/// cannot read would see one where there are two (XS 2, 5.2).
pub(crate) fn spiffe_id(cert: &X509Certificate<'_>) -> Result<SpiffeId, HandshakeReason> {
    let extension = cert
        .get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME)
        .map_err(|_| HandshakeReason::CertMalformed)?
        .ok_or(HandshakeReason::SanNotSingleUri)?;
    let uri = single_uri(extension.value)?;
    let uri = std::str::from_utf8(uri).map_err(|_| HandshakeReason::BadSpiffeId)?;
    SpiffeId::parse(uri).map_err(|_| HandshakeReason::BadSpiffeId)
}

/// The bytes of the only `[6]` entry of a subjectAltName.
pub(crate) fn single_uri(extension: &[u8]) -> Result<&[u8], HandshakeReason> {
    let malformed = |_| HandshakeReason::CertMalformed;
    let mut names = Reader::sequence(extension).map_err(malformed)?;
    let mut found = None;
    let mut count = 0;
    while let Some(name) = names.next().map_err(malformed)? {
        count += 1;
        if count > MAX_SAN_ENTRIES {
            return Err(HandshakeReason::CertLimits);
        }
        if URI_TAGS.contains(&name.tag) && found.replace(name).is_some() {
            return Err(HandshakeReason::SanNotSingleUri);
        }
    }
    match found {
        Some(name) if name.tag == URI_TAGS[0] => Ok(name.content),
        Some(_) => Err(HandshakeReason::CertMalformed),
        None => Err(HandshakeReason::SanNotSingleUri),
    }
}

/// The validity of a certificate.
pub(crate) fn validity(cert: &X509Certificate<'_>) -> Result<Validity, HandshakeReason> {
    let not_before = system_time(cert.validity().not_before);
    let not_after = system_time(cert.validity().not_after);
    match (not_before, not_after) {
        (Some(not_before), Some(not_after)) => Ok(Validity { not_before, not_after }),
        _ => Err(HandshakeReason::CertMalformed),
    }
}

/// The serial number in lower-case hex, as `openssl x509 -serial` shows it but for the case.
pub(crate) fn serial(cert: &X509Certificate<'_>) -> String {
    use std::fmt::Write as _;

    let mut text = String::with_capacity(cert.raw_serial().len() * 2);
    for byte in cert.raw_serial() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The key identifier of the issuer, if the certificate names it (RFC 5280 4.2.1.1).
pub(crate) fn authority_key_id<'a>(cert: &X509Certificate<'a>) -> Option<&'a [u8]> {
    match cert.get_extension_unique(&OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER).ok()??.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    }
}

/// The identifier of the certificate's own key (RFC 5280 4.2.1.2).
pub(crate) fn subject_key_id<'a>(cert: &X509Certificate<'a>) -> Option<&'a [u8]> {
    match cert.get_extension_unique(&OID_X509_EXT_SUBJECT_KEY_IDENTIFIER).ok()??.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    }
}

fn system_time(time: ASN1Time) -> Option<SystemTime> {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A subjectAltName of these entries, each a tag and its content.
    fn san(entries: &[(u8, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (tag, content) in entries {
            body.extend([*tag, u8::try_from(content.len()).unwrap()]);
            body.extend(*content);
        }
        let mut all = vec![0x30];
        match body.len() {
            short if short < 0x80 => all.push(short as u8),
            long if long < 0x100 => all.extend([0x81, long as u8]),
            long => all.extend([0x82, (long >> 8) as u8, long as u8]),
        }
        all.extend(body);
        all
    }

    #[test]
    fn the_only_uri_is_found_among_other_names() {
        let extension = san(&[(0x82, b"web.test"), (0x86, b"spiffe://td/x"), (0x87, &[127, 0, 0, 1])]);
        assert_eq!(single_uri(&extension), Ok(&b"spiffe://td/x"[..]));
    }

    #[test]
    fn none_and_two_uris_are_refused_whatever_they_say() {
        for entries in [
            &[][..],
            &[(0x82, &b"web.test"[..])],
            &[(0x86, b"spiffe://td/x"), (0x86, b"spiffe://td/x")],
            &[(0x86, b"spiffe://td/x"), (0x86, &[0xff, 0xfe])],
            &[(0x86, b""), (0x86, b"spiffe://td/x")],
            &[(0x86, b"spiffe://td/x"), (0xa6, b"")],
        ] {
            assert_eq!(single_uri(&san(entries)), Err(HandshakeReason::SanNotSingleUri), "{entries:?}");
        }
    }

    #[test]
    fn what_is_not_der_is_malformed_and_too_many_names_are_a_limit() {
        let good = san(&[(0x86, b"spiffe://td/x")]);
        for end in 0..good.len() {
            assert_eq!(single_uri(&good[..end]), Err(HandshakeReason::CertMalformed), "{end}");
        }
        let mut trailing = good;
        trailing.push(0);
        assert_eq!(single_uri(&trailing), Err(HandshakeReason::CertMalformed));
        assert_eq!(single_uri(&san(&[(0xa6, b"")])), Err(HandshakeReason::CertMalformed));

        let mut many = vec![(0x82, &b"a"[..]); MAX_SAN_ENTRIES];
        many.push((0x86, b"spiffe://td/x"));
        assert_eq!(single_uri(&san(&many)), Err(HandshakeReason::CertLimits));
        assert!(single_uri(&san(&many[1..])).is_ok());
    }
}
