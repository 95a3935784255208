//! `MANTLET_PROBES`: the probes and hooks that a pod's sidecar runs for the kubelet.
//!
//! The kubelet has no identity, so whatever it asks the application directly would have to be let in
//! without one. The injector therefore writes every `httpGet`, `tcpSocket` and `grpc` handler anew, as an
//! `httpGet` of the sidecar's health port, and tells the sidecar here what stood there before. The sidecar
//! runs what is written here and nothing else: no target comes from a request.
//!
//! One JSON document:
//!
//! ```json
//! {
//!   "token": "00112233445566778899aabbccddeeff",
//!   "probes": [
//!     {"container": "app", "kind": "ready", "port": 8080, "timeoutSeconds": 1,
//!      "handler": {"httpGet": {"path": "/healthz?full=true", "port": "http", "scheme": "HTTPS",
//!                              "httpHeaders": [{"name": "Host", "value": "shop.example"}]}}},
//!     {"container": "db", "kind": "live", "port": 5432, "timeoutSeconds": 5,
//!      "handler": {"tcpSocket": {"port": 5432}}},
//!     {"container": "rpc", "kind": "startup", "port": 9090, "timeoutSeconds": 1,
//!      "handler": {"grpc": {"port": 9090, "service": "liveness"}}},
//!     {"container": "app", "kind": "preStop", "port": 8080,
//!      "handler": {"httpGet": {"path": "/quit", "port": 8080}}}
//!   ]
//! }
//! ```
//!
//! - `handler` is the handler as the pod had it; `port` is its port, which may be a name there, as a
//!   number. A handler with a `host` is never here: the kubelet dials that host itself.
//! - Every target is the pod's own address and `port`.
//! - The kubelet asks `GET /app-health/<token>/<container>/<kind>` ([`Probes::path`],
//!   [`Probes::find`]). Any other path does not exist.
//! - `timeoutSeconds` is the kubelet's patience; hooks have none, the grace period bounds them.

use serde::{Deserialize, Serialize};

/// The environment variable.
pub const VARIABLE: &str = "MANTLET_PROBES";
/// What the paths begin with.
pub const PATH: &str = "/app-health/";

/// The document.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probes {
    /// What a path must have in it.
    pub token: String,
    /// One for each handler that was written anew.
    pub probes: Vec<Probe>,
}

/// One handler, and where it stood.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// The name of the container.
    pub container: String,
    /// Which of its probes or hooks.
    pub kind: Kind,
    /// The port to dial.
    pub port: u16,
    /// How long the kubelet waits for the answer. Hooks have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// As the pod had it.
    pub handler: Handler,
}

/// A probe or hook of a container.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// `startupProbe`.
    Startup,
    /// `readinessProbe`.
    Ready,
    /// `livenessProbe`.
    Live,
    /// `lifecycle.postStart`.
    PostStart,
    /// `lifecycle.preStop`.
    PreStop,
}

/// What is done to find out, in the form that Kubernetes has for it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Handler {
    /// A request; an answer from 200 to 399 is a success, and no redirection is followed.
    HttpGet(HttpGet),
    /// A connection that is accepted is a success.
    TcpSocket(TcpSocket),
    /// `grpc.health.v1.Health/Check`; `SERVING` is a success.
    Grpc(Grpc),
}

/// `httpGet`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpGet {
    /// Path and query; nothing and empty mean `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Number or name.
    pub port: Port,
    /// `HTTP` where there is none. `HTTPS` is dialled without verifying the certificate, as the kubelet
    /// does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// What the request carries besides; `Host` replaces the address in that header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_headers: Option<Vec<Header>>,
}

/// `tcpSocket`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpSocket {
    /// Number or name.
    pub port: Port,
}

/// `grpc`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Grpc {
    /// Always a number.
    pub port: u16,
    /// The service that is asked about; nothing and empty mean the server as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// A port by number or by the name that the container declares.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Port {
    /// By number.
    Number(u16),
    /// By name.
    Name(String),
}

/// Whether TLS is spoken.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Scheme {
    /// No.
    Http,
    /// Yes.
    Https,
}

/// A header of an `httpGet`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

// === impl Probes ===

impl Probes {
    /// The path at which `kind` of `container` is asked for with `token`.
    #[must_use]
    pub fn path(token: &str, container: &str, kind: Kind) -> String {
        format!("{PATH}{token}/{container}/{}", kind.as_str())
    }

    /// The handler that belongs to a path. Nothing else may stand in the path: it is compared, not
    /// decoded.
    #[must_use]
    pub fn find(&self, path: &str) -> Option<&Probe> {
        let rest = path.strip_prefix(PATH)?.strip_prefix(self.token.as_str())?.strip_prefix('/')?;
        let (container, kind) = rest.split_once('/')?;
        self.probes.iter().find(|probe| probe.container == container && probe.kind.as_str() == kind)
    }
}

// === impl Kind ===

impl Kind {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Startup, Self::Ready, Self::Live, Self::PostStart, Self::PreStop];

    /// As it stands in documents and paths.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Ready => "ready",
            Self::Live => "live",
            Self::PostStart => "postStart",
            Self::PreStop => "preStop",
        }
    }

    /// The members of a container that lead to it.
    #[must_use]
    pub fn field(self) -> &'static [&'static str] {
        match self {
            Self::Startup => &["startupProbe"],
            Self::Ready => &["readinessProbe"],
            Self::Live => &["livenessProbe"],
            Self::PostStart => &["lifecycle", "postStart"],
            Self::PreStop => &["lifecycle", "preStop"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTED: &str = include_str!("probes.rs");

    /// The document that the module's own documentation shows.
    fn documented() -> Probes {
        let block = DOCUMENTED.split("//! ```json\n").nth(1).and_then(|rest| rest.split("//! ```").next());
        let text: String = block.unwrap().lines().map(|line| line.trim_start_matches("//!")).collect();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_documented_form_is_read_and_written_alike() {
        let probes = documented();
        assert_eq!(probes.probes.len(), 4);
        let written = serde_json::to_string(&probes).unwrap();
        assert_eq!(serde_json::from_str::<Probes>(&written).unwrap(), probes);
        assert!(written.contains(r#""handler":{"tcpSocket":{"port":5432}}"#), "{written}");
    }

    #[test]
    fn a_path_finds_its_own_handler_and_no_other_path_finds_any() {
        let probes = documented();
        for probe in &probes.probes {
            let path = Probes::path(&probes.token, &probe.container, probe.kind);
            assert_eq!(probes.find(&path), Some(probe));
        }
        let token = &probes.token;
        for path in [
            "/app-health/".to_owned(),
            "/app-health//app/ready".to_owned(),
            "/app-health/app/ready".to_owned(),
            format!("/app-health/{token}"),
            format!("/app-health/{token}/app"),
            format!("/app-health/{token}/app/live"),
            format!("/app-health/{token}/app/ready/"),
            format!("/app-health/{token}/app/ready?x"),
            format!("/app-health/{token}x/app/ready"),
            format!("/app-health/{}/app/ready", token.to_uppercase()),
        ] {
            assert_eq!(probes.find(&path), None, "{path}");
        }
    }

    #[test]
    fn what_no_version_has_written_is_refused() {
        for text in [
            r#"{"token": "t", "probes": [], "more": 1}"#,
            r#"{"token": "t", "probes": [{"container": "a", "kind": "exec", "port": 1, "handler": {"tcpSocket": {"port": 1}}}]}"#,
            r#"{"token": "t", "probes": [{"container": "a", "kind": "live", "port": 1, "handler": {"exec": {}}}]}"#,
            r#"{"token": "t", "probes": [{"container": "a", "kind": "live", "port": 70000, "handler": {"tcpSocket": {"port": 1}}}]}"#,
            r#"{"token": "t", "probes": [{"container": "a", "kind": "live", "port": 1, "handler": {"tcpSocket": {"port": 1, "host": "x"}}}]}"#,
        ] {
            assert!(serde_json::from_str::<Probes>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn kinds_are_called_alike_everywhere() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
