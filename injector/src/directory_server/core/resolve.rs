//! What is behind an address.
//!
//! In doubt nothing is said that would make a sidecar send an application's bytes in the clear: *not meshed* needs every
//! endpoint of a Service to be known and to be without a sidecar, and at least one to be there.

use std::{net::IpAddr, sync::Arc};

use super::{
    model::{Pod, Protocol, ServedBy, Service, Slice, SliceEndpoint, Stage},
    store::Store,
};

/// Most endpoints in an answer: a sidecar takes no more for one address.
pub(crate) const MOST_ENDPOINTS: usize = 4096;

/// What holds for an address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Says {
    /// There are sidecars. No endpoint: nobody is ready, or nobody may be.
    Meshed { endpoints: Vec<Endpoint>, keep_address: bool },
    /// There is somebody without a sidecar.
    NotMeshed,
    /// Nobody that is known.
    Unknown,
}

/// One workload behind an address.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Endpoint {
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
    pub(crate) id: Arc<str>,
    pub(crate) protocol: Protocol,
}

/// What stands behind one address of a slice.
#[derive(Debug)]
pub(crate) enum Behind<'s> {
    /// A pod with a sidecar and an identity that may be there.
    Meshed(&'s Pod, &'s Arc<str>),
    /// Somebody who may not be there.
    LeftOut,
    /// Somebody without a sidecar.
    Plain,
    /// A pod that is not known yet.
    Pending,
}

// === impl Store ===

impl Store {
    /// What holds for an address by now. `health` is the sidecar's port for probes and metrics.
    pub(crate) fn resolve(&self, ip: IpAddr, port: u16, health: u16) -> Says {
        if let Some(service) = self.service_at(ip) {
            return self.resolve_service(service, ip, port, health);
        }
        match self.pod_at(ip) {
            None => Says::Unknown,
            Some(pod) if !pod.is_meshed_at(port, health) => Says::NotMeshed,
            Some(pod) => {
                let endpoints = pod.id.iter().map(|id| endpoint(ip, port, id, pod)).collect();
                Says::Meshed { endpoints, keep_address: false }
            }
        }
    }

    fn resolve_service(&self, service: &Service, ip: IpAddr, port: u16, health: u16) -> Says {
        let Some((_, name)) = service.ports.iter().find(|(number, _)| *number == port) else {
            return Says::Unknown;
        };
        let (mut ready, mut last) = (Vec::new(), Vec::new());
        let (mut meshed, mut pending, mut plain) = (false, false, false);
        for slice in self.slices_of(&service.key) {
            let Some((_, target)) = slice.ports.iter().find(|(known, _)| known == name) else { continue };
            let same_family = |endpoint: &&SliceEndpoint| endpoint.ip.is_ipv4() == ip.is_ipv4();
            for there in slice.endpoints.iter().filter(same_family) {
                match self.behind(service, slice, there, *target, health) {
                    Behind::Meshed(pod, id) => {
                        meshed = true;
                        let endpoint = || endpoint(there.ip, *target, id, pod);
                        match there.stage {
                            Stage::Ready => ready.push(endpoint()),
                            Stage::LastResort => last.push(endpoint()),
                            Stage::Away => {}
                        }
                    }
                    Behind::LeftOut => meshed = true,
                    // Nobody is sent to one that is not ready, and most are not when they are first heard of.
                    Behind::Pending => pending |= there.stage != Stage::Away,
                    Behind::Plain => plain = true,
                }
            }
        }
        if !meshed && pending {
            return Says::Unknown;
        }
        if !meshed && plain {
            return Says::NotMeshed;
        }
        let mut endpoints = if ready.is_empty() { last } else { ready };
        endpoints.sort_unstable();
        // Two slices may name the same address while a controller moves it.
        endpoints.dedup();
        endpoints.truncate(MOST_ENDPOINTS);
        Says::Meshed { endpoints, keep_address: service.keeps_address }
    }

    /// Who is behind an address of a slice, as a Service sees it.
    pub(crate) fn behind<'s>(
        &'s self,
        service: &Service,
        slice: &Slice,
        there: &SliceEndpoint,
        port: u16,
        health: u16,
    ) -> Behind<'s> {
        // The address decides: kubelets write it, and a slice may say what it likes about it.
        let pod = self.pod_at(there.ip);
        let named = there.pod.as_deref();
        let pod = match (pod, named) {
            (Some(pod), Some(name)) if !pod.is_host_network => {
                match (&*pod.key.namespace, &*pod.key.name) == (&*slice.key.namespace, name) {
                    true => Some(pod),
                    false => return Behind::Pending,
                }
            }
            (None, Some(_)) => return Behind::Pending,
            (pod, _) => pod,
        };
        match pod {
            Some(pod) if pod.is_meshed_at(port, health) => match &pod.id {
                Some(id) if service.served_by.admits(id) => Behind::Meshed(pod, id),
                _ => Behind::LeftOut,
            },
            // Who must have an identity and has none.
            _ if service.served_by != ServedBy::Anybody => Behind::LeftOut,
            _ => Behind::Plain,
        }
    }
}

fn endpoint(ip: IpAddr, port: u16, id: &Arc<str>, pod: &Pod) -> Endpoint {
    Endpoint { ip, port, id: Arc::clone(id), protocol: pod.ports.protocol(port) }
}
