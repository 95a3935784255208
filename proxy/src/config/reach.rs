//! Where outbound connections go, as far as the configuration says.

use std::{path::PathBuf, time::Duration};

use ipnet::IpNet;
use mantlet_id::SpiffeId;

use super::{
    PolicyLocation, UpstreamAddr,
    keys::{Id, Kind},
    listeners,
    reader::{Reader, Taken},
    values::{self, Checked},
};

/// What finds destinations.
#[derive(Clone, Debug)]
pub struct Reach {
    /// Where the lines are.
    pub upstreams: UpstreamsLocation,
    /// What holds for destinations that nobody knows.
    pub defaults: Defaults,
    /// The Kubernetes API server.
    pub api_server: Option<UpstreamAddr>,
    /// The cluster's directory.
    pub directory: Option<DirectoryServer>,
    /// `resolv.conf`.
    pub resolv_conf: PathBuf,
    /// `hosts`.
    pub hosts: PathBuf,
    /// How long addresses are kept while no server answers.
    pub dns_keep: Duration,
}

/// Where the lines of the upstreams language are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum UpstreamsLocation {
    /// Nowhere.
    None,
    /// In a plain file.
    File(PathBuf),
    /// In a downward-API annotations file.
    Annotations(PathBuf),
}

/// Where the cluster's directory is.
#[derive(Clone, Debug)]
pub struct DirectoryServer {
    /// Where to dial.
    pub addr: UpstreamAddr,
    /// Who must be there.
    pub id: SpiffeId,
}

/// What holds for destinations that nobody knows.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// A workload that is known to have no sidecar.
    pub unmeshed: Otherwise,
    /// An address outside the cluster.
    pub external: Otherwise,
    /// An address of the cluster that nobody knows.
    pub unknown: Unknown,
    /// The cluster's networks; empty: every address counts as one of the cluster.
    pub mesh_cidrs: Vec<IpNet>,
}

/// What happens with a destination outside the mesh.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Otherwise {
    /// Its bytes are relayed as they are.
    Passthrough,
    /// It is refused.
    Refuse,
}

/// What happens with an unknown destination inside the mesh.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unknown {
    /// It is refused.
    Refuse,
    /// Anybody of the own trust domain may be there.
    AnyInTrustDomain,
}

// === impl Reader ===

impl Reader<'_> {
    pub(super) fn reach(&mut self, policy: &Taken<PolicyLocation>) -> Taken<Reach> {
        let upstreams = self.optional(Id::Upstreams, values::path);
        let directory = self.directory();
        let mesh_cidrs = self.optional(Id::MeshCidrs, networks);
        let unmeshed = self.required(Id::Unmeshed, otherwise);
        let external = self.required(Id::External, otherwise);
        let unknown = self.required(Id::Unknown, unknown);
        let port = self.port(Id::KubernetesPort);
        let host = self.optional(Id::KubernetesHost, listeners::host);
        let resolv_conf = self.required(Id::ResolvConf, values::path);
        let hosts = self.required(Id::Hosts, values::path);
        let dns_keep = self.duration(Id::DnsKeep);
        let upstreams = match (upstreams?, policy) {
            (Some(file), _) => UpstreamsLocation::File(file),
            (None, Ok(PolicyLocation::Annotations(file))) => UpstreamsLocation::Annotations(file.clone()),
            (None, _) => UpstreamsLocation::None,
        };
        let port = port?;
        Ok(Reach {
            upstreams,
            defaults: Defaults {
                unmeshed: unmeshed?,
                external: external?,
                unknown: unknown?,
                mesh_cidrs: mesh_cidrs?.unwrap_or_default(),
            },
            api_server: host?.map(|host| host.at(port)),
            directory: directory?,
            resolv_conf: resolv_conf?,
            hosts: hosts?,
            dns_keep: dns_keep?,
        })
    }

    /// Where it is and who it must be: neither means anything alone.
    fn directory(&mut self) -> Taken<Option<DirectoryServer>> {
        let addr = self.optional(Id::Directory, listeners::host_port);
        let id =
            self.optional(Id::DirectoryId, |text| SpiffeId::parse(text).map_err(|error| error.to_string()));
        match (addr?, id?) {
            (Some(addr), Some(id)) => Ok(Some(DirectoryServer { addr, id })),
            (None, None) => Ok(None),
            (Some(_), None) => {
                let accepts = Kind::SpiffeId.accepts();
                Err(self.mistake(Id::DirectoryId, None, "missing, and --directory needs it", &accepts))
            }
            (None, Some(_)) => {
                let accepts = Kind::HostPort.accepts();
                Err(self.mistake(Id::Directory, None, "missing, and --directory-id is about it", &accepts))
            }
        }
    }
}

fn networks(text: &str) -> Checked<Vec<IpNet>> {
    let network = |item: &str| {
        let network: IpNet = item.parse().map_err(|_| format!("{item:?} is not a network"))?;
        match network.trunc() == network {
            true => Ok(network),
            false => Err(format!("{item} has bits behind its prefix; did you mean {}?", network.trunc())),
        }
    };
    text.split(',').map(|item| network(item.trim())).collect()
}

fn otherwise(word: &str) -> Checked<Otherwise> {
    match word {
        "passthrough" => Ok(Otherwise::Passthrough),
        "refuse" => Ok(Otherwise::Refuse),
        _ => Err("unknown word".to_owned()),
    }
}

fn unknown(word: &str) -> Checked<Unknown> {
    match word {
        "refuse" => Ok(Unknown::Refuse),
        "any-in-trust-domain" => Ok(Unknown::AnyInTrustDomain),
        _ => Err("unknown word".to_owned()),
    }
}
