//! Configuration: flags over environment over defaults, one table of keys, every mistake at once.
//!
//! What the operator wrote ([`Raw`]: strings with their source) and what the process runs on ([`Config`]: valid by
//! construction) are two types. The environment comes in as an argument, so that tests never change it. Policy is
//! not configuration: it is a watched file.

mod document;
mod error;
pub mod keys;
mod kind;
mod listeners;
mod probes;
mod raw;
mod reach;
mod reader;
pub(crate) mod values;

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use mantlet_id::{SpiffeId, TrustDomain};
use mantlet_identity::Endpoint;
use mantlet_policy::{Guardrails, NamedPort};

pub use self::{
    document::{document, print},
    error::{Mistake, Mistakes},
    listeners::{InboundListener, OutboundListener, Peer, UpstreamAddr, UpstreamProtocol},
    probes::{Action, Handler, Probes},
    raw::{Source, command},
    reach::{Defaults, DirectoryServer, Otherwise, Reach, Unknown, UpstreamsLocation},
};
use self::{
    raw::{DRAIN, FOR, LEVEL, LOG_LEVEL, PRINT_CONFIG, Raw},
    reader::Reader,
};

/// A valid configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Explicit inbound listeners.
    pub inbound: Vec<InboundListener>,
    /// Explicit outbound listeners.
    pub outbound: Vec<OutboundListener>,
    /// How redirected connections are taken; `None`: they are not.
    pub intercept: Option<Intercept>,
    /// How destinations are found.
    pub reach: Reach,
    /// Declared ports of the app.
    pub ports: Vec<NamedPort>,
    /// Where the Workload API listens.
    pub workload_api: Endpoint,
    /// The local trust domain; `None` takes that of the first usable SVID.
    pub trust_domain: Option<TrustDomain>,
    /// The pod's namespace.
    pub namespace: Option<String>,
    /// The pod's service account.
    pub service_account: Option<String>,
    /// Which SVID to take when none has the expected identity.
    pub svid_hint: Option<String>,
    /// How long long-lived work may go on after its peer's SVID expired.
    pub max_stale_identity: Duration,
    /// How long the own identity stays in use after a denial.
    pub identity_grace: Duration,
    /// Where the policy is.
    pub policy: PolicyLocation,
    /// What the installation forbids.
    pub guardrails: Guardrails,
    /// What holds without a policy.
    pub unconfigured: Unconfigured,
    /// The application's probes, which the sidecar asks for the kubelet.
    pub probes: Probes,
    /// Health, metrics, dumps.
    pub admin: SocketAddr,
    /// Unix socket for mutations.
    pub admin_socket: Option<PathBuf>,
    /// How much the metrics show.
    pub metrics_level: MetricsLevel,
    /// Authenticated peers that have a metric label of their own.
    pub metrics_peers: usize,
    /// Connections at a time.
    pub max_connections: usize,
    /// Inbound connections of one address at a time.
    pub max_connections_per_peer: usize,
    /// Requests in flight, each direction.
    pub max_requests: usize,
    /// Resident memory in MiB; `None` takes the cgroup's limit.
    pub max_memory: Option<usize>,
    /// TCP connect.
    pub connect_timeout: Duration,
    /// TLS handshake.
    pub handshake_timeout: Duration,
    /// First byte of a request head to its end.
    pub header_timeout: Duration,
    /// From a request that was sent on to the head of its response; `None`: for ever.
    pub response_timeout: Option<Duration>,
    /// Between requests.
    pub idle_timeout: Duration,
    /// A peer that takes or sends nothing.
    pub stall_timeout: Duration,
    /// A host that answers nothing for so long is gone.
    pub dead_after: Duration,
    /// From the order to stop to its announcement.
    pub stop_delay: Duration,
    /// Orderly stop.
    pub drain_deadline: Duration,
    /// Worker threads; `None` takes the cgroup's CPU limit.
    pub workers: Option<NonZeroUsize>,
    /// Level of the process log, in the words of `tracing`.
    pub log: &'static str,
    /// Which requests and connections are logged.
    pub access_log: AccessLog,
    /// Where the last word is written.
    pub termination_message: Option<PathBuf>,
    /// The process that started this one, to stop with it.
    pub exit_with_parent: Option<usize>,
    /// Every key with its effective value and source, for `--print-config` and `/v1/config`.
    pub effective: Vec<Effective>,
}

/// How redirected connections are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intercept {
    /// Inbound connections arrive here, on every address.
    pub inbound: u16,
    /// Outbound connections arrive here, on the loopback addresses.
    pub outbound: u16,
    /// The pod's addresses, at least one.
    pub pod_ips: Vec<IpAddr>,
}

/// Where the policy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyLocation {
    /// There is none: [`Unconfigured`] holds.
    None,
    /// A plain policy file.
    File(PathBuf),
    /// A downward-API annotations file.
    Annotations(PathBuf),
}

/// What holds without a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unconfigured {
    /// Everything is denied.
    Deny,
    /// Everything is admitted and counted.
    Audit,
    /// As audit, and callers without mesh identity are accepted.
    Permissive,
}

/// How much the metrics show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsLevel {
    /// What the alerts need.
    Minimal,
    /// What the dashboard needs too.
    Default,
    /// Everything.
    Full,
}

/// Which requests and connections the access log shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLog {
    /// None.
    Off,
    /// Those that were refused or failed.
    Errors,
    /// All.
    All,
}

/// One key with its effective value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// Flag without dashes: the key's name.
    pub key: &'static str,
    /// Values as given; empty when unset.
    pub values: Vec<String>,
    /// Where they came from.
    pub source: Source,
    /// Left out of the printed form unless it was given.
    pub hidden: bool,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Loaded {
    /// Run with this.
    Run(Box<Config>),
    /// Print this (help, version, configuration) and exit with success.
    Print(String),
    /// Ask the sidecar behind this Unix socket to drain.
    Drain(PathBuf),
    /// Ask the sidecar behind this Unix socket to log at a level for a while.
    LogLevel {
        /// The socket.
        socket: PathBuf,
        /// A word that `--log` takes.
        level: String,
        /// A duration with its unit, which the sidecar judges.
        limit: String,
    },
}

/// A command line that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Flags that do not exist, or lack a value.
    #[error("{0}")]
    Usage(clap::Error),
    /// Values that mean nothing.
    #[error("{0}")]
    Mistakes(#[from] Mistakes),
}

/// Reads the configuration from the arguments (without the program's name) and the environment.
///
/// # Errors
/// Unknown flags, or every mistake in the values at once; the exit code is [`LoadError::EXIT_CODE`].
pub fn load(
    program: &'static str,
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, LoadError> {
    let command_line = std::iter::once(OsString::from(program)).chain(arguments);
    let matches = match command(program).try_get_matches_from(command_line) {
        Ok(matches) => matches,
        Err(error) if error.exit_code() == 0 => return Ok(Loaded::Print(error.render().to_string())),
        Err(error) => return Err(LoadError::Usage(error)),
    };
    if let Some((DRAIN, drain)) = matches.subcommand() {
        return Ok(Loaded::Drain(reader::admin_socket(drain, environment)?));
    }
    if let Some((LOG_LEVEL, given)) = matches.subcommand() {
        let text = |name| given.get_one::<String>(name).cloned().unwrap_or_default();
        let (level, limit) = (text(LEVEL), text(FOR));
        return Ok(Loaded::LogLevel { socket: reader::admin_socket(given, environment)?, level, limit });
    }
    let mut mistakes = Mistakes::default();
    let raw = Raw::collect(&matches, environment, &mut mistakes);
    let config = Config::from_raw(&raw, mistakes)?;
    Ok(match matches.get_flag(PRINT_CONFIG) {
        true => Loaded::Print(print(&config.effective)),
        false => Loaded::Run(Box::new(config)),
    })
}

// === impl LoadError ===

impl LoadError {
    /// Usage errors end the process with this code.
    pub const EXIT_CODE: u8 = 2;
}

// === impl Config ===

impl Config {
    fn from_raw(raw: &Raw, mistakes: Mistakes) -> Result<Self, Mistakes> {
        let mut reader = Reader { raw, mistakes };
        match reader.assemble() {
            Ok(config) if reader.mistakes.is_empty() => Ok(config),
            _ => Err(reader.mistakes),
        }
    }

    /// The identity that the pod's place in Kubernetes promises, when all three parts are known.
    #[must_use]
    pub fn expected_id(&self) -> Option<SpiffeId> {
        let (domain, namespace, account) =
            (self.trust_domain.as_ref()?, self.namespace.as_deref()?, self.service_account.as_deref()?);
        SpiffeId::workload(domain, namespace, account).ok()
    }
}

impl PolicyLocation {
    /// The file, when there is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::None => None,
            Self::File(path) | Self::Annotations(path) => Some(path),
        }
    }
}

#[cfg(test)]
mod tests;
