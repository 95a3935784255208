//! What an installation says about injection, as it is written: one YAML or JSON document.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The document of an installation. Every field has a default; a field that is not one of these is an
/// error. [`Config`](super::Config) is its checked form.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Document {
    /// The trust domain of the identities: `MANTLET_TRUST_DOMAIN`.
    pub trust_domain: String,
    /// What the containers are made of.
    pub images: Images,
    /// Names of Secrets to pull the images with, added to a pod that lacks them.
    pub image_pull_secrets: Vec<String>,
    /// What the containers ask for and may use.
    pub resources: ContainerResources,
    /// The user of the sidecar. Only together with [`group`](Self::group) it is exempt from interception.
    pub user: u32,
    /// The group of the sidecar.
    pub group: u32,
    /// The user and group of the init container; 0 where images lose the capabilities of files.
    pub init_user: u32,
    /// The ports of the sidecar.
    pub ports: Ports,
    /// How the sidecar reaches the SPIFFE Workload API.
    pub workload_api: WorkloadApi,
    /// The pod and service ranges of the cluster: `MANTLET_MESH_CIDRS`.
    pub mesh_cidrs: Vec<String>,
    /// Workloads that are known to have no sidecar; the profile decides where this is not set.
    pub unmeshed: Option<Otherwise>,
    /// Addresses outside of [`mesh_cidrs`](Self::mesh_cidrs); the profile decides where this is not set.
    pub external: Option<Otherwise>,
    /// Unknown addresses inside of them.
    pub unknown: Unknown,
    /// What a pod without a policy gets.
    pub unconfigured: Unconfigured,
    /// Who knows the endpoints of the cluster.
    pub directory: Option<Directory>,
    /// What no annotation may do, one guardrail each.
    pub guardrails: Vec<String>,
    /// The process log of the sidecar.
    pub log: LogLevel,
    /// The access log of the sidecar.
    pub access_log: AccessLog,
    /// How much is refused where nothing else is said.
    pub profile: Profile,
    /// Namespaces in which nothing is injected, whatever their labels say.
    pub excluded_namespaces: Vec<String>,
    /// Runtime classes whose sandbox has no nftables, so that interception could not work.
    pub refused_runtime_classes: Vec<String>,
    /// Folders of the node that give access to the SPIRE agent: no pod may mount them by hand.
    pub agent_directories: Vec<String>,
    /// CSI drivers that give access to it: as above. The one of [`workload_api`](Self::workload_api) is
    /// always among them.
    pub agent_drivers: Vec<String>,
    /// Let containers be privileged, have capabilities that undo interception, or see the processes of
    /// the node: a warning in place of a refusal.
    pub allow_privileged: bool,
}

/// The images of both containers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Images {
    /// Of the sidecar, with `/mantlet-proxy` in it.
    pub proxy: Image,
    /// Of the init container, with `/mantlet-init` in it.
    pub init: Image,
}

/// One image.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Image {
    /// Name and tag.
    pub name: String,
    /// `sha256:..`; pins the image whatever its tag says.
    #[serde(default)]
    pub digest: Option<String>,
    /// When the node asks the registry.
    #[serde(default)]
    pub pull_policy: PullPolicy,
}

/// The resources of both containers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ContainerResources {
    /// Of the sidecar.
    pub proxy: Resources,
    /// Of the init container.
    pub init: Resources,
}

/// The resources of one container, as Kubernetes has them. Requests for `cpu` and `memory` and a limit of
/// `memory` are needed: without them quotas refuse the pod and autoscalers cannot compute.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// What is set aside.
    pub requests: BTreeMap<String, String>,
    /// The most it may use.
    pub limits: BTreeMap<String, String>,
}

/// The ports of the sidecar.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Ports {
    /// What the pod dials, redirected.
    pub outbound: u16,
    /// What is dialled in the pod, redirected.
    pub inbound: u16,
    /// Health and metrics.
    pub health: u16,
    /// Administration, on loopback.
    pub admin: u16,
}

/// How the sidecar reaches the SPIFFE Workload API.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum WorkloadApi {
    /// By the SPIFFE CSI driver.
    #[serde(rename_all = "camelCase")]
    Csi {
        /// The name of the driver.
        #[serde(default = "csi_driver")]
        driver: String,
        /// The agent's socket in the volume.
        #[serde(default = "socket")]
        socket: String,
    },
    /// By a folder of the node. Not under PodSecurity `baseline`.
    #[serde(rename_all = "camelCase")]
    HostPath {
        /// The folder: a mounted socket would be stale after the agent's restart.
        directory: String,
        /// The agent's socket in it.
        #[serde(default = "socket")]
        socket: String,
    },
}

/// Who knows the endpoints of the cluster.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Directory {
    /// `host:port`.
    pub address: String,
    /// The SPIFFE ID that it must prove.
    pub id: String,
}

/// An enum of words, the same in documents, flags of the sidecar and texts.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $default:ident, { $($(#[$of:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
        pub enum $name {
            $($(#[$of])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// The word.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::$default
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// When the node asks the registry for an image.
    PullPolicy, IfNotPresent, {
        /// Each time.
        Always = "Always",
        /// When it does not have it.
        IfNotPresent = "IfNotPresent",
        /// Never.
        Never = "Never",
    }
}

words! {
    /// What becomes of a connection to a destination outside the mesh.
    Otherwise, Passthrough, {
        /// Its bytes are relayed as they are.
        Passthrough = "passthrough",
        /// It is refused.
        Refuse = "refuse",
    }
}

words! {
    /// What becomes of a connection to an unknown address of the mesh.
    Unknown, Refuse, {
        /// It is refused.
        Refuse = "refuse",
        /// Anybody of the own trust domain may be there.
        AnyInTrustDomain = "any-in-trust-domain",
    }
}

words! {
    /// What a pod without a policy gets.
    Unconfigured, Deny, {
        /// Everything is refused.
        Deny = "deny",
        /// Nothing is refused that an identity asks for, and everything is counted.
        Audit = "audit",
        /// The same, and callers without identity are let in.
        Permissive = "permissive",
    }
}

words! {
    /// How much is refused where nothing else is said.
    Profile, Default, {
        /// What has no sidecar, and what is outside of the cluster, is passed through.
        Default = "default",
        /// Both are refused, and QUIC is.
        Strict = "strict",
    }
}

words! {
    /// The process log of the sidecar.
    LogLevel, Info, {
        /// Nothing.
        Off = "off",
        /// What went wrong.
        Error = "error",
        /// And what may.
        Warn = "warn",
        /// And what happened.
        Info = "info",
        /// And why.
        Debug = "debug",
        /// And all the rest.
        Trace = "trace",
    }
}

words! {
    /// The access log of the sidecar.
    AccessLog, Off, {
        /// None.
        Off = "off",
        /// What failed.
        Errors = "errors",
        /// Everything.
        All = "all",
    }
}

// === impl Document ===

impl Default for Document {
    fn default() -> Self {
        let strings = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        Self {
            trust_domain: "cluster.local".to_owned(),
            images: Images::default(),
            image_pull_secrets: Vec::new(),
            resources: ContainerResources::default(),
            user: 14021,
            group: 14021,
            init_user: 65532,
            ports: Ports::default(),
            workload_api: WorkloadApi::default(),
            // Every private range: a pod or service address outside of them is rare, one inside is not.
            mesh_cidrs: strings(&[
                "10.0.0.0/8",
                "100.64.0.0/10",
                "172.16.0.0/12",
                "192.168.0.0/16",
                "fc00::/7",
            ]),
            unmeshed: None,
            external: None,
            unknown: Unknown::default(),
            unconfigured: Unconfigured::default(),
            directory: None,
            guardrails: Vec::new(),
            log: LogLevel::default(),
            access_log: AccessLog::default(),
            profile: Profile::default(),
            excluded_namespaces: strings(&[
                "cert-manager",
                "kube-node-lease",
                "kube-public",
                "kube-system",
                "spire-server",
                "spire-system",
            ]),
            refused_runtime_classes: strings(&["gvisor", "runsc"]),
            agent_directories: strings(&["/run/spire/agent-sockets"]),
            agent_drivers: vec![csi_driver()],
            allow_privileged: false,
        }
    }
}

impl Default for Images {
    fn default() -> Self {
        let image = |name: &str| Image {
            name: format!("{name}:{}", env!("CARGO_PKG_VERSION")),
            digest: None,
            pull_policy: PullPolicy::default(),
        };
        Self { proxy: image("mantlet-proxy"), init: image("mantlet-init") }
    }
}

impl Default for ContainerResources {
    fn default() -> Self {
        let map = |items: &[(&str, &str)]| {
            items.iter().map(|(name, amount)| ((*name).to_owned(), (*amount).to_owned())).collect()
        };
        Self {
            proxy: Resources {
                requests: map(&[("cpu", "50m"), ("memory", "40Mi")]),
                limits: map(&[("memory", "256Mi")]),
            },
            init: Resources {
                requests: map(&[("cpu", "10m"), ("memory", "8Mi")]),
                limits: map(&[("memory", "32Mi")]),
            },
        }
    }
}

impl Default for Ports {
    fn default() -> Self {
        let mantlet_redirect::ProxyPorts { outbound, inbound, health, admin } =
            mantlet_redirect::ProxyPorts::default();
        Self { outbound, inbound, health, admin }
    }
}

impl Default for WorkloadApi {
    fn default() -> Self {
        Self::Csi { driver: csi_driver(), socket: socket() }
    }
}

fn csi_driver() -> String {
    "csi.spiffe.io".to_owned()
}

fn socket() -> String {
    "spire-agent.sock".to_owned()
}
