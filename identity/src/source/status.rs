//! How it stands with our identity: what a person, a probe and a metric want to know.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::Credentials;
use crate::workload_api::ApiError;

/// Where an identity stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdentityState {
    /// None yet since the start.
    Waiting,
    /// Usable. The stream may be down: the last good state serves until it expires.
    Ready,
    /// The agent said that we have none any more (WA 5.2.1).
    Withdrawn,
    /// The last one is past its notAfter and no other came.
    Expired,
}

/// What went wrong with the Workload API: the label of `mantlet_identity_errors_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdentityErrorKind {
    /// Nobody answers at the address.
    Unreachable,
    /// `PermissionDenied`.
    NoIdentity,
    /// `InvalidArgument` or `Unimplemented`.
    Refused,
    /// Any other status.
    Unavailable,
    /// The stream ended without a status.
    StreamEnded,
    /// A whole message was not taken.
    Update,
    /// One SVID of a message was left out.
    Svid,
    /// One bundle of a message, or one authority of a bundle, was left out.
    Bundle,
    /// One key of the bundle map is not the id of a trust domain.
    BundleKey,
    /// A revocation list came along; none is looked at.
    RevocationList,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdentityCounts {
    /// Updates that changed something.
    pub updated: u64,
    /// Updates that said what was known.
    pub unchanged: u64,
    /// Updates that were not taken.
    pub rejected: u64,
    errors: [u64; IdentityErrorKind::ALL.len()],
}

/// One look at the supervisor. Cheap to clone.
#[derive(Clone, Debug)]
pub struct IdentityStatus {
    pub(super) state: IdentityState,
    pub(super) cause: Option<Arc<str>>,
    pub(super) next_step: Option<Arc<str>>,
    pub(super) attempt: u32,
    pub(super) since: SystemTime,
    pub(super) last_refresh: Option<SystemTime>,
    pub(super) stream_connected: bool,
    pub(super) grace_until: Option<SystemTime>,
    pub(super) counts: IdentityCounts,
}

// === impl IdentityState ===

impl IdentityState {
    /// One word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Ready => "ready",
            Self::Withdrawn => "withdrawn",
            Self::Expired => "expired",
        }
    }
}

// === impl IdentityErrorKind ===

impl IdentityErrorKind {
    /// Every kind, in the order of declaration.
    pub const ALL: [Self; 10] = [
        Self::Unreachable,
        Self::NoIdentity,
        Self::Refused,
        Self::Unavailable,
        Self::StreamEnded,
        Self::Update,
        Self::Svid,
        Self::Bundle,
        Self::BundleKey,
        Self::RevocationList,
    ];

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::NoIdentity => "no_identity",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::StreamEnded => "stream_ended",
            Self::Update => "update",
            Self::Svid => "svid",
            Self::Bundle => "bundle",
            Self::BundleKey => "bundle_key",
            Self::RevocationList => "revocation_list",
        }
    }

    pub(super) fn of(error: &ApiError) -> Self {
        match error {
            ApiError::Unreachable { .. } => Self::Unreachable,
            ApiError::PermissionDenied(_) => Self::NoIdentity,
            ApiError::InvalidArgument(_) | ApiError::Unimplemented(_) => Self::Refused,
            ApiError::Unavailable(_) => Self::Unavailable,
            ApiError::TooLarge(_) => Self::Update,
        }
    }
}

// === impl IdentityCounts ===

impl IdentityCounts {
    /// How often this has happened.
    #[must_use]
    pub fn errors(&self, kind: IdentityErrorKind) -> u64 {
        self.errors.get(kind as usize).copied().unwrap_or_default()
    }

    pub(super) fn count(&mut self, kind: IdentityErrorKind, times: usize) {
        if let Some(count) = self.errors.get_mut(kind as usize) {
            *count = count.saturating_add(times as u64);
        }
    }
}

// === impl IdentityStatus ===

impl IdentityStatus {
    pub(super) fn starting(now: SystemTime) -> Self {
        Self {
            state: IdentityState::Waiting,
            cause: None,
            next_step: None,
            attempt: 0,
            since: now,
            last_refresh: None,
            stream_connected: false,
            grace_until: None,
            counts: IdentityCounts::default(),
        }
    }

    /// The same once these credentials are past their notAfter.
    pub(super) fn expired(&self, credentials: &Credentials) -> Self {
        let cause = no_new_one(credentials, self.cause.as_deref());
        let state = IdentityState::Expired;
        Self { state, cause: Some(cause), since: credentials.not_after(), ..self.clone() }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> IdentityState {
        self.state
    }

    /// Whether there is an identity to present.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.state == IdentityState::Ready
    }

    /// What is wrong, if anything is: also while the last good identity still serves.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// What to do about it.
    #[must_use]
    pub fn next_step(&self) -> Option<&str> {
        self.next_step.as_deref()
    }

    /// How many calls have failed in a row.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Since when [`cause`](Self::cause) stands, or the state if nothing is wrong.
    #[must_use]
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// When the agent last said something that was taken.
    #[must_use]
    pub fn last_refresh(&self) -> Option<SystemTime> {
        self.last_refresh
    }

    /// Whether the stream is open.
    #[must_use]
    pub fn stream_connected(&self) -> bool {
        self.stream_connected
    }

    /// When an identity that the agent denies after a reconnect will be given up.
    #[must_use]
    pub fn grace_until(&self) -> Option<SystemTime> {
        self.grace_until
    }

    /// Counters for metrics.
    #[must_use]
    pub fn counts(&self) -> &IdentityCounts {
        &self.counts
    }

    /// How long there has been no identity to present; nothing while there is one.
    #[must_use]
    pub fn without(&self, now: SystemTime) -> Duration {
        match self.is_usable() {
            true => Duration::ZERO,
            false => now.duration_since(self.since).unwrap_or_default(),
        }
    }

    /// What is wrong, how often it was tried and for how long.
    #[must_use]
    pub fn cause_now(&self, now: SystemTime) -> Option<String> {
        self.cause.as_deref().map(|cause| self.told(cause, now))
    }

    fn told(&self, cause: &str, now: SystemTime) -> String {
        if self.attempt == 0 {
            return cause.to_owned();
        }
        let elapsed = now.duration_since(self.since).unwrap_or_default();
        format!("{cause} (attempt {}, {})", self.attempt, seconds(elapsed))
    }

    /// One line for readiness and log: cause, how often and how long, and the next step.
    #[must_use]
    pub fn text(&self, now: SystemTime) -> String {
        let Some(cause) = &self.cause else {
            return match self.state {
                IdentityState::Waiting => "waiting for the agent's first answer".to_owned(),
                state => state.as_str().to_owned(),
            };
        };
        let mut text = self.told(cause, now);
        if let Some(next_step) = &self.next_step {
            text.push_str("; ");
            text.push_str(next_step);
        }
        text
    }
}

fn seconds(elapsed: Duration) -> String {
    format!("{:.1} s", elapsed.as_secs_f64())
}

/// Why there is no identity once these credentials are past their notAfter; `known` is what the agent has to do with it.
pub(super) fn no_new_one(credentials: &Credentials, known: Option<&str>) -> Arc<str> {
    let text = format!("the SVID {} has expired and the agent sent no new one", credentials.serial());
    match known {
        Some(known) => format!("{text}: {known}").into(),
        None => text.into(),
    }
}
