//! Envoy beside an application, as a peer in both TLS roles.

use std::fs::File;
use std::net::SocketAddr;
use std::process::Stdio;

use mantlet_testkit::TempDir;
use mantlet_testkit::pki::TestSvid;
use mantlet_testkit::real_peers::{RealPeers, free_port};
use mantlet_testkit::spire::Spire;
use tokio::process::{Child, Command};

/// Where Envoy gets its identity and whom it trusts.
#[derive(Debug)]
pub(crate) enum Identity<'a> {
    /// Files that do not change.
    Static(&'a TestSvid),
    /// The secret discovery service of SPIRE's agent.
    Sds { spire: &'a Spire, id: &'a str, trust_domain: &'a str },
}

/// Who is around it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neighbours<'a> {
    /// The one caller that it admits.
    pub(crate) caller: &'a str,
    /// Whom it calls, and where.
    pub(crate) peer: (&'a str, SocketAddr),
    /// HTTP version towards the peer: `h2` or `http/1.1`.
    pub(crate) alpn: &'a str,
    /// The application behind it.
    pub(crate) app: SocketAddr,
}

/// A running Envoy; it is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Envoy {
    /// Where its application sends requests.
    pub(crate) outbound: SocketAddr,
    /// Where the mesh reaches it.
    pub(crate) inbound: SocketAddr,
    _child: Child,
    _dir: TempDir,
}

// === impl Envoy ===

impl Envoy {
    /// Starts it; what is listening when, the caller finds out by asking.
    pub(crate) fn start(peers: &RealPeers, identity: &Identity<'_>, around: Neighbours<'_>) -> Self {
        let dir = TempDir::new();
        let (outbound, inbound) = (free_port(), free_port());
        let http =
            if around.alpn == "h2" { "http2_protocol_options: {}" } else { "http_protocol_options: {}" };
        let socket = match identity {
            Identity::Static(_) => dir.path().join("none.sock"),
            Identity::Sds { spire, .. } => spire.socket(),
        };
        let config = include_str!("envoy.yaml")
            .replace("@OWN_CERTIFICATE@", &identity.certificate(&dir))
            .replace("@TRUST_CALLERS@", &identity.trust(&dir, around.caller))
            .replace("@TRUST_PEER@", &identity.trust(&dir, around.peer.0))
            .replace("@CALLER@", around.caller)
            .replace("@PEER_PORT@", &around.peer.1.port().to_string())
            .replace("@PEER_ALPN@", around.alpn)
            .replace("@PEER_HTTP@", http)
            .replace("@APP_PORT@", &around.app.port().to_string())
            .replace("@OUT_PORT@", &outbound.to_string())
            .replace("@IN_PORT@", &inbound.to_string())
            .replace("@SDS_SOCKET@", &socket.display().to_string());
        let file = dir.file("envoy.yaml", config);
        let log = File::create(dir.path().join("envoy.log")).unwrap();
        let child = Command::new(peers.program("envoy"))
            .arg("-c")
            .arg(file)
            .args(["--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"])
            .args(["--service-node", "envoy", "--service-cluster", "test"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self { outbound: local(outbound), inbound: local(inbound), _child: child, _dir: dir }
    }
}

impl Drop for Envoy {
    /// What Envoy said belongs to a failed test's output.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self._dir.path().join("envoy.log")).unwrap_or_default();
            eprintln!("--- envoy\n{log}");
        }
    }
}

// === impl Identity ===

impl Identity<'_> {
    fn certificate(&self, dir: &TempDir) -> String {
        match self {
            Self::Static(svid) => format!(
                "tls_certificates: [{{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}]",
                dir.file("own.pem", svid.chain_pem()).display(),
                dir.file("own.key", svid.key_pem()).display()
            ),
            Self::Sds { id, .. } => format!("tls_certificate_sds_secret_configs: [{}]", sds(id)),
        }
    }

    fn trust(&self, dir: &TempDir, peer: &str) -> String {
        let san =
            format!("match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: \"{peer}\"}}}}]");
        match self {
            Self::Static(svid) => {
                let root = dir.file("ca.pem", svid.root_pem());
                format!("validation_context: {{trusted_ca: {{filename: {}}}, {san}}}", root.display())
            }
            Self::Sds { trust_domain, .. } => format!(
                "combined_validation_context: {{default_validation_context: {{{san}}}, \
                 validation_context_sds_secret_config: {}}}",
                sds(&format!("spiffe://{trust_domain}"))
            ),
        }
    }
}

fn sds(name: &str) -> String {
    format!(
        "{{name: \"{name}\", sds_config: {{resource_api_version: V3, api_config_source: {{api_type: GRPC, \
         transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: sds}}}}]}}}}}}"
    )
}
