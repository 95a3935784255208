//! Who takes part in the demo, and what they may do. Another workload is another line here.

use std::time::Duration;

use mantlet_id::{IdError, SpiffeId, TrustDomain};

/// Short enough that a renewal at half life happens while one looks.
pub(crate) const SVID_TTL: Duration = Duration::from_secs(8);
pub(crate) const TRUST_DOMAIN: &str = "demo.local";
pub(crate) const NAMESPACE: &str = "shop";

/// The path that the rule of `api` allows to read.
pub(crate) const PATH: &str = "/orders/42";
/// Another one, for the requests that flow all the time: what the apps count leaves it out.
pub(crate) const FLOW_PATH: &str = "/orders/7";
/// The methods of the gRPC service: one that answers once, one that goes on, one that no rule allows.
pub(crate) const GET: &str = "shop.v1.Rows/Get";
pub(crate) const WATCH: &str = "shop.v1.Rows/Watch";
pub(crate) const DROP: &str = "shop.v1.Rows/Drop";
/// The rule that the live edit takes away.
pub(crate) const WATCH_RULE: &str = "api-watch";

/// One workload: an app of the demo behind a sidecar of its own.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// The ports of its app.
    pub(crate) ports: &'static [Port],
    /// Its policy, by line.
    pub(crate) policy: &'static [&'static str],
    /// Whom it calls, and on which port.
    pub(crate) calls: &'static [(&'static str, &'static str)],
}

/// A port of an app.
pub(crate) struct Port {
    pub(crate) name: &'static str,
    pub(crate) speaks: Speaks,
}

/// What an app speaks on a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Speaks {
    Http,
    Grpc,
    /// Lines, and the app begins.
    Tcp,
}

/// In the order of their start: who is called stands before who calls.
pub(crate) const WORKLOADS: &[Workload] = &[
    Workload {
        name: "db",
        ports: &[Port { name: "grpc", speaks: Speaks::Grpc }, Port { name: "sql", speaks: Speaks::Tcp }],
        policy: &[
            "allow shop/api to grpc shop.v1.Rows/Get on grpc as api-get",
            "allow shop/api to grpc shop.v1.Rows/Watch on grpc as api-watch",
            "allow shop/api to tcp on sql as api-sql",
        ],
        calls: &[],
    },
    Workload {
        name: "api",
        ports: &[Port { name: "http", speaks: Speaks::Http }],
        policy: &["allow shop/web to GET /orders/** on http as web-read"],
        calls: &[("db", "grpc"), ("db", "sql")],
    },
    Workload { name: "web", ports: &[], policy: &[], calls: &[("api", "http")] },
    Workload { name: "intruder", ports: &[], policy: &[], calls: &[("api", "http"), ("db", "sql")] },
];

// === impl Workload ===

impl Workload {
    pub(crate) fn id(&self) -> Result<SpiffeId, IdError> {
        SpiffeId::workload(&TrustDomain::parse(TRUST_DOMAIN)?, NAMESPACE, self.name)
    }
}

// === impl Speaks ===

impl Speaks {
    /// The word for it behind `as` in `--outbound`.
    pub(crate) fn protocol(self) -> &'static str {
        match self {
            Self::Http | Self::Grpc => "http",
            Self::Tcp => "tcp",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_has_an_identity_and_calls_only_ports_of_who_starts_before_it() {
        let mut started: Vec<(&str, &str)> = Vec::new();
        for workload in WORKLOADS {
            assert!(workload.id().is_ok(), "{}", workload.name);
            assert!(workload.calls.iter().all(|call| started.contains(call)), "{}", workload.name);
            assert_eq!(workload.ports.is_empty(), workload.policy.is_empty(), "{}", workload.name);
            started.extend(workload.ports.iter().map(|port| (workload.name, port.name)));
        }
        assert_eq!(WORKLOADS.len(), 4);
    }
}
