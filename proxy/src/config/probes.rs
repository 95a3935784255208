//! The application's probes and hooks, as the injector recorded them in `MANTLET_PROBES` ([`mantlet_policy::probes`]).
//!
//! The kubelet asks the sidecar instead of the application, because it has no mesh identity. What is then asked of
//! the application stands here and nowhere else: nothing of a request chooses a target.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use http::{HeaderName, HeaderValue, Uri};
use mantlet_policy::probes::{self, Header, HttpGet, Kind, Probe, Scheme};

/// Most handlers of one pod. Kubernetes allows five of a container.
const MAX_HANDLERS: usize = 1024;
/// A token that can be guessed keeps nobody away.
const SHORTEST_TOKEN: usize = 32;
/// A probe without a limit of its own (Kubernetes' default).
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
/// So much earlier than the kubelet the sidecar gives up, to be the one who says why.
const HEAD_START: Duration = Duration::from_millis(50);

/// What the sidecar asks the application, by the path that the kubelet asks the sidecar for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Probes {
    /// `/app-health/TOKEN/CONTAINER/KIND` and its handler.
    pub handlers: BTreeMap<String, Handler>,
}

/// One probe or hook.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Handler {
    /// What is asked.
    pub action: Action,
    /// Where: on the pod's address, as the kubelet would ask. An application that listens on loopback alone was
    /// unhealthy without the sidecar, too.
    pub to: SocketAddr,
    /// How long the answer may take; `None` for a hook, which has the pod's whole grace period.
    pub timeout: Option<Duration>,
}

/// What is asked of the application.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// GET, and a status from 200 to 399 is good.
    Http {
        /// Over TLS, and whoever answers is believed: as the kubelet does it.
        tls: bool,
        /// Path and query.
        target: Uri,
        /// Fields that the probe sends besides.
        headers: Vec<(HeaderName, HeaderValue)>,
    },
    /// A connection is good.
    Tcp,
    /// `grpc.health.v1.Health/Check` of this service must say SERVING.
    Grpc {
        /// The service; empty for the server as a whole.
        service: String,
    },
}

// === impl Probes ===

impl Probes {
    /// The handlers in `text`, of a pod that has the address `pod_ip`.
    ///
    /// # Errors
    /// What is wrong with it: the injector wrote it, so nothing should be.
    pub fn parse(text: &str, pod_ip: IpAddr) -> Result<Self, String> {
        let recorded: probes::Probes = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if recorded.token.len() < SHORTEST_TOKEN || !recorded.token.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("token: not {SHORTEST_TOKEN} hexadecimal digits"));
        }
        if recorded.probes.len() > MAX_HANDLERS {
            return Err(format!("more than {MAX_HANDLERS} handlers"));
        }
        let mut handlers = BTreeMap::new();
        for probe in recorded.probes {
            let name = format!("{}/{}", probe.container, probe.kind.as_str());
            let path = probes::Probes::path(&recorded.token, &probe.container, probe.kind);
            let handler = Handler::read(probe, pod_ip).map_err(|problem| format!("{name}: {problem}"))?;
            if handlers.insert(path, handler).is_some() {
                return Err(format!("{name}: given twice"));
            }
        }
        Ok(Self { handlers })
    }
}

// === impl Handler ===

impl Handler {
    fn read(probe: Probe, pod_ip: IpAddr) -> Result<Self, String> {
        if probe.port == 0 {
            return Err("port 0".to_owned());
        }
        let timeout = match probe.kind {
            Kind::PostStart | Kind::PreStop => None,
            Kind::Startup | Kind::Ready | Kind::Live => {
                let limit = probe.timeout_seconds.map_or(DEFAULT_TIMEOUT, |s| Duration::from_secs(s.into()));
                Some(limit.saturating_sub(HEAD_START))
            }
        };
        let action = match probe.handler {
            probes::Handler::HttpGet(http) => Action::http(http)?,
            probes::Handler::TcpSocket(_) => Action::Tcp,
            probes::Handler::Grpc(grpc) => Action::Grpc { service: grpc.service.unwrap_or_default() },
        };
        Ok(Self { action, to: SocketAddr::new(pod_ip, probe.port), timeout })
    }
}

// === impl Action ===

impl Action {
    fn http(http: HttpGet) -> Result<Self, String> {
        let path = http.path.unwrap_or_default();
        // The kubelet reads "healthz" as "/healthz" too.
        let slash = if path.starts_with('/') { "" } else { "/" };
        let target = format!("{slash}{path}");
        let target: Uri = target.parse().map_err(|_| format!("path {target:?} cannot be asked for"))?;
        let mut headers = Vec::new();
        for Header { name, value } in http.http_headers.into_iter().flatten() {
            let known =
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("header name {name:?}"))?;
            let value = HeaderValue::from_str(&value).map_err(|_| format!("header {name}: its value"))?;
            headers.push((known, value));
        }
        Ok(Self::Http { tls: http.scheme == Some(Scheme::Https), target, headers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    const POD_IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 0, 7));

    fn parse(probes: &str) -> Result<Probes, String> {
        Probes::parse(&format!(r#"{{"token":"{TOKEN}","probes":[{probes}]}}"#), POD_IP)
    }

    #[test]
    fn each_kind_of_handler_is_read_as_it_was_recorded() {
        let probes = parse(
            r#"{"container":"web","kind":"ready","port":8080,"timeoutSeconds":3,
                "handler":{"httpGet":{"port":"http","path":"/healthz?full=true","scheme":"HTTPS",
                           "httpHeaders":[{"name":"Host","value":"shop.test"}]}}},
               {"container":"web","kind":"live","port":8081,"handler":{"tcpSocket":{"port":8081}}},
               {"container":"web","kind":"startup","port":9090,
                "handler":{"grpc":{"port":9090,"service":"shop.Orders"}}},
               {"container":"web","kind":"preStop","port":8080,"handler":{"httpGet":{"port":8080,"path":"bye"}}}"#,
        )
        .unwrap();
        let of = |kind: &str| probes.handlers.get(&format!("/app-health/{TOKEN}/web/{kind}")).cloned();
        let to = |port| SocketAddr::new(POD_IP, port);
        let limit = |millis| Some(Duration::from_millis(millis));
        let host = (http::header::HOST, HeaderValue::from_static("shop.test"));
        let target = Uri::from_static("/healthz?full=true");
        let https = Action::Http { tls: true, target, headers: vec![host] };
        assert_eq!(of("ready"), Some(Handler { action: https, to: to(8080), timeout: limit(2950) }));
        assert_eq!(of("live"), Some(Handler { action: Action::Tcp, to: to(8081), timeout: limit(950) }));
        let grpc = Action::Grpc { service: "shop.Orders".to_owned() };
        assert_eq!(of("startup"), Some(Handler { action: grpc, to: to(9090), timeout: limit(950) }));
        let bye = Action::Http { tls: false, target: Uri::from_static("/bye"), headers: Vec::new() };
        assert_eq!(of("preStop"), Some(Handler { action: bye, to: to(8080), timeout: None }));
        assert_eq!(of("postStart"), None);
    }

    #[test]
    fn what_the_injector_cannot_have_written_is_refused_with_its_place() {
        let tcp = |port: u32| {
            format!(
                r#"{{"container":"web","kind":"live","port":{port},"handler":{{"tcpSocket":{{"port":1}}}}}}"#
            )
        };
        let http = |path: &str| {
            format!(
                r#"{{"container":"web","kind":"live","port":1,"handler":{{"httpGet":{{"port":1,"path":"{path}"}}}}}}"#
            )
        };
        for (probes, problem) in [
            (tcp(0), "web/live: port 0"),
            (tcp(70_000), "70000"),
            (format!("{},{}", tcp(1), tcp(2)), "web/live: given twice"),
            (http("a b"), "web/live: path"),
            (r#"{"container":"web","kind":"live","port":1,"handler":{"exec":{}}}"#.to_owned(), "exec"),
        ] {
            let refused = parse(&probes).unwrap_err();
            assert!(refused.contains(problem), "{probes}: {refused}");
        }
        assert!(Probes::parse(r#"{"token":"x","probes":[]}"#, POD_IP).unwrap_err().contains("token"));
        assert!(Probes::parse("", POD_IP).is_err());
    }
}
