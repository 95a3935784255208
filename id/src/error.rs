use thiserror::Error;

/// Why a string is not a SPIFFE ID or a trust domain: one variant per rule of the standard.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
#[non_exhaustive]
pub enum IdError {
    /// Nothing was given.
    #[error("empty")]
    Empty,
    /// The whole URI is longer than [`MAX_ID_BYTES`](crate::MAX_ID_BYTES) (SPIFFE ID 2.3).
    #[error("longer than 2048 bytes")]
    TooLong,
    /// The scheme is not `spiffe` (SPIFFE ID 2).
    #[error("must begin with \"spiffe://\"")]
    Scheme,
    /// The scheme or the trust domain has upper-case letters (SPIFFE ID 2.1).
    #[error("scheme and trust domain must be lower case")]
    UpperCase,
    /// There is no trust domain (SPIFFE ID 2.1).
    #[error("trust domain is missing")]
    NoTrustDomain,
    /// The trust domain is longer than 255 bytes (SPIFFE ID 2.3).
    #[error("trust domain is longer than 255 bytes")]
    TrustDomainTooLong,
    /// A character that a trust domain cannot have; user info and ports fall here too (SPIFFE ID 2.1).
    #[error("trust domain has {0:?}; only a-z 0-9 . _ - are allowed")]
    TrustDomainCharacter(char),
    /// No path: this names the trust domain itself, which is no workload (X509-SVID 2).
    #[error("path is missing: the id of a workload has one")]
    NoPath,
    /// A `//` in the path, or a path of `/` alone (SPIFFE ID 2.2).
    #[error("path has an empty segment")]
    EmptySegment,
    /// The path ends in `/` (SPIFFE ID 2.2).
    #[error("path ends in \"/\"")]
    TrailingSlash,
    /// A `.` or `..` segment (SPIFFE ID 2.2).
    #[error("path has a \".\" or \"..\" segment")]
    DotSegment,
    /// A character that a path cannot have: `%`, `?`, `#` and non-ASCII fall here too (SPIFFE ID 2.2).
    #[error("path has {0:?}; only A-Z a-z 0-9 . _ - are allowed")]
    PathCharacter(char),
}

/// Why a string is not a peer pattern.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
#[non_exhaustive]
pub enum PatternError {
    /// The parts that are no wildcards break a rule of the SPIFFE ID standard.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A short form is exactly `namespace/service-account`.
    #[error("write namespace/service-account, or a full spiffe:// id")]
    ShortForm,
    /// `*` may only be a whole segment or its end.
    #[error("\"*\" may only be a whole segment or the end of one")]
    StarPlace,
    /// `**` may only be the last segment.
    #[error("\"**\" may only be the last segment")]
    TailPlace,
}
