//! The pod templates in Kubernetes objects.

use std::collections::BTreeMap;
use std::fmt;

use mantlet_policy::{NamedPort, Transport};
use serde_json::Value;

use crate::inject::Pointer;

/// A pod template, as far as a policy is concerned.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Template {
    /// The kind of the object that it is in.
    pub kind: String,
    /// The namespace, where the object names one.
    pub namespace: Option<String>,
    /// The name of the object, or what it is generated from.
    pub name: String,
    /// The annotations of the pod.
    pub annotations: BTreeMap<String, String>,
    /// The service account of the pod.
    pub service_account: String,
    /// The ports that containers which run beside each other declare.
    pub ports: Vec<NamedPort>,
    /// Whether the pod is in the network of its node.
    pub host_network: bool,
    /// The containers that may have capabilities which lead past the sidecar.
    pub mighty: Vec<Mighty>,
    /// The init containers, in their order.
    pub init_containers: Vec<String>,
}

/// A container that may have capabilities which lead past the sidecar, by default and not by asking.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mighty {
    /// Its name.
    pub container: String,
    /// Whether it says that it runs as root. Otherwise its image may say so, which is not known here.
    pub is_root: bool,
    /// Which of [`DEFAULTS`] it keeps.
    pub capabilities: Vec<&'static str>,
}

/// What container runtimes give to root by default, and leads past the sidecar: frames of its own making, and
/// the user and group that interception lets pass.
const DEFAULTS: [&str; 3] = ["NET_RAW", "SETGID", "SETUID"];

/// Why an object cannot be read.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Unreadable {
    /// Lists in lists in lists.
    TooDeep,
    /// An annotation that is no string.
    NotAString {
        /// The kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// The annotation.
        key: String,
    },
}

/// Lists in lists are not a thing; this is where somebody is playing.
const MAX_DEPTH: usize = 4;

/// The pod templates of `object`: those of its items, if it is a list.
///
/// # Errors
/// An object that Kubernetes would not take either.
pub fn templates(object: &Value) -> Result<Vec<Template>, Unreadable> {
    found(object)?.into_iter().map(|found| template(found.owner, found.pod)).collect()
}

/// Where a pod or pod template stands in an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// The kind of the object that it is in.
    pub kind: String,
    /// The name of that object, or what it is generated from.
    pub name: String,
    /// The namespace, where the object names one.
    pub namespace: Option<String>,
    /// The pod itself: what has `metadata` and `spec`.
    pub pointer: Pointer,
}

/// Where the pod templates of `object` stand: those of its items, if it is a list.
///
/// # Errors
/// Lists in lists in lists.
pub fn places(object: &Value) -> Result<Vec<Place>, Unreadable> {
    Ok(found(object)?.into_iter().map(Found::place).collect())
}

/// A pod template, and the object that it is in.
struct Found<'v> {
    owner: &'v Value,
    pod: &'v Value,
    pointer: Pointer,
}

// === impl Unreadable ===

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooDeep => f.write_str("lists are nested too deeply"),
            Self::NotAString { kind, name, key } => {
                write!(f, "{kind} {name}: annotation {key} is no string, quote it")
            }
        }
    }
}

impl std::error::Error for Unreadable {}

/// The template that `pod`, a pod or a pod template alone, is.
///
/// # Errors
/// A pod that Kubernetes would not take either.
pub(crate) fn of_pod(pod: &Value) -> Result<Template, Unreadable> {
    template(pod, pod)
}

// === impl Found ===

impl Found<'_> {
    fn place(self) -> Place {
        let metadata = |name| text(self.owner.get("metadata").and_then(|metadata| metadata.get(name)));
        Place {
            kind: text(self.owner.get("kind")).unwrap_or_else(|| "Pod".to_owned()),
            name: metadata("name").or_else(|| metadata("generateName")).unwrap_or_else(|| UNNAMED.to_owned()),
            namespace: metadata("namespace").or_else(|| text(self.pod.pointer("/metadata/namespace"))),
            pointer: self.pointer,
        }
    }
}

const UNNAMED: &str = "(unnamed)";

fn found(object: &Value) -> Result<Vec<Found<'_>>, Unreadable> {
    let mut found = Vec::new();
    collect(object, Pointer::root(), MAX_DEPTH, &mut found)?;
    Ok(found)
}

fn collect<'v>(
    owner: &'v Value,
    place: Pointer,
    depth: usize,
    found: &mut Vec<Found<'v>>,
) -> Result<(), Unreadable> {
    if let Some(items) = owner.get("items").and_then(Value::as_array) {
        if depth == 0 {
            return Err(Unreadable::TooDeep);
        }
        let place = place.child("items");
        let mut items = items.iter().enumerate();
        return items.try_for_each(|(index, item)| collect(item, place.item(index), depth - 1, found));
    }
    // Pod; everything with `spec.template`, as Deployment, StatefulSet, DaemonSet, ReplicaSet and Job
    // have it; CronJob.
    let ways: &[&[&str]] = match owner.get("kind").and_then(Value::as_str) {
        Some("Pod") => &[&[]],
        Some("PodTemplate") => &[&["template"]],
        _ => &[&["spec", "jobTemplate", "spec", "template"], &["spec", "template"]],
    };
    for way in ways {
        let way = Pointer::of(way);
        let pod = owner.pointer(way.as_str());
        if let Some(pod) = pod.filter(|pod| pod.pointer("/spec/containers").is_some()) {
            found.push(Found { owner, pod, pointer: way.below(&place) });
            break;
        }
    }
    Ok(())
}

fn text(value: Option<&Value>) -> Option<String> {
    value.and_then(Value::as_str).map(str::to_owned)
}

fn template(document: &Value, pod: &Value) -> Result<Template, Unreadable> {
    let metadata = |field: &str| text(document.pointer(&format!("/metadata/{field}")));
    let kind = text(document.get("kind")).unwrap_or_else(|| "Pod".to_owned());
    let name = metadata("name").or_else(|| metadata("generateName")).unwrap_or_else(|| UNNAMED.to_owned());
    let mut annotations = BTreeMap::new();
    for (key, value) in pod.pointer("/metadata/annotations").and_then(Value::as_object).into_iter().flatten()
    {
        let value = value.as_str().ok_or_else(|| Unreadable::NotAString {
            kind: kind.clone(),
            name: name.clone(),
            key: key.clone(),
        })?;
        annotations.insert(key.clone(), value.to_owned());
    }
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let service_account = text(spec.get("serviceAccountName")).or_else(|| text(spec.get("serviceAccount")));
    Ok(Template {
        namespace: metadata("namespace").or_else(|| text(pod.pointer("/metadata/namespace"))),
        annotations,
        service_account: service_account.unwrap_or_else(|| "default".to_owned()),
        ports: ports(spec),
        host_network: spec.get("hostNetwork").and_then(Value::as_bool) == Some(true),
        mighty: mighty(spec),
        init_containers: named(spec, "initContainers"),
        kind,
        name,
    })
}

fn named(spec: &Value, list: &str) -> Vec<String> {
    let containers = spec.get(list).and_then(Value::as_array).into_iter().flatten();
    containers
        .filter_map(|container| container.get("name").and_then(Value::as_str))
        .map(str::to_owned)
        .collect()
}

/// The containers that may be root and keep capabilities which root has by default.
fn mighty(spec: &Value) -> Vec<Mighty> {
    let list = |field: &str| spec.get(field).and_then(Value::as_array).into_iter().flatten();
    let all = list("initContainers").chain(list("containers"));
    let mighty = |container: &Value| {
        let said = |name: &str| {
            let of = |of: &'_ Value| of.get("securityContext").and_then(|context| context.get(name)).cloned();
            of(container).or_else(|| of(spec)).unwrap_or_default()
        };
        let user = said("runAsUser").as_i64();
        if user.is_some_and(|user| user != 0) || said("runAsNonRoot") == true {
            return None;
        }
        let privileged = container.pointer("/securityContext/privileged") == Some(&Value::Bool(true));
        let names = |list: &str, wanted: &str| {
            let names = container.pointer(list).and_then(Value::as_array).into_iter().flatten();
            names.filter_map(Value::as_str).any(|name| {
                let name = name.to_ascii_uppercase();
                [wanted, "ALL"].contains(&name.strip_prefix("CAP_").unwrap_or(&name))
            })
        };
        // What is dropped and added again is there.
        let keeps = |name: &str| {
            privileged
                || names("/securityContext/capabilities/add", name)
                || !names("/securityContext/capabilities/drop", name)
        };
        let name = container.get("name").and_then(Value::as_str).unwrap_or(UNNAMED);
        Some(Mighty {
            container: name.to_owned(),
            is_root: user == Some(0),
            capabilities: DEFAULTS.into_iter().filter(|name| keeps(name)).collect(),
        })
    };
    all.filter_map(mighty).filter(|mighty| !mighty.capabilities.is_empty()).collect()
}

/// The declared ports of the containers that run beside each other.
fn ports(spec: &Value) -> Vec<NamedPort> {
    let list = |field: &str| spec.get(field).and_then(Value::as_array).into_iter().flatten();
    let sidecars =
        list("initContainers").filter(|c| c.get("restartPolicy").and_then(Value::as_str) == Some("Always"));
    let declared = list("containers")
        .chain(sidecars)
        .flat_map(|container| container.get("ports").and_then(Value::as_array).into_iter().flatten());
    let port = |port: &Value| {
        let number = u16::try_from(port.get("containerPort")?.as_u64()?).ok().filter(|number| *number > 0)?;
        let transport = match port.get("protocol").and_then(Value::as_str) {
            Some("UDP") => Transport::Udp,
            Some("SCTP") => Transport::Sctp,
            _ => Transport::Tcp,
        };
        let name = port.get("name").and_then(Value::as_str).map(str::to_owned);
        Some(NamedPort { name, port: number, transport })
    };
    declared.filter_map(port).collect()
}
