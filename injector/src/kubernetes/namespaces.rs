//! Labels of namespaces, remembered for a while: admission does not wait for the API server each time.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::time;
use tracing::warn;

use super::Cluster;
use crate::metrics::{Call, Metrics};

/// How long an answer holds.
const FRESH: Duration = Duration::from_secs(30);
/// How long nobody asks again after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// Most namespaces that are remembered.
const MOST: usize = 4096;
/// Longest that an admission waits.
const PATIENCE: Duration = Duration::from_secs(1);

/// The labels of a namespace; `None` if they are not known.
pub(crate) type Labels = Option<Arc<BTreeMap<String, String>>>;

/// The memory.
pub(crate) struct Namespaces {
    cluster: Cluster,
    metrics: Arc<Metrics>,
    known: Mutex<HashMap<String, (Labels, Instant)>>,
}

// === impl Namespaces ===

impl Namespaces {
    pub(crate) fn new(cluster: Cluster, metrics: Arc<Metrics>) -> Self {
        Self { cluster, metrics, known: Mutex::default() }
    }

    /// The labels of `namespace`. `None` where they cannot be had soon: they only make a refusal come earlier and say
    /// more, so an admission goes on without them.
    /// `fresh`: nothing that is remembered will do.
    pub(crate) async fn labels(&self, namespace: &str, fresh: bool) -> Labels {
        let now = Instant::now();
        if !fresh
            && let Some((labels, until)) = self.known().get(namespace)
            && *until > now
        {
            return labels.clone();
        }
        // The name stands in a path; what is no name is in no cluster.
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if namespace.is_empty() || !namespace.bytes().all(plain) {
            return None;
        }
        let asked = time::timeout(PATIENCE, self.cluster.namespace_labels(namespace)).await;
        let (labels, holds) = match asked {
            Ok(Ok(labels)) => (Some(Arc::new(labels)), FRESH),
            Ok(Err(super::Error::NotFound)) => (None, AFTER_FAILURE),
            failed => {
                self.metrics.kubernetes_error(Call::Namespaces);
                let error = failed.map_or_else(
                    |_| "no answer".to_owned(),
                    |result| match result {
                        Ok(_) => String::new(),
                        Err(error) => error.to_string(),
                    },
                );
                warn!(
                    event = "namespace_unknown",
                    namespace, error, "pods are injected without a look at it"
                );
                (None, AFTER_FAILURE)
            }
        };
        let mut known = self.known();
        if known.len() >= MOST {
            known.retain(|_, (_, until)| *until > now);
        }
        if known.len() < MOST {
            known.insert(namespace.to_owned(), (labels.clone(), now + holds));
        }
        labels
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, (Labels, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
