//! Certificates that break one clause each, named after it. The numbers are those of the X cases.

use std::time::Duration;

use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};
use rustls_pki_types::CertificateDer;

use super::svid::{LeafConstraints, SvidOptions, TestSvid};
use super::{Authority, CaOptions, der, now};

/// The one clause that a certificate breaks; everything else about it conforms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// X5: right trust domain and path, signed by an authority that is in no bundle.
    OtherAuthority,
    /// X6: ended an hour ago.
    Expired,
    /// X6: begins in an hour.
    NotYetValid,
    /// X7: `cA=true`.
    LeafIsCa,
    /// X8: keyUsage with keyCertSign.
    KeyCertSign,
    /// X8: keyUsage with cRLSign.
    CrlSign,
    /// X9: no keyUsage.
    NoKeyUsage,
    /// X9: keyUsage without digitalSignature.
    NoDigitalSignature,
    /// X10: two `spiffe://` URI SANs.
    TwoUriSans,
    /// X10: a `spiffe://` and an `https://` URI SAN.
    SpiffeAndHttpsUri,
    /// X10, counted in the raw extension: the second URI SAN is no text at all, and a parser that
    /// drops what it cannot read would count one.
    SecondUriUnreadable,
    /// X11: no SAN.
    NoSan,
    /// X11: a DNS SAN alone.
    DnsOnly,
    /// X11: an `https://` URI SAN alone.
    HttpsUriOnly,
    /// X12: an id without a path.
    RootPathId,
    /// X12: an id that ends in `/`.
    TrailingSlashId,
    /// X19: scheme `sparfe`.
    WrongScheme,
    /// Upper case in the trust domain (I19).
    UpperCaseTrustDomain,
    /// A NUL byte inside the URI SAN.
    NulInUri,
    /// An id of 2049 bytes (I18).
    OversizedId,
    /// X17: the intermediate says `cA=false`.
    IntermediateNotCa,
    /// X17: the intermediate's keyUsage lacks keyCertSign.
    IntermediateNoKeyCertSign,
    /// The intermediate ended an hour ago.
    IntermediateExpired,
    /// The intermediate carries a URI name constraint, which permits this very trust domain.
    IntermediateUriConstraint,
    /// X18: extendedKeyUsage with codeSigning alone.
    EkuCodeSigning,
    /// A critical extension that nobody knows.
    UnknownCritical,
    /// keyUsage that is no BIT STRING.
    KeyUsageMalformed,
    /// X20: a letter of the id is not the one that was signed.
    CorruptedDer,
    /// X20: the DER ends early.
    TruncatedDer,
    /// X20: a byte follows the leaf.
    TrailingBytes,
    /// A leaf of more than 16 KiB.
    LeafTooLarge,
    /// Nine certificates, one more than the cap.
    ChainTooLong,
    /// 65 SAN entries, one more than the cap.
    TooManySans,
    /// X23: the authority's own certificate presented as the leaf.
    AuthorityAsLeaf,
}

pub(super) fn issue(authority: &Authority, clause: Malformed, id: &str) -> TestSvid {
    let mut options = SvidOptions::new(id);
    if clause.edit(&mut options, id) {
        return authority.issue(&options);
    }
    let mut svid = issue_elsewhere(authority, clause, &options);
    let leaf = svid.leaf().to_vec();
    match clause {
        Malformed::CorruptedDer => replace_leaf(&mut svid, flip_signed_byte(leaf, id)),
        Malformed::TruncatedDer => replace_leaf(&mut svid, leaf[..leaf.len() - 7].to_vec()),
        Malformed::TrailingBytes => replace_leaf(&mut svid, [leaf, vec![0]].concat()),
        _ => {}
    }
    svid
}

/// The clauses that a leaf of this authority alone cannot break.
fn issue_elsewhere(authority: &Authority, clause: Malformed, options: &SvidOptions) -> TestSvid {
    let below = |ca: CaOptions| authority.intermediate_with(&ca).issue(options);
    match clause {
        Malformed::OtherAuthority => Authority::new(authority.trust_domain()).issue(options),
        Malformed::IntermediateNotCa => below(CaOptions { is_ca: false, ..CaOptions::default() }),
        Malformed::IntermediateNoKeyCertSign => {
            below(CaOptions { key_usages: vec![KeyUsagePurpose::CrlSign], ..CaOptions::default() })
        }
        Malformed::IntermediateExpired => below(CaOptions::expired()),
        Malformed::IntermediateUriConstraint => below(CaOptions {
            permitted_uri: Some(authority.trust_domain().to_owned()),
            ..CaOptions::default()
        }),
        Malformed::ChainTooLong => {
            let deepest = (0..8).fold(authority.clone(), |above, _| above.intermediate());
            deepest.issue(options)
        }
        Malformed::AuthorityAsLeaf => {
            let mut svid = authority.issue(options);
            svid.chain = vec![authority.certificate().clone()];
            svid.key = authority.0.key.serialize_der().into();
            svid.id = format!("spiffe://{}", authority.trust_domain());
            svid
        }
        _ => authority.issue(options),
    }
}

fn replace_leaf(svid: &mut TestSvid, leaf: Vec<u8>) {
    svid.chain[0] = CertificateDer::from(leaf);
}

/// Changes the last letter of the id: DER and id stay well-formed, the signature no longer holds.
fn flip_signed_byte(mut der: Vec<u8>, id: &str) -> Vec<u8> {
    let at = der.windows(id.len()).position(|window| window == id.as_bytes());
    let last = at.expect("the id stands in the leaf") + id.len() - 1;
    der[last] = if der[last] == b'a' { b'b' } else { b'a' };
    der
}

// === impl Malformed ===

impl Malformed {
    /// Every clause.
    pub const ALL: &[Self] = &[
        Self::OtherAuthority,
        Self::Expired,
        Self::NotYetValid,
        Self::LeafIsCa,
        Self::KeyCertSign,
        Self::CrlSign,
        Self::NoKeyUsage,
        Self::NoDigitalSignature,
        Self::TwoUriSans,
        Self::SpiffeAndHttpsUri,
        Self::SecondUriUnreadable,
        Self::NoSan,
        Self::DnsOnly,
        Self::HttpsUriOnly,
        Self::RootPathId,
        Self::TrailingSlashId,
        Self::WrongScheme,
        Self::UpperCaseTrustDomain,
        Self::NulInUri,
        Self::OversizedId,
        Self::IntermediateNotCa,
        Self::IntermediateNoKeyCertSign,
        Self::IntermediateExpired,
        Self::IntermediateUriConstraint,
        Self::EkuCodeSigning,
        Self::UnknownCritical,
        Self::KeyUsageMalformed,
        Self::CorruptedDer,
        Self::TruncatedDer,
        Self::TrailingBytes,
        Self::LeafTooLarge,
        Self::ChainTooLong,
        Self::TooManySans,
        Self::AuthorityAsLeaf,
    ];

    /// Applies the clause to a leaf's options; `false` where the leaf's options cannot express it.
    fn edit(self, options: &mut SvidOptions, id: &str) -> bool {
        let now = now();
        let trust_domain = id.strip_prefix("spiffe://").and_then(|rest| rest.split('/').next());
        let trust_domain = trust_domain.unwrap_or_default();
        match self {
            Self::Expired => {
                options.not_before = now - Duration::from_secs(7200);
                options.not_after = now - Duration::from_secs(3600);
            }
            Self::NotYetValid => options.not_before = now + Duration::from_secs(3600),
            Self::LeafIsCa => options.constraints = LeafConstraints::Ca,
            Self::KeyCertSign => options.key_usages.push(KeyUsagePurpose::KeyCertSign),
            Self::CrlSign => options.key_usages.push(KeyUsagePurpose::CrlSign),
            Self::NoKeyUsage => options.key_usages.clear(),
            Self::NoDigitalSignature => options.key_usages = vec![KeyUsagePurpose::KeyAgreement],
            Self::TwoUriSans => options.uris.push(format!("spiffe://{trust_domain}/second")),
            Self::SpiffeAndHttpsUri => options.uris.push("https://td.test/x".to_owned()),
            Self::NoSan => options.uris.clear(),
            Self::DnsOnly => {
                options.uris.clear();
                options.dns = vec!["workload.test".to_owned()];
            }
            Self::HttpsUriOnly => options.uris = vec![id.replacen("spiffe", "https", 1)],
            Self::RootPathId => options.uris = vec![format!("spiffe://{trust_domain}")],
            Self::TrailingSlashId => options.uris = vec![format!("{id}/")],
            Self::WrongScheme => options.uris = vec![id.replacen("spiffe", "sparfe", 1)],
            Self::UpperCaseTrustDomain => {
                let upper = trust_domain.to_ascii_uppercase();
                options.uris = vec![id.replacen(trust_domain, &upper, 1)];
            }
            Self::OversizedId => {
                let missing = 2049_usize.saturating_sub(id.len() + 1);
                options.uris = vec![format!("{id}/{}", "a".repeat(missing))];
            }
            Self::EkuCodeSigning => {
                options.ext_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
            }
            _ => return self.edit_raw(options, id),
        }
        true
    }

    /// The clauses that need DER of their own.
    fn edit_raw(self, options: &mut SvidOptions, id: &str) -> bool {
        let extension = match self {
            Self::SecondUriUnreadable => der::raw_uris(&[id.as_bytes(), b"\xff\xfe"]),
            Self::NulInUri => der::raw_uris(&[&[id.as_bytes(), b"\0x"].concat()]),
            Self::TooManySans => der::uri_and_dns_names(id, 64),
            Self::UnknownCritical => der::unknown_critical(),
            Self::LeafTooLarge => der::padding(17 * 1024),
            Self::KeyUsageMalformed => der::malformed_key_usage(),
            _ => return false,
        };
        match self {
            Self::SecondUriUnreadable | Self::NulInUri | Self::TooManySans => options.uris.clear(),
            Self::KeyUsageMalformed => options.key_usages.clear(),
            _ => {}
        }
        options.extensions.push(extension);
        true
    }

    /// The label under which the verifier counts the refusal.
    pub fn reason(self) -> &'static str {
        match self {
            Self::OtherAuthority => "unknown_issuer",
            Self::Expired | Self::IntermediateExpired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::LeafIsCa => "leaf_is_ca",
            Self::KeyCertSign
            | Self::CrlSign
            | Self::NoKeyUsage
            | Self::NoDigitalSignature
            | Self::IntermediateNotCa
            | Self::IntermediateNoKeyCertSign => "key_usage",
            Self::TwoUriSans
            | Self::SpiffeAndHttpsUri
            | Self::SecondUriUnreadable
            | Self::NoSan
            | Self::DnsOnly => "san_not_single_uri",
            // An authority's id has no path, and the id is read before anything else.
            Self::HttpsUriOnly
            | Self::RootPathId
            | Self::TrailingSlashId
            | Self::WrongScheme
            | Self::UpperCaseTrustDomain
            | Self::NulInUri
            | Self::OversizedId
            | Self::AuthorityAsLeaf => "bad_spiffe_id",
            Self::IntermediateUriConstraint => "name_constraints",
            Self::EkuCodeSigning => "ext_key_usage",
            Self::CorruptedDer => "bad_signature",
            Self::UnknownCritical | Self::KeyUsageMalformed | Self::TruncatedDer | Self::TrailingBytes => {
                "cert_malformed"
            }
            Self::LeafTooLarge | Self::ChainTooLong | Self::TooManySans => "cert_limits",
        }
    }
}
