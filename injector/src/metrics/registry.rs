//! The counters. Every series is known beforehand and there from the start: a counter that is born at 1 shows no
//! increase for its first event, and nothing that somebody sends can make a series.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    ADMISSION_DURATION, ADMISSIONS, AUTHORITY_NOT_AFTER, BAD_REQUESTS, BUILD_INFO, CERT_NOT_AFTER,
    CERT_NOT_BEFORE, CONNECTIONS, DRY_RUNS, EVENTS, Family, HANDSHAKES, KUBERNETES_ERRORS, LINES_DROPPED,
    READY, REFUSED, ROTATIONS,
    directory::DirectoryMetrics,
    exposition::Text,
    process,
    words::{Admission, BadRequest, Call, EventResult, Handshake, Refused, Rotation, Webhook},
};

/// Upper bounds in seconds. The API server gives us 5 s.
const BOUNDS: [f64; 11] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Every counter.
#[derive(Debug)]
pub(crate) struct Metrics {
    admissions: [Vec<(Admission, AtomicU64)>; 2],
    durations: [Histogram; 2],
    dry_runs: [[AtomicU64; RESULTS.len()]; 2],
    bad_requests: Counters<{ BadRequest::ALL.len() }>,
    handshakes: Counters<{ Handshake::ALL.len() }>,
    refused: Counters<{ Refused::ALL.len() }>,
    rotations: Counters<{ Rotation::ALL.len() }>,
    kubernetes_errors: Counters<{ Call::ALL.len() }>,
    events: Counters<{ EventResult::ALL.len() }>,
    connections: AtomicI64,
    cert_not_before: AtomicU64,
    cert_not_after: AtomicU64,
    authority_not_after: AtomicU64,
    ready: AtomicBool,
    lines_dropped: AtomicU64,
    /// The directory's, which live as long as these.
    pub(crate) directory: Arc<DirectoryMetrics>,
}

const RESULTS: [&str; 5] = ["injected", "skipped", "denied", "allowed", "error"];

type Counters<const N: usize> = [AtomicU64; N];

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        let series =
            |webhook| Admission::all(webhook).into_iter().map(|of| (of, AtomicU64::default())).collect();
        Self {
            admissions: [series(Webhook::Mutate), series(Webhook::Validate)],
            durations: Default::default(),
            dry_runs: Default::default(),
            bad_requests: Default::default(),
            handshakes: Default::default(),
            refused: Default::default(),
            rotations: Default::default(),
            kubernetes_errors: Default::default(),
            events: Default::default(),
            connections: AtomicI64::default(),
            cert_not_before: AtomicU64::default(),
            cert_not_after: AtomicU64::default(),
            authority_not_after: AtomicU64::default(),
            ready: AtomicBool::default(),
            lines_dropped: AtomicU64::default(),
            directory: Arc::default(),
        }
    }
}

impl Metrics {
    /// Counts an answer.
    pub(crate) fn admission(&self, webhook: Webhook, admission: Admission, dry_run: bool, took: Duration) {
        let at = webhook as usize;
        if let Some(histogram) = self.durations.get(at) {
            histogram.observe(took);
        }
        if dry_run {
            let result = RESULTS.iter().position(|result| *result == admission.result());
            bump(self.dry_runs.get(at).zip(result).and_then(|(results, at)| results.get(at)));
            return;
        }
        let series = self.admissions.get(at).into_iter().flatten();
        bump(series.into_iter().find(|(of, _)| *of == admission).map(|(_, counter)| counter));
    }

    pub(crate) fn bad_request(&self, reason: BadRequest) {
        bump(self.bad_requests.get(reason as usize));
    }

    pub(crate) fn handshake(&self, result: Handshake) {
        bump(self.handshakes.get(result as usize));
    }

    pub(crate) fn refused(&self, limit: Refused) {
        bump(self.refused.get(limit as usize));
    }

    pub(crate) fn rotation(&self, step: Rotation) {
        bump(self.rotations.get(step as usize));
    }

    pub(crate) fn kubernetes_error(&self, call: Call) {
        bump(self.kubernetes_errors.get(call as usize));
    }

    pub(crate) fn event(&self, result: EventResult) {
        bump(self.events.get(result as usize));
    }

    pub(crate) fn connections(&self, change: i64) {
        self.connections.fetch_add(change, Ordering::Relaxed);
    }

    pub(crate) fn line_dropped(&self) {
        self.lines_dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// When the serving certificate was issued, and when it and its authority expire, in seconds since the epoch.
    pub(crate) fn certificates(&self, cert: (u64, u64), authority_not_after: u64) {
        let (cert_not_before, cert_not_after) = cert;
        self.cert_not_before.store(cert_not_before, Ordering::Relaxed);
        self.cert_not_after.store(cert_not_after, Ordering::Relaxed);
        self.authority_not_after.store(authority_not_after, Ordering::Relaxed);
    }

    pub(crate) fn ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// A scrape.
    pub(crate) fn encode(&self) -> String {
        let mut text = Text::default();
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        text.family(&ADMISSIONS);
        for (webhook, series) in Webhook::ALL.iter().zip(&self.admissions) {
            for (admission, counter) in series {
                let labels = [webhook.as_str(), admission.result(), admission.reason()];
                text.series(&ADMISSIONS, &labels, of(counter));
            }
        }
        text.family(&ADMISSION_DURATION);
        for (webhook, histogram) in Webhook::ALL.iter().zip(&self.durations) {
            histogram.write(&mut text, webhook.as_str());
        }
        text.family(&DRY_RUNS);
        for (webhook, results) in Webhook::ALL.iter().zip(&self.dry_runs) {
            for (result, counter) in RESULTS.iter().zip(results) {
                text.series(&DRY_RUNS, &[webhook.as_str(), result], of(counter));
            }
        }
        let mut all =
            |family: &Family, words: &mut dyn Iterator<Item = &'static str>, counters: &[AtomicU64]| {
                text.family(family);
                for (word, counter) in words.zip(counters) {
                    text.series(family, &[word], of(counter));
                }
            };
        all(&BAD_REQUESTS, &mut BadRequest::ALL.iter().map(|of| of.as_str()), &self.bad_requests);
        all(&HANDSHAKES, &mut Handshake::ALL.iter().map(|of| of.as_str()), &self.handshakes);
        all(&REFUSED, &mut Refused::ALL.iter().map(|of| of.as_str()), &self.refused);
        all(&ROTATIONS, &mut Rotation::ALL.iter().map(|of| of.as_str()), &self.rotations);
        all(&KUBERNETES_ERRORS, &mut Call::ALL.iter().map(|of| of.as_str()), &self.kubernetes_errors);
        all(&EVENTS, &mut EventResult::ALL.iter().map(|of| of.as_str()), &self.events);
        text.single(&CONNECTIONS, self.connections.load(Ordering::Relaxed) as f64);
        text.single(&CERT_NOT_BEFORE, of(&self.cert_not_before));
        text.single(&CERT_NOT_AFTER, of(&self.cert_not_after));
        text.single(&AUTHORITY_NOT_AFTER, of(&self.authority_not_after));
        text.single(&READY, f64::from(u8::from(self.ready.load(Ordering::Relaxed))));
        text.single(&LINES_DROPPED, of(&self.lines_dropped));
        self.directory.write(&mut text);
        text.family(&BUILD_INFO);
        text.series(&BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
        process::write(&mut text);
        text.finish()
    }
}

pub(super) fn bump(counter: Option<&AtomicU64>) {
    if let Some(counter) = counter {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

// === impl Histogram ===

impl Histogram {
    fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        bump(self.buckets.get(BOUNDS.partition_point(|bound| *bound < seconds)));
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    fn write(&self, text: &mut Text, webhook: &str) {
        let mut count = 0;
        let mut below = Vec::with_capacity(BOUNDS.len());
        for (at, bucket) in self.buckets.iter().enumerate() {
            count += bucket.load(Ordering::Relaxed);
            below.extend(BOUNDS.get(at).map(|bound| (*bound, count)));
        }
        let sum = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
        text.histogram(&ADMISSION_DURATION, &[webhook], &below, count, sum);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::FAMILIES, *};
    use crate::inject::Reason;

    #[test]
    fn a_scrape_has_exactly_the_families_that_are_described_and_every_series_from_the_start() {
        let text = Metrics::default().encode();
        let exposed: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let described: Vec<String> =
            FAMILIES.iter().map(|family| format!("{} {}", family.name, family.kind)).collect();
        let sorted = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(sorted(exposed.clone()), described.into_iter().collect());
        assert_eq!(exposed.len(), FAMILIES.len());
        for family in FAMILIES {
            let begins = |line: &&str| line.starts_with(&format!("{}{{", family.name));
            if let Some(line) = text.lines().find(begins) {
                let names: Vec<&str> =
                    line.split("=\"").filter_map(|part| part.rsplit(['{', ',']).next()).collect();
                assert_eq!(&names[..family.labels.len()], family.labels, "{line}");
            }
        }
        assert!(text.lines().filter(|line| !line.starts_with('#')).count() < 200);
    }

    #[test]
    fn a_dry_run_counts_apart() {
        let metrics = Metrics::default();
        let took = Duration::from_micros(700);
        metrics.admission(Webhook::Mutate, Admission::Pod(Reason::Injected), true, took);
        let text = metrics.encode();
        let has = |line: &str| assert!(text.lines().any(|known| known == line), "{line} in {text}");
        has(r#"mantlet_injector_admissions_total{webhook="mutate",result="injected",reason="injected"} 0"#);
        has(r#"mantlet_injector_dry_runs_total{webhook="mutate",result="injected"} 1"#);
        has(r#"mantlet_injector_admission_duration_seconds_bucket{webhook="mutate",le="0.0005"} 0"#);
        has(r#"mantlet_injector_admission_duration_seconds_bucket{webhook="mutate",le="0.001"} 1"#);
        has(r#"mantlet_injector_admission_duration_seconds_bucket{webhook="mutate",le="+Inf"} 1"#);
        metrics.admission(Webhook::Mutate, Admission::Pod(Reason::Injected), false, took);
        assert!(metrics.encode().contains(r#"reason="injected"} 1"#));
    }
}
