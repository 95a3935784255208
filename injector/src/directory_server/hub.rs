//! Who follows which address, and what they are told: the store's answers, one for all who follow an address, sent only
//! when they change.
//!
//! A change costs what it concerns: the addresses that it may touch and that somebody follows.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    core::{Change, Key, Pod, Review, Says, Service, Slice, Store, Touched},
    subscriber::Subscriber,
};
use crate::{
    events::{Event, Owner, Recorder},
    metrics::{DirectoryMetrics, Watched},
};

/// Addresses that one stream may follow.
pub(super) const MOST_OF_ONE: usize = 4096;
/// Addresses that all streams together may follow: what they cost is bounded whoever asks.
const MOST_OF_ALL: usize = 1 << 20;

/// An address that applications dial.
pub(super) type Address = (IpAddr, u16);

/// The directory. Cheap to clone.
#[derive(Clone)]
pub(super) struct Hub {
    inner: Arc<Mutex<Inner>>,
    metrics: Arc<DirectoryMetrics>,
    events: Recorder,
    /// The sidecar's port for probes and metrics.
    health: u16,
}

/// Why an address cannot be followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refusal {
    /// The stream follows as many as it may.
    One,
    /// All streams together do.
    All,
}

#[derive(Default)]
struct Inner {
    store: Store,
    /// Kinds of objects of which all are known.
    complete: BTreeSet<Watched>,
    followed: HashMap<IpAddr, HashMap<u16, Followed>>,
    subscriptions: usize,
    next_subscriber: u64,
    /// Services that something is to be said about.
    reviews: HashMap<Key, Review>,
}

struct Followed {
    says: Arc<Says>,
    by: HashMap<u64, Arc<Subscriber>>,
}

/// One stream's place; what it follows ends with it.
pub(super) struct Subscription {
    hub: Hub,
    pub(super) subscriber: Arc<Subscriber>,
    id: u64,
    follows: BTreeSet<Address>,
}

// === impl Hub ===

impl Hub {
    pub(super) fn new(metrics: Arc<DirectoryMetrics>, events: Recorder, health: u16) -> Self {
        Self { inner: Arc::default(), metrics, events, health }
    }

    /// Takes over a change of pods, and tells whom it concerns.
    pub(super) fn pods(&self, change: Change<Pod>) {
        self.change(Watched::Pods, matches!(change, Change::Replace(_)), |store| store.pods(change));
    }

    /// Takes over a change of Services, and tells whom it concerns.
    pub(super) fn services(&self, change: Change<Service>) {
        self.change(Watched::Services, matches!(change, Change::Replace(_)), |store| store.services(change));
    }

    /// Takes over a change of EndpointSlices, and tells whom it concerns.
    pub(super) fn slices(&self, change: Change<Slice>) {
        self.change(Watched::EndpointSlices, matches!(change, Change::Replace(_)), |store| {
            store.slices(change)
        });
    }

    /// Whether the whole cluster is known.
    pub(super) fn is_complete(&self) -> bool {
        self.inner().is_complete()
    }

    /// What is not known yet, for people.
    pub(super) fn missing(&self) -> Vec<Watched> {
        let inner = self.inner();
        Watched::ALL.iter().copied().filter(|kind| !inner.complete.contains(kind)).collect()
    }

    /// A place for a stream.
    pub(super) fn subscribe(&self) -> Subscription {
        let mut inner = self.inner();
        inner.next_subscriber += 1;
        let id = inner.next_subscriber;
        drop(inner);
        self.metrics.subscribers(1);
        Subscription { hub: self.clone(), subscriber: Arc::default(), id, follows: BTreeSet::new() }
    }

    fn change(&self, kind: Watched, is_all: bool, change: impl FnOnce(&mut Store) -> Touched) {
        let mut inner = self.inner();
        let was_complete = inner.is_complete();
        let mut touched = change(&mut inner.store);
        if is_all {
            inner.complete.insert(kind);
        }
        let counts = inner.store.counts();
        self.metrics.objects(counts);
        // Before the whole cluster is known nobody follows anything, and half of it looks like mistakes.
        if !inner.is_complete() {
            return;
        }
        if !was_complete {
            touched.services = inner.store.all_services().map(|service| service.key.clone()).collect();
        }
        inner.publish(&touched.ips, self.health);
        let said = inner.review(&touched.services, self.health);
        let left_out = inner.reviews.values().map(|review| review.left_out).sum();
        let mixed = inner.reviews.values().filter(|review| review.is_mixed()).count();
        drop(inner);
        self.metrics.reviews(left_out, mixed);
        said.into_iter().for_each(|event| self.events.record(event));
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Inner ===

impl Inner {
    fn is_complete(&self) -> bool {
        self.complete.len() == Watched::ALL.len()
    }

    /// Tells everybody who follows one of these addresses what has changed about it.
    fn publish(&mut self, ips: &BTreeSet<IpAddr>, health: u16) {
        let Self { store, followed, .. } = self;
        let publish = |ip: IpAddr, ports: &mut HashMap<u16, Followed>| {
            for (port, followed) in ports {
                let says = store.resolve(ip, *port, health);
                if says != *followed.says {
                    followed.says = Arc::new(says);
                    for subscriber in followed.by.values() {
                        subscriber.changed((ip, *port), &followed.says);
                    }
                }
            }
        };
        for ip in ips {
            if let Some(ports) = followed.get_mut(ip) {
                publish(*ip, ports);
            }
        }
    }

    /// Looks at these Services again, and gives what is new to be said.
    fn review(&mut self, services: &BTreeSet<Key>, health: u16) -> Vec<Event> {
        let mut said = Vec::new();
        for key in services {
            let review = self.store.review(key, health);
            let before = match review.is_empty() {
                true => self.reviews.remove(key),
                false => self.reviews.insert(key.clone(), review.clone()),
            };
            let Some(service) = self.store.service(key) else { continue };
            for (finding, text) in review.findings {
                let known = |before: &Review| before.findings.contains(&(finding, text.clone()));
                if !before.as_ref().is_some_and(known) {
                    said.push(Event {
                        namespace: key.namespace.to_string(),
                        owner: Owner::service(&key.name, &service.uid),
                        is_warning: true,
                        reason: finding.reason(),
                        message: text,
                    });
                }
            }
        }
        said
    }
}

// === impl Subscription ===

impl Subscription {
    /// Follows an address from now on, and hands over what holds for it.
    pub(super) fn follow(&mut self, address: Address) -> Result<(), Refusal> {
        let (ip, port) = address;
        let mut inner = self.hub.inner();
        let is_new = !self.follows.contains(&address);
        if is_new && self.follows.len() >= MOST_OF_ONE {
            return Err(Refusal::One);
        }
        if is_new && inner.subscriptions >= MOST_OF_ALL {
            return Err(Refusal::All);
        }
        let Inner { store, followed, .. } = &mut *inner;
        let entry = followed.entry(ip).or_default().entry(port).or_insert_with(|| Followed {
            says: Arc::new(store.resolve(ip, port, self.hub.health)),
            by: HashMap::new(),
        });
        entry.by.insert(self.id, Arc::clone(&self.subscriber));
        self.subscriber.asked(address, &entry.says);
        if is_new {
            inner.subscriptions += 1;
            self.follows.insert(address);
            self.hub.metrics.followed(1);
        }
        Ok(())
    }

    /// Follows an address no longer.
    pub(super) fn forget(&mut self, address: Address) {
        if self.follows.remove(&address) {
            self.leave(&mut self.hub.inner(), address);
            self.subscriber.forget(address);
        }
    }

    fn leave(&self, inner: &mut Inner, (ip, port): Address) {
        inner.subscriptions = inner.subscriptions.saturating_sub(1);
        self.hub.metrics.followed(-1);
        let Some(ports) = inner.followed.get_mut(&ip) else { return };
        if let Some(followed) = ports.get_mut(&port) {
            followed.by.remove(&self.id);
            if followed.by.is_empty() {
                ports.remove(&port);
            }
        }
        if ports.is_empty() {
            inner.followed.remove(&ip);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut inner = self.hub.inner();
        for address in &self.follows {
            self.leave(&mut inner, *address);
        }
        self.hub.metrics.subscribers(-1);
    }
}
