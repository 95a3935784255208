//! What the annotations of a pod say about its ports, by the compiler that its sidecar has.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
    time::SystemTime,
};

use mantlet_policy::{NamedPort, PortProtocol};

use super::core::{PodPorts, Protocol};
use crate::{Subject, Template, inject};

/// Texts that are remembered with what they mean: replicas of a workload have the same.
const MOST: usize = 4096;

/// Reads annotations, each text once.
pub(super) struct PortsReader {
    config: Arc<inject::Config>,
    none: Arc<PodPorts>,
    known: HashMap<Source, Weak<PodPorts>>,
}

/// All that the meaning depends on.
#[derive(Clone, Eq, Hash, PartialEq)]
struct Source {
    namespace: Box<str>,
    account: Box<str>,
    annotations: Box<[(String, String)]>,
    ports: Box<[(Option<String>, u16, u8)]>,
    init_containers: Box<[String]>,
}

// === impl PortsReader ===

impl PortsReader {
    pub(super) fn new(config: Arc<inject::Config>) -> Self {
        Self { config, none: Arc::default(), known: HashMap::new() }
    }

    /// The ports of a pod about which nothing is said.
    pub(super) fn none(&self) -> Arc<PodPorts> {
        Arc::clone(&self.none)
    }

    /// The ports of a pod with these annotations.
    pub(super) fn read(
        &mut self,
        namespace: &str,
        account: String,
        annotations: BTreeMap<String, String>,
        ports: Vec<NamedPort>,
        init_containers: Vec<String>,
    ) -> Arc<PodPorts> {
        let source = Source {
            namespace: namespace.into(),
            account: account.as_str().into(),
            annotations: annotations.clone().into_iter().collect(),
            ports: ports.iter().map(|port| (port.name.clone(), port.port, port.transport as u8)).collect(),
            init_containers: init_containers.clone().into(),
        };
        if let Some(known) = self.known.get(&source).and_then(Weak::upgrade) {
            return known;
        }
        let template = Template {
            kind: "Pod".to_owned(),
            namespace: Some(namespace.to_owned()),
            name: String::new(),
            annotations,
            service_account: account,
            ports,
            host_network: false,
            mighty: Vec::new(),
            init_containers,
        };
        let subject = Subject::of_template(template, &self.config.installation(namespace));
        let subject = subject.injected(self.config.document().proxy_ports());
        let made = Arc::new(PodPorts {
            // Where they are wrong the pod was not admitted with them, and its sidecar captures everything.
            skipped: subject.admission().skip_inbound_ports.into(),
            protocols: protocols(&subject),
        });
        if self.known.len() >= MOST {
            self.known.retain(|_, known| known.strong_count() > 0);
        }
        if self.known.len() < MOST {
            self.known.insert(source, Arc::downgrade(&made));
        }
        made
    }
}

/// What ports speak; nothing where the policy is invalid: then the sidecar refuses, and says so in any protocol.
fn protocols(subject: &Subject) -> Box<[(u16, u16, Protocol)]> {
    let Ok(ready) = subject.ready(SystemTime::now()) else { return Box::default() };
    let known = ready.policy.protocols().filter_map(|(first, last, protocol)| {
        let protocol = match protocol {
            PortProtocol::Http => Protocol::Http,
            PortProtocol::Opaque => Protocol::Opaque,
            PortProtocol::None => return None,
        };
        Some((first, last, protocol))
    });
    known.collect()
}
