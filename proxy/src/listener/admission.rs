//! Who may still come in: places for connections, by number and by address, and the memory that is left.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Handshakes;

/// The limits of the process on what comes in. One for all workers.
pub struct Admission {
    permits: Arc<Semaphore>,
    per_peer: usize,
    peers: Mutex<HashMap<IpAddr, usize>>,
    max_requests: i64,
    short_of_memory: AtomicBool,
    handshakes: Handshakes,
}

/// A connection's place, until it is dropped.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    _peer: Option<Peer>,
}

struct Peer {
    admission: Arc<Admission>,
    addr: IpAddr,
}

// === impl Admission ===

impl Admission {
    /// At most `connections` at a time, inbound `per_peer` of one address; at most `requests` of each
    /// direction in flight.
    #[must_use]
    pub fn new(connections: usize, per_peer: usize, requests: usize) -> Arc<Self> {
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(connections)),
            per_peer,
            peers: Mutex::default(),
            max_requests: i64::try_from(requests).unwrap_or(i64::MAX),
            short_of_memory: AtomicBool::new(false),
            handshakes: Handshakes::default(),
        })
    }

    /// Places that nobody has.
    #[must_use]
    pub fn free(&self) -> usize {
        self.permits.available_permits()
    }

    /// A place for the next connection, at once or not at all.
    pub(super) fn try_reserve(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// A place for the next connection, as soon as there is one.
    pub(super) async fn reserve(&self) -> OwnedSemaphorePermit {
        match Arc::clone(&self.permits).acquire_owned().await {
            Ok(permit) => permit,
            // Nobody closes the semaphore.
            Err(_) => std::future::pending().await,
        }
    }

    /// Takes the reserved place for a connection from `addr`. `None` if that has too many already.
    pub(super) fn peer(self: &Arc<Self>, permit: OwnedSemaphorePermit, addr: IpAddr) -> Option<Place> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let open = peers.entry(addr).or_insert(0);
        if *open >= self.per_peer {
            return None;
        }
        *open += 1;
        drop(peers);
        Some(Place { _permit: permit, _peer: Some(Peer { admission: Arc::clone(self), addr }) })
    }

    /// Whether one more request may be carried, when `in_flight` of its direction are, itself included.
    #[must_use]
    pub fn has_room_for_request(&self, in_flight: i64) -> bool {
        in_flight <= self.max_requests
    }

    /// The handshakes in progress.
    #[must_use]
    pub fn handshakes(&self) -> &Handshakes {
        &self.handshakes
    }

    /// Whether there is memory left for more.
    #[must_use]
    pub fn has_memory(&self) -> bool {
        !self.short_of_memory.load(Ordering::Relaxed)
    }

    /// Says whether there is memory left for more.
    pub fn set_short_of_memory(&self, short: bool) {
        self.short_of_memory.store(short, Ordering::Relaxed);
    }
}

// === impl Place ===

impl Place {
    /// The place of a connection of the own application, whose address says nothing.
    pub(super) fn own(permit: OwnedSemaphorePermit) -> Self {
        Self { _permit: permit, _peer: None }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let mut peers = self.admission.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = peers.get_mut(&self.addr) {
            *open -= 1;
            if *open == 0 {
                peers.remove(&self.addr);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_at_its_limit_keeps_nobody_else_out_and_leaves_nothing_behind() {
        let admission = Admission::new(10, 2, 1);
        let (one, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let enter = |addr| admission.peer(admission.try_reserve().unwrap(), addr);
        let first = enter(one).unwrap();
        let _second = enter(one).unwrap();
        assert!(enter(one).is_none());
        assert_eq!(admission.free(), 8, "who is refused takes no place");
        let others = enter(other).unwrap();
        drop(first);
        assert!(enter(one).is_some());
        drop(others);
        assert_eq!(admission.peers.lock().unwrap().len(), 1);
    }
}
