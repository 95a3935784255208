//! What an operator should know about a Service: endpoints that are left out, and more than one service account behind it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    model::{Key, ServedBy, Stage},
    resolve::{Behind, MOST_ENDPOINTS},
    store::Store,
};

/// Identities that a text names.
const NAMED: usize = 4;

/// What stands out about a Service.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Review {
    /// Addresses that are left out, because `served-by` does not name their identity or cannot be read, or because an
    /// answer has no room for them.
    pub(crate) left_out: usize,
    /// What is wrong, in words that stay the same as long as it is: at most one for each [`Finding`].
    pub(crate) findings: Vec<(Finding, String)>,
}

/// What can be wrong with a Service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Finding {
    /// `served-by` cannot be read.
    BadServedBy,
    /// Somebody stands behind it who may not.
    NotServedBy,
    /// Several service accounts, and nobody has said that they should.
    Mixed,
    /// More endpoints than an answer has.
    TooMany,
}

// === impl Finding ===

impl Finding {
    /// The reason of a Kubernetes Event.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::BadServedBy => "ServedByInvalid",
            Self::NotServedBy => "EndpointsLeftOut",
            Self::Mixed => "SeveralServiceAccounts",
            Self::TooMany => "TooManyEndpoints",
        }
    }
}

// === impl Review ===

impl Review {
    /// Whether there is anything to be said.
    pub(crate) fn is_empty(&self) -> bool {
        self.left_out == 0 && self.findings.is_empty()
    }

    pub(crate) fn is_mixed(&self) -> bool {
        self.findings.iter().any(|(finding, _)| *finding == Finding::Mixed)
    }
}

// === impl Store ===

impl Store {
    /// Looks at a Service.
    pub(crate) fn review(&self, key: &Key, health: u16) -> Review {
        let Some(service) = self.service(key) else { return Review::default() };
        let (mut ids, mut strangers, mut left_out) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        // Of one port in one family, as an answer is about them.
        let mut ready: BTreeMap<(&str, bool), BTreeSet<_>> = BTreeMap::new();
        for slice in self.slices_of(key) {
            for there in &slice.endpoints {
                for (name, port) in &slice.ports {
                    match self.behind(service, slice, there, *port, health) {
                        Behind::Meshed(_, id) => {
                            ids.insert(Arc::clone(id));
                            if there.stage == Stage::Ready {
                                ready
                                    .entry((name, there.ip.is_ipv4()))
                                    .or_default()
                                    .insert((there.ip, *port));
                            }
                        }
                        Behind::LeftOut => {
                            left_out.insert(there.ip);
                            let id = self.pod_at(there.ip).filter(|pod| pod.is_meshed_at(*port, health));
                            let id = id.and_then(|pod| pod.id.as_deref());
                            strangers.insert(id.unwrap_or("a workload without a sidecar").to_owned());
                        }
                        Behind::Plain | Behind::Pending => {}
                    }
                }
            }
        }
        let mut findings = Vec::new();
        let most = ready.values().map(BTreeSet::len).max().unwrap_or_default();
        let cut = most.saturating_sub(MOST_ENDPOINTS);
        if cut > 0 {
            let text = format!("more than {MOST_ENDPOINTS} endpoints serve it: sidecars are told of so many");
            findings.push((Finding::TooMany, text));
        }
        match &service.served_by {
            ServedBy::Nobody(why) => {
                let text = format!("mantlet.dev/served-by: {why}; until then nobody serves it");
                findings.push((Finding::BadServedBy, text));
            }
            ServedBy::OneOf(_) if !strangers.is_empty() => {
                let text = format!(
                    "left out, because mantlet.dev/served-by does not name them: {}",
                    listed(&strangers)
                );
                findings.push((Finding::NotServedBy, text));
            }
            ServedBy::Anybody if ids.len() > 1 => {
                let text = format!(
                    "several service accounts serve it: {}; name those that should in mantlet.dev/served-by",
                    listed(&ids)
                );
                findings.push((Finding::Mixed, text));
            }
            ServedBy::OneOf(_) | ServedBy::Anybody => {}
        }
        Review { left_out: left_out.len() + cut, findings }
    }
}

fn listed<T: AsRef<str>>(ids: &BTreeSet<T>) -> String {
    let named: Vec<&str> = ids.iter().take(NAMED).map(AsRef::as_ref).collect();
    let rest = ids.len().saturating_sub(NAMED);
    match rest {
        0 => named.join(", "),
        _ => format!("{} and {rest} more", named.join(", ")),
    }
}
