//! What the replicas share: the content of one Secret, and what is to be done with it next.
//!
//! An authority is published before it signs anything, and stays published until the last certificate that it has
//! signed is over. So whichever replica answers, and whichever version of the webhook configuration the API server
//! works with, it finds the authority of the certificate that it is shown.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use k8s_openapi::ByteString;

use super::authority::{Certificate, CertificateError, Pair};
use crate::metrics::Rotation;

/// Keys of the Secret.
const AUTHORITY: [&str; 2] = ["authority.crt", "authority.key"];
const NEXT: [&str; 2] = ["next-authority.crt", "next-authority.key"];
const SERVING: [&str; 2] = ["tls.crt", "tls.key"];
const PREVIOUS: &str = "previous-authority.crt";
const PREVIOUS_UNTIL: &str = "previous-authority-until";

/// How long things live.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// Names and addresses that the API server may call.
    pub(crate) names: Vec<String>,
    /// Life of an authority.
    pub(crate) authority: Duration,
    /// Life of a serving certificate.
    pub(crate) serving: Duration,
    /// How long an authority is published before it signs.
    pub(crate) settle: Duration,
}

/// What the Secret holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct State {
    /// Signs serving certificates.
    pub(super) authority: Pair,
    /// Will sign them once everybody trusts it.
    pub(super) next: Option<Pair>,
    /// Has signed some that may still be shown, until this moment.
    pub(super) previous: Option<(Certificate, SystemTime)>,
    /// What is shown.
    pub(super) serving: Pair,
}

// === impl State ===

impl State {
    /// From nothing.
    pub(super) fn new(terms: &Terms, now: SystemTime) -> Result<Self, CertificateError> {
        let authority = Pair::authority(terms.authority, now)?;
        let serving = authority.serving(&terms.names, terms.serving, now)?;
        Ok(Self { authority, next: None, previous: None, serving })
    }

    /// From the Secret.
    ///
    /// # Errors
    /// A part is missing or cannot be used, or has expired.
    pub(super) fn read(
        data: &BTreeMap<String, ByteString>,
        now: SystemTime,
    ) -> Result<Self, CertificateError> {
        let text = |key: &str| data.get(key).and_then(|value| std::str::from_utf8(&value.0).ok());
        let needed =
            |key: &str| text(key).ok_or_else(|| CertificateError::Unreadable(format!("{key} is missing")));
        let pair = |[certificate, key]: [&str; 2]| Pair::read(needed(certificate)?, needed(key)?);
        let authority = pair(AUTHORITY)?;
        if authority.certificate.is_over(now) {
            return Err(CertificateError::Unreadable("the authority has expired".to_owned()));
        }
        let next = text(NEXT[0]).map(|_| pair(NEXT)).transpose()?;
        let previous = match (text(PREVIOUS), text(PREVIOUS_UNTIL)) {
            (Some(certificate), Some(until)) => {
                let until =
                    until.parse().map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
                let until = until.map_err(|_| CertificateError::Unreadable(PREVIOUS_UNTIL.to_owned()))?;
                Some((Certificate::read(certificate)?, until))
            }
            _ => None,
        };
        Ok(Self { authority, next, previous, serving: pair(SERVING)? })
    }

    /// For the Secret.
    pub(super) fn data(&self) -> BTreeMap<String, ByteString> {
        let mut data = BTreeMap::new();
        let mut set = |key: &str, value: &str| data.insert(key.to_owned(), ByteString(value.into()));
        let pairs =
            [(AUTHORITY, Some(&self.authority)), (NEXT, self.next.as_ref()), (SERVING, Some(&self.serving))];
        for ([certificate, key], pair) in pairs {
            if let Some(pair) = pair {
                set(certificate, &pair.certificate.pem);
                set(key, pair.key_pem());
            }
        }
        if let Some((certificate, until)) = &self.previous {
            set(PREVIOUS, &certificate.pem);
            set(PREVIOUS_UNTIL, &seconds(*until).to_string());
        }
        data
    }

    /// What the API server is to trust.
    pub(super) fn bundle(&self) -> String {
        let next = self.next.as_ref().map(|next| &next.certificate);
        let all =
            [Some(&self.authority.certificate), next, self.previous.as_ref().map(|(previous, _)| previous)];
        all.into_iter().flatten().map(|certificate| certificate.pem.as_str()).collect()
    }

    /// The state after the next step, if one is due. `next_is_settled`: the next authority has been in every webhook
    /// configuration for long enough.
    pub(super) fn due(
        &self,
        terms: &Terms,
        next_is_settled: bool,
        now: SystemTime,
    ) -> Result<Option<(Self, Rotation)>, CertificateError> {
        let Self { authority, next, previous, serving } = self;
        if let Some(next) = next.as_ref().filter(|_| next_is_settled) {
            let until = now + terms.serving.max(life(&serving.certificate));
            let state = Self {
                authority: next.clone(),
                next: None,
                previous: Some((authority.certificate.clone(), until.min(authority.certificate.not_after))),
                serving: next.serving(&terms.names, terms.serving, now)?,
            };
            return Ok(Some((state, Rotation::Promoted)));
        }
        let certificate = &serving.certificate;
        // One that ends with its authority cannot be had any longer: the next authority is on its way then.
        let can_last = certificate.not_after < authority.certificate.not_after || certificate.is_over(now);
        if !certificate.is_of(&authority.certificate)
            || !certificate.is_for(&terms.names)
            || (certificate.is_due(now) && can_last)
        {
            let serving = authority.serving(&terms.names, terms.serving, now)?;
            return Ok(Some((Self { serving, ..self.clone() }, Rotation::Renewed)));
        }
        if next.is_none() && authority.certificate.is_due(now) {
            let next = Some(Pair::authority(terms.authority, now)?);
            return Ok(Some((Self { next, ..self.clone() }, Rotation::Prepared)));
        }
        if previous.as_ref().is_some_and(|(_, until)| *until <= now) {
            return Ok(Some((Self { previous: None, ..self.clone() }, Rotation::Retired)));
        }
        Ok(None)
    }
}

fn life(certificate: &Certificate) -> Duration {
    certificate.not_after.duration_since(certificate.issued).unwrap_or_default()
}

/// Seconds since the epoch.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn terms() -> Terms {
        Terms {
            names: vec!["mantlet-injector.mantlet.svc".to_owned()],
            authority: HOUR * 24 * 365,
            serving: HOUR * 24,
            settle: HOUR / 60,
        }
    }

    #[test]
    fn a_state_is_read_as_it_was_written_with_all_its_parts() {
        let (terms, now) = (terms(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let mut state = State::new(&terms, now).unwrap();
        assert_eq!(State::read(&state.data(), now).unwrap(), state);
        state.next = Some(Pair::authority(terms.authority, now).unwrap());
        state.previous = Some((Pair::authority(HOUR, now).unwrap().certificate, now + HOUR));
        assert_eq!(State::read(&state.data(), now).unwrap(), state);
        assert_eq!(state.bundle().matches("BEGIN CERTIFICATE").count(), 3);
        assert!(!state.bundle().contains("PRIVATE"));
    }

    #[test]
    fn what_is_damaged_is_not_used() {
        let (terms, now) = (terms(), SystemTime::now());
        let data = State::new(&terms, now).unwrap().data();
        let other = State::new(&terms, now).unwrap().data();
        for key in AUTHORITY.iter().chain(&SERVING) {
            let mut broken = data.clone();
            broken.remove(*key);
            assert!(State::read(&broken, now).is_err(), "{key}");
            broken.insert((*key).to_owned(), ByteString(b"\xff".to_vec()));
            assert!(State::read(&broken, now).is_err(), "{key}");
            broken.insert((*key).to_owned(), other[*key].clone());
            assert!(State::read(&broken, now).is_err(), "{key} of another pair");
        }
        assert!(State::read(&data, now + terms.authority).is_err(), "expired");
        assert!(State::read(&BTreeMap::new(), now).is_err());
    }

    /// Plays two years in steps of an hour, with replicas that show what they read an hour ago.
    #[test]
    fn whatever_is_shown_is_signed_by_what_was_published_long_before() {
        let terms = terms();
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let mut state = State::new(&terms, start).unwrap();
        let (mut shown_before, mut published_before) = (state.serving.clone(), state.bundle());
        let mut steps = BTreeMap::<&str, usize>::new();
        for hour in 0..24 * 730 {
            let now = start + HOUR * hour;
            let settled =
                state.next.as_ref().is_some_and(|next| published_before.contains(&next.certificate.pem));
            let bundle = state.bundle();
            while let Some((next, step)) = state.due(&terms, settled && state.next.is_some(), now).unwrap() {
                state = next;
                *steps.entry(step.as_str()).or_default() += 1;
            }
            for shown in [&shown_before, &state.serving] {
                assert!(!shown.certificate.is_over(now), "hour {hour}");
                for trusted in [&published_before, &bundle, &state.bundle()] {
                    let of = |pem: &str| {
                        let pem = format!("{pem}-----END CERTIFICATE-----\n");
                        Certificate::read(&pem).is_ok_and(|authority| shown.certificate.is_of(&authority))
                    };
                    assert!(trusted.split("-----END CERTIFICATE-----\n").any(of), "hour {hour}");
                }
            }
            (shown_before, published_before) = (state.serving.clone(), state.bundle());
        }
        assert_eq!((steps["prepared"], steps["promoted"], steps["retired"]), (2, 2, 2), "{steps:?}");
        assert!((1000..1200).contains(&steps["renewed"]), "{steps:?}");
    }
}
