//! SPIFFE bundle documents and bundle maps (TB 4, 5): trust bundles as JSON, as bundle endpoints serve them and
//! operators pass them around.
//!
//! For tools. A sidecar takes its bundles from the Workload API and fetches none itself; what it would make of a
//! document is answered here by the same code that judges the authorities of the Workload API.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use mantlet_id::TrustDomain;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use crate::bundle::{MAX_AUTHORITIES, TrustBundle};

/// A document above this size is refused unread.
const MAX_DOCUMENT_BYTES: usize = 2 << 20;
/// More trust domains than this in one map are refused.
const MAX_TRUST_DOMAINS: usize = 200;
/// The key types of RFC 7518 that an X.509 authority can have.
const KEY_TYPES: [&str; 2] = ["EC", "RSA"];
/// `use` of an X.509 authority (XS 6.1).
const X509_SVID: &str = "x509-svid";

/// One trust domain's bundle, as a document has it.
pub struct BundleDocument {
    bundle: TrustBundle,
    ignored: usize,
    sequence: Option<u64>,
    refresh_hint: Option<Duration>,
}

/// Why a text is no bundle document or bundle map.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Beyond the limit.
    #[error("it has {0} bytes, at most {MAX_DOCUMENT_BYTES} are read")]
    TooLarge(usize),
    /// Beyond the limit.
    #[error("it has {0} keys for {1}, at most {MAX_AUTHORITIES} are taken")]
    TooManyKeys(usize, TrustDomain),
    /// Not the JSON that the standard describes; the text names the place.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// A document as it is written (TB 4.1): `keys` must be there, and may be empty.
#[derive(Deserialize)]
struct Written {
    keys: Vec<Value>,
    spiffe_sequence: Option<u64>,
    spiffe_refresh_hint: Option<u64>,
}

/// A map as it is written (TB 5.1.1).
#[derive(Deserialize)]
struct WrittenMap {
    trust_domains: Domains,
}

/// The bundles of a map, in order of their names.
struct Domains(BTreeMap<TrustDomain, Written>);

/// Reads the bundle of this trust domain: the document itself does not say whose it is (TB 3).
///
/// # Errors
/// It is no bundle document. A key that cannot be used is no error: it is ignored alone (TB 4.2).
pub fn parse_bundle(
    trust_domain: &TrustDomain,
    text: &[u8],
    now: SystemTime,
) -> Result<BundleDocument, DocumentError> {
    let written: Written = serde_json::from_slice(limited(text)?)?;
    BundleDocument::judge(trust_domain, &written, now)
}

/// Reads a map of trust domains to bundles. Refresh hints in it do not count (TB 5.1.1).
///
/// # Errors
/// It is no bundle map: a name stands twice, or is none, or its bundle is no bundle document.
pub fn parse_bundle_map(
    text: &[u8],
    now: SystemTime,
) -> Result<BTreeMap<TrustDomain, BundleDocument>, DocumentError> {
    let map: WrittenMap = serde_json::from_slice(limited(text)?)?;
    let judged = map.trust_domains.0.into_iter().map(|(trust_domain, written)| {
        let mut document = BundleDocument::judge(&trust_domain, &written, now)?;
        document.refresh_hint = None;
        Ok((trust_domain, document))
    });
    judged.collect()
}

fn limited(text: &[u8]) -> Result<&[u8], DocumentError> {
    if text.len() > MAX_DOCUMENT_BYTES { Err(DocumentError::TooLarge(text.len())) } else { Ok(text) }
}

// === impl BundleDocument ===

impl BundleDocument {
    fn judge(trust_domain: &TrustDomain, written: &Written, now: SystemTime) -> Result<Self, DocumentError> {
        if written.keys.len() > MAX_AUTHORITIES {
            return Err(DocumentError::TooManyKeys(written.keys.len(), trust_domain.clone()));
        }
        let certificates: Vec<Vec<u8>> = written.keys.iter().filter_map(certificate).collect();
        Ok(Self {
            ignored: written.keys.len() - certificates.len(),
            bundle: TrustBundle::of(trust_domain, certificates.iter().map(Vec::as_slice), now),
            sequence: written.spiffe_sequence,
            refresh_hint: written.spiffe_refresh_hint.map(Duration::from_secs),
        })
    }

    /// The authorities that a sidecar would trust.
    #[must_use]
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// How many keys are not there for X.509-SVIDs, or bring no certificate.
    #[must_use]
    pub fn ignored(&self) -> usize {
        self.ignored
    }

    /// The number that tells an older document from a newer one (TB 4.1.1).
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// How often the publisher wants to be asked (TB 4.1.2).
    #[must_use]
    pub fn refresh_hint(&self) -> Option<Duration> {
        self.refresh_hint
    }
}

/// The certificate of a key that is there for X.509-SVIDs: the first of `x5c`, whatever follows it (XS 6.2).
fn certificate(key: &Value) -> Option<Vec<u8>> {
    let text = |name| key.get(name).and_then(Value::as_str);
    let known = text("kty").is_some_and(|kind| KEY_TYPES.contains(&kind));
    if !known || text("use") != Some(X509_SVID) {
        return None;
    }
    let first = key.get("x5c").and_then(Value::as_array)?.first()?.as_str()?;
    base64(first)
}

/// Base64 of RFC 4648, 4, as `x5c` has it (RFC 7517, 4.7): padded, nothing between.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let padding = text.bytes().rev().take_while(|byte| *byte == b'=').count();
    let digits = text.len().checked_sub(padding)?;
    if !text.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let (mut bytes, mut bits, mut held) = (Vec::with_capacity(text.len() / 4 * 3), 0u32, 0);
    for byte in text.bytes().take(digits) {
        bits = bits << 6 | u32::from(digit(byte)?);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).ok()?);
            bits &= (1 << held) - 1;
        }
    }
    // What is left over belongs to no byte and is zero in the one form that a value has.
    (bits == 0).then_some(bytes)
}

// === impl Domains ===

impl<'de> Deserialize<'de> for Domains {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Domains;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bundles by trust domain")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Domains, A::Error> {
                let mut domains = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let trust_domain = TrustDomain::parse(&name)
                        .map_err(|error| A::Error::custom(format_args!("trust domain {name:?}: {error}")))?;
                    // The parsers that keep the last of two are many: refused, so that all read the same.
                    if domains.contains_key(&trust_domain) {
                        return Err(A::Error::custom(format_args!("trust domain {name} stands twice")));
                    }
                    if domains.len() >= MAX_TRUST_DOMAINS {
                        return Err(A::Error::custom(format_args!(
                            "more than {MAX_TRUST_DOMAINS} trust domains"
                        )));
                    }
                    domains.insert(trust_domain, map.next_value()?);
                }
                Ok(Domains(domains))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_has_one_form_for_each_value() {
        assert_eq!(base64("").unwrap(), b"");
        for (text, bytes) in
            [("Zg==", &b"f"[..]), ("Zm8=", b"fo"), ("Zm9v", b"foo"), ("++//", b"\xfb\xef\xff")]
        {
            assert_eq!(base64(text).unwrap(), bytes, "{text}");
        }
        for wrong in
            ["Zg", "Zg=", "Zh==", "Zm9=", "Zm9v\n", " Zm9", "Zm-_", "====", "Z===", "=Zg=", "Zg==Zg=="]
        {
            assert_eq!(base64(wrong), None, "{wrong:?}");
        }
    }
}
