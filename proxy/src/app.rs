//! Wiring: from a configuration to a running sidecar, and from a signal to its end.

mod destinations;
mod intercept;
mod log_level;
mod memory;
mod observe;
mod self_check;
mod stop;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, atomic::AtomicBool},
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use mantlet_id::{IdError, SpiffeId};
use mantlet_identity::{IdentityHandle, IdentitySource, SourceConfig};
use thiserror::Error;
use tokio::{net::TcpListener, runtime, sync::Notify};
use tracing::{error, info};

use crate::{
    activity::Activity,
    addr::OrigDst,
    admin,
    authz::Authorizer,
    config::{AccessLog, Config, InboundListener, MetricsLevel},
    drain::Drain,
    http::{Timeouts, client::IDLE_AT_STOP},
    last_word::LastWord,
    listener::{self, Admission, Origin, OwnCalls},
    log::{self, Log, LogLevel},
    metrics::{self, Metrics},
    policy_watch::PolicyWatch,
    pool::Dialer,
    readiness::{Blocker, Readiness},
    sys, vital,
    worker::{Route, Worker},
};

/// The last log lines have this long to be taken by whoever reads them.
const LOG_FLUSH: Duration = Duration::from_secs(2);

use self::{destinations::Destinations, stop::Stop};

/// Why the sidecar could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A listening address cannot be had.
    #[error("cannot listen on {addr} ({role}): is another process listening there?")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// `inbound`, `outbound` or `admin`.
        role: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The expected own identity cannot be built.
    #[error("--namespace and --service-account")]
    OwnId(#[source] IdError),
    /// No thread, no runtime, no signal handler, no socket file.
    #[error("cannot start {what}")]
    System {
        /// What was to be started.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// A sidecar that has its addresses and has not begun.
struct App {
    config: Config,
    log: Log,
    metrics: Arc<Metrics>,
    listeners: Vec<Vec<(std::net::TcpListener, Route)>>,
    admin: std::net::TcpListener,
    own_calls: Option<Arc<OwnCalls>>,
    destinations: Destinations,
}

/// Runs a sidecar until it is told to stop.
///
/// # Errors
/// It could not start. Once it runs, nothing that the network or the Workload API says ends it.
pub fn run(config: Config, last_word: &LastWord) -> Result<(), StartError> {
    if let Some(parent) = config.exit_with_parent {
        sys::exit_with_parent(parent).map_err(system("the parent watch"))?;
    }
    let level = log::start_process_log(config.log);
    vital::log_panics();
    let access = match config.access_log {
        AccessLog::Off => log::Access::Off,
        AccessLog::Errors => log::Access::Errors,
        AccessLog::All => log::Access::All,
    };
    let origin =
        log::Origin { namespace: config.namespace.clone(), service_account: config.service_account.clone() };
    let (log, writer) = Log::start(io::stdout(), access, origin).map_err(system("the log writer"))?;
    let control =
        runtime::Builder::new_current_thread().enable_all().build().map_err(system("the runtime"))?;
    let result = control.block_on(async {
        let app = App::bind(config, log.clone())?;
        app.run(level, last_word).await
    });
    drop(control);
    log.event("stopped", &[]);
    drop(log);
    writer.finish(LOG_FLUSH);
    result
}

// === impl App ===

impl App {
    /// Takes every address, for every worker, before anything else: a sidecar that cannot listen
    /// must say so at once, and must not have asked for an identity.
    fn bind(config: Config, log: Log) -> Result<Self, StartError> {
        let descriptors = sys::raise_descriptor_limit();
        info!(event = "limits", descriptors, connections = config.max_connections);
        let workers = config.workers.unwrap_or_else(sys::workers_for_cgroup).get();
        let mut listeners: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
        for InboundListener { listen, upstream } in &config.inbound {
            let origin = Origin::Fixed(OrigDst(*upstream));
            let addr = bind_all(*listen, "inbound", &Route::Inbound(origin), &mut listeners)?;
            listening(&log, "inbound", addr, Some(upstream.to_string()));
        }
        let level = match config.metrics_level {
            MetricsLevel::Minimal => metrics::Level::Minimal,
            MetricsLevel::Default => metrics::Level::Default,
            MetricsLevel::Full => metrics::Level::Full,
        };
        let metrics = Metrics::new(metrics::Options { level, peers: config.metrics_peers });
        let mut destinations = Destinations::new(&config, &metrics);
        for listener in &config.outbound {
            let route = destinations.route(listener);
            let addr = bind_all(listener.listen, "outbound", &route, &mut listeners)?;
            listening(&log, "outbound", addr, Some(listener.shown()));
        }
        let role = "admin";
        let bind_error = |source| StartError::Bind { addr: config.admin, role, source };
        let admin = bind_admin(config.admin, listener::bind).map_err(bind_error)?;
        let admin_addr = admin.local_addr().map_err(bind_error)?;
        listening(&log, role, admin_addr, None);
        let own_calls = match &config.intercept {
            Some(intercept) => Some(intercept::bind(
                admin_addr.port(),
                intercept,
                destinations.table(),
                &log,
                &mut listeners,
            )?),
            None => None,
        };
        // What is accepted inherits it.
        for (socket, _) in listeners.iter().flatten() {
            sys::keep_alive(socket, config.dead_after).map_err(system("keep-alive"))?;
        }
        Ok(Self { config, log, metrics, listeners, admin, own_calls, destinations })
    }

    async fn run(self, level: LogLevel, last_word: &LastWord) -> Result<(), StartError> {
        let Self { config, log, metrics, listeners, admin, own_calls, destinations } = self;
        let readiness = Readiness::new();
        let (drain, token) = Drain::new();
        let stop = Arc::new(Notify::new());

        let source = IdentitySource::new(identity_config(&config)?);
        let identity = source.handle();
        vital::spawn("identity status", follow_identity(identity.clone(), readiness.blocker("identity")));
        vital::spawn("identity source", source.run());

        let policy_watch =
            PolicyWatch::new(&config, identity.clone(), readiness.blocker("policy")).logging(log.clone());
        let policy = policy_watch.handle();
        vital::spawn("policy watch", policy_watch.run());

        let fleet = destinations.run(&config, &identity, &readiness, &metrics, &log);

        if config.intercept.is_some() {
            tokio::spawn(self_check::watch(readiness.blocker("interception")));
        }
        let activity = Activity::default();
        tokio::spawn(observe::follow(activity.clone(), policy.clone(), identity.clone()));

        let admission =
            Admission::new(config.max_connections, config.max_connections_per_peer, config.max_requests);
        vital::spawn("memory", memory::watch(config.max_memory, Arc::clone(&admission)));
        let sockets = listeners.iter().map(Vec::len).sum();
        let dialer = Dialer::new(
            identity.clone(),
            Arc::clone(&metrics),
            config.connect_timeout,
            config.handshake_timeout,
        )
        .with_own_calls(own_calls)
        .with_dead_after(config.dead_after, config.dead_after.max(config.stall_timeout));
        let mut threads = Vec::new();
        for (number, listeners) in listeners.into_iter().enumerate() {
            let authorizer =
                Authorizer::new(policy.clone(), Arc::clone(&metrics), activity.clone(), log.clone());
            let worker = Worker {
                listeners,
                authorizer: Arc::new(authorizer),
                dialer: dialer.clone(),
                metrics: Arc::clone(&metrics),
                admission: Arc::clone(&admission),
                handshake_timeout: config.handshake_timeout,
                max_stale_identity: config.max_stale_identity,
                timeouts: Timeouts {
                    head: config.header_timeout,
                    response: config.response_timeout,
                    idle: config.idle_timeout,
                    idle_at_stop: IDLE_AT_STOP,
                    stall: config.stall_timeout,
                },
                identity_changes: identity.subscribe(),
                policy_changes: policy.subscribe(),
                drain: token.clone(),
            };
            threads.push(worker.start(number).map_err(system("a worker"))?);
        }
        drop(token);

        metrics.watch(runtime::Handle::current().metrics());
        let draining = Arc::new(AtomicBool::new(false));
        let sources = observe::sources(observe::Parts {
            readiness: readiness.clone(),
            metrics,
            log: log.clone(),
            identity,
            policy,
            activity,
            fleet,
            config: &config,
            draining: Arc::clone(&draining),
            stop: Arc::clone(&stop),
            log_level: log_level::setting(level, log.clone()),
        });
        let sources = Arc::new(sources);
        let admin = TcpListener::from_std(admin).map_err(system("the admin listener"))?;
        vital::spawn("admin", admin::serve(admin, Arc::clone(&sources)));
        if let Some(path) = &config.admin_socket {
            let socket = admin::Socket::bind(path).map_err(system("the admin socket"))?;
            tokio::spawn(admin::serve_socket(socket, sources));
        }

        tokio::spawn(announce_ready(readiness.clone(), log.clone()));
        let asked = stop;
        let stop =
            Stop { drain, asked, draining, readiness, last_word, log, config: &config, admission, sockets };
        stop.run().await.map_err(system("the signal handlers"))?;
        for thread in threads {
            join(thread);
        }
        Ok(())
    }
}

fn join(thread: JoinHandle<io::Result<()>>) {
    match thread.join() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => error!(event = "worker_failed", %error),
        Err(_) => error!(event = "worker_panicked"),
    }
}

async fn announce_ready(readiness: Readiness, log: Log) {
    let mut changes = readiness.subscribe();
    if changes.wait_for(|now| now.is_ready()).await.is_ok() {
        log.event("ready", &[]);
    }
}

/// Keeps the readiness of the identity true.
async fn follow_identity(identity: IdentityHandle, blocker: Blocker) {
    let mut changes = identity.subscribe();
    loop {
        let status = identity.status();
        match identity.credentials() {
            Some(_) => blocker.clear(),
            None => {
                let state = status.state().as_str();
                let next_step = status.next_step().unwrap_or("wait for the agent's answer");
                let cause = status.cause_now(SystemTime::now());
                let cause = cause.unwrap_or_else(|| "no answer from the agent yet".to_owned());
                blocker.set(format!("{state}: {cause}"), next_step);
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn bind_all(
    listen: SocketAddr,
    role: &'static str,
    route: &Route,
    workers: &mut [Vec<(std::net::TcpListener, Route)>],
) -> Result<SocketAddr, StartError> {
    let mut addr = listen;
    for worker in workers {
        let bind_error = |source| StartError::Bind { addr: listen, role, source };
        let socket = listener::bind(addr).map_err(bind_error)?;
        // Port 0 became a real one with the first worker; the others share it.
        addr = socket.local_addr().map_err(bind_error)?;
        worker.push((socket, route.clone()));
    }
    Ok(addr)
}

/// Binds the admin listener. "Every address of both families" is every IPv4 address on a host without IPv6.
fn bind_admin(
    addr: SocketAddr,
    bind: impl Fn(SocketAddr) -> io::Result<std::net::TcpListener>,
) -> io::Result<std::net::TcpListener> {
    match bind(addr) {
        Err(error) if addr.ip() == Ipv6Addr::UNSPECIFIED && sys::is_no_family(&error) => {
            bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), addr.port()))
        }
        bound => bound,
    }
}

fn listening(log: &Log, role: &'static str, addr: SocketAddr, upstream: Option<String>) {
    let (addr, upstream) = (addr.to_string(), upstream.unwrap_or_default());
    log.event(
        "listening",
        &[("role", role.into()), ("addr", addr.as_str().into()), ("upstream", upstream.as_str().into())],
    );
}

fn identity_config(config: &Config) -> Result<SourceConfig, StartError> {
    let expected_id = match (&config.trust_domain, &config.namespace, &config.service_account) {
        (Some(trust_domain), Some(namespace), Some(account)) => {
            Some(SpiffeId::workload(trust_domain, namespace, account).map_err(StartError::OwnId)?)
        }
        _ => None,
    };
    let mut source = SourceConfig::new(config.workload_api.clone());
    source.trust_domain.clone_from(&config.trust_domain);
    source.hint.clone_from(&config.svid_hint);
    source.grace = config.identity_grace;
    source.expected_id = expected_id;
    Ok(source)
}

fn system(what: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::System { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_ipv6_still_answers_its_probes() {
        let without_ipv6 = |addr: SocketAddr| match addr.is_ipv6() {
            true => Err(io::Error::from_raw_os_error(97)), // EAFNOSUPPORT
            false => listener::bind(addr),
        };
        let bound = bind_admin("[::]:0".parse().unwrap(), without_ipv6).unwrap();
        assert!(bound.local_addr().unwrap().is_ipv4());
        // An address that was asked for by name is not swapped for another.
        assert!(bind_admin("[::1]:0".parse().unwrap(), without_ipv6).is_err());
    }
}
