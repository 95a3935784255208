//! Source 1: an explicit listener names where its connections go and who must be there.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use mantlet_id::SpiffeId;
use mantlet_identity::ExpectedPeer;

use super::{Endpoint, EndpointProtocol, Endpoints, Fleet, Standing};
use crate::{
    config::{UpstreamAddr, UpstreamProtocol},
    dns::{Names, Want},
};

/// A connection waits so long for the first answer about a name.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// The destination of an explicit listener.
pub struct Explicit {
    endpoints: Endpoints,
    upstreams: Vec<UpstreamAddr>,
    expected: ExpectedPeer,
    protocol: EndpointProtocol,
    names: Names,
    fleet: Fleet,
    /// Keeps the names of `upstreams` known.
    _want: Want,
}

// === impl Explicit ===

impl Explicit {
    /// A destination at these upstreams, where one of `ids` must be.
    #[must_use]
    pub fn new(
        upstreams: Vec<UpstreamAddr>,
        ids: &BTreeSet<SpiffeId>,
        protocol: Option<UpstreamProtocol>,
        names: &Names,
        fleet: &Fleet,
    ) -> Arc<Self> {
        let want = names.want(hosts(&upstreams).map(str::to_owned).collect());
        let protocol = EndpointProtocol::declared(protocol);
        let explicit = Self {
            endpoints: Endpoints::new(Vec::new(), protocol, Standing::default()),
            upstreams,
            expected: ExpectedPeer::one_of(ids.iter().cloned()),
            protocol,
            names: names.clone(),
            fleet: fleet.clone(),
            _want: want,
        };
        explicit.update();
        Arc::new(explicit)
    }

    /// The endpoints; while no name has an address yet, the answer is waited for.
    pub(super) async fn endpoints(&self) -> Endpoints {
        if self.endpoints.current().is_empty() {
            self.names.refresh(hosts(&self.upstreams), FIRST_ANSWER).await;
            self.update();
        }
        self.endpoints.clone()
    }

    /// Follows the names. Returns at once where there are none.
    pub async fn follow(self: Arc<Self>) {
        if hosts(&self.upstreams).next().is_none() {
            return;
        }
        let mut changes = self.names.subscribe();
        loop {
            self.update();
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn update(&self) {
        let addresses = self.upstreams.iter().flat_map(|upstream| match upstream {
            UpstreamAddr::Ip(addr) => vec![*addr],
            UpstreamAddr::Name { host, port } => {
                self.names.addresses(host).iter().map(|ip| SocketAddr::new(*ip, *port)).collect()
            }
        });
        let endpoint = |addr| Endpoint {
            addr,
            expected: self.expected.clone(),
            protocol: self.protocol,
            health: self.fleet.health(addr),
        };
        self.endpoints.replace(addresses.map(endpoint).collect());
    }
}

fn hosts(upstreams: &[UpstreamAddr]) -> impl Iterator<Item = &str> {
    upstreams.iter().filter_map(|upstream| match upstream {
        UpstreamAddr::Name { host, .. } => Some(host.as_str()),
        UpstreamAddr::Ip(_) => None,
    })
}
