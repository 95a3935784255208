//! What there is to measure: each family with name, type, labels, help and stability.
//!
//! A family is registered and described by one call, so `mantlet metrics --describe` cannot say anything
//! else than what a sidecar exposes.

use prometheus_client::{
    encoding::text::encode,
    metrics::MetricType,
    registry::{Metric, Registry, Unit},
};
use serde::Serialize;

use super::labels::Labels;

/// How much is exposed.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// What the alerts need.
    Minimal,
    /// What dashboards need too.
    #[default]
    Default,
    /// Everything.
    Full,
}

/// Whether a family may change.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stability {
    /// Renamed or removed with a major version only.
    Stable,
    /// May change with any version.
    Unstable,
}

/// One family.
#[derive(Clone, Debug, Serialize)]
pub struct Description {
    /// As it stands in the classic text format.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: String,
    /// Whether it may change.
    pub stability: Stability,
    /// The lowest level that shows it.
    pub level: Level,
}

/// What a family is called, and what for.
#[derive(Clone, Copy, Debug)]
pub(super) struct About {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) unit: Option<Measure>,
    pub(super) stability: Stability,
    pub(super) level: Level,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Measure {
    Seconds,
    Bytes,
}

/// The registry, and the list of what is in it.
pub(super) struct Catalog {
    registry: Registry,
    level: Level,
    families: Vec<Description>,
}

/// Without any label.
#[derive(Clone, Debug)]
pub(super) enum NoLabels {}

pub(super) const fn about(name: &'static str, help: &'static str) -> About {
    About { name, help, unit: None, stability: Stability::Stable, level: Level::Default }
}

// === impl About ===

impl About {
    pub(super) const fn seconds(self) -> Self {
        Self { unit: Some(Measure::Seconds), ..self }
    }

    pub(super) const fn bytes(self) -> Self {
        Self { unit: Some(Measure::Bytes), ..self }
    }

    /// Needed by an alert, hence always there.
    pub(super) const fn minimal(self) -> Self {
        Self { level: Level::Minimal, ..self }
    }

    /// For who looks closely; may change.
    pub(super) const fn full(self) -> Self {
        Self { level: Level::Full, stability: Stability::Unstable, ..self }
    }
}

// === impl Catalog ===

impl Catalog {
    pub(super) fn new(level: Level) -> Self {
        Self { registry: Registry::default(), level, families: Vec::new() }
    }

    /// Adds a family with the labels `L`; one above the level is described only.
    pub(super) fn add<L: Labels>(&mut self, about: About, family: impl Metric) {
        let About { name, help, unit, stability, level } = about;
        let (suffix, unit) = match unit {
            Some(Measure::Seconds) => ("_seconds", Some(Unit::Seconds)),
            Some(Measure::Bytes) => ("_bytes", Some(Unit::Bytes)),
            None => ("", None),
        };
        let (total, kind) = match family.metric_type() {
            MetricType::Counter => ("_total", "counter"),
            MetricType::Histogram => ("", "histogram"),
            _ => ("", "gauge"),
        };
        let full_name = format!("{name}{suffix}{total}");
        // The registry ends each help text with a full stop.
        let said = format!("{help}.");
        self.families.push(Description {
            name: full_name,
            kind,
            labels: L::NAMES,
            help: said,
            stability,
            level,
        });
        if level > self.level {
            return;
        }
        match unit {
            Some(unit) => self.registry.register_with_unit(name, help, unit, family),
            None => self.registry.register(name, help, family),
        }
    }

    /// Every family, in the order of exposition.
    pub(super) fn describe(&self) -> &[Description] {
        &self.families
    }

    /// Everything that the level shows, as OpenMetrics text.
    pub(super) fn encode(&self) -> String {
        let mut text = String::with_capacity(32 << 10);
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

// === impl NoLabels ===

impl prometheus_client::encoding::EncodeLabelSet for NoLabels {
    fn encode(&self, _: &mut prometheus_client::encoding::LabelSetEncoder<'_>) -> std::fmt::Result {
        Ok(())
    }
}

impl Labels for NoLabels {
    const NAMES: &'static [&'static str] = &[];
}
