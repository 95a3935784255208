//! Probes and hooks that the kubelet would carry out by a connection, given to the sidecar instead.

use mantlet_policy::probes::{Handler, Kind, Port, Probe, Probes};
use serde_json::{Value, json};

use super::operation::{Operation, Pointer};
use super::outcome::Problem;
use super::pod::{Container, Pod, items, member, text};
use super::reason::Reason;
use crate::admission::Admission;

/// What becomes of the handlers of a pod.
#[derive(Debug, Default)]
pub(super) struct Rewritten {
    /// For the sidecar.
    pub(super) probes: Vec<Probe>,
    /// For the pod.
    pub(super) operations: Vec<Operation>,
    /// Handlers that stay as they are, and may fail for it.
    pub(super) warnings: Vec<String>,
    /// Handlers that cannot work.
    pub(super) problems: Vec<Problem>,
}

/// Handlers that are carried out by a connection.
const DIALLED: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];
/// Handlers that the kubelet carries out by itself.
const INSIDE: [&str; 2] = ["exec", "sleep"];
/// The members of a probe that are no handler.
const TIMINGS: [&str; 6] = [
    "initialDelaySeconds",
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
    "terminationGracePeriodSeconds",
];

/// Writes every handler anew that would arrive without identity.
pub(super) fn rewrite(pod: Pod<'_>, admission: &Admission, health: u16, token: &str) -> Rewritten {
    let mut rewritten = Rewritten::default();
    for container in pod.containers() {
        for kind in Kind::ALL {
            let place = kind.field().iter().try_fold(container.value, |value, name| member(value, name));
            if let Some(value) = place {
                rewritten.one(&container, kind, value, (admission, health, token));
            }
        }
    }
    rewritten
}

/// The place of a handler's parent.
pub(super) fn place(container: &Container<'_>, kind: Kind) -> Pointer {
    let start = Pointer::of(&["spec", container.list]).item(container.index);
    kind.field().iter().fold(start, |pointer, name| pointer.child(name))
}

/// What the kubelet asks instead.
fn asked(token: &str, container: &str, kind: Kind, health: u16) -> Value {
    json!({"path": Probes::path(token, container, kind), "port": health, "scheme": "HTTP"})
}

// === impl Rewritten ===

impl Rewritten {
    fn one(
        &mut self,
        container: &Container<'_>,
        kind: Kind,
        parent: &Value,
        (admission, health, token): (&Admission, u16, &str),
    ) {
        let shown = format!("{} of {}", kind.field().join("."), container.shown());
        let members: Vec<&str> =
            parent.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        let there = |names: &[&'static str]| -> Vec<&'static str> {
            names.iter().copied().filter(|name| member(parent, name).is_some()).collect()
        };
        let unknown = members
            .iter()
            .find(|name| !DIALLED.contains(name) && !INSIDE.contains(name) && !TIMINGS.contains(name));
        if let Some(unknown) = unknown {
            self.keep(&shown, &format!("it has \"{}\", which is not known here", unknown.escape_debug()));
            return;
        }
        let dialled = there(&DIALLED);
        let [name] = dialled.as_slice() else {
            // None, or more than one, which Kubernetes refuses.
            return;
        };
        if !there(&INSIDE).is_empty() {
            return;
        }
        let written = member(parent, name).unwrap_or(&Value::Null);
        if member(written, "host").is_some() {
            let host = text(written, "host").unwrap_or_default();
            self.keep(&shown, &format!("the kubelet dials the host \"{}\" itself", host.escape_debug()));
            return;
        }
        let handler = match serde_json::from_value::<Handler>(json!({ *name: without_nulls(written) })) {
            Ok(handler) => handler,
            Err(_) => {
                self.keep(&shown, &format!("its {name} is not of a form that is known here"));
                return;
            }
        };
        let port = match number(&handler, container) {
            Ok(port) => port,
            Err(text) => {
                self.problems.push(Problem::new(Reason::ProbePort, format!("{shown}: {text}")));
                return;
            }
        };
        if port == health {
            let path = text(written, "path").unwrap_or_default();
            if path.starts_with(mantlet_policy::probes::PATH) {
                let text = format!(
                    "{shown} asks a sidecar that is not in this pod: remove what an earlier injection left, \
                     or start from a manifest before it"
                );
                self.problems.push(Problem::new(Reason::Tampered, text));
            }
            return;
        }
        if admission.skips_inbound(port) {
            return;
        }
        let parent_place = place(container, kind);
        let value = asked(token, container.name, kind, health);
        let path = parent_place.child("httpGet");
        if *name == "httpGet" {
            self.operations.push(Operation::Replace { path, value });
        } else {
            self.operations.push(Operation::remove(parent_place.child(name)));
            self.operations.push(Operation::Add { path, value });
        }
        let is_hook = matches!(kind, Kind::PostStart | Kind::PreStop);
        let seconds = parent.get("timeoutSeconds").and_then(Value::as_u64);
        let seconds = seconds.and_then(|seconds| u32::try_from(seconds).ok()).filter(|s| *s > 0);
        self.probes.push(Probe {
            container: container.name.to_owned(),
            kind,
            port,
            timeout_seconds: (!is_hook).then_some(seconds.unwrap_or(1)),
            handler,
        });
    }

    fn keep(&mut self, shown: &str, why: &str) {
        self.warnings
            .push(format!("{shown} stays as it is, and is refused if it reaches the sidecar: {why}"));
    }
}

/// The port of `handler` as a number: names are looked up in the handler's own container, as the kubelet
/// does it.
fn number(handler: &Handler, container: &Container<'_>) -> Result<u16, String> {
    let port = match handler {
        Handler::HttpGet(get) => &get.port,
        Handler::TcpSocket(socket) => &socket.port,
        Handler::Grpc(grpc) => &Port::Number(grpc.port),
    };
    match port {
        Port::Number(0) => Err("port 0 is no port".to_owned()),
        Port::Number(number) => Ok(*number),
        Port::Name(name) => {
            let declared =
                items(container.value, "ports").iter().find(|port| text(port, "name") == Some(name));
            let number = declared.and_then(|port| port.get("containerPort")).and_then(Value::as_u64);
            let number = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
            number.ok_or_else(|| {
                let names: Vec<String> = items(container.value, "ports")
                    .iter()
                    .filter_map(|port| text(port, "name"))
                    .map(|name| format!("\"{}\"", name.escape_debug()))
                    .collect();
                let there = if names.is_empty() { "none with a name".to_owned() } else { names.join(", ") };
                format!("the container declares no port \"{}\"; there is {there}", name.escape_debug())
            })
        }
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let members = members.iter().filter(|(_, value)| !value.is_null());
            Value::Object(members.map(|(name, value)| (name.clone(), without_nulls(value))).collect())
        }
        other => other.clone(),
    }
}
