//! Why a handshake failed: one closed list for metric, log and CLI.

use std::sync::Arc;

use rustls::{AlertDescription, CertificateError, InvalidMessage, OtherError};

/// The outcome of a handshake. [`as_str`](Self::as_str) is the label of `mantlet_tls_handshakes_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HandshakeReason {
    /// No refusal: the label of a completed handshake. Never found in an `Err`.
    Ok,
    /// The peer presented no certificate.
    NoPeerCert,
    /// A certificate of the path is past its notAfter.
    Expired,
    /// A certificate of the path is before its notBefore.
    NotValidYet,
    /// No path to an authority of the bundle of the peer's trust domain.
    UnknownIssuer,
    /// A signature does not verify, in the chain or in the handshake.
    BadSignature,
    /// The leaf has no URI SAN or more than one (XS 2).
    SanNotSingleUri,
    /// The peer's id lies in another trust domain than the one expected.
    TrustDomain,
    /// The peer is none of the expected ids.
    PeerNotExpected,
    /// The peer broke TLS, or speaks no version or group of ours.
    Protocol,
    /// The handshake took too long.
    Timeout,
    /// The connection broke during the handshake.
    Io,
    /// No application protocol in common (RFC 7301 3.2).
    Alpn,
    /// The leaf is a CA certificate (XS 5.2).
    LeafIsCa,
    /// keyUsage, or the CA flags of an issuer, forbid what the certificate is used for (XS 4.3, 5.2).
    KeyUsage,
    /// The extended key usage is present without the one of the role (XS 4.4).
    ExtKeyUsage,
    /// The one URI SAN is not the SPIFFE id of a workload (ID 2, XS 2).
    BadSpiffeId,
    /// No bundle, or an empty one, for the trust domain of the peer (TB 4.1.3).
    NoBundle,
    /// A name constraint forbids the leaf. URI constraints always do: webpki fails closed on them.
    NameConstraints,
    /// A certificate is not DER as RFC 5280 wants it.
    CertMalformed,
    /// Too many or too large certificates, names, or paths to try.
    CertLimits,
    /// The peer refused us with an alert.
    PeerAlert,
}

/// Carries a reason through rustls, which has no variant of its own for it.
#[derive(Debug)]
struct Refusal(HandshakeReason);

// === impl HandshakeReason ===

impl HandshakeReason {
    /// Every reason, in the order of declaration.
    pub const ALL: [Self; 22] = [
        Self::Ok,
        Self::NoPeerCert,
        Self::Expired,
        Self::NotValidYet,
        Self::UnknownIssuer,
        Self::BadSignature,
        Self::SanNotSingleUri,
        Self::TrustDomain,
        Self::PeerNotExpected,
        Self::Protocol,
        Self::Timeout,
        Self::Io,
        Self::Alpn,
        Self::LeafIsCa,
        Self::KeyUsage,
        Self::ExtKeyUsage,
        Self::BadSpiffeId,
        Self::NoBundle,
        Self::NameConstraints,
        Self::CertMalformed,
        Self::CertLimits,
        Self::PeerAlert,
    ];

    /// The label: metric, log field and CLI say the same word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NoPeerCert => "no_peer_cert",
            Self::Expired => "expired",
            Self::NotValidYet => "not_yet_valid",
            Self::UnknownIssuer => "unknown_issuer",
            Self::BadSignature => "bad_signature",
            Self::SanNotSingleUri => "san_not_single_uri",
            Self::TrustDomain => "trust_domain",
            Self::PeerNotExpected => "peer_not_expected",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::Io => "io",
            Self::Alpn => "alpn",
            Self::LeafIsCa => "leaf_is_ca",
            Self::KeyUsage => "key_usage",
            Self::ExtKeyUsage => "ext_key_usage",
            Self::BadSpiffeId => "bad_spiffe_id",
            Self::NoBundle => "no_bundle",
            Self::NameConstraints => "name_constraints",
            Self::CertMalformed => "cert_malformed",
            Self::CertLimits => "cert_limits",
            Self::PeerAlert => "peer_alert",
        }
    }

    /// One sentence for a person who reads a log.
    #[must_use]
    pub const fn explain(self) -> &'static str {
        match self {
            Self::Ok => "the peer is who its SVID says",
            Self::NoPeerCert => "the peer presented no certificate; every caller needs an X.509-SVID",
            Self::Expired => {
                "a certificate of the peer has expired; is its rotation stuck, or a clock wrong?"
            }
            Self::NotValidYet => "a certificate of the peer is not valid yet; compare the clocks",
            Self::UnknownIssuer => {
                "no authority in the bundle of the peer's trust domain has issued its certificate"
            }
            Self::BadSignature => {
                "a signature of the peer does not verify with the bundle of its trust domain"
            }
            Self::SanNotSingleUri => "an X.509-SVID has exactly one URI SAN; this one has none or several",
            Self::TrustDomain => "the peer belongs to another trust domain than the one expected",
            Self::PeerNotExpected => {
                "the peer is authentic but none of the identities expected at this address"
            }
            Self::Protocol => "the peer does not speak TLS 1.3 as we do",
            Self::Timeout => "the handshake was not finished in time",
            Self::Io => "the connection broke during the handshake",
            Self::Alpn => "no application protocol in common",
            Self::LeafIsCa => "the peer presented a CA certificate as its own",
            Self::KeyUsage => "keyUsage or basicConstraints forbid the use of a certificate of the peer",
            Self::ExtKeyUsage => {
                "the extended key usage lacks the role: an SVID has serverAuth and clientAuth"
            }
            Self::BadSpiffeId => {
                "the URI SAN is not the SPIFFE id of a workload (spiffe://trust.domain/path)"
            }
            Self::NoBundle => "no authority is known for the peer's trust domain; is it federated with ours?",
            Self::NameConstraints => "a CA above the peer carries name constraints that do not admit it",
            Self::CertMalformed => "a certificate of the peer is not well-formed",
            Self::CertLimits => "the peer's chain is too long, too large or has too many names",
            Self::PeerAlert => "the peer refused us; its own log has the reason",
        }
    }

    /// What a rustls error means.
    #[must_use]
    pub fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => Self::of_certificate(error),
            rustls::Error::NoCertificatesPresented => Self::NoPeerCert,
            rustls::Error::NoApplicationProtocol
            | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => Self::Alpn,
            rustls::Error::AlertReceived(_) => Self::PeerAlert,
            rustls::Error::InvalidMessage(InvalidMessage::CertificatePayloadTooLarge) => Self::CertLimits,
            _ => Self::Protocol,
        }
    }

    /// What an I/O error of a handshake means; rustls errors are found inside it.
    #[must_use]
    pub fn of_io(error: &std::io::Error) -> Self {
        if let Some(tls) = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            return Self::of_tls(tls);
        }
        match error.kind() {
            std::io::ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Io,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Other(OtherError(inner)) => match inner.downcast_ref::<Refusal>() {
                Some(Refusal(reason)) => *reason,
                None => Self::CertMalformed,
            },
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotValidYet,
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Self::ExtKeyUsage
            }
            CertificateError::BadSignature
            | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Self::BadSignature,
            _ => Self::CertMalformed,
        }
    }

    /// The error that makes rustls send the closest alert (RFC 8446 6.2) and that [`of_tls`](Self::of_tls)
    /// turns back into this reason.
    pub(crate) fn into_tls(self) -> rustls::Error {
        let error = match self {
            Self::NoPeerCert => return rustls::Error::NoCertificatesPresented,
            Self::Expired => CertificateError::Expired,
            Self::NotValidYet => CertificateError::NotValidYet,
            Self::UnknownIssuer => CertificateError::UnknownIssuer,
            Self::BadSignature => CertificateError::BadSignature,
            Self::ExtKeyUsage => CertificateError::InvalidPurpose,
            Self::CertMalformed => CertificateError::BadEncoding,
            other => CertificateError::Other(OtherError(Arc::new(Refusal(other)))),
        };
        rustls::Error::InvalidCertificate(error)
    }

    /// What a webpki error means. The enum is open: what is new fails as an unknown issuer.
    pub(crate) fn of_webpki(error: &webpki::Error) -> Self {
        use webpki::Error as E;
        match error {
            E::CertExpired { .. } => Self::Expired,
            E::CertNotValidYet { .. } => Self::NotValidYet,
            E::CaUsedAsEndEntity => Self::LeafIsCa,
            E::EndEntityUsedAsCa | E::PathLenConstraintViolated => Self::KeyUsage,
            E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Self::ExtKeyUsage,
            E::InvalidSignatureForPublicKey
            | E::UnsupportedSignatureAlgorithmContext(_)
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Self::BadSignature,
            E::NameConstraintViolation | E::MalformedNameConstraint | E::InvalidNetworkMaskConstraint => {
                Self::NameConstraints
            }
            E::MaximumNameConstraintComparisonsExceeded
            | E::MaximumPathBuildCallsExceeded
            | E::MaximumPathDepthExceeded
            | E::MaximumSignatureChecksExceeded => Self::CertLimits,
            E::BadDer
            | E::BadDerTime
            | E::TrailingData(_)
            | E::ExtensionValueInvalid
            | E::MalformedExtensions
            | E::MalformedDnsIdentifier
            | E::InvalidCertValidity
            | E::InvalidSerialNumber
            | E::SignatureAlgorithmMismatch
            | E::UnsupportedCertVersion
            | E::UnsupportedCriticalExtension => Self::CertMalformed,
            _ => Self::UnknownIssuer,
        }
    }
}

impl std::fmt::Display for HandshakeReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for HandshakeReason {}

// === impl Refusal ===

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.explain())
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn labels_are_distinct_and_every_reason_is_listed() {
        let labels: BTreeSet<_> = HandshakeReason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(labels.len(), HandshakeReason::ALL.len());
        assert_eq!(HandshakeReason::ALL.last().map(|r| *r as usize), Some(HandshakeReason::ALL.len() - 1));
    }

    #[test]
    fn every_refusal_of_the_verifier_survives_the_way_through_rustls() {
        for reason in HandshakeReason::ALL {
            let tls = reason.into_tls();
            assert_eq!(HandshakeReason::of_tls(&tls), reason);
            let io = std::io::Error::new(std::io::ErrorKind::InvalidData, tls);
            assert_eq!(HandshakeReason::of_io(&io), reason);
        }
    }

    #[test]
    fn a_broken_connection_is_io_and_a_late_one_timeout() {
        let eof = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        assert_eq!(HandshakeReason::of_io(&eof), HandshakeReason::Io);
        let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
        assert_eq!(HandshakeReason::of_io(&late), HandshakeReason::Timeout);
    }
}
