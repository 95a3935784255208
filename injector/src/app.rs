//! Wires everything, and stops it in order.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::crypto::aws_lc_rs;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinHandle,
    time,
};
use tokio_rustls::TlsAcceptor;
use tracing::{error, warn};

use crate::{
    certificates::{Keeper, Place, Shown, Terms, server_config},
    config::{Config, Loaded, load},
    directory_server, events, health,
    health::{Condition, Readiness},
    kubernetes::{Cluster, Namespaces},
    log,
    metrics::{Call, Metrics},
    webhook::{self, Webhook},
};

/// Usage errors.
const USAGE: u8 = 2;
/// The API server is needed and of no use.
const UNREACHABLE: u8 = 3;
/// The oldest API server that knows sidecar containers and admission policies: an older one would silently drop the
/// field that makes our container a sidecar, and pods would hang.
const OLDEST: (u32, u32) = (1, 30);
/// Pause between two questions to an API server that does not answer.
const PAUSE: Duration = Duration::from_secs(2);
const BACKLOG: i32 = 1024;
/// Reviews are judged here. Two: one large object does not hold up the others.
const WORKERS: usize = 2;

/// Why the process ends.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    #[error("cannot listen on {address}: {error}")]
    Listen {
        address: std::net::SocketAddr,
        #[source]
        error: io::Error,
    },
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Cluster(#[from] crate::kubernetes::Error),
    #[error(
        "the API server has version {}.{}; sidecar containers need {}.{} or newer: upgrade the cluster", .0.0, .0.1,
        OLDEST.0, OLDEST.1
    )]
    TooOld((u32, u32)),
}

/// Runs the injector; `arguments` come without the program's name.
#[must_use]
pub fn main(program: &'static str, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let config = match load(program, arguments, std::env::vars_os()) {
        Ok(Loaded::Run(config)) => config,
        Ok(Loaded::Print(text)) => {
            // A reader that closes early has seen enough.
            let _ = io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(mistakes) => {
            let _ = write!(io::stderr(), "{program}: {mistakes}");
            return ExitCode::from(USAGE);
        }
    };
    log::start_process_log(&config.log);
    raise_descriptors();
    // The client of Kubernetes takes the provider of the process; everything of ours is given it.
    let _ = aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(run(*config)),
        Err(error) => Err(Fatal::Io(error)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            error!(event = "fatal", error = %fatal);
            match fatal {
                Fatal::TooOld(_) | Fatal::Cluster(_) => ExitCode::from(UNREACHABLE),
                Fatal::Listen { .. } | Fatal::Tls(_) | Fatal::Io(_) => ExitCode::FAILURE,
            }
        }
    }
}

async fn run(config: Config) -> Result<(), Fatal> {
    let metrics = Arc::new(Metrics::default());
    let (log, writer) = log::start(Arc::clone(&metrics))?;
    let ended = serve(config, metrics, log).await;
    // However it ended: what it has said belongs to whoever looks for the reason.
    writer.finish(PAUSE);
    ended
}

async fn serve(config: Config, metrics: Arc<Metrics>, log: log::Log) -> Result<(), Fatal> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let readiness = Readiness::new(Arc::clone(&metrics), log.clone());
    let (health, https) = (listen(config.admin)?, listen(config.listen)?);
    let directory =
        config.workload_api.map(|api| Ok::<_, Fatal>((api, bind(config.directory_listen)?))).transpose()?;
    let cluster = Cluster::infer().await?;
    let mut listening = vec![
        ("listen", https.local_addr()?.to_string().into()),
        ("admin", health.local_addr()?.to_string().into()),
        ("version", env!("CARGO_PKG_VERSION").into()),
    ];
    if let Some((_, tcp)) = &directory {
        listening.push(("directory", tcp.local_addr()?.to_string().into()));
    }
    log.event("listening", &listening);
    let _health = Task(tokio::spawn(health::serve(health, readiness.clone(), Arc::clone(&metrics))));
    tokio::select! {
        checked = check_version(&cluster, &metrics) => checked?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    }

    let provider = Arc::new(aws_lc_rs::default_provider());
    let shown = Arc::new(Shown::default());
    let acceptor = TlsAcceptor::from(Arc::new(server_config(Arc::clone(&shown), Arc::clone(&provider))?));
    let keeper = Keeper {
        cluster: cluster.clone(),
        terms: Terms {
            names: std::iter::once(format!("{}.{}.svc", config.service, config.namespace))
                .chain(config.names)
                .collect(),
            authority: config.authority_life,
            serving: config.certificate_life,
            settle: config.settle,
        },
        place: Place {
            namespace: config.namespace,
            secret: config.secret,
            configuration: config.webhook_configuration,
        },
        poll: config.poll.max(Duration::from_millis(20)),
        shown,
        provider,
        readiness: readiness.clone(),
        metrics: Arc::clone(&metrics),
    };
    let _keeper = Task(tokio::spawn(keeper.run()));
    let (recorder, reporter) = events::channel_of(&metrics, config.pod_name);
    let reporter = Task(tokio::spawn(reporter.run(cluster.clone())));
    let (stop, stopped) = watch::channel(false);
    let directory = match directory {
        Some((workload_api, tcp)) => Some(directory_server::start(directory_server::Terms {
            tcp,
            connections: config.directory_max_connections,
            workload_api,
            config: Arc::clone(&config.injection),
            events: recorder.clone(),
            metrics: Arc::clone(&metrics),
            readiness: readiness.clone(),
            log: log.clone(),
            stop: stopped.clone(),
        })?),
        None => None,
    };
    let leaving = Arc::new(AtomicBool::new(false));
    let webhook = Arc::new(Webhook {
        config: config.injection,
        namespaces: Namespaces::new(cluster, Arc::clone(&metrics)),
        events: recorder,
        metrics,
        log: log.clone(),
        logged: config.admissions,
        limits: webhook::Limits::new(config.head_timeout, config.connection_age),
        leaving: Arc::clone(&leaving),
    });
    let mut serving = tokio::spawn(webhook::serve(webhook, https, acceptor, config.max_connections, stopped));

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Unready first: until the endpoint has left the Service, the API server still comes here.
    readiness.set(Condition::Running, Some("the process was told to stop".to_owned()));
    // Whoever is answered from now on is told to connect again.
    leaving.store(true, Ordering::Relaxed);
    log.event("stopping", &[]);
    time::sleep(config.stop_delay).await;
    let _ = stop.send(true);
    if time::timeout(config.drain_deadline, &mut serving).await.is_err() {
        warn!(event = "drain_deadline", "requests were still in flight");
        serving.abort();
    }
    if let Some(directory) = directory {
        // It ends its streams by itself, and has its own deadline for that.
        let _ = time::timeout(config.drain_deadline, tokio::task::spawn_blocking(|| directory.join())).await;
    }
    // What was handed over is said, if it can be said quickly; the recorders are gone with the webhook.
    let mut reporter = reporter;
    let _ = time::timeout(PAUSE, &mut reporter.0).await;
    log.event("stopped", &[]);
    Ok(())
}

/// Waits for an API server, and refuses one that is too old.
async fn check_version(cluster: &Cluster, metrics: &Metrics) -> Result<(), Fatal> {
    loop {
        match cluster.version().await {
            Ok(version) if version < OLDEST => return Err(Fatal::TooOld(version)),
            Ok(_) => return Ok(()),
            Err(error) => {
                metrics.kubernetes_error(Call::Version);
                warn!(event = "api_server_unreachable", %error, "trying again");
                time::sleep(PAUSE).await;
            }
        }
    }
}

fn listen(address: std::net::SocketAddr) -> Result<TcpListener, Fatal> {
    TcpListener::from_std(bind(address)?).map_err(|error| Fatal::Listen { address, error })
}

fn bind(address: std::net::SocketAddr) -> Result<std::net::TcpListener, Fatal> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A port of the process before, whose connections linger.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            // Both families, whatever the default of the machine is.
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(|error| Fatal::Listen { address, error })
}

/// Each sidecar that asks the directory is a descriptor: as many as the process may have. What cannot be raised stays.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// A task that ends with this.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
