//! The one table of configuration keys.
//!
//! Parsing, `--help`, `--print-config` and `docs/configuration.md` all come from [`KEYS`], so none of them can say
//! something that the others do not.

mod limits;
mod reach;

use std::time::Duration;

use self::{limits::BOUNDS, reach::REACH};
pub use super::kind::{Kind, display_duration};

/// Prefix of every environment key that is ours; anything else that begins so is a mistake.
pub const PREFIX: &str = "MANTLET_";

/// Names a row of [`KEYS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Id {
    /// Explicit inbound listeners.
    Inbound,
    /// Explicit outbound listeners.
    Outbound,
    /// The Workload API endpoint.
    WorkloadApi,
    /// Which SVID to take when there are several.
    SvidHint,
    /// The local trust domain.
    TrustDomain,
    /// The pod's namespace.
    Namespace,
    /// The pod's service account.
    ServiceAccount,
    /// Take what is redirected.
    Intercept,
    /// Where inbound connections are redirected to.
    InterceptInbound,
    /// Where outbound connections are redirected to.
    InterceptOutbound,
    /// The pod's addresses.
    PodIps,
    /// Declared ports of the app.
    Ports,
    /// Policy as a plain file.
    Policy,
    /// Policy as a downward-API annotations file.
    Annotations,
    /// What the installation forbids.
    Guardrails,
    /// What holds when there is no policy.
    Unconfigured,
    /// Health, metrics and read-only dumps.
    Admin,
    /// The application's probes.
    Probes,
    /// Unix socket for what changes something.
    AdminSocket,
    /// How much the metrics show.
    MetricsLevel,
    /// Peers with a label of their own.
    MetricsPeers,
    /// Upstreams as a plain file.
    Upstreams,
    /// The cluster's directory.
    Directory,
    /// Who the directory must be.
    DirectoryId,
    /// The cluster's networks.
    MeshCidrs,
    /// Workloads without a sidecar.
    Unmeshed,
    /// Addresses outside the cluster.
    External,
    /// Unknown addresses of the cluster.
    Unknown,
    /// The Kubernetes API server's host.
    KubernetesHost,
    /// The Kubernetes API server's port.
    KubernetesPort,
    /// `resolv.conf`.
    ResolvConf,
    /// `hosts`.
    Hosts,
    /// Addresses of names beyond their TTL.
    DnsKeep,
    /// The head of a response.
    ResponseTimeout,
    /// Worker threads.
    Workers,
    /// Connections per process.
    MaxConnections,
    /// Inbound connections of one address.
    MaxConnectionsPerPeer,
    /// Requests in flight.
    MaxRequests,
    /// Resident memory.
    MaxMemory,
    /// How long a stop goes unannounced.
    StopDelay,
    /// How long a drain may take.
    DrainDeadline,
    /// TCP connect to an app or peer.
    ConnectTimeout,
    /// TLS handshake.
    HandshakeTimeout,
    /// A request head.
    HeaderTimeout,
    /// An idle keep-alive connection.
    IdleTimeout,
    /// A peer that takes or sends nothing.
    StallTimeout,
    /// When a host that answers nothing is gone.
    DeadAfter,
    /// Opaque streams beyond their peer's SVID.
    MaxStaleIdentity,
    /// Own identity after the Workload API denies it.
    IdentityGrace,
    /// Level of the process log.
    Log,
    /// Access log.
    AccessLog,
    /// Where the last word is written.
    TerminationMessage,
    /// End when the parent process ends.
    ExitWithParent,
}

/// One configuration key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Which one.
    pub id: Id,
    /// Long flag, without the dashes.
    pub flag: &'static str,
    /// Environment variable of the same meaning.
    pub environment: &'static str,
    /// What stands for the value in the help.
    pub placeholder: &'static str,
    /// The value when nobody says anything.
    pub default: Option<&'static str>,
    /// What happens without a value, where the default is not a value.
    pub unset: &'static str,
    /// Accepted values.
    pub kind: Kind,
    /// May be given more than once (flag repeated; lines of the variable).
    pub repeatable: bool,
    /// Left out of the help and the documentation.
    pub hidden: bool,
    /// Which part of the documentation it stands in.
    pub section: &'static str,
    /// One or two sentences for `--help` and the documentation.
    pub meaning: &'static str,
}

const TRAFFIC: &str = "Traffic";
const OUTBOUND: &str = "Destinations";
const IDENTITY: &str = "Identity";
const POLICY: &str = "Policy";
const ADMIN: &str = "Admin and health";
const LIMITS: &str = "Limits and timeouts";
const PROCESS: &str = "Process and logs";

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// Sections, in the order of the documentation.
pub const SECTIONS: &[&str] = &[TRAFFIC, OUTBOUND, IDENTITY, POLICY, ADMIN, LIMITS, PROCESS];

/// Every configuration key.
pub static KEYS: &[Key] = &joined(MAIN, BOUNDS, REACH);

const MAIN: &[Key] = &[
    Key {
        repeatable: true,
        meaning: "Accept mesh connections on LISTEN and forward what the policy allows to the app at UPSTREAM. \
                  `on` in a policy is the port of UPSTREAM.",
        ..key(Id::Inbound, TRAFFIC, "inbound", "MANTLET_INBOUND", "LISTEN=UPSTREAM", Kind::Inbound)
    },
    Key {
        repeatable: true,
        meaning: "Accept the app's plain connections on LISTEN and carry them by mutual TLS to UPSTREAM, which must \
                  prove one of IDS. Of several UPSTREAMs the less loaded of two random ones is taken, for each \
                  request or opaque connection; a name stands for all its addresses. Without `as`, the peer is \
                  asked for its protocol. Without `is`, the lines of --upstreams decide, as for a redirected \
                  connection to UPSTREAM, which then is one IP address.",
        ..key(
            Id::Outbound,
            TRAFFIC,
            "outbound",
            "MANTLET_OUTBOUND",
            "LISTEN=UPSTREAM[,UPSTREAM..] [is IDS [as PROTOCOL]]",
            Kind::Outbound,
        )
    },
    Key {
        default: Some("false"),
        meaning: "Take the pod's connections that `mantlet-init` redirects, beside those of explicit listeners. \
                  Where they wanted to go is what the kernel remembers; one that was not redirected is closed \
                  (`not_redirected`).",
        ..key(Id::Intercept, TRAFFIC, "intercept", "MANTLET_INTERCEPT", "BOOL", Kind::Switch)
    },
    Key {
        default: Some("24143"),
        meaning: "The port, on every address, that inbound connections are redirected to.",
        ..key(
            Id::InterceptInbound,
            TRAFFIC,
            "intercept-inbound",
            "MANTLET_INTERCEPT_INBOUND",
            "PORT",
            Kind::Count(1, 65535),
        )
    },
    Key {
        default: Some("24140"),
        meaning: "The port, on the loopback addresses, that outbound connections are redirected to.",
        ..key(
            Id::InterceptOutbound,
            TRAFFIC,
            "intercept-outbound",
            "MANTLET_INTERCEPT_OUTBOUND",
            "PORT",
            Kind::Count(1, 65535),
        )
    },
    Key {
        unset: "required with --intercept",
        meaning: "The pod's addresses. An inbound connection that was meant for another address is closed.",
        ..key(Id::PodIps, TRAFFIC, "pod-ips", "MANTLET_POD_IPS", "ADDRESSES", Kind::Addresses)
    },
    Key {
        unset: "no named ports, and rules without `on` cover the upstream ports of the inbound listeners",
        meaning: "Ports that the app declares, with their names: what a policy calls `on http` or covers without `on`.",
        ..key(Id::Ports, TRAFFIC, "ports", "MANTLET_PORTS", "PORTS", Kind::Ports)
    },
    Key {
        unset: "required",
        meaning: "Where the SPIFFE Workload API listens. The flag wins over the variable, whose name is the \
                  standard's.",
        ..key(Id::WorkloadApi, IDENTITY, "workload-api", "SPIFFE_ENDPOINT_SOCKET", "ENDPOINT", Kind::Endpoint)
    },
    Key {
        unset: "that of the first usable SVID",
        meaning: "The local trust domain. An SVID of another one is not used; short identities (`shop/web`) belong \
                  to it.",
        ..key(Id::TrustDomain, IDENTITY, "trust-domain", "MANTLET_TRUST_DOMAIN", "NAME", Kind::TrustDomain)
    },
    Key {
        meaning: "The pod's namespace: what `./web` means, and part of the expected own identity.",
        ..key(Id::Namespace, IDENTITY, "namespace", "MANTLET_NAMESPACE", "NAME", Kind::Name)
    },
    Key {
        meaning: "The pod's service account. With trust domain and namespace it makes the own identity that is \
                  expected: spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT.",
        ..key(Id::ServiceAccount, IDENTITY, "service-account", "MANTLET_SERVICE_ACCOUNT", "NAME", Kind::Name)
    },
    Key {
        unset: "the first SVID",
        meaning: "Which SVID to use when the Workload API gives several and none has the expected identity.",
        ..key(Id::SvidHint, IDENTITY, "svid-hint", "MANTLET_SVID_HINT", "TEXT", Kind::Text)
    },
    Key {
        default: Some("12h"),
        meaning: "How long open streams and opaque connections may go on after their peer's SVID has expired, \
                  while issuer and policy still hold.",
        ..key(
            Id::MaxStaleIdentity,
            IDENTITY,
            "max-stale-identity",
            "MANTLET_MAX_STALE_IDENTITY",
            "DURATION",
            Kind::Duration(secs(0), secs(7 * DAY)),
        )
    },
    Key {
        default: Some("30s"),
        meaning: "How long the own identity stays in use after the Workload API has denied it.",
        ..key(
            Id::IdentityGrace,
            IDENTITY,
            "identity-grace",
            "MANTLET_IDENTITY_GRACE",
            "DURATION",
            Kind::Duration(secs(0), secs(HOUR)),
        )
    },
    Key {
        unset: "no policy: see --unconfigured",
        meaning: "Policy as a plain file. Changes take effect at once; a mistake keeps the last good policy.",
        ..key(Id::Policy, POLICY, "policy", "MANTLET_POLICY", "FILE", Kind::Path)
    },
    Key {
        unset: "no policy: see --unconfigured",
        meaning: "Policy as a downward-API file of the pod's annotations (`metadata.annotations`). Mount the \
                  directory, never a subPath, which is not updated.",
        ..key(Id::Annotations, POLICY, "annotations", "MANTLET_ANNOTATIONS", "FILE", Kind::Path)
    },
    Key {
        repeatable: true,
        meaning: "What the installation forbids, whatever a policy says: one guardrail per flag or line.",
        ..key(Id::Guardrails, POLICY, "guardrails", "MANTLET_GUARDRAILS", "GUARDRAIL", Kind::Guardrail)
    },
    Key {
        default: Some("deny"),
        meaning: "What holds without a policy: deny everything, admit and count (audit), or audit and accept \
                  callers without mesh identity too (permissive, for moving in).",
        ..key(
            Id::Unconfigured,
            POLICY,
            "unconfigured",
            "MANTLET_UNCONFIGURED",
            "MODE",
            Kind::Choice(&["deny", "audit", "permissive"]),
        )
    },
    Key {
        default: Some("127.0.0.1:24190"),
        meaning: "Health (/livez, /readyz, /startupz) and /metrics; on a loopback address also the read-only \
                  dumps under /v1/.",
        ..key(Id::Admin, ADMIN, "admin", "MANTLET_ADMIN", "ADDRESS", Kind::Address)
    },
    Key {
        unset: "no probes",
        meaning: "The application's probes and hooks, which the kubelet asks --admin for and the sidecar asks the \
                  application for, at the first of --pod-ips. The injector writes it: docs/probes.md.",
        ..key(Id::Probes, ADMIN, "probes", "MANTLET_PROBES", "JSON", Kind::Probes)
    },
    Key {
        unset: "no socket, hence no drain by request",
        meaning: "Unix socket (mode 0600) for requests that change something, such as /drain. Its directory must \
                  not be mounted in the app's container.",
        ..key(Id::AdminSocket, ADMIN, "admin-socket", "MANTLET_ADMIN_SOCKET", "PATH", Kind::Path)
    },
    Key {
        default: Some("default"),
        meaning: "How much /metrics shows: what the alerts need, what the dashboard needs too, or everything. \
                  `mantlet metrics --describe` lists the families of each.",
        ..key(
            Id::MetricsLevel,
            ADMIN,
            "metrics-level",
            "MANTLET_METRICS_LEVEL",
            "LEVEL",
            Kind::Choice(&["minimal", "default", "full"]),
        )
    },
    Key {
        default: Some("64"),
        meaning: "Authenticated peers that have a metric label of their own; later ones share `_other`, and are \
                  counted as overflow.",
        ..key(Id::MetricsPeers, ADMIN, "metrics-peers", "MANTLET_METRICS_PEERS", "COUNT", Kind::Count(1, 200))
    },
    Key {
        unset: "one per CPU of the cgroup's limit, at most 4",
        meaning: "Worker threads.",
        ..key(Id::Workers, PROCESS, "workers", "MANTLET_WORKERS", "COUNT", Kind::Count(1, 256))
    },
    Key {
        default: Some("info"),
        meaning: "Level of the process log on standard error.",
        ..key(
            Id::Log,
            PROCESS,
            "log",
            "MANTLET_LOG",
            "LEVEL",
            Kind::Choice(&["off", "error", "warn", "info", "debug", "trace"]),
        )
    },
    Key {
        default: Some("off"),
        meaning: "One line on standard output per request or connection: none, those that failed, or all. The \
                  audit log (refusals) is always on.",
        ..key(
            Id::AccessLog,
            PROCESS,
            "access-log",
            "MANTLET_ACCESS_LOG",
            "WHICH",
            Kind::Choice(&["off", "errors", "all"]),
        )
    },
    Key {
        meaning: "Where to write why this process ended before it was ever ready, or could not start: the file of \
                  the container's terminationMessagePath, which Kubernetes shows in the pod's status. It must exist \
                  and be a plain file; at most 4096 bytes.",
        ..key(
            Id::TerminationMessage,
            PROCESS,
            "termination-message",
            "MANTLET_TERMINATION_MESSAGE",
            "FILE",
            Kind::Path,
        )
    },
    Key {
        hidden: true,
        meaning: "The process that started this one; stop when it ends, so that nothing is left behind by a demo that was \
                  killed.",
        ..key(
            Id::ExitWithParent,
            PROCESS,
            "exit-with-parent",
            "MANTLET_EXIT_WITH_PARENT",
            "PID",
            Kind::Count(1, i32::MAX as usize),
        )
    },
];

/// The row of `id`; `None` cannot happen for a complete table, which a test holds.
#[must_use]
pub fn find(id: Id) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.id == id)
}

/// Three tables as one; a static table cannot be put together at run time.
#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler, which refuses an index that is wrong")]
const fn joined(a: &[Key], b: &[Key], c: &[Key]) -> [Key; MAIN.len() + BOUNDS.len() + REACH.len()] {
    let mut all = [a[0]; MAIN.len() + BOUNDS.len() + REACH.len()];
    let mut n = 0;
    while n < all.len() {
        all[n] = match n {
            _ if n < a.len() => a[n],
            _ if n < a.len() + b.len() => b[n - a.len()],
            _ => c[n - a.len() - b.len()],
        };
        n += 1;
    }
    all
}

const fn key(
    id: Id,
    section: &'static str,
    flag: &'static str,
    environment: &'static str,
    placeholder: &'static str,
    kind: Kind,
) -> Key {
    Key {
        id,
        flag,
        environment,
        placeholder,
        default: None,
        unset: "none",
        kind,
        repeatable: false,
        hidden: false,
        section,
        meaning: "",
    }
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}
