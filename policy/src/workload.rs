//! The workload that a policy belongs to: what short forms and ports resolve against.

use mantlet_id::TrustDomain;

use crate::canonical::PathOptions;

/// The pod, as far as a policy text refers to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Workload {
    /// The local trust domain, of `ns/sa` and `mesh`.
    pub trust_domain: TrustDomain,
    /// The own namespace, of `./sa`. Empty when there is none.
    pub namespace: String,
    /// The own service account.
    pub service_account: Option<String>,
    /// The container ports that are declared.
    pub ports: Vec<NamedPort>,
}

/// A declared container port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NamedPort {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its number.
    pub port: u16,
    /// Its transport.
    pub transport: Transport,
}

/// The transport of a declared port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport {
    /// Captured.
    Tcp,
    /// Not captured.
    Udp,
    /// Not captured.
    Sctp,
}

/// `mantlet.dev/http-options`: what some ports are allowed to be lax about.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HttpOptions {
    pub(crate) ports: Vec<(u16, PortOptions)>,
}

/// The options of one port.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PortOptions {
    /// Weakenings of canonicalisation.
    pub path: PathOptions,
    /// Speak HTTP/2 in clear to the application for callers that do not say what theirs speaks.
    pub h2c: bool,
}

// === impl Workload ===

impl Workload {
    /// A workload without declared ports.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, namespace: &str) -> Self {
        Self { trust_domain, namespace: namespace.to_owned(), service_account: None, ports: Vec::new() }
    }

    /// The declared TCP port called `name`.
    pub(crate) fn port_named(&self, name: &str) -> Option<u16> {
        self.tcp_ports().find(|port| port.name.as_deref() == Some(name)).map(|port| port.port)
    }

    pub(crate) fn tcp_ports(&self) -> impl Iterator<Item = &NamedPort> {
        self.ports.iter().filter(|port| port.transport == Transport::Tcp)
    }
}

// === impl NamedPort ===

impl NamedPort {
    /// Parses `[name=]port[/tcp]`, comma-separated, as `MANTLET_PORTS` has it.
    ///
    /// # Errors
    /// The first entry that is no port, in words.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(Self::parse).collect()
    }

    fn parse(entry: &str) -> Result<Self, String> {
        let (name, rest) = match entry.split_once('=') {
            Some((name, rest)) => (Some(name.to_owned()), rest),
            None => (None, entry),
        };
        let (number, transport) = rest.split_once('/').unwrap_or((rest, "tcp"));
        let transport = match transport.to_ascii_lowercase().as_str() {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            "sctp" => Transport::Sctp,
            other => return Err(format!("\"{entry}\": no transport \"{other}\", write tcp, udp or sctp")),
        };
        match number.parse() {
            Ok(port) if port > 0 => Ok(Self { name, port, transport }),
            _ => Err(format!("\"{entry}\": \"{number}\" is no port, write [name=]port/tcp")),
        }
    }
}

// === impl HttpOptions ===

impl HttpOptions {
    /// The options of `port`.
    #[must_use]
    pub fn of(&self, port: u16) -> PortOptions {
        self.ports.iter().find(|(number, _)| *number == port).map(|(_, options)| *options).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_lists_are_read_as_the_injector_writes_them() {
        let ports = NamedPort::parse_list("http=8080/tcp,9090, dns=53/udp").unwrap();
        assert_eq!(ports.len(), 3);
        assert_eq!(ports.first().unwrap().name.as_deref(), Some("http"));
        assert_eq!(ports.last().unwrap().transport, Transport::Udp);
        assert!(NamedPort::parse_list("http").is_err());
        assert!(NamedPort::parse_list("0").is_err());
        assert!(NamedPort::parse_list("8080/quic").is_err());
    }
}
