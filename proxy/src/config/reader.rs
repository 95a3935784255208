//! From strings to a valid configuration: every key is read before the first mistake ends the attempt.

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    time::Duration,
};

use clap::ArgMatches;
use mantlet_id::TrustDomain;
use mantlet_identity::Endpoint;
use mantlet_policy::Guardrails;

use super::{
    AccessLog, Config, Effective, Intercept, MetricsLevel, OutboundListener, PolicyLocation, Probes,
    Unconfigured,
    error::{Mistake, Mistakes, Reported},
    keys::{self, Id, KEYS, Key, Kind},
    listeners::{self, Home},
    raw::{Given, Raw},
    values::{self, Checked},
};

/// A value, or the token that its mistake has been recorded.
pub(super) type Taken<T> = Result<T, Reported>;

/// Turns [`Raw`] into [`Config`], collecting mistakes on the way.
pub(super) struct Reader<'a> {
    pub(super) raw: &'a Raw,
    pub(super) mistakes: Mistakes,
}

/// The one key that `drain` and `log-level` need; whatever else is wrong must not keep a pod from draining.
pub(super) fn admin_socket(
    matches: &ArgMatches,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<PathBuf, Mistakes> {
    let mut mistakes = Mistakes::default();
    let Some(key) = keys::find(Id::AdminSocket) else { return Err(mistakes) };
    let variable =
        || environment.into_iter().find(|(name, _)| name == key.environment).map(|(_, value)| value);
    let given = matches.get_one::<String>(key.flag).map(OsString::from).or_else(variable);
    match given.filter(|path| !path.is_empty()) {
        Some(path) => Ok(path.into()),
        None => {
            mistakes.add(Mistake {
                key: format!("--{} (or {})", key.flag, key.environment),
                value: None,
                problem: "missing".to_owned(),
                accepts: key.kind.accepts(),
            });
            Err(mistakes)
        }
    }
}

// === impl Reader ===

impl Reader<'_> {
    /// Reads every key before the first `?`, so that one mistake hides no other.
    pub(super) fn assemble(&mut self) -> Taken<Config> {
        let trust_domain = self.optional(Id::TrustDomain, values::trust_domain);
        let namespace = self.optional(Id::Namespace, values::name);
        let inbound = self.list(Id::Inbound, listeners::inbound);
        let outbound = self.outbound(&trust_domain, &namespace);
        let pod_ips = self.optional(Id::PodIps, values::addresses);
        let intercept = self.intercept(&pod_ips);
        let probes = self.probes(&pod_ips);
        let ports = self.optional(Id::Ports, values::ports);
        let workload_api =
            self.required(Id::WorkloadApi, |text| Endpoint::parse(text).map_err(|error| error.to_string()));
        let service_account = self.optional(Id::ServiceAccount, values::name);
        let svid_hint = self.optional(Id::SvidHint, values::text);
        let max_stale_identity = self.duration(Id::MaxStaleIdentity);
        let identity_grace = self.duration(Id::IdentityGrace);
        let policy = self.policy();
        let reach = self.reach(&policy);
        let guardrails = self.guardrails();
        let unconfigured = self.required(Id::Unconfigured, unconfigured);
        let admin = self.required(Id::Admin, values::address);
        let admin_socket = self.optional(Id::AdminSocket, values::path);
        let metrics_level = self.required(Id::MetricsLevel, metrics_level);
        let metrics_peers = self.count(Id::MetricsPeers);
        let max_connections = self.count(Id::MaxConnections);
        let max_connections_per_peer = self.count(Id::MaxConnectionsPerPeer);
        let max_requests = self.count(Id::MaxRequests);
        let max_memory = self.optional_count(Id::MaxMemory);
        let connect_timeout = self.duration(Id::ConnectTimeout);
        let handshake_timeout = self.duration(Id::HandshakeTimeout);
        let header_timeout = self.duration(Id::HeaderTimeout);
        let response_timeout = self.optional_duration(Id::ResponseTimeout);
        let idle_timeout = self.duration(Id::IdleTimeout);
        let stall_timeout = self.duration(Id::StallTimeout);
        let dead_after = self.duration(Id::DeadAfter);
        let stop_delay = self.duration(Id::StopDelay);
        let drain_deadline = self.duration(Id::DrainDeadline);
        let workers = self.optional_count(Id::Workers);
        let log = self.required(Id::Log, log_level);
        let access_log = self.required(Id::AccessLog, access_log);
        let termination_message = self.optional(Id::TerminationMessage, values::path);
        let exit_with_parent = self.optional_count(Id::ExitWithParent);
        let config = Config {
            inbound: inbound?,
            outbound: outbound?,
            intercept: intercept?,
            reach: reach?,
            ports: ports?.unwrap_or_default(),
            workload_api: workload_api?,
            trust_domain: trust_domain?,
            namespace: namespace?,
            service_account: service_account?,
            svid_hint: svid_hint?,
            max_stale_identity: max_stale_identity?,
            identity_grace: identity_grace?,
            policy: policy?,
            guardrails: guardrails?,
            unconfigured: unconfigured?,
            probes: probes?,
            admin: admin?,
            admin_socket: admin_socket?,
            metrics_level: metrics_level?,
            metrics_peers: metrics_peers?,
            max_connections: max_connections?,
            max_connections_per_peer: max_connections_per_peer?,
            max_requests: max_requests?,
            max_memory: max_memory?,
            connect_timeout: connect_timeout?,
            handshake_timeout: handshake_timeout?,
            header_timeout: header_timeout?,
            response_timeout: response_timeout?,
            idle_timeout: idle_timeout?,
            stall_timeout: stall_timeout?,
            dead_after: dead_after?,
            stop_delay: stop_delay?,
            drain_deadline: drain_deadline?,
            workers: workers?.and_then(NonZeroUsize::new),
            log: log?,
            access_log: access_log?,
            termination_message: termination_message?,
            exit_with_parent: exit_with_parent?,
            effective: self.effective(),
        };
        self.check_listeners(&config)?;
        Ok(config)
    }

    fn outbound(
        &mut self,
        trust_domain: &Taken<Option<TrustDomain>>,
        namespace: &Taken<Option<String>>,
    ) -> Taken<Vec<OutboundListener>> {
        // Where the domain itself is wrong, identities that need it would only repeat that.
        let (Ok(trust_domain), Ok(namespace)) = (trust_domain, namespace) else { return Err(Reported) };
        let home = Home { trust_domain: trust_domain.as_ref(), namespace: namespace.as_deref() };
        self.list(Id::Outbound, |text| listeners::outbound(text, home))
    }

    fn intercept(&mut self, pod_ips: &Taken<Option<Vec<IpAddr>>>) -> Taken<Option<Intercept>> {
        let wanted = self.required(Id::Intercept, values::switch);
        let (inbound, outbound) = (self.port(Id::InterceptInbound), self.port(Id::InterceptOutbound));
        let (wanted, inbound, outbound) = (wanted?, inbound?, outbound?);
        let Ok(pod_ips) = pod_ips else { return Err(Reported) };
        if !wanted {
            return Ok(None);
        }
        let Some(pod_ips) = pod_ips.clone() else {
            let accepts = Kind::Addresses.accepts();
            return Err(self.mistake(Id::PodIps, None, "missing, and --intercept needs it", &accepts));
        };
        Ok(Some(Intercept { inbound, outbound, pod_ips }))
    }

    fn probes(&mut self, pod_ips: &Taken<Option<Vec<IpAddr>>>) -> Taken<Probes> {
        let Ok(pod_ips) = pod_ips else { return Err(Reported) };
        // The kubelet asks the first address of a pod.
        let pod_ip = pod_ips.iter().flatten().next().copied();
        let at = pod_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        match (self.optional(Id::Probes, |text| Probes::parse(text, at))?, pod_ip) {
            (None, _) => Ok(Probes::default()),
            (Some(probes), Some(_)) => Ok(probes),
            (Some(_), None) => {
                let accepts = Kind::Addresses.accepts();
                Err(self.mistake(Id::PodIps, None, "missing, and --probes needs it", &accepts))
            }
        }
    }

    pub(super) fn port(&mut self, id: Id) -> Taken<u16> {
        u16::try_from(self.count(id)?).map_err(|_| Reported)
    }

    fn policy(&mut self) -> Taken<PolicyLocation> {
        let (file, annotations) =
            (self.optional(Id::Policy, values::path), self.optional(Id::Annotations, values::path));
        match (file?, annotations?) {
            (None, None) => Ok(PolicyLocation::None),
            (Some(file), None) => Ok(PolicyLocation::File(file)),
            (None, Some(file)) => Ok(PolicyLocation::Annotations(file)),
            (Some(_), Some(_)) => {
                Err(self.mistake(Id::Policy, None, "given together with --annotations", "one of the two"))
            }
        }
    }

    fn guardrails(&mut self) -> Taken<Guardrails> {
        let lines = self.list(Id::Guardrails, values::guardrail)?;
        // Each line parsed; together they do, too.
        Guardrails::parse(&lines.join("\n"))
            .map_err(|problem| self.mistake(Id::Guardrails, None, &problem, &Kind::Guardrail.accepts()))
    }

    /// What no single key can tell: somebody listens, and nobody twice on one address.
    fn check_listeners(&mut self, config: &Config) -> Taken<()> {
        let intercept = config.intercept.as_ref();
        if config.inbound.is_empty() && config.outbound.is_empty() && intercept.is_none() {
            return Err(self.mistake(
                Id::Inbound,
                None,
                "no listener",
                "at least one --inbound or --outbound, or --intercept",
            ));
        }
        let named = (config.inbound.iter().map(|l| (Id::Inbound, l.listen)))
            .chain(config.outbound.iter().map(|l| (Id::Outbound, l.listen)))
            .chain([(Id::Admin, config.admin)]);
        let mut seen: Vec<SocketAddr> = Vec::new();
        let mut result = Ok(());
        // Inbound ones are redirected to every address; and nobody reaches a port of the sidecar through it.
        let taken: Vec<u16> = intercept.map(|i| vec![i.inbound, i.outbound]).unwrap_or_default();
        if let [inbound, outbound] = taken.as_slice()
            && inbound == outbound
        {
            let value = Some(outbound.to_string());
            let accepts = "a port other than that of --intercept-inbound";
            result = Err(self.mistake(Id::InterceptOutbound, value, "this port is used twice", accepts));
        }
        for (id, listen) in named.filter(|(_, listen)| listen.port() != 0) {
            if taken.contains(&listen.port()) {
                result = Err(self.mistake(
                    id,
                    Some(listen.to_string()),
                    "redirected connections arrive at this port",
                    "a port other than those of --intercept-inbound and --intercept-outbound",
                ));
            }
            if seen.contains(&listen) {
                result = Err(self.mistake(
                    id,
                    Some(listen.to_string()),
                    "this address is used twice",
                    "an address of its own",
                ));
            }
            seen.push(listen);
        }
        result
    }

    fn effective(&self) -> Vec<Effective> {
        let row = |key: &'static Key| {
            let Given { source, values } = self.raw.given(key);
            Effective { key: key.flag, values, source, hidden: key.hidden }
        };
        KEYS.iter().map(row).collect()
    }

    /// Parses each value of `id`; every one that fails is recorded.
    fn list<T>(&mut self, id: Id, parse: impl Fn(&str) -> Checked<T>) -> Taken<Vec<T>> {
        let Some(key) = keys::find(id) else { return Err(Reported) };
        let Given { source, values } = self.raw.given(key);
        let mut parsed = Vec::with_capacity(values.len());
        let mut result = Ok(());
        for value in values {
            match parse(&value) {
                Ok(item) => parsed.push(item),
                Err(problem) => {
                    result = Err(self.mistakes.add(Mistake {
                        key: source.spelling(key),
                        value: Some(value),
                        problem,
                        accepts: key.kind.accepts(),
                    }));
                }
            }
        }
        result.map(|()| parsed)
    }

    pub(super) fn optional<T>(&mut self, id: Id, parse: impl Fn(&str) -> Checked<T>) -> Taken<Option<T>> {
        Ok(self.list(id, parse)?.pop())
    }

    pub(super) fn required<T>(&mut self, id: Id, parse: impl Fn(&str) -> Checked<T>) -> Taken<T> {
        match self.optional(id, parse)? {
            Some(value) => Ok(value),
            None => {
                let accepts = keys::find(id).map(|key| key.kind.accepts()).unwrap_or_default();
                Err(self.mistake(id, None, "missing", &accepts))
            }
        }
    }

    pub(super) fn duration(&mut self, id: Id) -> Taken<Duration> {
        match keys::find(id).map(|key| key.kind) {
            Some(Kind::Duration(min, max)) => self.required(id, |text| values::duration(text, min, max)),
            _ => Err(Reported),
        }
    }

    fn optional_duration(&mut self, id: Id) -> Taken<Option<Duration>> {
        match keys::find(id).map(|key| key.kind) {
            Some(Kind::Duration(min, max)) => self.optional(id, |text| values::duration(text, min, max)),
            _ => Err(Reported),
        }
    }

    fn optional_count(&mut self, id: Id) -> Taken<Option<usize>> {
        match keys::find(id).map(|key| key.kind) {
            Some(Kind::Count(min, max)) => self.optional(id, |text| values::count(text, min, max)),
            _ => Err(Reported),
        }
    }

    fn count(&mut self, id: Id) -> Taken<usize> {
        self.optional_count(id)?.ok_or(Reported)
    }

    pub(super) fn mistake(
        &mut self,
        id: Id,
        value: Option<String>,
        problem: &str,
        accepts: &str,
    ) -> Reported {
        let key = match keys::find(id) {
            Some(key) if id == Id::WorkloadApi => format!("--{} (or {})", key.flag, key.environment),
            Some(key) => format!("--{}", key.flag),
            None => String::new(),
        };
        self.mistakes.add(Mistake { key, value, problem: problem.to_owned(), accepts: accepts.to_owned() })
    }
}

fn unconfigured(word: &str) -> Checked<Unconfigured> {
    match word {
        "deny" => Ok(Unconfigured::Deny),
        "audit" => Ok(Unconfigured::Audit),
        "permissive" => Ok(Unconfigured::Permissive),
        _ => Err("unknown word".to_owned()),
    }
}

fn metrics_level(word: &str) -> Checked<MetricsLevel> {
    match word {
        "minimal" => Ok(MetricsLevel::Minimal),
        "default" => Ok(MetricsLevel::Default),
        "full" => Ok(MetricsLevel::Full),
        _ => Err("not a level of the metrics".to_owned()),
    }
}

fn access_log(word: &str) -> Checked<AccessLog> {
    match word {
        "off" => Ok(AccessLog::Off),
        "errors" => Ok(AccessLog::Errors),
        "all" => Ok(AccessLog::All),
        _ => Err("unknown word".to_owned()),
    }
}

fn log_level(word: &str) -> Checked<&'static str> {
    ["off", "error", "warn", "info", "debug", "trace"]
        .into_iter()
        .find(|level| *level == word)
        .ok_or_else(|| "unknown level".to_owned())
}
