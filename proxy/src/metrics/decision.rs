//! Counters of decisions.

use std::{sync::Arc, time::Instant};

use mantlet_policy::Decision;
use prometheus_client::metrics::counter::Counter;

use super::{
    Layer, Level, Metrics, Text,
    family::Histogram,
    traffic::{DecisionLabels, LayerLabels, RuleLabels},
};

/// What one kind of decision counts: itself, the rule that made it, and an audited rule that would have made
/// another.
#[derive(Clone, Debug)]
pub struct DecisionCounters {
    decision: Counter,
    rule: Option<Counter>,
    audited: Option<Counter>,
}

/// The time of one decision, if anybody wants to know.
#[must_use]
pub struct Deciding(Option<(Instant, Histogram)>);

// === impl DecisionCounters ===

impl DecisionCounters {
    /// Another one of the kind.
    pub fn count(&self) {
        self.decision.inc();
        if let Some(rule) = &self.rule {
            rule.inc();
        }
        if let Some(audited) = &self.audited {
            audited.inc();
        }
    }
}

// === impl Deciding ===

impl Drop for Deciding {
    fn drop(&mut self) {
        if let Some((begun, histogram)) = &self.0 {
            histogram.observe(begun.elapsed());
        }
    }
}

// === impl Metrics ===

impl Metrics {
    /// The counters of one kind of decision; the caller keeps them.
    #[must_use]
    pub fn decision(&self, layer: Layer, decision: &Decision, peer: Text) -> DecisionCounters {
        let hits =
            |rule: &Arc<str>| self.traffic.rule_hits.get(&RuleLabels { rule: Text::from(Arc::clone(rule)) });
        let rule = decision.rule.clone().map_or_else(Text::none, Text::from);
        let (verdict, reason) = (decision.verdict, decision.reason);
        let labels = DecisionLabels { layer, decision: verdict, reason, rule, peer };
        DecisionCounters {
            decision: self.traffic.decisions.get(&labels),
            rule: decision.rule.as_ref().map(hits),
            audited: decision.audit_allow.as_ref().map(hits),
        }
    }

    /// A decision begins.
    pub fn deciding(&self, layer: Layer) -> Deciding {
        Deciding((self.level == Level::Full).then(|| {
            let histogram = self.traffic.deciding_seconds.get(LayerLabels { layer }).clone();
            (Instant::now(), histogram)
        }))
    }
}
