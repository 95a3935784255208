//! The one table of configuration keys: parsing, `--help`, `--print-config` and `docs/injector.md` come from it.

use std::time::Duration;

/// Prefix of every environment key that is ours; anything else that begins so is a mistake.
pub(super) const PREFIX: &str = "MANTLET_";

/// One configuration key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    /// Long flag, without the dashes.
    pub(crate) flag: &'static str,
    /// Environment variable of the same meaning.
    pub(crate) environment: &'static str,
    /// The value when nobody says anything.
    pub(crate) default: Option<&'static str>,
    /// Accepted values.
    pub(crate) kind: Kind,
    /// One or two sentences.
    pub(crate) meaning: &'static str,
}

/// What kind of value a key takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// `ip:port`.
    Address,
    /// A name of Kubernetes.
    Name,
    /// Names of DNS and addresses, separated by commas.
    Names,
    /// A file.
    Path,
    /// The address of a Workload API, or nothing.
    Endpoint,
    /// A whole number between two bounds.
    Count(usize, usize),
    /// A number with a unit, between two bounds in seconds.
    Duration(u64, u64),
    /// One of the listed words.
    Choice(&'static [&'static str]),
}

const fn key(
    flag: &'static str,
    environment: &'static str,
    default: Option<&'static str>,
    kind: Kind,
    meaning: &'static str,
) -> Key {
    Key { flag, environment, default, kind, meaning }
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

pub(super) const LISTEN: Key = key(
    "listen",
    "MANTLET_LISTEN",
    Some("[::]:8443"),
    Kind::Address,
    "Where the API server calls /mutate and /validate, by HTTPS.",
);
pub(super) const ADMIN: Key = key(
    "admin",
    "MANTLET_ADMIN",
    Some("[::]:24190"),
    Kind::Address,
    "Health (/livez, /readyz, /startupz) and /metrics, in plain HTTP.",
);
pub(super) const CONFIG: Key = key(
    "config",
    "MANTLET_CONFIG",
    None,
    Kind::Path,
    "What is injected: a YAML or JSON document, in a cluster from a ConfigMap.",
);
pub(super) const NAMESPACE: Key = key(
    "namespace",
    "MANTLET_NAMESPACE",
    None,
    Kind::Name,
    "The namespace of the Service and the Secret: the own one, by the downward API.",
);
pub(super) const SERVICE: Key = key(
    "service",
    "MANTLET_SERVICE",
    Some("mantlet-injector"),
    Kind::Name,
    "The Service that the API server calls: the certificate is for SERVICE.NAMESPACE.svc.",
);
pub(super) const NAMES: Key = key(
    "names",
    "MANTLET_NAMES",
    Some(""),
    Kind::Names,
    "Further names and addresses in the certificate, where the API server calls a URL and no Service.",
);
pub(super) const SECRET: Key = key(
    "secret",
    "MANTLET_SECRET",
    Some("mantlet-injector-certificate"),
    Kind::Name,
    "The Secret that the replicas share their certificate by. It is made when it is missing.",
);
pub(super) const WEBHOOK_CONFIGURATION: Key = key(
    "webhook-configuration",
    "MANTLET_WEBHOOK_CONFIGURATION",
    Some("mantlet-injector"),
    Kind::Name,
    "The MutatingWebhookConfiguration and the ValidatingWebhookConfiguration whose caBundle is kept.",
);
pub(super) const POD_NAME: Key = key(
    "pod-name",
    "MANTLET_POD_NAME",
    Some("mantlet-injector"),
    Kind::Name,
    "The own pod, which Events name: by the downward API.",
);
pub(super) const AUTHORITY_LIFE: Key = key(
    "authority-life",
    "MANTLET_AUTHORITY_LIFE",
    Some("365d"),
    Kind::Duration(1, 3650 * DAY),
    "Life of an authority. The next one is published at two thirds of it.",
);
pub(super) const CERTIFICATE_LIFE: Key = key(
    "certificate-life",
    "MANTLET_CERTIFICATE_LIFE",
    Some("24h"),
    Kind::Duration(1, 90 * DAY),
    "Life of a serving certificate, renewed at two thirds of it. At most a third of --authority-life.",
);
pub(super) const SETTLE: Key = key(
    "certificate-settle",
    "MANTLET_CERTIFICATE_SETTLE",
    Some("1m"),
    Kind::Duration(0, HOUR),
    "How long an authority is in both webhook configurations before it signs: every API server must have seen it.",
);
pub(super) const POLL: Key = key(
    "certificate-poll",
    "MANTLET_CERTIFICATE_POLL",
    Some("10s"),
    Kind::Duration(0, 10 * MINUTE),
    "Time between two looks at the Secret and the webhook configurations.",
);
pub(super) const MAX_CONNECTIONS: Key = key(
    "max-connections",
    "MANTLET_MAX_CONNECTIONS",
    Some("512"),
    Kind::Count(2, 65_536),
    "Connections to --listen at a time; one address has at most half of them.",
);
pub(super) const HEAD_TIMEOUT: Key = key(
    "head-timeout",
    "MANTLET_HEAD_TIMEOUT",
    Some("15s"),
    Kind::Duration(1, 5 * MINUTE),
    "How long the head of a request may take to arrive with HTTP/1.1, and how long such a connection may be silent.",
);
pub(super) const CONNECTION_AGE: Key = key(
    "connection-age",
    "MANTLET_CONNECTION_AGE",
    Some("5m"),
    Kind::Duration(1, DAY),
    "When a connection is asked to end, so that an API server finds new replicas. What is in flight is answered first.",
);
pub(super) const WORKLOAD_API: Key = key(
    "workload-api",
    "SPIFFE_ENDPOINT_SOCKET",
    Some(""),
    Kind::Endpoint,
    "Where the directory has its identity from: the SPIFFE Workload API. Without it there is no directory.",
);
pub(super) const DIRECTORY_LISTEN: Key = key(
    "directory-listen",
    "MANTLET_DIRECTORY_LISTEN",
    Some("[::]:8444"),
    Kind::Address,
    "Where sidecars ask the directory, by gRPC over mutual TLS; only where --workload-api is set.",
);
pub(super) const DIRECTORY_MAX_CONNECTIONS: Key = key(
    "directory-max-connections",
    "MANTLET_DIRECTORY_MAX_CONNECTIONS",
    Some("16384"),
    Kind::Count(8, 65_536),
    "Connections to --directory-listen at a time; one address has at most a 32nd of them.",
);
pub(super) const STOP_DELAY: Key = key(
    "stop-delay",
    "MANTLET_STOP_DELAY",
    Some("5s"),
    Kind::Duration(0, 5 * MINUTE),
    "How long connections are accepted after SIGTERM: until the endpoint has left the Service.",
);
pub(super) const DRAIN_DEADLINE: Key = key(
    "drain-deadline",
    "MANTLET_DRAIN_DEADLINE",
    Some("20s"),
    Kind::Duration(0, 10 * MINUTE),
    "How long requests in flight may take after that.",
);
pub(super) const LOG_ADMISSIONS: Key = key(
    "log-admissions",
    "MANTLET_LOG_ADMISSIONS",
    Some("changed"),
    Kind::Choice(&["denied", "changed", "all"]),
    "Which admissions have a line on standard output: refusals and failures, injections too, or all.",
);
pub(super) const LOG: Key = key(
    "log",
    "MANTLET_LOG",
    Some("info"),
    Kind::Choice(&["off", "error", "warn", "info", "debug", "trace"]),
    "Level of the process log on standard error.",
);

/// Every configuration key, in the order of the documentation.
pub(super) static KEYS: &[Key] = &[
    LISTEN,
    ADMIN,
    CONFIG,
    NAMESPACE,
    SERVICE,
    NAMES,
    SECRET,
    WEBHOOK_CONFIGURATION,
    POD_NAME,
    AUTHORITY_LIFE,
    CERTIFICATE_LIFE,
    SETTLE,
    POLL,
    MAX_CONNECTIONS,
    HEAD_TIMEOUT,
    CONNECTION_AGE,
    WORKLOAD_API,
    DIRECTORY_LISTEN,
    DIRECTORY_MAX_CONNECTIONS,
    STOP_DELAY,
    DRAIN_DEADLINE,
    LOG_ADMISSIONS,
    LOG,
];

// === impl Kind ===

impl Kind {
    /// What stands for the value in the help.
    pub(super) fn placeholder(&self) -> &'static str {
        match self {
            Self::Address => "ADDRESS",
            Self::Name => "NAME",
            Self::Names => "NAMES",
            Self::Path => "FILE",
            Self::Endpoint => "ENDPOINT",
            Self::Count(..) => "COUNT",
            Self::Duration(..) => "DURATION",
            Self::Choice(_) => "WORD",
        }
    }

    /// The accepted form, for people.
    pub(super) fn accepts(&self) -> String {
        match self {
            Self::Address => "ip:port, such as [::]:8443".to_owned(),
            Self::Name => "a name as Kubernetes has them: a-z, 0-9, - and .".to_owned(),
            Self::Names => "names of DNS and IP addresses, separated by commas".to_owned(),
            Self::Path => "a file".to_owned(),
            Self::Endpoint => "unix:///path/to/agent.sock or tcp://IP:PORT".to_owned(),
            Self::Count(least, most) => format!("{least} to {most}"),
            Self::Duration(least, most) => {
                let shown = |seconds| display_duration(Duration::from_secs(seconds));
                format!("{} to {}, with unit (ms, s, m, h, d)", shown(*least), shown(*most))
            }
            Self::Choice(words) => words.join(", "),
        }
    }
}

/// In the largest unit that needs no fraction.
fn display_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(DAY, "d"), (HOUR, "h"), (MINUTE, "m")];
    let fits = units.iter().find(|(unit, _)| seconds > 0 && seconds.is_multiple_of(*unit));
    fits.map_or_else(|| format!("{seconds}s"), |(unit, name)| format!("{}{name}", seconds / unit))
}

/// A number with a unit.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(end)?;
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(MINUTE).map(Duration::from_secs),
        "h" => number.checked_mul(HOUR).map(Duration::from_secs),
        "d" => number.checked_mul(DAY).map(Duration::from_secs),
        _ => None,
    }
}
