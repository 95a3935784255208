//! What the injector measures.
//!
//! The list of families needs no server, so that `mantlet metrics --describe` can show it.

#[cfg(feature = "server")]
mod directory;
#[cfg(feature = "server")]
mod exposition;
#[cfg(feature = "server")]
mod process;
#[cfg(feature = "server")]
mod registry;
#[cfg(feature = "server")]
mod words;

use serde::Serialize;

#[cfg(feature = "server")]
pub(crate) use self::{
    directory::DirectoryMetrics,
    registry::Metrics,
    words::{
        Admission, BadRequest, Call, Caller, EventResult, Handshake, Refused, Room, Rotation, Said,
        StreamEnd, Watched, Webhook,
    },
};

/// One family.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Family {
    /// As it stands in the classic text format.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

const fn family(
    name: &'static str,
    kind: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Family {
    Family { name, kind, labels, help }
}

pub(crate) const ADMISSIONS: Family = family(
    "mantlet_injector_admissions_total",
    "counter",
    &["webhook", "result", "reason"],
    "Answers to the API server, dry runs not counted.",
);
pub(crate) const ADMISSION_DURATION: Family = family(
    "mantlet_injector_admission_duration_seconds",
    "histogram",
    &["webhook"],
    "From the head of a request to its answer, dry runs included.",
);
pub(crate) const DRY_RUNS: Family =
    family("mantlet_injector_dry_runs_total", "counter", &["webhook", "result"], "Answers to dry runs.");
pub(crate) const BAD_REQUESTS: Family = family(
    "mantlet_injector_bad_requests_total",
    "counter",
    &["reason"],
    "Requests that are no admission review.",
);
pub(crate) const HANDSHAKES: Family = family(
    "mantlet_injector_handshakes_total",
    "counter",
    &["result"],
    "TLS handshakes on the webhook's port.",
);
pub(crate) const CONNECTIONS: Family =
    family("mantlet_injector_connections", "gauge", &[], "Open connections on the webhook's port.");
pub(crate) const REFUSED: Family = family(
    "mantlet_injector_refused_total",
    "counter",
    &["limit"],
    "Connections and requests that ran into a limit.",
);
pub(crate) const CERT_NOT_BEFORE: Family = family(
    "mantlet_injector_cert_not_before_timestamp_seconds",
    "gauge",
    &[],
    "When the serving certificate was issued, since the epoch; 0 before there is one.",
);
pub(crate) const CERT_NOT_AFTER: Family = family(
    "mantlet_injector_cert_not_after_timestamp_seconds",
    "gauge",
    &[],
    "When the serving certificate expires, since the epoch; 0 before there is one.",
);
pub(crate) const AUTHORITY_NOT_AFTER: Family = family(
    "mantlet_injector_authority_not_after_timestamp_seconds",
    "gauge",
    &[],
    "When the authority of the serving certificate expires, since the epoch; 0 before there is one.",
);
pub(crate) const ROTATIONS: Family = family(
    "mantlet_injector_rotations_total",
    "counter",
    &["step"],
    "What this replica did to the certificates of all.",
);
pub(crate) const KUBERNETES_ERRORS: Family = family(
    "mantlet_injector_kubernetes_errors_total",
    "counter",
    &["call"],
    "Requests to the API server that failed.",
);
pub(crate) const EVENTS: Family = family(
    "mantlet_injector_events_total",
    "counter",
    &["result"],
    "Kubernetes Events about the owners of pods, and about Services.",
);
pub(crate) const READY: Family =
    family("mantlet_injector_ready", "gauge", &[], "Whether the API server can be served.");
pub(crate) const LINES_DROPPED: Family = family(
    "mantlet_injector_log_lines_dropped_total",
    "counter",
    &[],
    "Admission lines lost because nobody read them.",
);
pub(crate) const DIRECTORY_READY: Family = family(
    "mantlet_injector_directory_ready",
    "gauge",
    &[],
    "Whether the directory knows the whole cluster and has an identity; 0 where it is off.",
);
pub(crate) const DIRECTORY_CONNECTIONS: Family = family(
    "mantlet_injector_directory_connections",
    "gauge",
    &[],
    "Open connections on the directory's port.",
);
pub(crate) const DIRECTORY_HANDSHAKES: Family = family(
    "mantlet_injector_directory_handshakes_total",
    "counter",
    &["result"],
    "TLS handshakes on the directory's port.",
);
pub(crate) const DIRECTORY_REFUSED: Family = family(
    "mantlet_injector_directory_refused_total",
    "counter",
    &["limit"],
    "Connections to the directory that ran into a limit.",
);
pub(crate) const DIRECTORY_NO_ROOM: Family = family(
    "mantlet_injector_directory_no_room_total",
    "counter",
    &["limit"],
    "Addresses that a sidecar asked about and that are not followed, because too many are.",
);
pub(crate) const DIRECTORY_SUBSCRIBERS: Family = family(
    "mantlet_injector_directory_subscribers",
    "gauge",
    &[],
    "Streams of sidecars that follow addresses.",
);
pub(crate) const DIRECTORY_FOLLOWED: Family = family(
    "mantlet_injector_directory_followed_addresses",
    "gauge",
    &[],
    "Addresses that streams follow, counted once for each stream.",
);
pub(crate) const DIRECTORY_ANSWERS: Family = family(
    "mantlet_injector_directory_answers_total",
    "counter",
    &["says"],
    "Answers sent, first ones and changes.",
);
pub(crate) const DIRECTORY_STREAM_ENDS: Family =
    family("mantlet_injector_directory_stream_ends_total", "counter", &["reason"], "Streams that ended.");
pub(crate) const DIRECTORY_OBJECTS: Family = family(
    "mantlet_injector_directory_objects",
    "gauge",
    &["kind"],
    "Objects of the cluster that are known.",
);
pub(crate) const DIRECTORY_WATCH_ERRORS: Family = family(
    "mantlet_injector_directory_watch_errors_total",
    "counter",
    &["kind"],
    "Lists and watches that failed. What was known holds meanwhile.",
);
pub(crate) const DIRECTORY_RELISTS: Family = family(
    "mantlet_injector_directory_relists_total",
    "counter",
    &["kind"],
    "Complete lists taken over, the first one included.",
);
pub(crate) const DIRECTORY_SYNC: Family = family(
    "mantlet_injector_directory_last_sync_timestamp_seconds",
    "gauge",
    &["kind"],
    "When the API server last said anything about these objects, since the epoch; 0 before it did.",
);
pub(crate) const DIRECTORY_LEFT_OUT: Family = family(
    "mantlet_injector_directory_left_out_endpoints",
    "gauge",
    &[],
    "Endpoints that no sidecar is told of: mantlet.dev/served-by of their Service leaves them out, or there are too many.",
);
pub(crate) const DIRECTORY_MIXED: Family = family(
    "mantlet_injector_directory_mixed_services",
    "gauge",
    &[],
    "Services without mantlet.dev/served-by that several service accounts serve by now.",
);
pub(crate) const DIRECTORY_CERT_NOT_AFTER: Family = family(
    "mantlet_injector_directory_cert_not_after_timestamp_seconds",
    "gauge",
    &[],
    "When the directory's SVID expires, since the epoch; 0 without one.",
);
pub(crate) const BUILD_INFO: Family =
    family("mantlet_injector_build_info", "gauge", &["version"], "The version of the injector.");
pub(crate) const CPU: Family =
    family("process_cpu_seconds_total", "counter", &[], "CPU time of the process.");
pub(crate) const RESIDENT: Family =
    family("process_resident_memory_bytes", "gauge", &[], "Memory of the process in RAM.");
pub(crate) const OPEN_FDS: Family = family("process_open_fds", "gauge", &[], "Open file descriptors.");
pub(crate) const MAX_FDS: Family = family("process_max_fds", "gauge", &[], "Limit of open file descriptors.");
pub(crate) const THREADS: Family = family("process_threads", "gauge", &[], "Threads of the process.");
pub(crate) const START: Family =
    family("process_start_time_seconds", "gauge", &[], "When the process started, since the epoch.");

/// Every family, in the order of exposition.
pub static FAMILIES: &[Family] = &[
    ADMISSIONS,
    ADMISSION_DURATION,
    DRY_RUNS,
    BAD_REQUESTS,
    HANDSHAKES,
    CONNECTIONS,
    REFUSED,
    CERT_NOT_BEFORE,
    CERT_NOT_AFTER,
    AUTHORITY_NOT_AFTER,
    ROTATIONS,
    KUBERNETES_ERRORS,
    EVENTS,
    READY,
    LINES_DROPPED,
    DIRECTORY_READY,
    DIRECTORY_CONNECTIONS,
    DIRECTORY_HANDSHAKES,
    DIRECTORY_REFUSED,
    DIRECTORY_NO_ROOM,
    DIRECTORY_SUBSCRIBERS,
    DIRECTORY_FOLLOWED,
    DIRECTORY_ANSWERS,
    DIRECTORY_STREAM_ENDS,
    DIRECTORY_OBJECTS,
    DIRECTORY_WATCH_ERRORS,
    DIRECTORY_RELISTS,
    DIRECTORY_SYNC,
    DIRECTORY_LEFT_OUT,
    DIRECTORY_MIXED,
    DIRECTORY_CERT_NOT_AFTER,
    BUILD_INFO,
    CPU,
    RESIDENT,
    OPEN_FDS,
    MAX_FDS,
    THREADS,
    START,
];
