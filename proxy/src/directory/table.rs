//! The sources of what is known about destinations, in their order, and what holds when none knows.

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, OnceLock},
};

use ipnet::IpNet;
use mantlet_id::TrustDomain;
use mantlet_identity::ExpectedPeer;

use super::{Destination, Endpoint, EndpointProtocol, Endpoints, Fleet, Standing};
use crate::{
    addr::OrigDst,
    config::{Defaults, Otherwise, Unknown, UpstreamAddr},
    dns::{Names, Want},
};

/// Something that knows destinations.
pub trait Source: Send + Sync {
    /// What it says about connections to `wanted`.
    fn find(&self, wanted: OrigDst) -> Found<'_>;

    /// For how long its silence about `wanted` holds, where it can come to say something. `passes`: what holds
    /// meanwhile is that the bytes go on as they are.
    fn silence(&self, _wanted: OrigDst, _passes: bool) -> Option<Standing> {
        None
    }
}

/// The answer of a [`Source`], which may take a moment.
pub type Found<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// What a source says about a destination.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It goes there; no later source is asked.
    Goes(Destination),
    /// It is a workload without a sidecar. Only a source that knows every workload can say so.
    Unmeshed,
    /// Nothing.
    Silent,
}

/// Every source, the first that answers first.
pub struct Table {
    sources: Vec<Box<dyn Source>>,
    defaults: Defaults,
    /// The own trust domain, once it is known.
    own: Arc<OnceLock<TrustDomain>>,
    fleet: Fleet,
}

/// The Kubernetes API server: every client of it speaks TLS of its own, with certificates of the
/// cluster's authority.
pub struct ApiServer {
    upstream: UpstreamAddr,
    names: Names,
    _want: Want,
}

// === impl Table ===

impl Table {
    /// A table of these sources.
    #[must_use]
    pub fn new(
        sources: Vec<Box<dyn Source>>,
        defaults: Defaults,
        own: Arc<OnceLock<TrustDomain>>,
        fleet: Fleet,
    ) -> Self {
        Self { sources, defaults, own, fleet }
    }

    /// Where connections to `wanted` go.
    pub async fn resolve(&self, wanted: OrigDst) -> Destination {
        for (n, source) in self.sources.iter().enumerate() {
            match source.find(wanted).await {
                // A source that comes first and is silent can come to speak.
                Answer::Goes(Destination::Mesh(endpoints)) => {
                    let silent = self.sources.iter().take(n).find_map(|source| source.silence(wanted, false));
                    return Destination::Mesh(match silent {
                        Some(standing) => endpoints.under(standing),
                        None => endpoints,
                    });
                }
                Answer::Goes(destination) => return destination,
                Answer::Unmeshed => return self.otherwise(self.defaults.unmeshed, wanted),
                Answer::Silent => {}
            }
        }
        if !self.is_inside(wanted.0.ip()) {
            return self.otherwise(self.defaults.external, wanted);
        }
        match (self.defaults.unknown, self.own.get()) {
            (Unknown::AnyInTrustDomain, Some(own)) => {
                let protocol = EndpointProtocol::AskPeer;
                let endpoint = Endpoint {
                    addr: wanted.0,
                    expected: ExpectedPeer::AnyIn(own.clone()),
                    protocol,
                    health: self.fleet.health(wanted.0),
                };
                Destination::Mesh(Endpoints::new(vec![endpoint], protocol, self.silence(wanted, false)))
            }
            (Unknown::AnyInTrustDomain, None) | (Unknown::Refuse, _) => Destination::Refuse,
        }
    }

    fn otherwise(&self, what: Otherwise, wanted: OrigDst) -> Destination {
        match what {
            Otherwise::Passthrough => {
                let standing = self.silence(wanted, true);
                Destination::Passthrough { addr: wanted.0, http: false, standing }
            }
            Otherwise::Refuse => Destination::Refuse,
        }
    }

    /// What holds by default holds until a source says something else.
    fn silence(&self, wanted: OrigDst, passes: bool) -> Standing {
        self.sources.iter().find_map(|source| source.silence(wanted, passes)).unwrap_or_default()
    }

    /// Whether an address belongs to the cluster. While nobody has said which do, every one may.
    fn is_inside(&self, ip: IpAddr) -> bool {
        is_inside(&self.defaults.mesh_cidrs, ip)
    }
}

/// Whether an address belongs to these networks; without any, every address does.
pub(super) fn is_inside(ranges: &[IpNet], ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ranges.is_empty() || ranges.iter().any(|range| range.contains(&ip))
}

// === impl ApiServer ===

impl ApiServer {
    /// The API server at this address, or behind this name.
    #[must_use]
    pub fn new(upstream: UpstreamAddr, names: &Names) -> Self {
        let host = match &upstream {
            UpstreamAddr::Name { host, .. } => Some(host.clone()),
            UpstreamAddr::Ip(_) => None,
        };
        Self { upstream, names: names.clone(), _want: names.want(host.into_iter().collect()) }
    }
}

impl Source for ApiServer {
    fn find(&self, OrigDst(wanted): OrigDst) -> Found<'_> {
        let canonical = SocketAddr::new(wanted.ip().to_canonical(), wanted.port());
        let is_it = match &self.upstream {
            UpstreamAddr::Ip(addr) => *addr == canonical,
            UpstreamAddr::Name { host, port } => {
                *port == canonical.port() && self.names.has(host, canonical.ip())
            }
        };
        let answer = match is_it {
            true => Answer::Goes(Destination::Passthrough {
                addr: wanted,
                http: false,
                standing: Standing::default(),
            }),
            false => Answer::Silent,
        };
        Box::pin(std::future::ready(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Says(Answer);

    impl Source for Says {
        fn find(&self, _: OrigDst) -> Found<'_> {
            Box::pin(std::future::ready(self.0.clone()))
        }
    }

    const REFUSE_ALL: Defaults = Defaults {
        unmeshed: Otherwise::Refuse,
        external: Otherwise::Refuse,
        unknown: Unknown::Refuse,
        mesh_cidrs: Vec::new(),
    };

    async fn resolve(sources: Vec<Answer>, defaults: &Defaults, to: &str) -> String {
        let sources = sources.into_iter().map(|answer| -> Box<dyn Source> { Box::new(Says(answer)) });
        let own = Arc::new(OnceLock::from(TrustDomain::parse("td.test").unwrap()));
        let table = Table::new(sources.collect(), defaults.clone(), own, Fleet::default());
        match table.resolve(OrigDst(to.parse().unwrap())).await {
            Destination::Mesh(endpoints) => format!("{:?}", endpoints.current()[0].expected),
            Destination::Passthrough { addr, .. } => format!("passthrough {addr}"),
            Destination::Refuse => "refuse".to_owned(),
        }
    }

    #[tokio::test]
    async fn the_first_source_that_answers_wins() {
        let pass = || {
            Answer::Goes(Destination::Passthrough {
                addr: "1.1.1.1:1".parse().unwrap(),
                http: false,
                standing: Standing::default(),
            })
        };
        let all = vec![Answer::Silent, Answer::Goes(Destination::Refuse), pass()];
        assert_eq!(resolve(all, &REFUSE_ALL, "10.0.0.1:80").await, "refuse");
        assert_eq!(
            resolve(vec![Answer::Silent, pass()], &REFUSE_ALL, "10.0.0.1:80").await,
            "passthrough 1.1.1.1:1"
        );
    }

    #[tokio::test]
    async fn without_an_answer_it_matters_whether_the_address_belongs_to_the_mesh() {
        let inside = vec!["10.0.0.0/8".parse().unwrap()];
        let open = Defaults { external: Otherwise::Passthrough, mesh_cidrs: inside, ..REFUSE_ALL };
        assert_eq!(resolve(vec![], &open, "10.1.1.1:80").await, "refuse");
        assert_eq!(resolve(vec![], &open, "[::ffff:10.1.1.1]:80").await, "refuse");
        assert_eq!(resolve(vec![], &open, "11.1.1.1:80").await, "passthrough 11.1.1.1:80");
        let nobody_said = Defaults { mesh_cidrs: Vec::new(), ..open.clone() };
        assert_eq!(resolve(vec![], &nobody_said, "11.1.1.1:80").await, "refuse");
        let any = Defaults { unknown: Unknown::AnyInTrustDomain, ..open };
        assert!(resolve(vec![], &any, "10.1.1.1:80").await.starts_with("AnyIn"));
    }

    #[tokio::test]
    async fn a_workload_without_a_sidecar_is_reached_only_where_the_installation_says_so() {
        let unmeshed = || vec![Answer::Unmeshed, Answer::Goes(Destination::Refuse)];
        assert_eq!(resolve(unmeshed(), &REFUSE_ALL, "10.0.0.1:80").await, "refuse");
        let open = Defaults { unmeshed: Otherwise::Passthrough, ..REFUSE_ALL };
        assert_eq!(resolve(unmeshed(), &open, "10.0.0.1:80").await, "passthrough 10.0.0.1:80");
    }
}
