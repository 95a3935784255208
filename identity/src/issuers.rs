//! The intermediates of a chain that are worth a search for a path.
//!
//! webpki tries every order of the intermediates and verifies a signature for each, up to a hundred: eight
//! certificates that all bear the name of an authority cost 5.5 ms, and making them takes no key of ours.
//! So where the names leave a choice, each intermediate first has to be signed by an authority of the bundle,
//! or by another that is: a forged one costs one signature here, and the search sees only genuine ones.

use rustls_pki_types::CertificateDer;
use std::time::SystemTime;
use x509_parser::certificate::X509Certificate;

use crate::bundle::TrustBundle;
use crate::der::{NotDer, Reader, SEQUENCE};
use crate::{HandshakeReason, certificate, provider, usage};

/// More signatures than this are not verified to sort out one chain.
const MAX_SIGNATURES: usize = 32;
/// `BIT STRING`.
const BIT_STRING: u8 = 0x03;

/// An intermediate that may sign.
pub(crate) struct Issuer<'a> {
    pub(crate) der: CertificateDer<'a>,
    pub(crate) not_after: SystemTime,
    cert: X509Certificate<'a>,
}

/// Those of the intermediates that may sign, and whether others were dropped: another path may do without
/// them (XS 5.1). What does not parse at all is refused.
pub(crate) fn eligible<'a>(
    intermediates: &'a [CertificateDer<'_>],
) -> Result<(Vec<Issuer<'a>>, bool), HandshakeReason> {
    let mut issuers = Vec::with_capacity(intermediates.len());
    for der in intermediates {
        let cert = certificate::parse(der)?;
        if usage::may_issue(&cert) {
            let not_after = certificate::validity(&cert)?.not_after;
            issuers.push(Issuer { der: CertificateDer::from(der.as_ref()), not_after, cert });
        }
    }
    let dropped = issuers.len() < intermediates.len();
    Ok((issuers, dropped))
}

/// Leaves the issuers alone if their names make one path, and keeps the genuine ones otherwise.
pub(crate) fn genuine<'a>(
    leaf: &X509Certificate<'_>,
    issuers: Vec<Issuer<'a>>,
    bundle: &TrustBundle,
) -> Result<Vec<Issuer<'a>>, HandshakeReason> {
    if !is_ambiguous(leaf, &issuers) {
        return Ok(issuers);
    }
    let mut left = MAX_SIGNATURES;
    let mut unknown = issuers;
    let mut known: Vec<Issuer<'a>> = Vec::with_capacity(unknown.len());
    for authority in bundle.authorities() {
        let signer = certificate::parse(authority.der())?;
        move_signed(&signer, &mut unknown, &mut known, &mut left)?;
    }
    let mut next = 0;
    while let Some(signer) = known.get(next).map(|issuer| issuer.cert.clone()) {
        move_signed(&signer, &mut unknown, &mut known, &mut left)?;
        next += 1;
    }
    Ok(known)
}

impl<'a> Issuer<'a> {
    /// The key identifier of who signed this, if the certificate names it.
    pub(crate) fn authority_key_id(&self) -> Option<&'a [u8]> {
        certificate::authority_key_id(&self.cert)
    }
}

/// Whether a certificate has a choice of issuers by name, which is all that webpki goes by.
fn is_ambiguous(leaf: &X509Certificate<'_>, issuers: &[Issuer<'_>]) -> bool {
    let choices = |cert: &X509Certificate<'_>| {
        let others = issuers.iter().filter(|issuer| issuer.cert.as_raw() != cert.as_raw());
        others.filter(|issuer| issuer.cert.subject().as_raw() == cert.issuer().as_raw()).count()
    };
    choices(leaf) > 1 || issuers.iter().any(|issuer| choices(&issuer.cert) > 1)
}

fn move_signed<'a>(
    signer: &X509Certificate<'_>,
    unknown: &mut Vec<Issuer<'a>>,
    known: &mut Vec<Issuer<'a>>,
    left: &mut usize,
) -> Result<(), HandshakeReason> {
    for issuer in std::mem::take(unknown) {
        if !names(signer, &issuer.cert) {
            unknown.push(issuer);
            continue;
        }
        *left = left.checked_sub(1).ok_or(HandshakeReason::CertLimits)?;
        match is_signed_by(issuer.cert.as_raw(), signer.public_key().raw) {
            Ok(true) => known.push(issuer),
            _ => unknown.push(issuer),
        }
    }
    Ok(())
}

/// Whether `signer` could have signed `cert` by subject and, where both are given, key identifiers.
fn names(signer: &X509Certificate<'_>, cert: &X509Certificate<'_>) -> bool {
    signer.subject().as_raw() == cert.issuer().as_raw()
        && match (certificate::subject_key_id(signer), certificate::authority_key_id(cert)) {
            (Some(subject), Some(authority)) => subject == authority,
            _ => true,
        }
}

/// Whether the signature on a certificate verifies with this key. For sorting out alone: the path is
/// verified as a whole afterwards.
fn is_signed_by(cert: &[u8], key_info: &[u8]) -> Result<bool, NotDer> {
    let mut parts = Reader::sequence(cert)?;
    let signed = parts.next()?.ok_or(NotDer)?.whole;
    let algorithm = element(&mut parts, SEQUENCE)?;
    let signature = bits(element(&mut parts, BIT_STRING)?)?;
    let mut key_parts = Reader::sequence(key_info)?;
    let key_algorithm = element(&mut key_parts, SEQUENCE)?;
    let key = bits(element(&mut key_parts, BIT_STRING)?)?;
    Ok(provider::signature_algorithms()
        .all
        .iter()
        .filter(|known| known.signature_alg_id().as_ref() == algorithm)
        .filter(|known| known.public_key_alg_id().as_ref() == key_algorithm)
        .any(|known| known.verify_signature(key, signed, signature).is_ok()))
}

fn element<'a>(parts: &mut Reader<'a>, tag: u8) -> Result<&'a [u8], NotDer> {
    match parts.next()? {
        Some(element) if element.tag == tag => Ok(element.content),
        _ => Err(NotDer),
    }
}

/// The bytes of a bit string without unused bits.
fn bits(content: &[u8]) -> Result<&[u8], NotDer> {
    match content.split_first() {
        Some((0, bytes)) => Ok(bytes),
        _ => Err(NotDer),
    }
}
