use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use crate::{IdError, MAX_ID_BYTES, TrustDomain, check_segment};

const SCHEME: &str = "spiffe://";

/// The identity of a workload: `spiffe://<trust domain>/<path>` (SPIFFE ID 2).
///
/// A path is mandatory: the bare id of a trust domain names the authority, never a workload
/// (X509-SVID 2). Equality is byte equality. Cheap to clone.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SpiffeId {
    uri: Arc<str>,
    trust_domain: TrustDomain,
}

/// Folds what an operator wrote to the only spelling that [`SpiffeId::parse`] takes: scheme and
/// trust domain in ASCII lower case. The path is case-sensitive and stays. The second value says
/// whether anything changed, so that the caller can warn.
///
/// Never for anything that comes from the network: a peer whose certificate says `SPIFFE://` is
/// refused.
#[must_use]
pub fn normalise_config(id: &str) -> (String, bool) {
    let authority_end = id
        .get(..SCHEME.len())
        .filter(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
        .and_then(|scheme| id.get(scheme.len()..))
        .map_or(0, |rest| SCHEME.len() + rest.find('/').unwrap_or(rest.len()));
    let mut folded = id.to_owned();
    if let Some(authority) = folded.get_mut(..authority_end) {
        authority.make_ascii_lowercase();
    }
    let changed = folded != id;
    (folded, changed)
}

/// The part of an id behind `spiffe://`.
pub(crate) fn strip_scheme(id: &str) -> Result<&str, IdError> {
    if id.is_empty() {
        return Err(IdError::Empty);
    }
    if id.len() > MAX_ID_BYTES {
        return Err(IdError::TooLong);
    }
    id.strip_prefix(SCHEME).ok_or_else(|| match id.get(..SCHEME.len()) {
        Some(scheme) if scheme.eq_ignore_ascii_case(SCHEME) => IdError::UpperCase,
        _ => IdError::Scheme,
    })
}

// === impl SpiffeId ===

impl SpiffeId {
    /// Parses the id of a workload.
    ///
    /// # Errors
    /// The first rule of SPIFFE ID 2 that `id` breaks.
    pub fn parse(id: &str) -> Result<Self, IdError> {
        let rest = strip_scheme(id)?;
        let (name, path) = rest.split_once('/').map_or((rest, None), |(name, path)| (name, Some(path)));
        let trust_domain = TrustDomain::parse(name)?;
        let path = path.ok_or(IdError::NoPath)?;
        if path.is_empty() || path.ends_with('/') {
            return Err(IdError::TrailingSlash);
        }
        path.split('/').try_for_each(check_segment)?;
        Ok(Self { uri: id.into(), trust_domain })
    }

    /// Builds an id from path segments.
    ///
    /// # Errors
    /// A segment that breaks SPIFFE ID 2.2, no segment at all, or too long a whole.
    pub fn from_segments<'a>(
        trust_domain: &TrustDomain,
        segments: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, IdError> {
        let mut uri = trust_domain.id_string();
        for segment in segments {
            check_segment(segment)?;
            uri.push('/');
            uri.push_str(segment);
        }
        Self::parse(&uri)
    }

    /// The id of a Kubernetes service account, `spiffe://<td>/ns/<namespace>/sa/<account>`: the
    /// form that SPIRE's Kubernetes registration gives, and what the short form `ns/sa` means.
    ///
    /// # Errors
    /// As [`SpiffeId::from_segments`].
    pub fn workload(trust_domain: &TrustDomain, namespace: &str, account: &str) -> Result<Self, IdError> {
        Self::from_segments(trust_domain, ["ns", namespace, "sa", account])
    }

    /// The trust domain whose authorities vouch for this id.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path, with its leading `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.uri.get(SCHEME.len() + self.trust_domain.as_str().len()..).unwrap_or_default()
    }

    /// The segments of the path, never empty ones.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.path().split('/').skip(1)
    }

    /// Namespace and service account, when the path is exactly `/ns/<namespace>/sa/<account>`.
    #[must_use]
    pub fn ns_sa(&self) -> Option<(&str, &str)> {
        let mut segments = self.segments();
        match (segments.next(), segments.next(), segments.next(), segments.next(), segments.next()) {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None) => Some((namespace, account)),
            _ => None,
        }
    }

    /// The whole id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.uri
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl FromStr for SpiffeId {
    type Err = IdError;

    fn from_str(s: &str) -> Result<Self, IdError> {
        Self::parse(s)
    }
}

impl Borrow<str> for SpiffeId {
    fn borrow(&self) -> &str {
        &self.uri
    }
}
