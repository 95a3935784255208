use std::{fmt, str::FromStr};

use crate::{IdError, PatternError, SpiffeId, TrustDomain, check_segment};

/// A set of workloads: a SPIFFE ID in which segments may be wildcards.
///
/// `*` stands for exactly one segment or for the rest of one, and never crosses a `/`; a final
/// `**` stands for one or more segments. So `spiffe://td/ns/pay/*` does not reach `/ns/pay-evil/..`
/// and `spiffe://td/ns/pay` matches itself alone: a prefix that ignores segment boundaries is how
/// one namespace comes to speak for another.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PeerPattern {
    trust_domain: TrustDomainPattern,
    segments: Vec<SegmentPattern>,
    tail: bool,
}

/// Which trust domains a pattern admits.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum TrustDomainPattern {
    /// Exactly this one.
    Exact(TrustDomain),
    /// Any domain that is trusted at the moment, written `*`.
    Any,
}

/// One segment of a pattern.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum SegmentPattern {
    /// This segment, byte for byte.
    Exact(Box<str>),
    /// A segment that begins so, written `begin*`. The rest may be empty.
    Prefix(Box<str>),
    /// Any one segment, written `*`.
    Any,
}

// === impl PeerPattern ===

impl PeerPattern {
    /// Parses a full pattern, `spiffe://<trust domain or *>/<segments>`.
    ///
    /// # Errors
    /// The first rule that `pattern` breaks.
    pub fn parse(pattern: &str) -> Result<Self, PatternError> {
        let rest = crate::spiffe_id::strip_scheme(pattern)?;
        let (name, path) = rest.split_once('/').map_or((rest, None), |(name, path)| (name, Some(path)));
        let trust_domain = match name {
            "*" => TrustDomainPattern::Any,
            name => TrustDomainPattern::Exact(TrustDomain::parse(name)?),
        };
        let path = path.ok_or(IdError::NoPath)?;
        if path.is_empty() || path.ends_with('/') {
            return Err(IdError::TrailingSlash.into());
        }
        let (path, tail) = match path.strip_suffix("**") {
            Some("") => ("", true),
            Some(rest) => (rest.strip_suffix('/').ok_or(PatternError::TailPlace)?, true),
            None => (path, false),
        };
        let segments = match path {
            "" if tail => Vec::new(),
            path => path.split('/').map(SegmentPattern::parse).collect::<Result<_, _>>()?,
        };
        Ok(Self { trust_domain, segments, tail })
    }

    /// Parses the short form `namespace/service-account` in `trust_domain`. Either part may be `*`
    /// or end in `*`. The own namespace (`./account`) is the caller's to put in.
    ///
    /// # Errors
    /// [`PatternError::ShortForm`] unless there are exactly two parts, otherwise the rule that a
    /// part breaks.
    pub fn short(trust_domain: &TrustDomain, short: &str) -> Result<Self, PatternError> {
        let (namespace, account) = short.split_once('/').ok_or(PatternError::ShortForm)?;
        if account.contains('/') {
            return Err(PatternError::ShortForm);
        }
        let segments = vec![
            SegmentPattern::Exact("ns".into()),
            SegmentPattern::parse(namespace)?,
            SegmentPattern::Exact("sa".into()),
            SegmentPattern::parse(account)?,
        ];
        Ok(Self { trust_domain: TrustDomainPattern::Exact(trust_domain.clone()), segments, tail: false })
    }

    /// Every workload of `trust_domain`.
    #[must_use]
    pub fn all_of(trust_domain: &TrustDomain) -> Self {
        Self {
            trust_domain: TrustDomainPattern::Exact(trust_domain.clone()),
            segments: Vec::new(),
            tail: true,
        }
    }

    /// Whether `id` is in the set.
    #[must_use]
    pub fn matches(&self, id: &SpiffeId) -> bool {
        if !self.trust_domain.matches(id.trust_domain()) {
            return false;
        }
        let mut segments = id.segments();
        for pattern in &self.segments {
            if !segments.next().is_some_and(|segment| pattern.matches(segment)) {
                return false;
            }
        }
        segments.next().is_some() == self.tail
    }

    /// The id, when the pattern has no wildcard and so names exactly one workload.
    #[must_use]
    pub fn exact(&self) -> Option<SpiffeId> {
        let TrustDomainPattern::Exact(trust_domain) = &self.trust_domain else { return None };
        if self.tail {
            return None;
        }
        let segments = self.segments.iter().map(|segment| match segment {
            SegmentPattern::Exact(text) => Some(&**text),
            _ => None,
        });
        SpiffeId::from_segments(trust_domain, segments.collect::<Option<Vec<_>>>()?).ok()
    }

    /// Which trust domains are admitted.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomainPattern {
        &self.trust_domain
    }

    /// The segments in front of a final `**`.
    #[must_use]
    pub fn segments(&self) -> &[SegmentPattern] {
        &self.segments
    }

    /// Whether the pattern ends in `**`: one or more further segments.
    #[must_use]
    pub fn has_tail(&self) -> bool {
        self.tail
    }
}

impl fmt::Display for PeerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.trust_domain {
            TrustDomainPattern::Exact(name) => write!(f, "spiffe://{name}")?,
            TrustDomainPattern::Any => f.write_str("spiffe://*")?,
        }
        for segment in &self.segments {
            write!(f, "/{segment}")?;
        }
        if self.tail { f.write_str("/**") } else { Ok(()) }
    }
}

impl FromStr for PeerPattern {
    type Err = PatternError;

    fn from_str(s: &str) -> Result<Self, PatternError> {
        Self::parse(s)
    }
}

// === impl TrustDomainPattern ===

impl TrustDomainPattern {
    /// Whether `trust_domain` is admitted.
    #[must_use]
    pub fn matches(&self, trust_domain: &TrustDomain) -> bool {
        match self {
            Self::Exact(name) => name == trust_domain,
            Self::Any => true,
        }
    }
}

// === impl SegmentPattern ===

impl SegmentPattern {
    fn parse(text: &str) -> Result<Self, PatternError> {
        match text.split_once('*') {
            None => {
                check_segment(text)?;
                Ok(Self::Exact(text.into()))
            }
            Some(("", "")) => Ok(Self::Any),
            Some(("", "*")) => Err(PatternError::TailPlace),
            Some((begin, "")) => {
                // `.*` and `..*` are beginnings of legal segments, so only the characters count.
                if let Err(IdError::PathCharacter(c)) = check_segment(begin) {
                    return Err(IdError::PathCharacter(c).into());
                }
                Ok(Self::Prefix(begin.into()))
            }
            Some(_) => Err(PatternError::StarPlace),
        }
    }

    /// Whether `segment` is admitted.
    #[must_use]
    pub fn matches(&self, segment: &str) -> bool {
        match self {
            Self::Exact(text) => **text == *segment,
            Self::Prefix(begin) => segment.starts_with(&**begin),
            Self::Any => true,
        }
    }
}

impl fmt::Display for SegmentPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(begin) => write!(f, "{begin}*"),
            Self::Any => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, id: &str) -> bool {
        PeerPattern::parse(pattern).unwrap().matches(&SpiffeId::parse(id).unwrap())
    }

    #[test]
    fn a_star_never_crosses_a_segment_boundary() {
        assert!(matches("spiffe://td/ns/pay/*", "spiffe://td/ns/pay/x"));
        assert!(!matches("spiffe://td/ns/pay/*", "spiffe://td/ns/pay-evil/x"));
        assert!(!matches("spiffe://td/ns/pay/*", "spiffe://td/ns/pay/x/y"));
        assert!(!matches("spiffe://td/ns/pay/*", "spiffe://td/ns/pay"));
        assert!(matches("spiffe://td/ns/mobile-*/sa/gateway", "spiffe://td/ns/mobile-7/sa/gateway"));
        assert!(!matches("spiffe://td/ns/mobile-*/sa/gateway", "spiffe://td/ns/mobile/sa/gateway"));
    }

    #[test]
    fn a_tail_is_one_or_more_segments() {
        assert!(matches("spiffe://td/ns/**", "spiffe://td/ns/a"));
        assert!(matches("spiffe://td/ns/**", "spiffe://td/ns/a/sa/b"));
        assert!(!matches("spiffe://td/ns/**", "spiffe://td/ns"));
        assert!(!matches("spiffe://td/ns/**", "spiffe://td/ns-evil/a"));
        assert!(matches("spiffe://td/**", "spiffe://td/x"));
        assert!(!matches("spiffe://td/**", "spiffe://other/x"));
        assert!(matches("spiffe://*/ns/m/sa/prometheus", "spiffe://other/ns/m/sa/prometheus"));
    }

    #[test]
    fn the_short_form_is_a_service_account_of_the_given_domain() {
        let td = TrustDomain::parse("td.test").unwrap();
        let pattern = PeerPattern::short(&td, "web/frontend").unwrap();
        assert_eq!(pattern.exact().unwrap().as_str(), "spiffe://td.test/ns/web/sa/frontend");
        assert!(PeerPattern::short(&td, "*/x").unwrap().exact().is_none());
        assert_eq!(PeerPattern::short(&td, "frontend"), Err(PatternError::ShortForm));
        assert_eq!(PeerPattern::short(&td, "a/b/c"), Err(PatternError::ShortForm));
        assert!(PeerPattern::short(&td, "../b").is_err());
    }

    #[test]
    fn misplaced_stars_are_refused() {
        assert_eq!(PeerPattern::parse("spiffe://td/a*b"), Err(PatternError::StarPlace));
        assert_eq!(PeerPattern::parse("spiffe://td/**/b"), Err(PatternError::TailPlace));
        assert_eq!(PeerPattern::parse("spiffe://td/a**"), Err(PatternError::TailPlace));
        assert_eq!(PeerPattern::parse("spiffe://td/*a"), Err(PatternError::StarPlace));
        assert!(PeerPattern::parse("spiffe://t*/a").is_err());
        assert!(PeerPattern::parse("spiffe://td").is_err());
    }

    #[test]
    fn a_pattern_prints_as_it_parses() {
        for text in ["spiffe://td/a/b", "spiffe://*/a/**", "spiffe://td/**", "spiffe://td/ns/*/sa/b-*"] {
            assert_eq!(PeerPattern::parse(text).unwrap().to_string(), text);
        }
    }
}
