//! The directory: tells sidecars which endpoints a destination has, which identity each of them must prove, and how to
//! speak to it (`proto/directory.proto`).
//!
//! ```text
//! API server -> watch -> object (slim) -> core::Store -> hub -> subscriber -> follow -> connection -> sidecar
//! ```
//!
//! It has a thread of its own: whatever it does delays no admission. Nothing of it makes the webhook unready: pods can
//! be created while it is down, and sidecars keep what they were told.

mod connection;
mod core;
mod follow;
mod hub;
mod object;
mod ports;
mod subscriber;
mod watch;

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use mantlet_id::SpiffeId;
use mantlet_identity::{Endpoint, IdentityHandle, IdentitySource, SourceConfig};
use tokio::{net::TcpListener, sync::watch as signal, task::JoinSet, time};
use tracing::error;

use self::{
    connection::Directory,
    hub::Hub,
    object::Reader,
    watch::{Pods, Services, Slices},
};
use crate::{
    events::Recorder,
    health::Readiness,
    inject,
    kubernetes::Cluster,
    listener::Listener,
    log::Log,
    metrics::{DirectoryMetrics, Metrics},
};

/// Pause before everything begins again after a defect.
const AGAIN: Duration = Duration::from_secs(1);
/// How often its state is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// The part of all connections that one address may have: sidecars behind one address are those of a node, at most.
const OF_ONE: usize = 32;
/// How long connections may take to end when the process stops.
const LAST: Duration = Duration::from_secs(3);

/// What the directory needs.
pub(crate) struct Terms {
    pub(crate) tcp: std::net::TcpListener,
    /// Connections at a time.
    pub(crate) connections: usize,
    /// Where the own identity comes from.
    pub(crate) workload_api: Endpoint,
    pub(crate) config: Arc<inject::Config>,
    pub(crate) events: Recorder,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) readiness: Readiness,
    pub(crate) log: Log,
    pub(crate) stop: signal::Receiver<bool>,
}

/// Starts it on a thread of its own, until [`Terms::stop`] says so.
///
/// # Errors
/// The thread cannot be made.
pub(crate) fn start(terms: Terms) -> io::Result<thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("mantlet-directory".to_owned()).spawn(move || runtime.block_on(run(terms)))
}

async fn run(terms: Terms) {
    // A defect that ends one of its parts ends all of them, and they begin again: half a directory would answer from
    // what it once knew.
    while let Err(failed) = serve(&terms).await {
        error!(event = "directory_failed", error = failed, "it begins again");
        time::sleep(AGAIN).await;
    }
}

/// Serves until the process stops.
async fn serve(terms: &Terms) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let tcp = TcpListener::from_std(terms.tcp.try_clone().map_err(text)?).map_err(text)?;
    let cluster = Cluster::infer().await.map_err(|error| error.to_string())?;
    let metrics = Arc::clone(&terms.metrics.directory);
    let hub = Hub::new(Arc::clone(&metrics), terms.events.clone(), terms.config.document().ports.health);
    let source = IdentitySource::new(SourceConfig {
        trust_domain: Some(terms.config.trust_domain().clone()),
        // What sidecars are told to expect.
        expected_id: expected_id(&terms.config),
        ..SourceConfig::new(terms.workload_api.clone())
    });
    let identity = source.handle();

    let mut parts = JoinSet::new();
    parts.spawn(async move {
        source.run().await;
    });
    let reader = || Reader::new(Arc::clone(&terms.config));
    let of = || (cluster.clone(), hub.clone(), reader(), Arc::clone(&metrics));
    let ((a, b, c, d), (e, f, g, h), (i, j, k, l)) = (of(), of(), of());
    parts.spawn(watch::follow::<Pods>(a, b, c, d));
    parts.spawn(watch::follow::<Services>(e, f, g, h));
    parts.spawn(watch::follow::<Slices>(i, j, k, l));
    parts.spawn(report(
        hub.clone(),
        identity.clone(),
        terms.readiness.clone(),
        terms.log.clone(),
        Arc::clone(&metrics),
    ));

    let of_one = (terms.connections / OF_ONE).max(1);
    let listener = Listener::new(tcp, terms.connections, of_one, Arc::clone(&metrics) as _);
    let trust_domain = terms.config.trust_domain().clone();
    let directory = Arc::new(Directory { hub, identity, trust_domain, metrics });
    let mut stop = terms.stop.clone();
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            arrived = listener.accept() => {
                open.spawn(connection::serve(Arc::clone(&directory), arrived, terms.stop.clone()));
            }
            // A panic ends the connection that it happened on, and nothing else.
            Some(ended) = open.join_next() => log_panic(&ended),
            Some(ended) = parts.join_next() => {
                log_panic(&ended);
                return Err("a part of it has ended".to_owned());
            }
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    drop(listener);
    let all = async { while open.join_next().await.is_some() {} };
    let _ = time::timeout(LAST, all).await;
    Ok(())
}

/// The identity that sidecars are told to expect, where they are told.
fn expected_id(config: &inject::Config) -> Option<SpiffeId> {
    let directory = config.document().directory.as_ref()?;
    SpiffeId::parse(&directory.id).ok()
}

/// Says in metrics, health and log how it stands.
async fn report(
    hub: Hub,
    identity: IdentityHandle,
    readiness: Readiness,
    log: Log,
    metrics: Arc<DirectoryMetrics>,
) {
    let mut said = None;
    loop {
        let credentials = identity.credentials();
        metrics.certificate(credentials.as_ref().map(|credentials| credentials.not_after()));
        let mut missing: Vec<String> =
            hub.missing().iter().map(|kind| format!("{} are not known yet", kind.as_str())).collect();
        if credentials.is_none() {
            missing.push(format!("no identity: {}", identity.status().text(SystemTime::now())));
        }
        let ready = missing.is_empty();
        metrics.ready(ready);
        readiness.note("directory", if ready { "ready".to_owned() } else { missing.join("; ") });
        if said != Some(ready) {
            match ready {
                true => log.event("directory_ready", &[]),
                false => log.event("directory_unready", &[("why", missing.join("; ").into())]),
            }
            said = Some(ready);
        }
        time::sleep(LOOK).await;
    }
}

fn log_panic(ended: &Result<(), tokio::task::JoinError>) {
    if let Err(failure) = ended
        && failure.is_panic()
    {
        error!(event = "panic", error = %failure, "a part of the directory ended with a defect of this program");
    }
}
