//! What a development agent is told at start.

use std::path::PathBuf;
use std::time::Duration;

use mantlet_id::TrustDomain;
use thiserror::Error;

use crate::entry::Entry;

/// Default lifetime of an SVID, SPIRE's own default.
const SVID_TTL: Duration = Duration::from_secs(3_600);
/// Default lifetime of an authority.
const CA_TTL: Duration = Duration::from_secs(30 * 86_400);
/// Shortest and longest lifetime of an SVID: renewal at half life needs a second to stand on, and
/// a development identity that outlives the day is one that somebody forgot.
const SVID_TTL_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(86_400));

/// Configuration of a [`Server`](crate::Server).
#[derive(Clone, Debug)]
pub struct Config {
    /// Path of the Workload API socket; an old socket there is replaced.
    pub socket: PathBuf,
    /// Trust domains to serve; the first is the default one. Each has an authority of its own.
    pub trust_domains: Vec<TrustDomain>,
    /// Lifetime of SVIDs whose entry names none.
    pub svid_ttl: Duration,
    /// Lifetime of an authority; renewal begins at half of it.
    pub ca_ttl: Duration,
    /// Where authorities live.
    pub ca: CaStorage,
    /// TOML file with entries, read again when it changes.
    pub entries_file: Option<PathBuf>,
    /// Entries given by the program.
    pub entries: Vec<Entry>,
    /// Path of the control socket, if one is wanted.
    pub control: Option<PathBuf>,
}

/// Where the keys of the authorities live.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CaStorage {
    /// In memory: every start makes new authorities.
    Memory,
    /// In a directory (mode 0700, files 0600): a restart keeps the authorities, so peers that are
    /// still running go on trusting each other.
    Directory(PathBuf),
}

/// Why a configuration cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No trust domain was given.
    #[error("no trust domain: give at least one, for example demo.local")]
    NoTrustDomain,
    /// The same trust domain was given twice.
    #[error("trust domain {0} is given twice")]
    DuplicateTrustDomain(TrustDomain),
    /// The trust domain could belong to a production system.
    #[error(
        "trust domain {0} is not one for development: use demo.local, or a name that ends in .test or .localhost"
    )]
    NotDevelopment(TrustDomain),
    /// The SVID lifetime is out of range.
    #[error("an SVID lifetime of {0:?} is out of range: use 1s to 24h")]
    SvidTtl(Duration),
    /// The authority would not outlive its SVIDs.
    #[error("the authority's lifetime of {ca:?} must be at least twice the SVID lifetime of {svid:?}")]
    CaTtl {
        /// Lifetime of the authority.
        ca: Duration,
        /// Longest lifetime of an SVID.
        svid: Duration,
    },
}

// === impl Config ===

impl Config {
    /// A configuration with SVIDs that live one hour and an authority in memory.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>, trust_domain: TrustDomain) -> Self {
        Self {
            socket: socket.into(),
            trust_domains: vec![trust_domain],
            svid_ttl: SVID_TTL,
            ca_ttl: CA_TTL,
            ca: CaStorage::Memory,
            entries_file: None,
            entries: Vec::new(),
            control: None,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.trust_domains.is_empty() {
            return Err(ConfigError::NoTrustDomain);
        }
        for (index, domain) in self.trust_domains.iter().enumerate() {
            if !is_development(domain) {
                return Err(ConfigError::NotDevelopment(domain.clone()));
            }
            if self.trust_domains.iter().take(index).any(|other| other == domain) {
                return Err(ConfigError::DuplicateTrustDomain(domain.clone()));
            }
        }
        check_svid_ttl(self.svid_ttl)?;
        if self.ca_ttl < self.svid_ttl.saturating_mul(2) {
            return Err(ConfigError::CaTtl { ca: self.ca_ttl, svid: self.svid_ttl });
        }
        Ok(())
    }
}

/// Checks the lifetime of an SVID.
pub(crate) fn check_svid_ttl(ttl: Duration) -> Result<(), ConfigError> {
    let (shortest, longest) = SVID_TTL_RANGE;
    if ttl < shortest || ttl > longest { Err(ConfigError::SvidTtl(ttl)) } else { Ok(()) }
}

/// `.local` as a whole would admit `cluster.local`, the trust domain of many a real cluster.
fn is_development(domain: &TrustDomain) -> bool {
    let name = domain.as_str();
    name == "demo.local" || name.ends_with(".test") || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(domains: &[&str]) -> Config {
        let mut config = Config::new("/tmp/x.sock", TrustDomain::parse("demo.local").unwrap());
        config.trust_domains = domains.iter().map(|d| TrustDomain::parse(d).unwrap()).collect();
        config
    }

    #[test]
    fn only_development_trust_domains_are_served() {
        for good in ["demo.local", "a.test", "b.c.test", "mesh.localhost"] {
            assert_eq!(config(&[good]).validate(), Ok(()), "{good}");
        }
        for bad in ["cluster.local", "prod", "example.org", "test", "mytest", "localhost", "x.demo.local"] {
            let error = config(&[bad]).validate().unwrap_err();
            assert!(matches!(error, ConfigError::NotDevelopment(_)), "{bad}");
            assert!(error.to_string().contains("demo.local"), "{error}");
        }
    }

    #[test]
    fn a_trust_domain_cannot_be_missing_or_given_twice() {
        assert_eq!(config(&[]).validate(), Err(ConfigError::NoTrustDomain));
        assert!(matches!(
            config(&["a.test", "a.test"]).validate(),
            Err(ConfigError::DuplicateTrustDomain(_))
        ));
    }

    #[test]
    fn lifetimes_that_cannot_work_are_refused() {
        let mut short = config(&["a.test"]);
        short.svid_ttl = Duration::ZERO;
        assert!(matches!(short.validate(), Err(ConfigError::SvidTtl(_))));
        let mut long = config(&["a.test"]);
        long.svid_ttl = Duration::from_secs(90_000);
        assert!(matches!(long.validate(), Err(ConfigError::SvidTtl(_))));
        let mut authority = config(&["a.test"]);
        authority.ca_ttl = authority.svid_ttl;
        assert!(matches!(authority.validate(), Err(ConfigError::CaTtl { .. })));
    }
}
