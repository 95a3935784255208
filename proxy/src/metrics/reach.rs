//! How destinations are found, and how their endpoints fare.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeLabelSet, LabelSetEncoder},
    metrics::{counter::Counter, gauge::Gauge},
};

use super::{
    EndpointState, LookupResult, Metrics,
    catalog::{Catalog, NoLabels, about},
    family::{Closed, flag},
    labels::{ClosedLabels, Labels, closed_labels, label_set},
    vocabulary::Word,
};

closed_labels!(EndpointLabels { state: EndpointState });
closed_labels!(LookupLabels { result: LookupResult });

/// The families about endpoints, names and lines.
pub(super) struct Reach {
    endpoints: Closed<EndpointLabels, Gauge>,
    lookups: Closed<LookupLabels, Counter>,
    upstreams_reloaded: Gauge,
}

// === impl Reach ===

impl Reach {
    pub(super) fn new() -> Self {
        let reach = Self {
            endpoints: Closed::default(),
            lookups: Closed::default(),
            upstreams_reloaded: Gauge::default(),
        };
        reach.endpoints.complete();
        reach.lookups.complete();
        // Nothing to read is nothing that could not be read.
        flag(&reach.upstreams_reloaded, true);
        reach
    }

    pub(super) fn register(&self, to: &mut Catalog) {
        to.add::<EndpointLabels>(
            about(
                "mantlet_upstream_endpoints",
                "Endpoints of the destinations in use, in or left out because they could not be reached",
            ),
            self.endpoints.clone(),
        );
        to.add::<LookupLabels>(
            about("mantlet_dns_lookups", "Lookups of names, by result"),
            self.lookups.clone(),
        );
        to.add::<NoLabels>(
            about(
                "mantlet_upstreams_last_reload_success",
                "0 while older upstreams are in force because the newest could not be read",
            ),
            self.upstreams_reloaded.clone(),
        );
    }
}

// === impl Metrics ===

impl Metrics {
    /// Counts a lookup of a name.
    pub fn lookup(&self, result: LookupResult) {
        self.reach.lookups.get(LookupLabels { result }).inc();
    }

    /// The newest upstreams were taken over, or could not be read.
    pub fn upstreams_reloaded(&self, success: bool) {
        flag(&self.reach.upstreams_reloaded, success);
    }

    /// Takes over, at a scrape, how many endpoints take part and how many are left out.
    pub fn observe_endpoints(&self, (taking_part, left_out): (usize, usize)) {
        for (state, count) in [(EndpointState::In, taking_part), (EndpointState::Out, left_out)] {
            self.reach.endpoints.get(EndpointLabels { state }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
