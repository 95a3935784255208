//! Who follows which address, and what they are told: the store's answers, one for all who follow an address, sent only
//! when they change.
//!
//! A change costs what it concerns: the addresses that it may touch and that somebody follows.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    core::{Change, Key, Pod, Review, Says, Service, Slice, Store, Touched},
    subscriber::Subscriber,
};
use crate::{
    events::{Event, Owner, Recorder},
    metrics::{DirectoryMetrics, Room, Watched},
};

/// What may be followed.
const BOUNDS: Bounds = Bounds { stream: 4096, source: 1 << 15, all: 1 << 20 };

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
    bounds: Bounds,
}

/// How many addresses may be followed: what they cost is bounded whoever asks.
#[derive(Clone, Copy)]
struct Bounds {
    /// By one stream.
    stream: usize,
    /// By all streams that come from one address: one pod cannot take the room of all.
    source: usize,
    /// By all.
    all: usize,
}

/// What became of a wish to follow an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Followed {
    /// It is followed, and its answer is on its way.
    Yes,
    /// There is no room for it at the moment, as far as this limit goes.
    NoRoom(Room),
    /// The stream follows as many as it may.
    TooMany,
}

#[derive(Default)]
struct Inner {
    store: Store,
    /// Kinds of objects of which all are known.
    complete: BTreeSet<Watched>,
    followed: HashMap<IpAddr, HashMap<u16, Shared>>,
    subscriptions: usize,
    /// Of them, by where their streams come from.
    by_source: HashMap<IpAddr, usize>,
    next_subscriber: u64,
    /// Services that something is to be said about.
    reviews: HashMap<Key, Review>,
}

/// What all who follow an address are told.
struct Shared {
    says: Arc<Says>,
    by: HashMap<u64, Arc<Subscriber>>,
}

/// One stream's place; what it follows ends with it.
pub(super) struct Subscription {
    hub: Hub,
    pub(super) subscriber: Arc<Subscriber>,
    id: u64,
    source: IpAddr,
    follows: BTreeSet<Address>,
}

// === impl Hub ===

impl Hub {
    pub(super) fn new(metrics: Arc<DirectoryMetrics>, events: Recorder, health: u16) -> Self {
        Self { inner: Arc::default(), metrics, events, health, bounds: BOUNDS }
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

    /// A place for a stream from this address.
    pub(super) fn subscribe(&self, source: IpAddr) -> Subscription {
        let mut inner = self.inner();
        inner.next_subscriber += 1;
        let id = inner.next_subscriber;
        drop(inner);
        self.metrics.subscribers(1);
        Subscription { hub: self.clone(), subscriber: Arc::default(), id, source, follows: BTreeSet::new() }
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
        let publish = |ip: IpAddr, ports: &mut HashMap<u16, Shared>| {
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
    /// Follows an address from now on, if there is room for it, and hands over what holds for it.
    pub(super) fn follow(&mut self, address: Address) -> Followed {
        let (ip, port) = address;
        let mut inner = self.hub.inner();
        let is_new = !self.follows.contains(&address);
        if is_new && let Some(full) = self.full(&inner) {
            return full;
        }
        let Inner { store, followed, .. } = &mut *inner;
        let entry = followed.entry(ip).or_default().entry(port).or_insert_with(|| Shared {
            says: Arc::new(store.resolve(ip, port, self.hub.health)),
            by: HashMap::new(),
        });
        entry.by.insert(self.id, Arc::clone(&self.subscriber));
        self.subscriber.asked(address, &entry.says);
        if is_new {
            inner.subscriptions += 1;
            *inner.by_source.entry(self.source).or_default() += 1;
            self.follows.insert(address);
            self.hub.metrics.followed(1);
        }
        Followed::Yes
    }

    /// Why there is no room for one more address, if there is none.
    fn full(&self, inner: &Inner) -> Option<Followed> {
        let Bounds { stream, source, all } = self.hub.bounds;
        if self.follows.len() >= stream {
            return Some(Followed::TooMany);
        }
        let of_source = inner.by_source.get(&self.source).copied().unwrap_or_default();
        let full = match () {
            () if of_source >= source => Room::FollowedByOne,
            () if inner.subscriptions >= all => Room::Followed,
            () => return None,
        };
        self.hub.metrics.no_room(full);
        Some(Followed::NoRoom(full))
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
        if let Entry::Occupied(mut of_source) = inner.by_source.entry(self.source) {
            *of_source.get_mut() -= 1;
            if *of_source.get() == 0 {
                of_source.remove();
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory_server::core::ServedBy;

    fn hub(bounds: Bounds) -> Hub {
        let metrics = Arc::new(crate::metrics::Metrics::default());
        let (events, _) = crate::events::channel_of(&metrics, String::new());
        let hub = Hub { bounds, ..Hub::new(Arc::clone(&metrics.directory), events, 24190) };
        hub.pods(Change::Replace(Vec::new()));
        hub.services(Change::Replace(Vec::new()));
        hub.slices(Change::Replace(Vec::new()));
        hub
    }

    fn from(last: u8) -> IpAddr {
        IpAddr::from([10, 1, 0, last])
    }

    fn address(last: u8) -> Address {
        (IpAddr::from([10, 96, 0, last]), 80)
    }

    /// How many answers wait for it, which are taken.
    fn answers(subscription: &Subscription) -> usize {
        std::iter::from_fn(|| subscription.subscriber.take(true)).count()
    }

    #[test]
    fn one_pod_cannot_take_the_room_of_all_and_harms_no_stream() {
        let hub = hub(Bounds { stream: 3, source: 4, all: 6 });
        let (mut greedy, mut again) = (hub.subscribe(from(1)), hub.subscribe(from(1)));
        assert!((1..=3).all(|n| greedy.follow(address(n)) == Followed::Yes));
        assert_eq!(greedy.follow(address(4)), Followed::TooMany, "the stream is at its own limit");
        assert_eq!(again.follow(address(4)), Followed::Yes);
        assert_eq!(again.follow(address(5)), Followed::NoRoom(Room::FollowedByOne));
        // Whoever comes from elsewhere has room, until all of it is taken.
        let mut other = hub.subscribe(from(2));
        assert!((1..=2).all(|n| other.follow(address(n)) == Followed::Yes));
        let mut third = hub.subscribe(from(3));
        assert_eq!(third.follow(address(7)), Followed::NoRoom(Room::Followed));
        assert_eq!(other.follow(address(1)), Followed::Yes, "what is followed can be asked again");
        let counts = [&greedy, &again, &other, &third].map(answers);
        assert_eq!(counts, [3, 1, 2, 0], "each answer once, and none without room");
        // A change reaches all who follow it, at the limit as before.
        hub.services(Change::Replace(vec![Service {
            key: Key::new("shop", "orders"),
            uid: "u".into(),
            ips: [address(1).0].into(),
            ports: [(80, "http".into())].into(),
            keeps_address: false,
            served_by: ServedBy::Anybody,
        }]));
        assert_eq!([&greedy, &other].map(answers), [1, 1]);
        // Room that is given back is there for others, and nothing is left behind.
        drop((greedy, again));
        assert_eq!(third.follow(address(7)), Followed::Yes);
        drop((other, third));
        let inner = hub.inner();
        assert_eq!((inner.subscriptions, inner.by_source.len(), inner.followed.len()), (0, 0, 0));
    }
}
