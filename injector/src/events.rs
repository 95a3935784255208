//! Kubernetes Events about the owners of pods: a pod that is refused does not exist, and its ReplicaSet is where people
//! look. And about Services, where something is odd about who serves them.
//!
//! Admission hands an Event over and never waits. What is said again soon is said once, what does not fit is dropped;
//! both are counted.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use ::time::{OffsetDateTime, format_description::well_known::Rfc3339};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel, error::TrySendError},
    time,
};
use tracing::warn;

use crate::{
    kubernetes::Cluster,
    metrics::{Call, EventResult, Metrics},
};

/// Events that may wait.
const QUEUE: usize = 256;
/// How long the same is not said again.
const AGAIN: Duration = Duration::from_secs(600);
/// Things that are remembered as said.
const MEMORY: usize = 4096;
/// Pause between two Events: at most 20 a second go to the API server.
const PACE: Duration = Duration::from_millis(50);
/// Longest message that the API server takes.
const LONGEST: usize = 1024;

/// Where admission hands Events over. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    sender: Sender<Event>,
    metrics: Arc<Metrics>,
}

/// What there is to say about an owner.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) namespace: String,
    pub(crate) owner: Owner,
    /// Something went wrong, rather than well.
    pub(crate) is_warning: bool,
    /// One word in capitals, as Kubernetes has them.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// The controller of a pod.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Owner {
    api_version: String,
    kind: String,
    name: String,
    uid: String,
}

/// Sends what is handed over.
#[derive(Debug)]
pub(crate) struct Reporter {
    receiver: Receiver<Event>,
    metrics: Arc<Metrics>,
    /// Name of the pod that this runs in.
    instance: String,
}

/// Both ends.
pub(crate) fn channel_of(metrics: &Arc<Metrics>, instance: String) -> (Recorder, Reporter) {
    let (sender, receiver) = channel(QUEUE);
    let recorder = Recorder { sender, metrics: Arc::clone(metrics) };
    (recorder, Reporter { receiver, metrics: Arc::clone(metrics), instance })
}

// === impl Owner ===

impl Owner {
    /// A Service itself.
    pub(crate) fn service(name: &str, uid: &str) -> Self {
        let text = str::to_owned;
        Self { api_version: text("v1"), kind: text("Service"), name: text(name), uid: text(uid) }
    }

    /// The controller that `object` names; `None` for what somebody made by hand.
    pub(crate) fn of(object: &Value) -> Option<Self> {
        let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
        let owner = owners.iter().find(|owner| owner.get("controller") == Some(&Value::Bool(true)))?;
        let text = |field: &str| {
            let text = owner.get(field)?.as_str()?;
            (!text.is_empty() && text.len() <= 253).then(|| text.to_owned())
        };
        Some(Self {
            api_version: text("apiVersion")?,
            kind: text("kind")?,
            name: text("name")?,
            uid: text("uid")?,
        })
    }
}

// === impl Recorder ===

impl Recorder {
    /// Hands an Event over; never waits.
    pub(crate) fn record(&self, event: Event) {
        match self.sender.try_send(event) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => self.metrics.event(EventResult::Dropped),
        }
    }
}

// === impl Reporter ===

impl Reporter {
    /// Sends until every [`Recorder`] is gone.
    pub(crate) async fn run(mut self, cluster: Cluster) {
        let mut said = Said::default();
        while let Some(event) = self.receiver.recv().await {
            let name = event.name();
            if !said.is_new(&name, Instant::now()) {
                self.metrics.event(EventResult::Repeated);
                continue;
            }
            let document = event.document(&name, &self.instance, SystemTime::now());
            match cluster.event(&event.namespace, &name, &document).await {
                Ok(()) => self.metrics.event(EventResult::Sent),
                Err(error) => {
                    self.metrics.event(EventResult::Failed);
                    self.metrics.kubernetes_error(Call::Events);
                    warn!(event = "event_failed", %error, namespace = event.namespace,
                        hint = "the service account needs create and patch on events");
                }
            }
            time::sleep(PACE).await;
        }
    }
}

// === impl Event ===

impl Event {
    /// The same for all replicas as long as the same is said about the same owner: then it happens again, and is not
    /// another one.
    fn name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        (&self.owner, &self.namespace, self.reason, &self.message).hash(&mut hasher);
        let owner: String = self.owner.name.chars().take(200).collect();
        format!("{owner}.{:016x}", hasher.finish())
    }

    fn document(&self, name: &str, instance: &str, now: SystemTime) -> Value {
        let Self { namespace, owner, is_warning, reason, message } = self;
        let time = OffsetDateTime::from(now).replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let time = time.format(&Rfc3339).unwrap_or_default();
        let end = message.floor_char_boundary(LONGEST);
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": owner.api_version,
                "kind": owner.kind,
                "namespace": namespace,
                "name": owner.name,
                "uid": owner.uid,
            },
            "type": if *is_warning { "Warning" } else { "Normal" },
            "reason": reason,
            "message": message.get(..end),
            "source": {"component": "mantlet-injector"},
            "reportingComponent": "mantlet.dev/injector",
            "reportingInstance": instance,
            "firstTimestamp": time,
            "lastTimestamp": time,
            "count": 1,
        })
    }
}

/// What has been said, by the names of the Events.
#[derive(Debug, Default)]
struct Said(HashMap<String, Instant>);

// === impl Said ===

impl Said {
    fn is_new(&mut self, name: &str, now: Instant) -> bool {
        if self.0.get(name).is_some_and(|said| now.duration_since(*said) < AGAIN) {
            return false;
        }
        if self.0.len() >= MEMORY {
            self.0.retain(|_, said| now.duration_since(*said) < AGAIN);
        }
        if self.0.len() >= MEMORY {
            // Rather the same twice than ever more memory.
            self.0.clear();
        }
        self.0.insert(name.to_owned(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_controller_is_an_owner() {
        let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "u"});
        let of = |owner: Value| Owner::of(&json!({"metadata": {"ownerReferences": [owner]}}));
        assert_eq!(of(owner.clone()), None);
        let mut controller = owner;
        controller["controller"] = json!(true);
        assert_eq!(of(controller.clone()).unwrap().name, "web-1");
        controller["uid"] = json!("");
        assert_eq!(of(controller), None);
        assert_eq!(Owner::of(&json!({"metadata": {"ownerReferences": null}})), None);
    }

    #[test]
    fn what_is_said_again_soon_is_not_new_and_what_is_remembered_is_bounded() {
        let (mut said, now) = (Said::default(), Instant::now());
        assert!(said.is_new("a", now));
        assert!(!said.is_new("a", now + AGAIN / 2));
        assert!(said.is_new("a", now + AGAIN));
        for n in 0..3 * MEMORY {
            assert!(said.is_new(&n.to_string(), now));
            assert!(said.0.len() <= MEMORY);
        }
    }

    #[test]
    fn a_message_is_never_longer_than_the_api_server_takes() {
        let event = Event {
            namespace: "shop".to_owned(),
            owner: Owner {
                api_version: "v1".into(),
                kind: "X".into(),
                name: "ä".repeat(250),
                uid: "u".into(),
            },
            is_warning: true,
            reason: "InjectionDenied",
            message: "ä".repeat(2000),
        };
        let document = event.document(&event.name(), "i", SystemTime::now());
        assert!(document["message"].as_str().unwrap().len() <= LONGEST);
        assert!(document["metadata"]["name"].as_str().unwrap().chars().count() <= 217);
        assert!(document["firstTimestamp"].as_str().unwrap().ends_with('Z'));
    }
}
