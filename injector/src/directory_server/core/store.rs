//! The objects of the cluster, with the indices that answers and changes need. What follows from them depends on what
//! they are, and not on the order in which they came.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use super::model::{Key, Object, Pod, Service, Slice};

/// What has happened to the objects of one kind.
#[derive(Clone, Debug)]
pub(crate) enum Change<T> {
    /// There are these, and no others.
    Replace(Vec<T>),
    /// One has come or changed.
    Set(T),
    /// One is gone.
    Gone(Key),
}

/// The cluster, as far as it is known.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pods: HashMap<Key, Pod>,
    services: HashMap<Key, Service>,
    slices: HashMap<Key, Slice>,
    /// Pods by address, those that have ended left out.
    pods_at: Index<IpAddr>,
    /// Services by cluster address.
    services_at: Index<IpAddr>,
    /// Slices by their Service.
    slices_of: Index<Key>,
    /// Slices by the addresses in them.
    slices_at: Index<IpAddr>,
}

/// What a change may concern.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Touched {
    /// Addresses that applications dial.
    pub(crate) ips: BTreeSet<IpAddr>,
    pub(crate) services: BTreeSet<Key>,
}

/// Keys of objects by something that they have. Rarely more than one.
#[derive(Debug)]
struct Index<K>(HashMap<K, BTreeSet<Key>>);

// === impl Store ===

impl Store {
    /// Takes over a change of pods.
    pub(crate) fn pods(&mut self, change: Change<Pod>) -> Touched {
        let mut touched = Touched::default();
        for (old, new) in differences(&mut self.pods, change) {
            let addresses = |pod: &Pod| if pod.is_over { Vec::new() } else { pod.ips.to_vec() };
            for (pod, is_new) in [(old, false), (new, true)] {
                let Some(pod) = pod else { continue };
                for ip in addresses(&pod) {
                    self.pods_at.put(ip, &pod.key, is_new);
                    touched.ips.insert(ip);
                    touched.services.extend(self.services_with(ip));
                }
            }
        }
        self.addresses_of_services(&mut touched);
        touched
    }

    /// Takes over a change of Services.
    pub(crate) fn services(&mut self, change: Change<Service>) -> Touched {
        let mut touched = Touched::default();
        for (old, new) in differences(&mut self.services, change) {
            for (service, is_new) in [(old, false), (new, true)] {
                let Some(service) = service else { continue };
                for ip in &service.ips {
                    self.services_at.put(*ip, &service.key, is_new);
                    touched.ips.insert(*ip);
                }
                touched.services.insert(service.key);
            }
        }
        touched
    }

    /// Takes over a change of EndpointSlices.
    pub(crate) fn slices(&mut self, change: Change<Slice>) -> Touched {
        let mut touched = Touched::default();
        for (old, new) in differences(&mut self.slices, change) {
            for (slice, is_new) in [(old, false), (new, true)] {
                let Some(slice) = slice else { continue };
                self.slices_of.put(slice.service.clone(), &slice.key, is_new);
                for endpoint in &slice.endpoints {
                    self.slices_at.put(endpoint.ip, &slice.key, is_new);
                }
                touched.services.insert(slice.service);
            }
        }
        self.addresses_of_services(&mut touched);
        touched
    }

    /// How many pods, Services and EndpointSlices there are.
    pub(crate) fn counts(&self) -> [usize; 3] {
        [self.pods.len(), self.services.len(), self.slices.len()]
    }

    pub(crate) fn service(&self, key: &Key) -> Option<&Service> {
        self.services.get(key)
    }

    pub(crate) fn all_services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// The Service that has this cluster address.
    pub(crate) fn service_at(&self, ip: IpAddr) -> Option<&Service> {
        self.services.get(self.services_at.of(&ip).next()?)
    }

    /// The slices of a Service.
    pub(crate) fn slices_of(&self, service: &Key) -> impl Iterator<Item = &Slice> {
        self.slices_of.of(service).filter_map(|key| self.slices.get(key))
    }

    /// The pod that has this address.
    pub(crate) fn pod_at(&self, ip: IpAddr) -> Option<&Pod> {
        let pods = self.pods_at.of(&ip).filter_map(|key| self.pods.get(key));
        // A node's address is its pods' in common: then it does not matter which.
        pods.max_by(|a, b| {
            (!a.is_host_network, &a.claim, &a.key).cmp(&(!b.is_host_network, &b.claim, &b.key))
        })
    }

    fn services_with(&self, ip: IpAddr) -> impl Iterator<Item = Key> {
        self.slices_at.of(&ip).filter_map(|slice| Some(self.slices.get(slice)?.service.clone()))
    }

    fn addresses_of_services(&self, touched: &mut Touched) {
        for service in touched.services.iter().filter_map(|key| self.services.get(key)) {
            touched.ips.extend(&service.ips);
        }
    }
}

/// Old and new of every object that is not what it was; the store is what it should be afterwards.
fn differences<T: Object>(objects: &mut HashMap<Key, T>, change: Change<T>) -> Vec<(Option<T>, Option<T>)> {
    let mut all = Vec::new();
    match change {
        Change::Replace(new) => {
            let kept: std::collections::HashSet<&Key> = new.iter().map(Object::key).collect();
            let gone: Vec<Key> = objects.keys().filter(|key| !kept.contains(key)).cloned().collect();
            all.extend(gone.iter().map(|key| (objects.remove(key), None)));
            for object in new {
                all.extend(set(objects, object));
            }
            // A smaller cluster gives its memory back.
            objects.shrink_to(objects.len() * 2);
        }
        Change::Set(object) => all.extend(set(objects, object)),
        Change::Gone(key) => all.extend(objects.remove(&key).map(|old| (Some(old), None))),
    }
    all
}

fn set<T: Object>(objects: &mut HashMap<Key, T>, object: T) -> Option<(Option<T>, Option<T>)> {
    if objects.get(object.key()) == Some(&object) {
        return None;
    }
    let old = objects.insert(object.key().clone(), object.clone());
    Some((old, Some(object)))
}

// === impl Index ===

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + std::hash::Hash> Index<K> {
    fn put(&mut self, at: K, key: &Key, is_new: bool) {
        if is_new {
            self.0.entry(at).or_default().insert(key.clone());
        } else if let Some(keys) = self.0.get_mut(&at) {
            keys.remove(key);
            if keys.is_empty() {
                self.0.remove(&at);
            }
        }
    }

    fn of<'s>(&'s self, at: &K) -> impl Iterator<Item = &'s Key> + use<'s, K> {
        self.0.get(at).into_iter().flatten()
    }
}
