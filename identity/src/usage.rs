//! What a certificate may be used for: basicConstraints and keyUsage (XS 4.1, 4.3; RFC 5280 4.2.1.3, 4.2.1.9).
//!
//! webpki does not look at keyUsage at all, so both the leaf's and the issuers' are checked here, before it.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{KeyUsage, ParsedExtension};
use x509_parser::oid_registry::{OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_KEY_USAGE};

use crate::HandshakeReason;

/// Whether a leaf without basicConstraints passes as `cA=false`, as RFC 5280 has it. Vault leaves it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LeafConstraints {
    /// Absent means `cA=false`.
    #[default]
    AbsentIsLeaf,
    /// Absent is refused: the wording of XS 4.1.
    Required,
}

/// Refuses a certificate that must not authenticate a workload (XS 5.2).
pub(crate) fn check_leaf(
    cert: &X509Certificate<'_>,
    constraints: LeafConstraints,
) -> Result<(), HandshakeReason> {
    match is_ca(cert)? {
        Some(true) => return Err(HandshakeReason::LeafIsCa),
        None if constraints == LeafConstraints::Required => return Err(HandshakeReason::LeafIsCa),
        _ => {}
    }
    let usage = key_usage(cert)?.ok_or(HandshakeReason::KeyUsage)?;
    if usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign() {
        Ok(())
    } else {
        Err(HandshakeReason::KeyUsage)
    }
}

/// Whether a certificate may sign others: `cA=true` and, where keyUsage is present, `keyCertSign`. What
/// cannot be read may not.
pub(crate) fn may_issue(cert: &X509Certificate<'_>) -> bool {
    matches!(is_ca(cert), Ok(Some(true)))
        && match key_usage(cert) {
            Ok(None) => true,
            Ok(Some(usage)) => usage.key_cert_sign(),
            Err(_) => false,
        }
}

/// `cA`, or `None` without the extension. `X509Certificate::basic_constraints` would report a malformed
/// extension as absent.
fn is_ca(cert: &X509Certificate<'_>) -> Result<Option<bool>, HandshakeReason> {
    match cert.get_extension_unique(&OID_X509_EXT_BASIC_CONSTRAINTS) {
        Ok(None) => Ok(None),
        Ok(Some(extension)) => match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) => Ok(Some(constraints.ca)),
            _ => Err(HandshakeReason::CertMalformed),
        },
        Err(_) => Err(HandshakeReason::CertMalformed),
    }
}

fn key_usage<'c>(cert: &'c X509Certificate<'_>) -> Result<Option<&'c KeyUsage>, HandshakeReason> {
    match cert.get_extension_unique(&OID_X509_EXT_KEY_USAGE) {
        Ok(None) => Ok(None),
        Ok(Some(extension)) => match extension.parsed_extension() {
            ParsedExtension::KeyUsage(usage) => Ok(Some(usage)),
            _ => Err(HandshakeReason::CertMalformed),
        },
        Err(_) => Err(HandshakeReason::CertMalformed),
    }
}
