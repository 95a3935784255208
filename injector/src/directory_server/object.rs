//! The API server's objects, read into what is kept of them. Whatever else is in an object is skipped while it is read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use mantlet_policy::{
    NamedPort, Transport, Workload,
    upstreams::{SERVED_BY, served_by},
};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

use super::{
    core::{Claim, Key, Pod, ServedBy, Service, Slice, SliceEndpoint, Stage},
    ports::PortsReader,
};
use crate::inject;

/// The label of pods with our sidecar.
const INJECTED: &str = "mantlet.dev/injected";
/// The label of slices that names their Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Addresses, ports and endpoints of one object. Kubernetes has lower limits of its own.
const MOST: usize = 4096;

/// A pod as the API server tells it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RawPod {
    metadata: Metadata,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

/// A Service as the API server tells it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RawService {
    metadata: Metadata,
    #[serde(default)]
    spec: ServiceSpec,
}

/// An EndpointSlice as the API server tells it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RawSlice {
    metadata: Metadata,
    #[serde(default)]
    endpoints: Option<Vec<RawEndpoint>>,
    #[serde(default)]
    ports: Option<Vec<SlicePort>>,
}

/// What all objects have.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    creation_timestamp: Option<String>,
    #[serde(default)]
    deletion_timestamp: Option<IgnoredAny>,
    #[serde(default)]
    labels: Ours,
    #[serde(default)]
    annotations: Ours,
}

/// Labels or annotations that somebody here reads. Others may be large, and are skipped.
#[derive(Clone, Debug, Default)]
struct Ours(BTreeMap<String, String>);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    service_account_name: Option<String>,
    host_network: Option<bool>,
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    name: String,
    restart_policy: Option<String>,
    ports: Option<Vec<ContainerPort>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerPort {
    name: Option<String>,
    container_port: u16,
    protocol: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
}

#[derive(Clone, Debug, Deserialize)]
struct PodIp {
    #[serde(default)]
    ip: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    ports: Option<Vec<ServicePort>>,
    session_affinity: Option<String>,
    internal_traffic_policy: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct ServicePort {
    #[serde(default)]
    name: Option<String>,
    port: u16,
    #[serde(default)]
    protocol: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SlicePort {
    name: Option<String>,
    /// None: all ports, which no Service of a cluster has.
    port: Option<u16>,
    protocol: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawEndpoint {
    addresses: Option<Vec<String>>,
    conditions: Conditions,
    target_ref: Option<TargetRef>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct TargetRef {
    kind: Option<String>,
    name: Option<String>,
}

/// Reads objects, for one installation.
pub(crate) struct Reader {
    config: Arc<inject::Config>,
    ports: PortsReader,
}

// === impl Reader ===

impl Reader {
    pub(crate) fn new(config: Arc<inject::Config>) -> Self {
        Self { ports: PortsReader::new(Arc::clone(&config)), config }
    }

    /// What is kept of a pod.
    pub(crate) fn pod(&mut self, raw: RawPod) -> Pod {
        let RawPod { metadata, spec, status } = raw;
        let account = spec.service_account_name.filter(|name| !name.is_empty());
        let account = account.unwrap_or_else(|| "default".to_owned());
        let id = mantlet_id::SpiffeId::workload(self.config.trust_domain(), &metadata.namespace, &account);
        let is_injected = metadata.labels.get(INJECTED) == Some("true");
        let is_host_network = spec.host_network == Some(true);
        let containers = |list: Option<Vec<Container>>| list.unwrap_or_default();
        let (containers, init) = (containers(spec.containers), containers(spec.init_containers));
        let key = metadata.key();
        let ports = match is_injected && !is_host_network {
            true => {
                let init_names = init.iter().map(|container| container.name.clone()).collect();
                let sidecars = init.into_iter().filter(|one| one.restart_policy.as_deref() == Some("Always"));
                let declared = declared(containers.into_iter().chain(sidecars));
                self.ports.read(&key.namespace, account, metadata.annotations.0, declared, init_names)
            }
            // Nobody asks: whoever has no sidecar is spoken to in the clear.
            false => self.ports.none(),
        };
        let mut ips: Vec<IpAddr> =
            status.pod_ips.into_iter().flatten().filter_map(|ip| address(&ip.ip?)).collect();
        ips.extend(status.pod_ip.and_then(|ip| address(&ip)));
        Pod {
            key,
            claim: Claim {
                is_staying: metadata.deletion_timestamp.is_none(),
                created: metadata.creation_timestamp.unwrap_or_default().into(),
            },
            ips: distinct(ips),
            id: id.ok().map(|id| id.as_str().into()),
            is_injected,
            is_host_network,
            is_over: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            ports,
        }
    }

    /// What is kept of a Service.
    pub(crate) fn service(&mut self, raw: RawService) -> Service {
        let RawService { metadata, spec } = raw;
        // "None" of a headless one is no address.
        let mut ips: Vec<IpAddr> =
            spec.cluster_ips.into_iter().flatten().filter_map(|ip| address(&ip)).collect();
        ips.extend(spec.cluster_ip.and_then(|ip| address(&ip)));
        let ports = spec.ports.into_iter().flatten().filter(|port| is_tcp(port.protocol.as_deref()));
        Service {
            key: metadata.key(),
            uid: metadata.uid.as_str().into(),
            ips: distinct(ips),
            ports: ports.map(|port| (port.port, port.name.unwrap_or_default().into())).take(MOST).collect(),
            keeps_address: spec.session_affinity.as_deref() == Some("ClientIP")
                || spec.internal_traffic_policy.as_deref() == Some("Local"),
            served_by: self.served_by(&metadata),
        }
    }

    /// What is kept of an EndpointSlice; `None` of one that belongs to no Service.
    pub(crate) fn slice(&mut self, raw: RawSlice) -> Option<Slice> {
        let RawSlice { metadata, endpoints, ports } = raw;
        let service = metadata.labels.get(SERVICE_NAME).filter(|name| !name.is_empty())?;
        let service = Key::new(&metadata.namespace, service);
        let ports = ports.into_iter().flatten().filter(|port| is_tcp(port.protocol.as_deref()));
        let ports = ports.filter_map(|port| Some((port.name.unwrap_or_default().into(), port.port?)));
        Some(Slice {
            key: metadata.key(),
            service,
            ports: ports.take(MOST).collect(),
            endpoints: endpoints.into_iter().flatten().filter_map(RawEndpoint::read).take(MOST).collect(),
        })
    }

    fn served_by(&self, metadata: &Metadata) -> ServedBy {
        let Some(text) = metadata.annotations.get(SERVED_BY) else { return ServedBy::Anybody };
        let workload = Workload::new(self.config.trust_domain().clone(), &metadata.namespace);
        match served_by(text, &workload) {
            Ok(ids) => ServedBy::OneOf(ids.iter().map(|id| Arc::from(id.as_str())).collect()),
            Err(finding) => ServedBy::Nobody(shortened(&finding.message).into()),
        }
    }
}

// === impl Metadata ===

impl Metadata {
    pub(crate) fn key(&self) -> Key {
        Key::new(&self.namespace, &self.name)
    }

    /// The version of the cluster that the object comes with.
    pub(crate) fn version(&self) -> &str {
        &self.resource_version
    }
}

// === impl RawPod, RawService, RawSlice ===

/// What all objects have, before anything else of one is looked at.
pub(crate) trait Raw {
    fn metadata(&self) -> &Metadata;
}

impl Raw for RawPod {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl Raw for RawService {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl Raw for RawSlice {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

// === impl RawEndpoint ===

impl RawEndpoint {
    fn read(self) -> Option<SliceEndpoint> {
        // All addresses of one are interchangeable; there is never more than one.
        let ip = address(self.addresses?.first()?)?;
        let Conditions { ready, serving, terminating } = self.conditions;
        let ready = ready.unwrap_or(true);
        let stage = match () {
            () if ready => Stage::Ready,
            () if serving == Some(true) && terminating == Some(true) => Stage::LastResort,
            () => Stage::Away,
        };
        let target = self.target_ref.filter(|target| target.kind.as_deref() == Some("Pod"));
        Some(SliceEndpoint { ip, pod: target.and_then(|target| target.name).map(Into::into), stage })
    }
}

// === impl Ours ===

impl Ours {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

impl<'de> Deserialize<'de> for Ours {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Filter;
        impl<'de> Visitor<'de> for Filter {
            type Value = Ours;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings")
            }

            fn visit_unit<E>(self) -> Result<Ours, E> {
                Ok(Ours::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ours, A::Error> {
                let mut ours = BTreeMap::new();
                while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    if key.starts_with(mantlet_policy::registry::PREFIX) || key == SERVICE_NAME {
                        ours.insert(key.into_owned(), map.next_value()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Ours(ours))
            }
        }
        deserializer.deserialize_any(Filter)
    }
}

fn declared(containers: impl Iterator<Item = Container>) -> Vec<NamedPort> {
    let ports = containers.flat_map(|container| container.ports.unwrap_or_default());
    let ports = ports.filter(|port| port.container_port > 0).map(|port| NamedPort {
        name: port.name,
        port: port.container_port,
        transport: match port.protocol.as_deref() {
            Some("UDP") => Transport::Udp,
            Some("SCTP") => Transport::Sctp,
            _ => Transport::Tcp,
        },
    });
    ports.take(MOST).collect()
}

fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

fn distinct(ips: Vec<IpAddr>) -> Box<[IpAddr]> {
    let all: BTreeSet<IpAddr> = ips.into_iter().collect();
    all.into_iter().take(MOST).collect()
}

fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("TCP"))
}

fn shortened(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}
