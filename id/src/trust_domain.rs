use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use crate::{IdError, MAX_TRUST_DOMAIN_BYTES, bad_char};

/// The name of a trust domain: the authority that issues identities (SPIFFE ID 2.1).
///
/// Any non-empty run of `a-z 0-9 . _ -` is one; the standard gives labels no meaning, so neither
/// does this type. Cheap to clone.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TrustDomain(Arc<str>);

// === impl TrustDomain ===

impl TrustDomain {
    /// Parses a bare name such as `prod.example`.
    ///
    /// # Errors
    /// The first rule of SPIFFE ID 2.1 and 2.3 that `name` breaks.
    pub fn parse(name: &str) -> Result<Self, IdError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        if name.is_empty() {
            return Err(IdError::NoTrustDomain);
        }
        if name.len() > MAX_TRUST_DOMAIN_BYTES {
            return Err(IdError::TrustDomainTooLong);
        }
        if name.bytes().all(allowed) {
            return Ok(Self(name.into()));
        }
        Err(match bad_char(name, allowed) {
            c if c.is_ascii_uppercase() => IdError::UpperCase,
            c => IdError::TrustDomainCharacter(c),
        })
    }

    /// Parses the id of a trust domain, `spiffe://name` without a path: the form of bundle keys
    /// (Workload API 5.2.2).
    ///
    /// # Errors
    /// As [`TrustDomain::parse`]; a path is refused.
    pub fn parse_id(id: &str) -> Result<Self, IdError> {
        let name = crate::spiffe_id::strip_scheme(id)?;
        match name.find('/') {
            Some(_) => Err(IdError::TrustDomainCharacter('/')),
            None => Self::parse(name),
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the trust domain itself, `spiffe://name`.
    #[must_use]
    pub fn id_string(&self) -> String {
        format!("spiffe://{}", self.0)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = IdError;

    fn from_str(s: &str) -> Result<Self, IdError> {
        Self::parse(s)
    }
}

impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}
