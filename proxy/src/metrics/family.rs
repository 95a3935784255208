//! Families of series, bounded by construction.
//!
//! A [`Closed`] family has one place for each combination of its labels, all known beforehand: finding a
//! series is an index. An [`Open`] family has labels that depend on peers and policy: finding a series is a
//! look-up, done once per connection, and there are never more than [`SERIES`].

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric, counter::Counter, gauge::Gauge},
};

use super::labels::{ClosedLabels, OpenLabels};

/// Most series of an open family; what comes later is counted in the one whose labels say `_other`.
pub(super) const SERIES: usize = 200;

/// What a series is.
pub(super) trait Metric:
    EncodeMetric + TypedMetric + Clone + fmt::Debug + Send + Sync + 'static
{
}

impl<M: EncodeMetric + TypedMetric + Clone + fmt::Debug + Send + Sync + 'static> Metric for M {}

/// A family whose series are known beforehand. Cheap to clone.
#[derive(Debug)]
pub(super) struct Closed<L, M>(Arc<ClosedInner<L, M>>);

#[derive(Debug)]
struct ClosedInner<L, M> {
    cells: Box<[OnceLock<M>]>,
    make: fn() -> M,
    /// Stands in for a number past the end: a defect, which must not end a connection.
    spare: M,
    labels: std::marker::PhantomData<fn(L)>,
}

/// A family whose series appear as they come. Cheap to clone.
#[derive(Debug)]
pub(super) struct Open<L, M>(Arc<OpenInner<L, M>>);

#[derive(Debug)]
struct OpenInner<L, M> {
    series: RwLock<HashMap<L, M>>,
    /// How often the family was full.
    overflow: Counter,
}

/// A histogram over fixed bounds, without a lock: an observation is two additions.
#[derive(Clone, Debug)]
pub(super) struct Histogram(Arc<HistogramInner>);

#[derive(Debug)]
struct HistogramInner {
    bounds: &'static [f64],
    /// One more than there are bounds.
    buckets: Box<[AtomicU64]>,
    nanoseconds: AtomicU64,
}

// === impl Closed ===

impl<L: ClosedLabels, M: Metric> Closed<L, M> {
    pub(super) fn new(make: fn() -> M) -> Self {
        let cells = std::iter::repeat_with(OnceLock::new).take(L::COUNT).collect();
        Self(Arc::new(ClosedInner { cells, make, spare: make(), labels: std::marker::PhantomData }))
    }

    /// The series of these labels.
    pub(super) fn get(&self, labels: L) -> &M {
        match self.0.cells.get(labels.number()) {
            Some(cell) => cell.get_or_init(self.0.make),
            None => &self.0.spare,
        }
    }

    /// Every series from the start: a counter that is born at 1 shows no increase for its first event.
    pub(super) fn complete(&self) {
        self.0.cells.iter().for_each(|cell| drop(cell.get_or_init(self.0.make).clone()));
    }
}

impl<L: ClosedLabels, M: Metric + Default> Default for Closed<L, M> {
    fn default() -> Self {
        Self::new(M::default)
    }
}

impl<L, M> Clone for Closed<L, M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<L: ClosedLabels, M: Metric> EncodeMetric for Closed<L, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (number, cell) in self.0.cells.iter().enumerate() {
            if let (Some(labels), Some(metric)) = (L::at(number), cell.get()) {
                metric.encode(encoder.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }

    fn is_empty(&self) -> bool {
        self.0.cells.iter().all(|cell| cell.get().is_none())
    }
}

// === impl Open ===

impl<L: OpenLabels, M: Metric + Default> Open<L, M> {
    /// A family that counts in `overflow` what it has no room for.
    pub(super) fn new(overflow: Counter) -> Self {
        Self(Arc::new(OpenInner { series: RwLock::default(), overflow }))
    }

    /// The series of these labels, or of what stands for them once the family is full.
    pub(super) fn get(&self, labels: &L) -> M {
        if let Some(known) = self.0.series.read().unwrap_or_else(PoisonError::into_inner).get(labels) {
            return known.clone();
        }
        let mut series = self.0.series.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = series.get(labels) {
            return known.clone();
        }
        if series.len() < SERIES {
            return series.entry(labels.clone()).or_default().clone();
        }
        self.0.overflow.inc();
        series.entry(labels.overflow()).or_default().clone()
    }

    /// Keeps the series that `keep` says, and no other.
    pub(super) fn retain(&self, mut keep: impl FnMut(&L, &M) -> bool) {
        let mut series = self.0.series.write().unwrap_or_else(PoisonError::into_inner);
        series.retain(|labels, metric| keep(labels, metric));
    }
}

impl<L, M> Clone for Open<L, M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<L: OpenLabels, M: Metric> EncodeMetric for Open<L, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let series = self.0.series.read().unwrap_or_else(PoisonError::into_inner);
        for (labels, metric) in &*series {
            metric.encode(encoder.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }

    fn is_empty(&self) -> bool {
        self.0.series.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

// === impl Histogram ===

impl Histogram {
    /// With these upper bounds in seconds, in order; the last bucket has none.
    pub(super) fn new(bounds: &'static [f64]) -> Self {
        let buckets = std::iter::repeat_with(AtomicU64::default).take(bounds.len() + 1).collect();
        Self(Arc::new(HistogramInner { bounds, buckets, nanoseconds: AtomicU64::new(0) }))
    }

    pub(super) fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = self.0.bounds.partition_point(|bound| *bound < seconds);
        if let Some(bucket) = self.0.buckets.get(at) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.0.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = self.0.bounds.iter().copied().chain([f64::INFINITY]);
        let counts = self.0.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        // Counted from the same look at the buckets, so that the last of them is never another number.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(self.0.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// Raises a counter to `total`, which somebody else counts.
pub(super) fn follow(counter: &Counter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

/// A gauge that says yes or no.
pub(super) fn flag(gauge: &Gauge, value: bool) {
    gauge.set(value.into());
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::{
        super::{
            CloseReason, Direction, Text,
            labels::{Labels, Value, closed_labels, label_set, open_labels},
            vocabulary::Word,
        },
        *,
    };
    use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};

    closed_labels!(Two { direction: Direction, reason: CloseReason });
    open_labels!(Free { direction: Direction, peer: Text });

    fn text(metric: impl prometheus_client::registry::Metric) -> String {
        let mut registry = Registry::default();
        registry.register("m", "M", metric);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn every_combination_of_closed_labels_has_a_number_of_its_own() {
        let all: Vec<Two> = (0..Two::COUNT).map(|number| Two::at(number).unwrap()).collect();
        assert_eq!(all.len(), Direction::ALL.len() * CloseReason::ALL.len());
        assert!(all.iter().enumerate().all(|(number, labels)| labels.number() == number));
        assert_eq!(Two::NAMES, ["direction", "reason"]);
    }

    #[test]
    fn a_full_family_counts_on_under_other_and_says_how_often() {
        let overflow = Counter::default();
        let family = Open::<Free, Counter>::new(overflow.clone());
        for n in 0..1000 {
            let labels = Free { direction: Direction::Inbound, peer: Text::from(&*format!("peer-{n}")) };
            family.get(&labels).inc();
        }
        let text = text(family);
        assert!(text.contains("m_total{direction=\"inbound\",peer=\"_other\"} 800"), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("m_total")).count(), SERIES + 1);
        assert_eq!(overflow.get(), 800);
    }

    #[test]
    fn a_hostile_label_value_cannot_make_a_line() {
        let family = Open::<Free, Counter>::new(Counter::default());
        let peer = Text::from("a\"} 1\nforged 2\\");
        family.get(&Free { direction: Direction::Inbound, peer }).inc();
        let text = text(family);
        assert!(text.contains("peer=\"a\\\"} 1\\nforged 2\\\\\"} 1"), "{text}");
        assert!(!text.lines().any(|line| line.starts_with("forged")));
    }

    #[test]
    fn a_histogram_counts_each_observation_once_and_in_the_bucket_of_its_bound() {
        let histogram = Histogram::new(&[0.001, 0.01]);
        for micros in [500, 1000, 1001, 20_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let text = text(histogram);
        for line in
            ["m_bucket{le=\"0.001\"} 2", "m_bucket{le=\"0.01\"} 3", "m_bucket{le=\"+Inf\"} 4", "m_count 4"]
        {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
