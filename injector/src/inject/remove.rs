//! Taking the sidecar out of a pod again.

use mantlet_policy::probes::{self, Handler, Probe, Probes};
use serde_json::Value;

use super::Token;
use super::containers::{INIT, PROXY, VOLUMES, dollars_single};
use super::handlers::place;
use super::operation::{Operation, Pointer};
use super::outcome::Problem;
use super::pod::{Container, LISTS, Pod, items, member, text};
use super::reason::Reason;
use super::refuse::named_like_ours;
use super::stamp::{INJECTED_BY, Stamp};

/// The label of pods that have a sidecar: SPIRE registers them by it.
pub const INJECTED: &str = "mantlet.dev/injected";
/// What kubectl talks to when nobody says which container.
pub(super) const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// A sidecar that is in a pod.
#[derive(Debug)]
pub(super) struct Present {
    pub(super) stamp: Stamp,
    /// The token in the paths of its probes, if it has any.
    pub(super) token: Option<Token>,
    /// What takes it out.
    pub(super) operations: Vec<Operation>,
}

/// What takes the sidecar out of `object`, a pod or pod template; nothing, when there is none.
///
/// What was null or empty before the injection is absent afterwards, which is the same to Kubernetes;
/// everything else is as it was, byte for byte.
///
/// # Errors
/// The sidecar is not one that was injected, or not all of it is there.
pub fn uninject(object: &Value) -> Result<Vec<Operation>, Vec<Problem>> {
    let found = present(Pod::read(object)?)?;
    Ok(found.map(|present| present.operations).unwrap_or_default())
}

/// The sidecar in `pod`.
pub(super) fn present(pod: Pod<'_>) -> Result<Option<Present>, Vec<Problem>> {
    let ours: Vec<Container<'_>> = named_like_ours(pod).collect();
    if ours.is_empty() {
        return Ok(None);
    }
    let Some(stamp) = pod.annotation(INJECTED_BY) else {
        let problem = |container: &Container<'_>| {
            let text = format!("{} has the name of ours and was not injected: rename it", container.shown());
            Problem::new(Reason::NameCollision, text)
        };
        return Err(ours.iter().map(problem).collect());
    };
    let tampered = |text: String| vec![Problem::new(Reason::Tampered, text)];
    let Some(stamp) = Stamp::parse(stamp) else {
        return Err(tampered(format!("annotation {INJECTED_BY} was not written by an injector: remove it")));
    };
    // Names are unique, and the lists are gone through in order.
    let (mut init, mut proxy) = (None, None);
    for container in ours {
        if container.list != "initContainers" {
            return Err(tampered(format!("{} has the name of ours and is not one", container.shown())));
        }
        *(if container.name == INIT { &mut init } else { &mut proxy }) = Some(container);
    }
    let (Some(init), Some(proxy)) = (init, proxy) else {
        return Err(tampered(format!(
            "of {INIT} and {PROXY} only one is in the pod: remove it, or bring both"
        )));
    };
    let (token, mut operations) = handlers(pod, &proxy)?;
    operations.extend(out_of_list(pod, "initContainers", &[init.index, proxy.index]));
    let volumes = pod
        .volumes()
        .iter()
        .enumerate()
        .filter(|(_, volume)| text(volume, "name").is_some_and(|name| VOLUMES.contains(&name)));
    let volumes: Vec<usize> = volumes.map(|(index, _)| index).collect();
    operations.extend(out_of_list(pod, "volumes", &volumes));
    let secrets = items(pod.spec(), "imagePullSecrets").iter().enumerate().filter(|(_, secret)| {
        text(secret, "name").is_some_and(|name| stamp.pull_secrets.iter().any(|added| added == name))
    });
    let secrets: Vec<usize> = secrets.map(|(index, _)| index).collect();
    operations.extend(out_of_list(pod, "imagePullSecrets", &secrets));
    operations.extend(metadata(pod, &stamp));
    Ok(Some(Present { stamp, token, operations }))
}

/// Puts the original handlers back.
fn handlers(pod: Pod<'_>, proxy: &Container<'_>) -> Result<(Option<Token>, Vec<Operation>), Vec<Problem>> {
    let mut variables = items(proxy.value, "env").iter();
    let Some(value) = variables.find(|variable| text(variable, "name") == Some(probes::VARIABLE)) else {
        return Ok((None, Vec::new()));
    };
    let written = dollars_single(text(value, "value").unwrap_or_default());
    let parsed = serde_json::from_str::<Probes>(&written).ok();
    let parsed = parsed.and_then(|parsed| Some((Token::parse(&parsed.token)?, parsed)));
    let Some((token, parsed)) = parsed else {
        let text = format!("{} of {PROXY} cannot be read, and the probes not be restored", probes::VARIABLE);
        return Err(vec![Problem::new(Reason::Tampered, text)]);
    };
    let mut operations = Vec::new();
    for probe in &parsed.probes {
        operations.extend(restored(pod, probe, &token).into_iter().flatten());
    }
    Ok((Some(token), operations))
}

/// What puts one handler back; nothing where something else stands by now.
fn restored(pod: Pod<'_>, probe: &Probe, token: &Token) -> Option<Vec<Operation>> {
    let container = pod.containers().find(|container| container.name == probe.container)?;
    let parent = probe.kind.field().iter().try_fold(container.value, |value, name| member(value, name))?;
    let asked = member(parent, "httpGet").and_then(|get| text(get, "path"))?;
    if asked != Probes::path(token.as_str(), &probe.container, probe.kind) {
        return None;
    }
    let (name, value) = match &probe.handler {
        Handler::HttpGet(get) => ("httpGet", serde_json::to_value(get)),
        Handler::TcpSocket(socket) => ("tcpSocket", serde_json::to_value(socket)),
        Handler::Grpc(grpc) => ("grpc", serde_json::to_value(grpc)),
    };
    let (parent, value) = (place(&container, probe.kind), value.ok()?);
    if name == "httpGet" {
        return Some(vec![Operation::Replace { path: parent.child(name), value }]);
    }
    Some(vec![Operation::remove(parent.child("httpGet")), Operation::Add { path: parent.child(name), value }])
}

/// Takes the items at `indices` out, and the list with the last one.
fn out_of_list(pod: Pod<'_>, list: &str, indices: &[usize]) -> Vec<Operation> {
    let place = Pointer::of(&["spec", list]);
    if indices.is_empty() {
        return Vec::new();
    }
    if indices.len() == items(pod.spec(), list).len() {
        return vec![Operation::remove(place)];
    }
    let mut indices = indices.to_vec();
    // From the back, so that the others keep their places meanwhile.
    indices.sort_unstable_by(|a, b| b.cmp(a));
    indices.into_iter().map(|index| Operation::remove(place.item(index))).collect()
}

fn metadata(pod: Pod<'_>, stamp: &Stamp) -> Vec<Operation> {
    let mut operations = Vec::new();
    let metadata = pod.object.get("metadata").unwrap_or(&Value::Null);
    let mut left = metadata.as_object().map_or(0, serde_json::Map::len);
    let added: [(&str, Vec<&str>); 2] = [
        ("labels", vec![INJECTED]),
        (
            "annotations",
            [Some(INJECTED_BY), stamp.default_container.then_some(DEFAULT_CONTAINER)]
                .into_iter()
                .flatten()
                .collect(),
        ),
    ];
    for (map, keys) in added {
        let there = metadata.get(map).and_then(Value::as_object);
        let Some(there) = there else { continue };
        let keys: Vec<&str> = keys.into_iter().filter(|key| there.contains_key(*key)).collect();
        let place = Pointer::of(&["metadata", map]);
        if keys.len() == there.len() {
            operations.push(Operation::remove(place));
            left -= 1;
        } else {
            operations.extend(keys.into_iter().map(|key| Operation::remove(place.child(key))));
        }
    }
    if left == 0 && !operations.is_empty() {
        operations = vec![Operation::remove(Pointer::of(&["metadata"]))];
    }
    operations
}

/// The index of one of ours, in its list.
pub(super) fn index_of(object: &Value, name: &str) -> Option<usize> {
    let [list, _] = LISTS;
    let spec = object.get("spec")?;
    items(spec, list).iter().position(|container| text(container, "name") == Some(name))
}
