//! The classic text format of Prometheus, version 0.0.4.
//!
//! Every label value is a word of ours, but for nothing: there is no value from outside to be escaped.

use std::fmt::Write as _;

use super::Family;

/// A scrape under construction.
#[derive(Debug, Default)]
pub(super) struct Text(String);

// === impl Text ===

impl Text {
    /// Begins a family.
    pub(super) fn family(&mut self, family: &Family) {
        let Family { name, kind, help, .. } = family;
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A series of a family; `labels` are values in the order of the family's names.
    pub(super) fn series(&mut self, family: &Family, labels: &[&str], value: f64) {
        self.sample(family.name, "", family.labels, labels, value);
    }

    /// A family with one series.
    pub(super) fn single(&mut self, family: &Family, value: f64) {
        self.family(family);
        self.series(family, &[], value);
    }

    /// One histogram: upper bounds with what is below them, all, and the sum.
    pub(super) fn histogram(
        &mut self,
        family: &Family,
        labels: &[&str],
        buckets: &[(f64, u64)],
        count: u64,
        sum: f64,
    ) {
        let names: Vec<&str> = family.labels.iter().copied().chain(["le"]).collect();
        for (bound, below) in buckets {
            let bound = bound.to_string();
            let values: Vec<&str> = labels.iter().copied().chain([bound.as_str()]).collect();
            self.sample(family.name, "_bucket", &names, &values, *below as f64);
        }
        let all: Vec<&str> = labels.iter().copied().chain(["+Inf"]).collect();
        self.sample(family.name, "_bucket", &names, &all, count as f64);
        self.sample(family.name, "_sum", family.labels, labels, sum);
        self.sample(family.name, "_count", family.labels, labels, count as f64);
    }

    pub(super) fn finish(self) -> String {
        self.0
    }

    fn sample(&mut self, name: &str, suffix: &str, names: &[&str], values: &[&str], value: f64) {
        let _ = write!(self.0, "{name}{suffix}");
        for (at, (name, value)) in names.iter().zip(values).enumerate() {
            let _ = write!(self.0, "{}{name}=\"{value}\"", if at == 0 { '{' } else { ',' });
        }
        if !names.is_empty() && !values.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }
}
