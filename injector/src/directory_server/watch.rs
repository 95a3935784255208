//! Following one kind of objects: a list, then a watch from there, and a list again where the API server has forgotten.
//!
//! A list is taken over whole or not at all. While the API server cannot be reached, what is known holds.

use std::{pin::pin, sync::Arc, time::Duration};

use kube::core::WatchEvent;
use serde::de::DeserializeOwned;
use tokio::time;
use tokio_stream::StreamExt as _;
use tracing::warn;

use super::{
    core::{Change, Pod, Service, Slice},
    hub::Hub,
    object::{Raw, RawPod, RawService, RawSlice, Reader},
};
use crate::{
    kubernetes::{Cluster, Error},
    metrics::{DirectoryMetrics, Watched},
};

/// Pause after a failure, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a watch may say nothing. Bookmarks come each minute: a longer silence may be a dead connection, and a new
/// watch from the same version costs nothing.
const SILENCE: Duration = Duration::from_secs(90);

/// A kind of objects.
pub(super) trait Kind {
    /// As it comes.
    type Raw: Raw + DeserializeOwned + Clone;
    /// As it is kept.
    type Kept;
    const WATCHED: Watched;
    const PATH: &str;
    /// `None` of one that is no business of the directory.
    fn read(reader: &mut Reader, raw: Self::Raw) -> Option<Self::Kept>;
    fn change(hub: &Hub, change: Change<Self::Kept>);
}

pub(super) struct Pods;
pub(super) struct Services;
pub(super) struct Slices;

/// How a watch ended.
enum Ended {
    /// In order.
    Over,
    /// What follows can only be found out by a list.
    Gone,
    /// With an error.
    Failed(Error),
}

/// Follows the objects for ever.
pub(super) async fn follow<K: Kind>(
    cluster: Cluster,
    hub: Hub,
    mut reader: Reader,
    metrics: Arc<DirectoryMetrics>,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let mut all = Vec::new();
        let listed = cluster.list::<K::Raw>(K::PATH, |raw| all.extend(K::read(&mut reader, raw))).await;
        let mut version = match listed {
            Ok(version) => version,
            Err(error) => {
                failed::<K>(&metrics, &error, &mut pause).await;
                continue;
            }
        };
        K::change(&hub, Change::Replace(all));
        metrics.relist(K::WATCHED);
        metrics.sync(K::WATCHED);
        loop {
            let from = version.clone();
            let ended = watch::<K>(&cluster, &hub, &mut reader, &metrics, &mut version).await;
            let heard = version != from;
            if heard {
                // However it ended: failures long ago say nothing about this one.
                pause = FIRST_PAUSE;
            }
            match ended {
                Ended::Over if heard => {}
                Ended::Over => time::sleep(FIRST_PAUSE).await,
                Ended::Gone => break,
                Ended::Failed(error) => failed::<K>(&metrics, &error, &mut pause).await,
            }
        }
    }
}

/// One watch to its end. `version` is how far everything has been taken over.
async fn watch<K: Kind>(
    cluster: &Cluster,
    hub: &Hub,
    reader: &mut Reader,
    metrics: &DirectoryMetrics,
    version: &mut String,
) -> Ended {
    let mut events = match cluster.watch::<K::Raw>(K::PATH, version).await {
        Ok(events) => pin!(events),
        Err(Error::Gone) => return Ended::Gone,
        Err(error) => return Ended::Failed(error),
    };
    loop {
        let event = match time::timeout(SILENCE, events.next()).await {
            Ok(Some(Ok(event))) => event,
            Ok(Some(Err(Error::Gone))) => return Ended::Gone,
            Ok(Some(Err(error))) => return Ended::Failed(error),
            Ok(None) | Err(_) => return Ended::Over,
        };
        metrics.sync(K::WATCHED);
        match event {
            WatchEvent::Added(raw) | WatchEvent::Modified(raw) => {
                raw.metadata().version().clone_into(version);
                let key = raw.metadata().key();
                let change = K::read(reader, raw).map_or_else(|| Change::Gone(key), Change::Set);
                K::change(hub, change);
            }
            WatchEvent::Deleted(raw) => {
                raw.metadata().version().clone_into(version);
                K::change(hub, Change::Gone(raw.metadata().key()));
            }
            WatchEvent::Bookmark(bookmark) => *version = bookmark.metadata.resource_version,
            // It comes as an error of the stream.
            WatchEvent::Error(_) => {}
        }
    }
}

async fn failed<K: Kind>(metrics: &DirectoryMetrics, error: &Error, pause: &mut Duration) {
    metrics.watch_error(K::WATCHED);
    warn!(event = "watch_failed", %error, kind = K::WATCHED.as_str(), pause_ms = pause.as_millis() as u64,
        hint = "the service account needs get, list and watch; what was known holds meanwhile");
    time::sleep(*pause).await;
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}

// === impl Kind ===

impl Kind for Pods {
    type Raw = RawPod;
    type Kept = Pod;
    const WATCHED: Watched = Watched::Pods;
    const PATH: &str = "/api/v1/pods";

    fn read(reader: &mut Reader, raw: RawPod) -> Option<Pod> {
        Some(reader.pod(raw))
    }

    fn change(hub: &Hub, change: Change<Pod>) {
        hub.pods(change);
    }
}

impl Kind for Services {
    type Raw = RawService;
    type Kept = Service;
    const WATCHED: Watched = Watched::Services;
    const PATH: &str = "/api/v1/services";

    fn read(reader: &mut Reader, raw: RawService) -> Option<Service> {
        Some(reader.service(raw))
    }

    fn change(hub: &Hub, change: Change<Service>) {
        hub.services(change);
    }
}

impl Kind for Slices {
    type Raw = RawSlice;
    type Kept = Slice;
    const WATCHED: Watched = Watched::EndpointSlices;
    const PATH: &str = "/apis/discovery.k8s.io/v1/endpointslices";

    fn read(reader: &mut Reader, raw: RawSlice) -> Option<Slice> {
        reader.slice(raw)
    }

    fn change(hub: &Hub, change: Change<Slice>) {
        hub.slices(change);
    }
}
