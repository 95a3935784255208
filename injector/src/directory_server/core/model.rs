//! What the directory keeps of the cluster's objects, and nothing else of them.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use mantlet_redirect::PortRange;

/// Namespace and name of an object.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Key {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

/// An object of the store, whose content is compared to find out whether it has changed.
pub(crate) trait Object: Clone + PartialEq {
    fn key(&self) -> &Key;
}

/// A pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Pod {
    pub(crate) key: Key,
    /// Which of several pods that say they have an address has it: not the one that is being deleted, and then the
    /// youngest (RFC 3339 in UTC: the order of texts is the order of times), and then any, but always the same.
    pub(crate) claim: Claim,
    pub(crate) ips: Box<[IpAddr]>,
    /// Its namespace and service account as a SPIFFE ID; `None`, if that makes none.
    pub(crate) id: Option<Arc<str>>,
    /// Whether it carries the label of injected pods. Admission guarantees that it then has our sidecar.
    pub(crate) is_injected: bool,
    pub(crate) is_host_network: bool,
    /// Whether it has ended: its addresses are somebody else's by now.
    pub(crate) is_over: bool,
    /// Shared by the replicas of a workload.
    pub(crate) ports: Arc<PodPorts>,
}

/// Who has an address, the greatest: fields in the order of weight.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Claim {
    pub(crate) is_staying: bool,
    pub(crate) created: Box<str>,
}

/// What a pod says about its ports.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct PodPorts {
    /// Those that are not captured: they reach the application as they are.
    pub(crate) skipped: Box<[PortRange]>,
    /// First and last of a range, and what it speaks by the policy.
    pub(crate) protocols: Box<[(u16, u16, Protocol)]>,
}

/// How to speak to an endpoint.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Protocol {
    /// Its policy does not say.
    AskPeer,
    Http,
    Opaque,
}

/// A Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Service {
    pub(crate) key: Key,
    pub(crate) uid: Arc<str>,
    /// Its cluster addresses; none, if it is headless.
    pub(crate) ips: Box<[IpAddr]>,
    /// Its TCP ports and their names, empty where it has none.
    pub(crate) ports: Box<[(u16, Box<str>)]>,
    /// Whether the cluster chooses an endpoint by rules that the caller cannot follow.
    pub(crate) keeps_address: bool,
    pub(crate) served_by: ServedBy,
}

/// Who may stand behind a Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum ServedBy {
    /// Nobody has said: each endpoint's own identity is believed.
    Anybody,
    /// One of these.
    OneOf(BTreeSet<Arc<str>>),
    /// What was said cannot be read, for this reason: nobody.
    Nobody(Box<str>),
}

/// An EndpointSlice.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Slice {
    pub(crate) key: Key,
    /// The Service that it belongs to, in its own namespace.
    pub(crate) service: Key,
    /// Its TCP ports by name.
    pub(crate) ports: Box<[(Box<str>, u16)]>,
    pub(crate) endpoints: Box<[SliceEndpoint]>,
}

/// One address of an [`Slice`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct SliceEndpoint {
    pub(crate) ip: IpAddr,
    /// The pod that it is said to be; `None`, if it is said to be none.
    pub(crate) pod: Option<Box<str>>,
    pub(crate) stage: Stage,
}

/// How far an endpoint is, the best first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Stage {
    /// Ready.
    Ready,
    /// Being ended, and still serving: it takes connections where nobody is ready.
    LastResort,
    /// Neither.
    Away,
}

// === impl Key ===

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

// === impl Object ===

impl Object for Pod {
    fn key(&self) -> &Key {
        &self.key
    }
}

impl Object for Service {
    fn key(&self) -> &Key {
        &self.key
    }
}

impl Object for Slice {
    fn key(&self) -> &Key {
        &self.key
    }
}

// === impl Pod ===

impl Pod {
    /// Whether connections to this port meet our sidecar. `health` is its own port for probes and metrics, which it
    /// serves in the clear.
    pub(crate) fn is_meshed_at(&self, port: u16, health: u16) -> bool {
        self.is_injected
            && !self.is_host_network
            && port != health
            && !self.ports.skipped.iter().any(|range| range.contains(port))
    }
}

// === impl PodPorts ===

impl PodPorts {
    pub(crate) fn protocol(&self, port: u16) -> Protocol {
        let range = self.protocols.iter().find(|(first, last, _)| (*first..=*last).contains(&port));
        range.map_or(Protocol::AskPeer, |(.., protocol)| *protocol)
    }
}

// === impl ServedBy ===

impl ServedBy {
    pub(crate) fn admits(&self, id: &str) -> bool {
        match self {
            Self::Anybody => true,
            Self::OneOf(ids) => ids.contains(id),
            Self::Nobody(_) => false,
        }
    }
}
