//! What a pod with a sidecar must not have.

use serde_json::Value;

use super::config::Config;
use super::containers::{INIT, METRICS_PORT, PROXY, VOLUMES, WORKLOAD_API};
use super::document::WorkloadApi;
use super::outcome::Problem;
use super::pod::{Container, Pod, items, member, text};
use super::reason::Reason;
use super::{Document, Namespace};

/// Capabilities that undo interception: rules can be changed, or frames sent past them.
const CAPABILITIES: [&str; 4] = ["NET_ADMIN", "NET_RAW", "SYS_ADMIN", "ALL"];
/// The label by which a namespace says what its pods may be.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// Everything about the pod itself that a sidecar cannot live with, and what it can live with but should
/// not.
pub(super) fn refuse(
    pod: Pod<'_>,
    namespace: &Namespace,
    config: &Config,
    warnings: &mut Vec<String>,
) -> Vec<Problem> {
    let document = config.document();
    let mut problems = Vec::new();
    let mut refuse = |reason, text: String| problems.push(Problem::new(reason, text));
    if let Some(level @ ("baseline" | "restricted")) = namespace.labels.get(ENFORCE).map(String::as_str) {
        refuse(
            Reason::PodSecurity,
            format!(
                "namespace \"{}\" enforces pod security \"{level}\", which refuses NET_ADMIN in the init container: \
                 needs CNI mode, not available yet; use a namespace that enforces \"privileged\"",
                namespace.name
            ),
        );
    }
    let spec = pod.spec();
    if let Some(class) = text(spec, "runtimeClassName")
        && document.refused_runtime_classes.iter().any(|refused| refused == class)
    {
        let text = format!("runtimeClassName \"{class}\" has no nftables: needs CNI mode, not available yet");
        refuse(Reason::Sandbox, text);
    }
    for text in same_user(spec, "the pod", document) {
        refuse(Reason::ProxyUser, text);
    }
    for container in pod.containers() {
        for text in same_user(container.value, &container.shown(), document) {
            refuse(Reason::ProxyUser, text);
        }
        for text in powers(&container) {
            if document.allow_privileged {
                warnings.push(format!("{text}; this installation lets it"));
            } else {
                refuse(Reason::Privileged, text);
            }
        }
        for (reason, text) in ports(&container, document) {
            refuse(reason, text);
        }
        for (reason, text) in mounts(&container, &container.shown(), spec, document) {
            refuse(reason, text);
        }
    }
    if is(spec, "hostPID") {
        let text = "hostPID shows the pod the processes of its node, the sidecars among them";
        if document.allow_privileged {
            warnings.push(format!("{text}; this installation lets it"));
        } else {
            refuse(Reason::Privileged, text.to_owned());
        }
    }
    for volume in pod.volumes() {
        let name = text(volume, "name").unwrap_or_default();
        if VOLUMES.contains(&name) {
            let text = format!("volume \"{name}\" has a name of the sidecar's: rename it");
            refuse(Reason::NameCollision, text);
        }
        if let Some(directory) = agent_directory(volume, document) {
            let text = format!(
                "volume \"{}\" gives the pod {directory}, where the SPIRE agent's socket is: only the sidecar \
                 may have it",
                name.escape_debug()
            );
            refuse(Reason::AgentSocket, text);
        }
    }
    warn(spec, pod, document, warnings);
    problems
}

/// What an ephemeral container that is added to a running pod must not have.
#[must_use]
pub fn refuse_ephemeral(pod: &Value, config: &Config) -> Vec<Problem> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let containers = items(spec, "ephemeralContainers").iter().enumerate().map(|(index, value)| Container {
        list: "ephemeralContainers",
        index,
        name: text(value, "name").unwrap_or_default(),
        value,
    });
    let document = config.document();
    let mut problems = Vec::new();
    for container in containers {
        let shown = format!("ephemeral container \"{}\"", container.name.escape_debug());
        let users = same_user(container.value, &shown, document);
        problems.extend(users.into_iter().map(|text| Problem::new(Reason::ProxyUser, text)));
        if !document.allow_privileged {
            problems
                .extend(powers(&container).into_iter().map(|text| Problem::new(Reason::Privileged, text)));
        }
        // What the sidecar administers itself by is of use to who looks into a pod; the socket never is.
        let mounts = mounts(&container, &shown, spec, document).into_iter();
        let mounts = mounts.filter(|(reason, _)| *reason == Reason::AgentSocket);
        problems.extend(mounts.map(|(reason, text)| Problem::new(reason, text)));
    }
    problems
}

/// Only user and group together are exempt from interception, and neither is the application's.
fn same_user(of: &Value, who: &str, document: &Document) -> Vec<String> {
    let context = member(of, "securityContext").unwrap_or(&Value::Null);
    let is = |field: &str, id: u32| context.get(field).and_then(Value::as_u64) == Some(id.into());
    let mut texts = Vec::new();
    let mut refuse = |field: &str, id: u32, what: &str| {
        texts.push(format!("{field} {id} of {who} is the sidecar's {what}: choose another"));
    };
    if is("runAsUser", document.user) {
        refuse("runAsUser", document.user, "user");
    }
    // Membership is enough to make a file that gives the group away.
    for field in ["runAsGroup", "fsGroup"] {
        if is(field, document.group) {
            refuse(field, document.group, "group");
        }
    }
    if items(context, "supplementalGroups").iter().any(|group| group.as_u64() == Some(document.group.into()))
    {
        refuse("supplementalGroups", document.group, "group");
    }
    texts
}

fn powers(container: &Container<'_>) -> Vec<String> {
    let context = member(container.value, "securityContext").unwrap_or(&Value::Null);
    let mut texts = Vec::new();
    let shown = match container.list {
        "ephemeralContainers" => format!("ephemeral container \"{}\"", container.name.escape_debug()),
        _ => container.shown(),
    };
    if context.get("privileged").and_then(Value::as_bool) == Some(true) {
        texts.push(format!("{shown} is privileged, and could undo interception"));
    }
    let added = context.get("capabilities").map_or(&[][..], |capabilities| items(capabilities, "add"));
    for name in added.iter().filter_map(Value::as_str) {
        let plain = name.to_ascii_uppercase();
        let plain = plain.strip_prefix("CAP_").unwrap_or(&plain);
        if CAPABILITIES.contains(&plain) {
            texts.push(format!("{shown} has the capability {plain}, and could undo interception"));
        }
    }
    texts
}

fn ports(container: &Container<'_>, document: &Document) -> Vec<(Reason, String)> {
    let ours = document.ports;
    let ours = [ours.outbound, ours.inbound, ours.health, ours.admin].map(u64::from);
    let mut found = Vec::new();
    for port in items(container.value, "ports") {
        if let Some(number) = port.get("containerPort").and_then(Value::as_u64).filter(|n| ours.contains(n)) {
            let text =
                format!("containerPort {number} of {} is the sidecar's: choose another", container.shown());
            found.push((Reason::PortCollision, text));
        }
        if text(port, "name") == Some(METRICS_PORT) {
            let text =
                format!("port \"{METRICS_PORT}\" of {} has the name of the sidecar's", container.shown());
            found.push((Reason::NameCollision, text));
        }
    }
    found
}

/// What a container mounts that is the sidecar's alone: the agent's socket, by whatever volume, and the
/// volumes that are added for the sidecar.
fn mounts(
    container: &Container<'_>,
    shown: &str,
    spec: &Value,
    document: &Document,
) -> Vec<(Reason, String)> {
    let is_agents = |name: &str| {
        let volumes = items(spec, "volumes").iter();
        let mut named = volumes.filter(|volume| text(volume, "name") == Some(name));
        name == WORKLOAD_API
            || named.any(|v| has_agent_driver(v, document) || agent_directory(v, document).is_some())
    };
    let names = items(container.value, "volumeMounts").iter().filter_map(|mount| text(mount, "name"));
    let found = names.filter_map(|name| {
        if is_agents(name) {
            let text = format!(
                "{shown} mounts the socket of the SPIRE agent by volume \"{}\": only the sidecar may have it",
                name.escape_debug()
            );
            return Some((Reason::AgentSocket, text));
        }
        let text = format!("{shown} mounts the volume \"{name}\" of the sidecar's: remove the mount");
        VOLUMES.contains(&name).then_some((Reason::NameCollision, text))
    });
    found.collect()
}

/// Whether a volume is of a CSI driver that gives access to the SPIRE agent.
fn has_agent_driver(volume: &Value, document: &Document) -> bool {
    let Some(driver) = member(volume, "csi").and_then(|csi| text(csi, "driver")) else { return false };
    let by_value = match &document.workload_api {
        WorkloadApi::Csi { driver, .. } => Some(driver),
        WorkloadApi::HostPath { .. } => None,
    };
    document.agent_drivers.iter().chain(by_value).any(|known| known == driver)
}

/// The folder of the SPIRE agent that a volume lets the pod see: the folder itself, what is in it, or
/// what it is in.
fn agent_directory(volume: &Value, document: &Document) -> Option<String> {
    let path = member(volume, "hostPath").and_then(|host| text(host, "path"))?;
    let mounted = parts(path);
    let by_value = match &document.workload_api {
        WorkloadApi::HostPath { directory, .. } => Some(directory),
        WorkloadApi::Csi { .. } => None,
    };
    let agents = document.agent_directories.iter().chain(by_value);
    agents
        .into_iter()
        .find(|agent| {
            let agent = parts(agent);
            agent.iter().zip(&mounted).all(|(a, b)| a == b)
        })
        .cloned()
}

/// The parts of a path; `/var/run` is `/run` on every node.
fn parts(path: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    if parts.starts_with(&["var", "run"]) {
        parts.remove(0);
    }
    parts
}

fn is(spec: &Value, field: &str) -> bool {
    spec.get(field).and_then(Value::as_bool) == Some(true)
}

fn warn(spec: &Value, pod: Pod<'_>, document: &Document, warnings: &mut Vec<String>) {
    if is(spec, "shareProcessNamespace") {
        let text =
            "shareProcessNamespace: a container that runs as root can read the sidecar's memory, its key too";
        warnings.push(text.to_owned());
    }
    let scraped = pod.annotation("prometheus.io/port").and_then(|port| port.trim().parse::<u16>().ok());
    if let Some(port) = scraped.filter(|port| *port != document.ports.health) {
        let skipped = pod.annotation("mantlet.dev/skip-inbound-ports").unwrap_or_default();
        let skipped = mantlet_redirect::PortRange::parse_list(skipped).unwrap_or_default();
        if !skipped.iter().any(|range| range.contains(port)) {
            warnings.push(format!(
                "prometheus.io/port {port} is captured: a scrape needs an identity and a rule, or \
                 plaintext(..) in the policy"
            ));
        }
    }
}

/// The names of our containers anywhere in `pod`.
pub(super) fn named_like_ours<'v>(pod: Pod<'v>) -> impl Iterator<Item = Container<'v>> {
    pod.containers().filter(|container| container.name == INIT || container.name == PROXY)
}
