//! Configuration of everything that a node runs, as files of one folder.

use std::path::{Path, PathBuf};

use rcgen::KeyPair;
use serde_json::json;

/// The node's own address, on its loopback interface: this kernel may lack the link type `dummy`.
pub(super) const NODE: &str = "10.245.0.1";
const NODE6: &str = "fd00:245::1";
/// An address outside of all ranges of the cluster, for whoever listens there in the node's network.
pub const EXTERNAL: &str = "203.0.113.10";
/// Pods of both families.
const PODS: [&str; 2] = ["10.244.0.0/24", "fd00:244::/64"];
const SERVICES: &str = "10.246.0.0/16,fd00:246::/108";
/// Where the API server listens.
pub(super) const API_PORT: u16 = 6443;
/// The trust domain of the cluster's identities.
pub const TRUST_DOMAIN: &str = "cluster.test";
/// The folder of the agent's socket, on the node and so in the chart's values.
pub(super) const AGENT_FOLDER: &str = "/run/spire/agent-sockets";

/// Whom the API server takes for whom.
const ADMIN: &str = "administrator-of-the-tests";
const NODE_TOKEN: &str = "node-of-the-tests";

/// Values of the kernel that the kubelet would set for the whole machine. It reads these instead, and leaves
/// the machine alone.
pub(super) const KERNEL: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// The folder, and what follows from it.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) dir: PathBuf,
    /// Of the control groups, below each hierarchy.
    pub(super) cgroup: String,
}

// === impl Layout ===

impl Layout {
    pub(super) fn new(dir: &Path) -> Self {
        let name = dir.file_name().expect("a folder with a name").to_string_lossy().into_owned();
        Self { dir: dir.to_owned(), cgroup: name }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes every file.
    pub(super) fn write(&self) {
        let key = KeyPair::generate().expect("a key");
        let dir = self.dir.display();
        let tokens =
            format!("{ADMIN},admin,admin,system:masters\n{NODE_TOKEN},system:node:n1,n1,system:nodes\n");
        for folder in ["cni", "log", "kubelet", "spire", "cni-data", "server"] {
            std::fs::create_dir_all(self.path(folder)).expect("folder");
        }
        for (name, text) in [
            ("hosts", format!("127.0.0.1 localhost\n::1 localhost\n{NODE} n1\n")),
            ("resolv.conf", format!("nameserver {NODE}\n")),
            ("accounts.key", key.serialize_pem()),
            ("accounts.pub", key.public_key_pem()),
            ("tokens.csv", tokens),
            ("audit.json", AUDIT.to_owned()),
            ("kubeconfig", self.kubeconfig(ADMIN)),
            ("node.kubeconfig", self.kubeconfig(NODE_TOKEN)),
            ("containerd.toml", self.containerd()),
            ("cni/10-mantlet.conflist", self.cni()),
            ("kubelet.json", self.kubelet()),
            ("Corefile", COREFILE.replace("DIR", &dir.to_string())),
            ("spire/server.conf", SPIRE_SERVER.replace("DIR", &dir.to_string())),
            ("spire/agent.conf", SPIRE_AGENT.replace("DIR", &dir.to_string())),
        ] {
            std::fs::write(self.path(name), text).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    fn kubeconfig(&self, token: &str) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "cluster",
            "clusters": [{"name": "cluster", "cluster": {
                "server": format!("https://{NODE}:{API_PORT}"),
                "certificate-authority": self.text("server/apiserver.crt"),
            }}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": "cluster", "context": {"cluster": "cluster", "user": "user"}}],
        })
        .to_string()
    }

    /// `restrict_oom_score_adj`: without CAP_SYS_RESOURCE, as in many machines of CI, runc could not start a
    /// container otherwise.
    fn containerd(&self) -> String {
        let dir = self.dir.display();
        format!(
            r#"version = 2
root = "{dir}/containerd"
state = "/run/containerd"
[grpc]
  address = "{dir}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/mantlet-pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{dir}/cni"
"#
        )
    }

    fn cni(&self) -> String {
        let ranges: Vec<_> = PODS.iter().map(|subnet| json!([{"subnet": subnet}])).collect();
        json!({
            "cniVersion": "1.0.0", "name": "mantlet",
            "plugins": [
                {
                    "type": "bridge", "bridge": BRIDGE, "isGateway": true, "hairpinMode": true,
                    "ipam": {
                        "type": "host-local", "ranges": ranges, "dataDir": self.text("cni-data"),
                        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        })
        .to_string()
    }

    fn kubelet(&self) -> String {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}", self.cgroup),
            "failSwapOn": false,
            "containerRuntimeEndpoint": format!("unix://{}", self.text("containerd.sock")),
            "localStorageCapacityIsolation": false,
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
            "imageGCHighThresholdPercent": 100,
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
            "resolvConf": self.text("resolv.conf"),
            "clusterDNS": [NODE],
            "clusterDomain": "cluster.local",
            "volumePluginDir": self.text("kubelet/plugins"),
            "syncFrequency": "10s",
            "nodeStatusUpdateFrequency": "10s",
            "kubeAPIQPS": 200, "kubeAPIBurst": 400,
            "serializeImagePulls": false,
            "maxPods": 200,
        })
        .to_string()
    }

    pub(super) fn etcd(&self) -> Vec<String> {
        vec![
            format!("--data-dir={}", self.text("etcd")),
            "--unsafe-no-fsync".to_owned(),
            "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
            "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
            "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
            "--initial-advertise-peer-urls=http://127.0.0.1:2380".to_owned(),
            "--initial-cluster=default=http://127.0.0.1:2380".to_owned(),
        ]
    }

    pub(super) fn api_server(&self) -> Vec<String> {
        vec![
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            format!("--cert-dir={}", self.text("server")),
            format!("--advertise-address={NODE}"),
            format!("--secure-port={API_PORT}"),
            format!("--service-cluster-ip-range={SERVICES}"),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", self.text("accounts.pub")),
            format!("--service-account-signing-key-file={}", self.text("accounts.key")),
            format!("--token-auth-file={}", self.text("tokens.csv")),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            format!("--audit-policy-file={}", self.text("audit.json")),
            format!("--audit-log-path={}", self.text("audit.log")),
            "--audit-log-mode=blocking".to_owned(),
        ]
    }

    pub(super) fn controller_manager(&self) -> Vec<String> {
        vec![
            format!("--kubeconfig={}", self.text("kubeconfig")),
            "--use-service-account-credentials".to_owned(),
            "--leader-elect=false".to_owned(),
            format!("--root-ca-file={}", self.text("server/apiserver.crt")),
            format!("--service-account-private-key-file={}", self.text("accounts.key")),
            format!("--cert-dir={}", self.text("server/controller-manager")),
            "--kube-api-qps=200".to_owned(),
            "--kube-api-burst=400".to_owned(),
        ]
    }

    pub(super) fn scheduler(&self) -> Vec<String> {
        vec![
            format!("--kubeconfig={}", self.text("kubeconfig")),
            "--leader-elect=false".to_owned(),
            format!("--cert-dir={}", self.text("server/scheduler")),
        ]
    }

    pub(super) fn kubelet_flags(&self) -> Vec<String> {
        vec![
            format!("--config={}", self.text("kubelet.json")),
            format!("--kubeconfig={}", self.text("node.kubeconfig")),
            "--hostname-override=n1".to_owned(),
            format!("--node-ip={NODE},{NODE6}"),
            format!("--root-dir={}", self.text("kubelet")),
            format!("--cert-dir={}", self.text("kubelet/pki")),
        ]
    }

    /// Nothing of the machine's connection tracking is changed.
    pub(super) fn kube_proxy(&self) -> Vec<String> {
        vec![
            format!("--kubeconfig={}", self.text("kubeconfig")),
            "--proxy-mode=nftables".to_owned(),
            format!("--cluster-cidr={}", PODS.join(",")),
            "--hostname-override=n1".to_owned(),
            "--conntrack-max-per-core=0".to_owned(),
            "--conntrack-tcp-timeout-established=0s".to_owned(),
            "--conntrack-tcp-timeout-close-wait=0s".to_owned(),
        ]
    }

    pub(super) fn containerd_flags(&self) -> Vec<String> {
        vec![format!("--config={}", self.text("containerd.toml")), "--log-level=warn".to_owned()]
    }

    pub(super) fn dns(&self) -> Vec<String> {
        vec![format!("-conf={}", self.text("Corefile"))]
    }
}

/// The bridge that all pods hang on.
pub const BRIDGE: &str = "mantlet0";

/// Addresses of the node.
pub(super) fn node_addresses() -> [String; 2] {
    [format!("{NODE}/32"), format!("{NODE6}/128")]
}

/// What the API server writes down of each request: whole requests where pods change, as admission left them.
const AUDIT: &str = r#"{
    "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Request", "verbs": ["create", "update", "patch", "delete"],
         "resources": [{"group": "", "resources": ["pods", "pods/status", "pods/ephemeralcontainers"]}]},
        {"level": "None"}
    ]
}"#;

const COREFILE: &str = "cluster.local:53 {
    bind 10.245.0.1
    errors
    kubernetes cluster.local {
        kubeconfig DIR/kubeconfig
        ttl 1
    }
}
.:53 {
    bind 10.245.0.1
    hosts DIR/names {
        ttl 1
        reload 200ms
    }
}
";

const SPIRE_SERVER: &str = r#"server {
  bind_address = "127.0.0.1"
  bind_port = "8081"
  trust_domain = "cluster.test"
  data_dir = "DIR/spire"
  socket_path = "DIR/spire/server.sock"
  log_level = "INFO"
  ca_ttl = "24h"
  agent_ttl = "4h"
  default_x509_svid_ttl = "1h"
  experimental {
    cache_reload_interval = "1s"
  }
}
plugins {
  DataStore "sql" {
    plugin_data {
      database_type = "sqlite3"
      connection_string = "DIR/spire/server.sqlite3"
    }
  }
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
}
"#;

const SPIRE_AGENT: &str = r#"agent {
  data_dir = "DIR/spire/agent"
  trust_domain = "cluster.test"
  server_address = "127.0.0.1"
  server_port = "8081"
  socket_path = "/run/spire/agent-sockets/spire-agent.sock"
  trust_bundle_path = "DIR/spire/bootstrap.pem"
  log_level = "INFO"
  experimental {
    sync_interval = "1s"
  }
}
plugins {
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "disk" { plugin_data { directory = "DIR/spire/agent" } }
  WorkloadAttestor "k8s" {
    plugin_data {
      skip_kubelet_verification = true
      use_anonymous_authentication = true
      node_name_env = "NODE"
    }
  }
}
"#;
