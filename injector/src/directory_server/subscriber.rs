//! What waits to be sent to one stream: at most one answer for each address that it follows, the last.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{core::Says, hub::Address};

/// What waits. Whoever puts something in never waits for whoever takes it out.
#[derive(Debug, Default)]
pub(super) struct Subscriber {
    waiting: Mutex<Waiting>,
    woken: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    says: HashMap<Address, Arc<Says>>,
    /// Answers to questions: the first of each address.
    asked: VecDeque<Address>,
    /// Changes.
    changed: VecDeque<Address>,
}

/// How many answers wait.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Backlog {
    pub(super) asked: usize,
    pub(super) changed: usize,
}

// === impl Subscriber ===

impl Subscriber {
    /// Puts in the answer to a question.
    pub(super) fn asked(&self, address: Address, says: &Arc<Says>) {
        let mut waiting = self.waiting();
        if waiting.says.insert(address, Arc::clone(says)).is_none() {
            waiting.asked.push_back(address);
        }
        drop(waiting);
        self.woken.notify_one();
    }

    /// Puts in a change, in the place of an older one of the address.
    pub(super) fn changed(&self, address: Address, says: &Arc<Says>) {
        let mut waiting = self.waiting();
        if waiting.says.insert(address, Arc::clone(says)).is_none() {
            waiting.changed.push_back(address);
        }
        drop(waiting);
        self.woken.notify_one();
    }

    /// Takes out what waits of an address.
    pub(super) fn forget(&self, address: Address) {
        let Waiting { says, asked, changed } = &mut *self.waiting();
        if says.remove(&address).is_some() {
            asked.retain(|known| *known != address);
            changed.retain(|known| *known != address);
        }
    }

    /// Takes out the next answer: questions first, then changes, if they may.
    pub(super) fn take(&self, changes: bool) -> Option<(Address, Arc<Says>, bool)> {
        let Waiting { says, asked, changed } = &mut *self.waiting();
        let (address, is_change) = match asked.pop_front() {
            Some(address) => (address, false),
            None if changes => (changed.pop_front()?, true),
            None => return None,
        };
        Some((address, says.remove(&address)?, is_change))
    }

    /// How many endpoints the answer has that [`take`](Self::take) would give.
    pub(super) fn next_endpoints(&self, changes: bool) -> usize {
        let waiting = self.waiting();
        let next = waiting.asked.front().or_else(|| waiting.changed.front().filter(|_| changes));
        match next.and_then(|address| waiting.says.get(address)).map(|says| &**says) {
            Some(Says::Meshed { endpoints, .. }) => endpoints.len(),
            Some(Says::NotMeshed | Says::Unknown) | None => 0,
        }
    }

    pub(super) fn backlog(&self) -> Backlog {
        let waiting = self.waiting();
        Backlog { asked: waiting.asked.len(), changed: waiting.changed.len() }
    }

    /// Waits until something is put in.
    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(n: u16) -> Address {
        (Ipv4Addr::LOCALHOST.into(), n)
    }

    #[test]
    fn many_changes_of_an_address_wait_as_one_the_last() {
        let subscriber = Subscriber::default();
        for _ in 0..1000 {
            subscriber.changed(address(1), &Arc::new(Says::Unknown));
            subscriber.changed(address(2), &Arc::new(Says::Unknown));
        }
        subscriber.changed(address(1), &Arc::new(Says::NotMeshed));
        assert_eq!(subscriber.backlog(), Backlog { asked: 0, changed: 2 });
        let (first, says, is_change) = subscriber.take(true).unwrap();
        assert_eq!((first, &*says, is_change), (address(1), &Says::NotMeshed, true));
        assert_eq!(subscriber.take(true).unwrap().0, address(2));
        assert!(subscriber.take(true).is_none());
    }

    #[test]
    fn questions_are_answered_before_changes_are_told_and_with_what_holds_by_then() {
        let subscriber = Subscriber::default();
        subscriber.changed(address(1), &Arc::new(Says::Unknown));
        subscriber.asked(address(2), &Arc::new(Says::Unknown));
        subscriber.changed(address(2), &Arc::new(Says::NotMeshed));
        let (first, says, _) = subscriber.take(false).unwrap();
        assert_eq!((first, &*says), (address(2), &Says::NotMeshed));
        assert!(subscriber.take(false).is_none(), "changes wait");
        subscriber.forget(address(1));
        assert!(subscriber.take(true).is_none());
        assert_eq!(subscriber.backlog(), Backlog::default());
    }

    #[test]
    fn a_large_answer_is_known_before_it_is_taken() {
        let endpoint = super::super::core::Endpoint {
            ip: Ipv4Addr::LOCALHOST.into(),
            port: 80,
            id: "spiffe://prod.test/a".into(),
            protocol: super::super::core::Protocol::Http,
        };
        let large = Arc::new(Says::Meshed { endpoints: vec![endpoint; 100], keep_address: false });
        let subscriber = Subscriber::default();
        assert_eq!(subscriber.next_endpoints(true), 0);
        subscriber.changed(address(1), &large);
        assert_eq!((subscriber.next_endpoints(false), subscriber.next_endpoints(true)), (0, 100));
        subscriber.asked(address(2), &Arc::new(Says::Unknown));
        assert_eq!(subscriber.next_endpoints(true), 0, "an answer to a question comes first");
        subscriber.take(true).unwrap();
        assert_eq!(subscriber.next_endpoints(true), 100);
    }
}
