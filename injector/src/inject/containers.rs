//! The containers and volumes that a pod gets. Nothing in them is copied from the application.
//!
//! Every field that Kubernetes has a default for is written out: what is read back later is then what
//! was written, and can be compared.

use mantlet_policy::{NamedPort, Transport};
use mantlet_redirect::Udp;
use serde_json::{Map, Value, json};

use super::config::Config;
use super::document::{Image, Resources, WorkloadApi};
use super::pod::{Pod, member, text};
use crate::admission::{Admission, Hold, joined};

/// The init container that installs the rules of interception.
pub const INIT: &str = "mantlet-init";
/// The sidecar. SPIRE's selectors name it.
pub const PROXY: &str = "mantlet-proxy";
/// The sidecar's port for health and metrics.
pub(super) const METRICS_PORT: &str = "mantlet-metrics";

const ANNOTATIONS: &str = "mantlet-annotations";
const ADMIN: &str = "mantlet-admin";
pub(super) const WORKLOAD_API: &str = "mantlet-workload-api";
const NO_TOKEN: &str = "mantlet-no-token";
/// The volumes that are ours.
pub(super) const VOLUMES: [&str; 4] = [ANNOTATIONS, ADMIN, WORKLOAD_API, NO_TOKEN];
/// Where Kubernetes mounts the pod's service account token, unless something else is mounted there.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What Kubernetes shows in the pod's status once a container has ended; its default, and made by the kubelet.
const TERMINATION_MESSAGE: &str = "/dev/termination-log";

/// What is mounted for us stands below.
const MOUNTS: &str = "/run/mantlet";

/// What the containers of one pod depend on.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) config: &'a Config,
    pub(super) admission: &'a Admission,
    /// The declared ports of the application.
    pub(super) ports: &'a [NamedPort],
    /// `MANTLET_PROBES`, if there are any.
    pub(super) probes: Option<String>,
    pub(super) pod: Pod<'a>,
}

// === impl Parts ===

impl Parts<'_> {
    /// Both containers, in the order in which they start.
    pub(super) fn containers(&self) -> [Value; 2] {
        let (mut init, mut proxy) = (self.init(), self.proxy());
        // With resources of the whole pod, the pod's owner has said what it may use (KEP-2837): requests
        // of ours could exceed that, and the API server would refuse the pod.
        if member(self.pod.spec(), "resources").is_none() {
            let resources = &self.config.document().resources;
            for (container, resources) in [(&mut init, &resources.init), (&mut proxy, &resources.proxy)] {
                if let Some(container) = container.as_object_mut() {
                    let Resources { requests, limits } = resources;
                    container.insert("resources".to_owned(), json!({"requests": requests, "limits": limits}));
                }
            }
        }
        [init, proxy]
    }

    /// The volumes that the pod does not have.
    pub(super) fn volumes(&self) -> Vec<Value> {
        let mut volumes = vec![
            json!({
                "name": ANNOTATIONS,
                "downwardAPI": {
                    "defaultMode": 0o444,
                    "items": [{
                        "path": "annotations",
                        "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.annotations"},
                    }],
                },
            }),
            json!({"name": ADMIN, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}),
            json!({"name": NO_TOKEN, "emptyDir": {"medium": "Memory", "sizeLimit": "4Ki"}}),
        ];
        match &self.config.document().workload_api {
            WorkloadApi::Csi { driver, .. } if self.same_csi_volume().is_none() => {
                volumes.push(json!({"name": WORKLOAD_API, "csi": {"driver": driver, "readOnly": true}}));
            }
            WorkloadApi::Csi { .. } => {}
            WorkloadApi::HostPath { directory, .. } => volumes
                .push(json!({"name": WORKLOAD_API, "hostPath": {"path": directory, "type": "Directory"}})),
        }
        volumes
    }

    /// A volume of the pod's own that is the one that we would add.
    fn same_csi_volume(&self) -> Option<&str> {
        let WorkloadApi::Csi { driver, .. } = &self.config.document().workload_api else { return None };
        self.pod.volumes().iter().find_map(|volume| {
            let csi = member(volume, "csi").filter(|csi| text(csi, "driver") == Some(driver))?;
            let read_only = csi.get("readOnly").and_then(Value::as_bool) == Some(true);
            text(volume, "name").filter(|_| read_only && member(csi, "volumeAttributes").is_none())
        })
    }

    fn init(&self) -> Value {
        let document = self.config.document();
        let ports = document.ports;
        let mut args = Vec::new();
        let mut flag = |name: &str, value: String| args.push(format!("--{name}={value}"));
        flag("uid", document.user.to_string());
        flag("gid", document.group.to_string());
        flag("inbound-port", ports.inbound.to_string());
        flag("outbound-port", ports.outbound.to_string());
        flag("health-port", ports.health.to_string());
        flag("admin-port", ports.admin.to_string());
        let Admission { skip_inbound_ports, skip_outbound_ports, skip_outbound_cidrs, .. } = self.admission;
        for (name, list) in [
            ("skip-inbound-ports", joined(skip_inbound_ports)),
            ("skip-outbound-ports", joined(skip_outbound_ports)),
            ("skip-outbound-cidrs", joined(skip_outbound_cidrs)),
        ] {
            if !list.is_empty() {
                flag(name, list);
            }
        }
        if document.udp() == Udp::RejectQuic {
            flag("udp", "reject-quic".to_owned());
        }
        let image = &document.images.init;
        let mut context = security(document.init_user, document.init_user, document.init_user != 0);
        if let Some(context) = context.as_object_mut() {
            context.insert("capabilities".to_owned(), json!({"add": ["NET_ADMIN"], "drop": ["ALL"]}));
        }
        json!({
            "name": INIT,
            "image": reference(image),
            "imagePullPolicy": image.pull_policy,
            "command": ["/mantlet-init"],
            "args": args,
            "securityContext": context,
            "terminationMessagePath": TERMINATION_MESSAGE,
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [mount(NO_TOKEN, TOKEN, true)],
        })
    }

    fn proxy(&self) -> Value {
        let document = self.config.document();
        let health = document.ports.health;
        let image = &document.images.proxy;
        let probe = |path: &str, period: u32, failures: u32, timeout: u32| {
            json!({
                "httpGet": {"path": path, "port": health, "scheme": "HTTP"},
                "periodSeconds": period,
                "failureThreshold": failures,
                "successThreshold": 1,
                "timeoutSeconds": timeout,
            })
        };
        let folder = |name: &str| format!("{MOUNTS}/{name}");
        let workload_api = self.same_csi_volume().unwrap_or(WORKLOAD_API);
        let mut container = json!({
            "name": PROXY,
            "image": reference(image),
            "imagePullPolicy": image.pull_policy,
            "command": ["/mantlet-proxy"],
            "restartPolicy": "Always",
            "env": self.environment(),
            "ports": [{"name": METRICS_PORT, "containerPort": health, "protocol": "TCP"}],
            // No livenessProbe: the kubelet goes on with it while a pod ends, and a sidecar that is
            // killed then takes the last requests with it.
            "readinessProbe": probe("/readyz", 5, 3, 2),
            "lifecycle": {"preStop": {"exec": {"command": ["/mantlet-proxy", "drain"]}}},
            "securityContext": security(document.user, document.group, true),
            "terminationMessagePath": TERMINATION_MESSAGE,
            // For what the sidecar does not write there itself: a configuration that is wrong, a panic.
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [
                mount(ANNOTATIONS, &folder("annotations"), true),
                mount(ADMIN, &folder("admin"), false),
                mount(workload_api, &folder("workload-api"), true),
                mount(NO_TOKEN, TOKEN, true),
            ],
        });
        let path = match self.admission.start_hold {
            Hold::Identity => Some("/startupz"),
            Hold::Listen => Some("/livez"),
            Hold::Off => None,
        };
        if let (Some(path), Some(container)) = (path, container.as_object_mut()) {
            container.insert("startupProbe".to_owned(), probe(path, 1, 120, 1));
        }
        container
    }

    /// What the sidecar is told.
    fn environment(&self) -> Vec<Value> {
        let document = self.config.document();
        let ports = document.ports;
        let mut variables = Vec::new();
        let mut field = |name: &str, path: &str| {
            let from = json!({"fieldRef": {"apiVersion": "v1", "fieldPath": path}});
            variables.push(json!({"name": name, "valueFrom": from}));
        };
        // What Kubernetes knows, it says itself: it cannot be wrong after a copy of the pod.
        field("MANTLET_NAMESPACE", "metadata.namespace");
        field("MANTLET_SERVICE_ACCOUNT", "spec.serviceAccountName");
        field("MANTLET_POD_IPS", "status.podIPs");
        let mut set = |name: &str, value: String| {
            // An empty variable is a mistake to the sidecar, and one that does not exist is not.
            if !value.is_empty() {
                variables.push(json!({"name": name, "value": dollars_doubled(&value)}));
            }
        };
        set("MANTLET_TRUST_DOMAIN", self.config.trust_domain().as_str().to_owned());
        let (WorkloadApi::Csi { socket, .. } | WorkloadApi::HostPath { socket, .. }) = &document.workload_api;
        set("SPIFFE_ENDPOINT_SOCKET", format!("unix://{MOUNTS}/workload-api/{socket}"));
        set("MANTLET_INTERCEPT", "true".to_owned());
        set("MANTLET_INTERCEPT_INBOUND", ports.inbound.to_string());
        set("MANTLET_INTERCEPT_OUTBOUND", ports.outbound.to_string());
        set("MANTLET_ADMIN", format!("[::]:{}", ports.health));
        set("MANTLET_ADMIN_SOCKET", format!("{MOUNTS}/admin/admin.sock"));
        set("MANTLET_TERMINATION_MESSAGE", TERMINATION_MESSAGE.to_owned());
        set("MANTLET_ANNOTATIONS", format!("{MOUNTS}/annotations/annotations"));
        set("MANTLET_MESH_CIDRS", document.mesh_cidrs.join(","));
        if let Some(directory) = &document.directory {
            set("MANTLET_DIRECTORY", directory.address.clone());
            set("MANTLET_DIRECTORY_ID", directory.id.clone());
        }
        set("MANTLET_UNMESHED", self.config.unmeshed().to_string());
        set("MANTLET_EXTERNAL", self.config.external().to_string());
        set("MANTLET_UNKNOWN", document.unknown.to_string());
        set("MANTLET_UNCONFIGURED", document.unconfigured.to_string());
        set("MANTLET_GUARDRAILS", document.guardrails.join("\n"));
        set("MANTLET_LOG", document.log.to_string());
        set("MANTLET_ACCESS_LOG", document.access_log.to_string());
        set("MANTLET_PORTS", port_list(self.ports));
        set(mantlet_policy::probes::VARIABLE, self.probes.clone().unwrap_or_default());
        variables
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> Value {
    let mut mount = json!({"name": name, "mountPath": path});
    if let Some(mount) = mount.as_object_mut().filter(|_| read_only) {
        mount.insert("readOnly".to_owned(), true.into());
    }
    mount
}

/// Kubernetes replaces `$(NAME)` in values of variables; `$$` stands for one `$`.
fn dollars_doubled(value: &str) -> String {
    value.replace('$', "$$")
}

/// The value that a container sees of one that was written by [`dollars_doubled`].
pub(super) fn dollars_single(value: &str) -> String {
    value.replace("$$", "$")
}

/// `PodSecurity` restricted, but for what is put in later.
fn security(user: u32, group: u32, non_root: bool) -> Value {
    let mut context = Map::new();
    let mut set = |name: &str, value: Value| drop(context.insert(name.to_owned(), value));
    set("allowPrivilegeEscalation", false.into());
    set("capabilities", json!({"drop": ["ALL"]}));
    set("privileged", false.into());
    set("readOnlyRootFilesystem", true.into());
    set("runAsNonRoot", non_root.into());
    set("runAsUser", user.into());
    set("runAsGroup", group.into());
    set("seccompProfile", json!({"type": "RuntimeDefault"}));
    Value::Object(context)
}

fn reference(image: &Image) -> String {
    match &image.digest {
        Some(digest) => format!("{}@{digest}", image.name),
        None => image.name.clone(),
    }
}

/// `[name=]port/transport,..`; a name counts once, and its first port has it, as in a Service.
fn port_list(ports: &[NamedPort]) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut list = Vec::new();
    for port in ports {
        let name = port.name.as_deref().filter(|name| !names.contains(name));
        names.extend(name);
        let transport = match port.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Sctp => "sctp",
        };
        let name = name.map(|name| format!("{name}=")).unwrap_or_default();
        let entry = format!("{name}{}/{transport}", port.port);
        if !list.contains(&entry) {
            list.push(entry);
        }
    }
    list.join(",")
}
