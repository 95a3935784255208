//! What kinds of values there are, and how each is described.

use std::time::Duration;

/// What kind of value a key takes.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// `LISTEN=UPSTREAM`.
    Inbound,
    /// `LISTEN=UPSTREAM is IDS [as PROTOCOL]`.
    Outbound,
    /// A Workload API endpoint.
    Endpoint,
    /// `host:port`.
    HostPort,
    /// A whole SPIFFE ID.
    SpiffeId,
    /// A trust domain name.
    TrustDomain,
    /// A Kubernetes object name.
    Name,
    /// Free text without control characters.
    Text,
    /// `[name=]port[/tcp],...`.
    Ports,
    /// `ip,ip,...`.
    Addresses,
    /// `network,network,...`.
    Networks,
    /// One guardrail.
    Guardrail,
    /// Recorded probes, as JSON.
    Probes,
    /// A path of the file system.
    Path,
    /// `ip:port`.
    Address,
    /// One of the listed words.
    Choice(&'static [&'static str]),
    /// A whole number between two bounds.
    Count(usize, usize),
    /// A number with a unit, between two bounds.
    Duration(Duration, Duration),
    /// `true` or `false`; the flag alone means `true`.
    Switch,
}

// === impl Kind ===

impl Kind {
    /// The accepted form, as it ends an error message and stands in the documentation.
    #[must_use]
    pub fn accepts(self) -> String {
        match self {
            Self::Inbound => "LISTEN=UPSTREAM, both ip:port, e.g. 127.0.0.1:8443=127.0.0.1:8080".to_owned(),
            Self::Outbound => "LISTEN=UPSTREAM[,UPSTREAM..] [is IDS [as http|tcp|postgres|mysql|redis]], \
                               e.g. 127.0.0.1:9000=orders.shop:8080 is shop/orders as http"
                .to_owned(),
            Self::Endpoint => "unix:///path or tcp://ip:port, e.g. unix:///run/spire/agent.sock".to_owned(),
            Self::HostPort => {
                "a DNS name or an IP address, and a port, e.g. mantlet-injector.mantlet-system.svc:9444"
                    .to_owned()
            }
            Self::SpiffeId => {
                "spiffe://TRUST-DOMAIN/PATH, e.g. spiffe://prod.example/ns/mantlet-system/sa/mantlet-injector"
                    .to_owned()
            }
            Self::TrustDomain => "a trust domain name (a-z 0-9 . _ -), e.g. prod.example".to_owned(),
            Self::Name => "a Kubernetes name (A-Z a-z 0-9 . _ -), e.g. shop".to_owned(),
            Self::Text => "text of 1 to 1024 bytes without control characters".to_owned(),
            Self::Ports => {
                "[name=]port[/tcp|/udp|/sctp], comma separated, e.g. http=8080/tcp,9090/tcp".to_owned()
            }
            Self::Networks => "networks, comma separated, e.g. 10.244.0.0/16,fd00:10::/48".to_owned(),
            Self::Addresses => "IP addresses, comma separated, e.g. 10.244.1.5,fd00:10:244:1::5".to_owned(),
            Self::Guardrail => {
                "forbid plaintext | forbid wildcard-namespace | trust-domains a,b | max-until 30d | deny ..."
                    .to_owned()
            }
            Self::Probes => r#"JSON, e.g. {"token":"32 hexadecimal digits","probes":[]}"#.to_owned(),
            Self::Path => "a path, e.g. /etc/mantlet/policy".to_owned(),
            Self::Address => "ip:port, e.g. 127.0.0.1:24190".to_owned(),
            Self::Choice(words) => words.join(" | "),
            Self::Count(min, max) => format!("a whole number from {min} to {max}"),
            Self::Duration(min, max) => format!(
                "a whole number with a unit (ms, s, m, h, d) from {} to {}, e.g. 30s",
                display_duration(min),
                display_duration(max)
            ),
            Self::Switch => "true | false".to_owned(),
        }
    }
}

/// A duration in the largest unit that holds it exactly, as it is written in the configuration.
#[must_use]
pub fn display_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let exact = |unit: u64| duration.subsec_millis() == 0 && seconds > 0 && seconds.is_multiple_of(unit);
    match () {
        () if duration.subsec_millis() != 0 => format!("{}ms", duration.as_millis()),
        () if exact(86_400) => format!("{}d", seconds / 86_400),
        () if exact(3600) => format!("{}h", seconds / 3600),
        () if exact(60) => format!("{}m", seconds / 60),
        () => format!("{seconds}s"),
    }
}
