//! Who takes part in the demo, and what they may do. Another workload is another line here.

use std::net::SocketAddr;
use std::time::Duration;

use mantlet_id::{IdError, SpiffeId, TrustDomain};

/// Short enough that a renewal at half life happens while one looks.
pub(crate) const SVID_TTL: Duration = Duration::from_secs(8);
pub(crate) const TRUST_DOMAIN: &str = "demo.local";
pub(crate) const NAMESPACE: &str = "shop";

/// The one who calls and the one who is called.
pub(crate) const CALLER: &str = "web";
pub(crate) const CALLED: &str = "api";

/// The path that the rule allows to read.
pub(crate) const PATH: &str = "/orders/42";

/// One workload: an app of the demo behind a sidecar of its own.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// Its policy, with `{port}` for the port of its app; `None`: it serves nothing.
    pub(crate) policy: Option<&'static str>,
    /// Whom it calls.
    pub(crate) calls: &'static [&'static str],
}

/// In the order of their start: who is called stands before who calls.
pub(crate) const WORKLOADS: &[Workload] = &[
    Workload {
        name: CALLED,
        policy: Some("allow shop/web to GET /orders/** on {port} as web-read"),
        calls: &[],
    },
    Workload { name: CALLER, policy: None, calls: &[CALLED] },
];

// === impl Workload ===

impl Workload {
    pub(crate) fn id(&self) -> Result<SpiffeId, IdError> {
        SpiffeId::workload(&TrustDomain::parse(TRUST_DOMAIN)?, NAMESPACE, self.name)
    }

    /// The policy for an app at `app`.
    pub(crate) fn policy_for(&self, app: SocketAddr) -> Option<String> {
        self.policy.map(|policy| policy.replace("{port}", &app.port().to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_has_an_identity_and_calls_only_who_starts_before_it() {
        let mut started = Vec::new();
        for workload in WORKLOADS {
            assert!(workload.id().is_ok(), "{}", workload.name);
            assert!(workload.calls.iter().all(|called| started.contains(called)), "{}", workload.name);
            started.push(workload.name);
        }
        assert!(started.contains(&CALLER) && started.contains(&CALLED));
    }
}
