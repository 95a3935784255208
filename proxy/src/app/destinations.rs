//! Puts together what finds destinations.

use std::sync::{Arc, OnceLock};

use mantlet_id::TrustDomain;
use mantlet_identity::IdentityHandle;

use crate::{
    addr::OrigDst,
    config::{Config, OutboundListener, Peer},
    directory::{ApiServer, Cluster, Directory, Explicit, Fleet, Follower, Lines, LinesWatch, Source, Table},
    dns::{Names, Resolver},
    listener::Origin,
    log::Log,
    metrics::Metrics,
    readiness::Readiness,
    vital,
    worker::Route,
};

/// Everything that finds destinations, before it runs.
pub(super) struct Destinations {
    names: Names,
    fleet: Fleet,
    lines: Lines,
    cluster: Option<Cluster>,
    own: Arc<OnceLock<TrustDomain>>,
    table: Arc<Table>,
    explicit: Vec<Arc<Explicit>>,
}

// === impl Destinations ===

impl Destinations {
    pub(super) fn new(config: &Config, metrics: &Arc<Metrics>) -> Self {
        let (names, fleet) = (Names::new(config.reach.dns_keep), Fleet::default());
        let lines = Lines::new(&names, &fleet);
        let own = Arc::new(config.trust_domain.clone().map_or_else(OnceLock::new, OnceLock::from));
        // The order of the sources is their precedence.
        let mut sources: Vec<Box<dyn Source>> = vec![Box::new(lines.clone())];
        if let Some(upstream) = config.reach.api_server.clone() {
            sources.push(Box::new(ApiServer::new(upstream, &names)));
        }
        let defaults = &config.reach.defaults;
        let cluster =
            config.reach.directory.is_some().then(|| Cluster::new(defaults, fleet.clone(), metrics));
        if let Some(cluster) = cluster.clone() {
            sources.push(Box::new(cluster));
        }
        let table = Table::new(sources, config.reach.defaults.clone(), Arc::clone(&own), fleet.clone());
        Self { names, fleet, lines, cluster, own, table: Arc::new(table), explicit: Vec::new() }
    }

    /// Where the connections of an explicit listener go.
    pub(super) fn route(&mut self, listener: &OutboundListener) -> Route {
        match &listener.peer {
            Peer::Is { ids, protocol } => {
                let upstreams = listener.upstreams.clone();
                let explicit = Explicit::new(upstreams, ids, *protocol, &self.names, &self.fleet);
                self.explicit.push(Arc::clone(&explicit));
                Route::Outbound(Origin::Local, Directory::Explicit(explicit))
            }
            Peer::ByLines(wanted) => Route::Outbound(Origin::Fixed(OrigDst(*wanted)), self.table()),
        }
    }

    /// Where redirected connections go.
    pub(super) fn table(&self) -> Directory {
        Directory::Table(Arc::clone(&self.table))
    }

    /// Starts what follows names and lines, on the control thread. Returns what is to be looked at.
    pub(super) fn run(
        self,
        config: &Config,
        identity: &IdentityHandle,
        readiness: &Readiness,
        metrics: &Arc<Metrics>,
        log: &Log,
    ) -> Fleet {
        let Self { names, fleet, lines, cluster, own, explicit, .. } = self;
        let (resolv_conf, hosts) = (config.reach.resolv_conf.clone(), config.reach.hosts.clone());
        let resolver = Resolver::new(resolv_conf, hosts, Arc::clone(metrics));
        vital::spawn("names", names.run(resolver.clone()));
        if let (Some(cluster), Some(server)) = (cluster, config.reach.directory.clone()) {
            let follower =
                Follower { cluster, server, identity: identity.clone(), resolver, log: log.clone() };
            vital::spawn("directory", follower.run());
        }
        for explicit in explicit {
            vital::spawn("addresses", explicit.follow());
        }
        vital::spawn("upstreams", lines.clone().follow());
        let watch = LinesWatch {
            location: config.reach.upstreams.clone(),
            namespace: config.namespace.clone().unwrap_or_default(),
            lines,
            own,
            identity: identity.clone(),
            blocker: readiness.blocker("upstreams"),
            metrics: Arc::clone(metrics),
            log: log.clone(),
        };
        vital::spawn("upstreams watch", watch.run());
        fleet
    }
}
