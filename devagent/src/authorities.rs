//! The authorities of one trust domain and their staged rotation.
//!
//! A new authority is *prepared* first, so that every verifier has it in its bundle before the
//! first leaf of it appears; then it is *activated* and signs; the old one stays in the bundle
//! until its last leaf has expired, or until it is *retired* (SPIFFE Federation 4.1).

use std::time::{Duration, SystemTime};

use mantlet_id::{SpiffeId, TrustDomain};
use thiserror::Error;

use crate::authority::{Authority, CertificateError, Leaf};

/// State of an authority.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AuthorityState {
    /// In the bundle, signs nothing yet.
    Prepared,
    /// Signs.
    Active,
    /// In the bundle for the leaves it has signed.
    Old,
}

/// What is to be known about an authority.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuthorityInfo {
    /// Trust domain.
    pub trust_domain: TrustDomain,
    /// Short name, part of the certificate's subject.
    pub name: String,
    /// State.
    pub state: AuthorityState,
    /// End of its certificate.
    pub not_after: SystemTime,
}

/// Why an authority could not be prepared, activated or retired.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// This agent does not serve the trust domain.
    #[error("trust domain {0} is not served here")]
    UnknownTrustDomain(TrustDomain),
    /// One is prepared already.
    #[error("authority {0} is prepared already: activate it first")]
    AlreadyPrepared(String),
    /// None is prepared.
    #[error("no authority is prepared: prepare one first")]
    NonePrepared,
    /// There is no old one.
    #[error("no old authority is left to retire: prepare and activate a new one first")]
    NoneOld,
    /// Keys or certificates could not be made.
    #[error("cannot make an authority: {0}")]
    Certificate(String),
    /// The change is in effect, but could not be stored.
    #[error("done, but a restart will forget it, because the authorities cannot be stored: {0}")]
    Storage(String),
}

/// The authorities of one trust domain. There is always an active one.
pub(crate) struct Authorities {
    domain: TrustDomain,
    ttl: Duration,
    active: Authority,
    prepared: Option<Authority>,
    old: Vec<Authority>,
}

// === impl AuthorityState ===

impl AuthorityState {
    /// The word for it in files and on the control socket.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Old => "old",
        }
    }
}

// === impl Authorities ===

impl Authorities {
    pub(crate) fn generate(
        domain: &TrustDomain,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Self, CertificateError> {
        let active = Authority::generate(domain, ttl, now)?;
        Ok(Self { domain: domain.clone(), ttl, active, prepared: None, old: Vec::new() })
    }

    /// Takes up stored authorities; `None` when there is no active one among them.
    pub(crate) fn from_stored(
        domain: &TrustDomain,
        ttl: Duration,
        stored: Vec<(AuthorityState, Authority)>,
    ) -> Option<Self> {
        let (mut active, mut prepared, mut old) = (None, None, Vec::new());
        for (state, authority) in stored {
            match state {
                AuthorityState::Active => active = Some(authority),
                AuthorityState::Prepared => prepared = Some(authority),
                AuthorityState::Old => old.push(authority),
            }
        }
        active.map(|active| Self { domain: domain.clone(), ttl, active, prepared, old })
    }

    /// Every authority with its state, the active one first.
    pub(crate) fn all(&self) -> impl Iterator<Item = (AuthorityState, &Authority)> {
        std::iter::once((AuthorityState::Active, &self.active))
            .chain(self.prepared.iter().map(|authority| (AuthorityState::Prepared, authority)))
            .chain(self.old.iter().map(|authority| (AuthorityState::Old, authority)))
    }

    /// The bundle: concatenated DER certificates (Workload API 5.1).
    pub(crate) fn bundle(&self) -> Vec<u8> {
        self.all().flat_map(|(_, authority)| authority.certificate().iter().copied()).collect()
    }

    pub(crate) fn info(&self) -> Vec<AuthorityInfo> {
        self.all()
            .map(|(state, authority)| AuthorityInfo {
                trust_domain: self.domain.clone(),
                name: authority.name().to_owned(),
                state,
                not_after: authority.not_after(),
            })
            .collect()
    }

    /// Signs a leaf with the active authority.
    pub(crate) fn issue(
        &mut self,
        id: &SpiffeId,
        dns: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Leaf, CertificateError> {
        self.active.issue(id, dns, ttl, now)
    }

    /// Puts a new authority into the bundle.
    pub(crate) fn prepare(&mut self, now: SystemTime) -> Result<(), AuthorityError> {
        if let Some(prepared) = &self.prepared {
            return Err(AuthorityError::AlreadyPrepared(prepared.name().to_owned()));
        }
        let authority = Authority::generate(&self.domain, self.ttl, now)
            .map_err(|error| AuthorityError::Certificate(error.to_string()))?;
        self.prepared = Some(authority);
        Ok(())
    }

    /// Lets the prepared authority sign from now on.
    pub(crate) fn activate(&mut self) -> Result<(), AuthorityError> {
        let prepared = self.prepared.take().ok_or(AuthorityError::NonePrepared)?;
        self.old.push(std::mem::replace(&mut self.active, prepared));
        Ok(())
    }

    /// Takes every old authority out of the bundle, whatever it has signed.
    pub(crate) fn retire(&mut self) -> Result<(), AuthorityError> {
        if self.old.is_empty() {
            return Err(AuthorityError::NoneOld);
        }
        self.old.clear();
        Ok(())
    }

    /// Does what is due by age: prepare at half life, activate when a sixth is left, drop an old
    /// one when its last leaf has expired. Says whether anything changed and whether leaves must
    /// be signed anew.
    pub(crate) fn maintain(&mut self, now: SystemTime) -> Result<Due, AuthorityError> {
        let mut due = Due::default();
        let over = self.active.sixths_over(now);
        if over >= 3 && self.prepared.is_none() {
            self.prepare(now)?;
            due.changed = true;
        }
        if over >= 5 {
            self.activate()?;
            due = Due { changed: true, activated: true };
        }
        let before = self.old.len();
        self.old.retain(|authority| authority.last_leaf() >= now);
        due.changed |= self.old.len() != before;
        Ok(due)
    }
}

/// What [`Authorities::maintain`] did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Due {
    pub(crate) changed: bool,
    pub(crate) activated: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn authorities(now: SystemTime) -> Authorities {
        Authorities::generate(&TrustDomain::parse("a.test").unwrap(), 6 * DAY, now).unwrap()
    }

    fn states(authorities: &Authorities) -> Vec<&'static str> {
        authorities.info().iter().map(|info| info.state.as_str()).collect()
    }

    #[test]
    fn rotation_goes_through_prepare_activate_and_retire_in_this_order() {
        let now = SystemTime::now();
        let mut set = authorities(now);
        let first = set.info()[0].name.clone();
        assert!(matches!(set.activate(), Err(AuthorityError::NonePrepared)));
        assert!(matches!(set.retire(), Err(AuthorityError::NoneOld)));
        set.prepare(now).unwrap();
        assert_eq!(states(&set), ["active", "prepared"]);
        assert!(matches!(set.prepare(now), Err(AuthorityError::AlreadyPrepared(_))));
        set.activate().unwrap();
        assert_eq!(states(&set), ["active", "old"]);
        assert_ne!(set.info()[0].name, first);
        assert_eq!(set.info()[1].name, first);
        set.retire().unwrap();
        assert_eq!(states(&set), ["active"]);
    }

    #[test]
    fn the_bundle_holds_every_authority_that_a_peer_may_still_show() {
        let now = SystemTime::now();
        let mut set = authorities(now);
        let one = set.bundle().len();
        set.prepare(now).unwrap();
        assert!(set.bundle().len() > one);
        set.activate().unwrap();
        assert!(set.bundle().len() > one);
    }

    #[test]
    fn an_authority_is_renewed_by_age_without_a_gap() {
        let now = SystemTime::now();
        let mut set = authorities(now);
        assert_eq!(set.maintain(now + 2 * DAY).unwrap(), Due::default());
        assert_eq!(set.maintain(now + 3 * DAY).unwrap(), Due { changed: true, activated: false });
        assert_eq!(states(&set), ["active", "prepared"]);
        let id = SpiffeId::parse("spiffe://a.test/x").unwrap();
        let late = now + 5 * DAY;
        let leaf = set.issue(&id, &[], Duration::from_secs(600), late).unwrap();
        assert_eq!(set.maintain(late).unwrap(), Due { changed: true, activated: true });
        assert_eq!(states(&set), ["active", "old"]);
        assert_eq!(set.maintain(leaf.not_after).unwrap(), Due::default());
        let after = leaf.not_after + Duration::from_secs(1);
        assert_eq!(set.maintain(after).unwrap(), Due { changed: true, activated: false });
        assert_eq!(states(&set), ["active"]);
    }

    #[test]
    fn an_authority_that_expired_while_the_machine_slept_is_replaced_at_once() {
        let now = SystemTime::now();
        let mut set = authorities(now);
        let due = set.maintain(now + 30 * DAY).unwrap();
        assert!(due.activated);
        assert!(set.info()[0].not_after > now + 30 * DAY);
    }
}
