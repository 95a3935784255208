//! What is known about the addresses that are followed, and what is still to be asked.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    task::Waker,
    time::{Duration, Instant},
};

use mantlet_identity::ExpectedPeer;
use mantlet_proto::directory::{self as wire, question::Kind};
use tokio::sync::watch;

use super::answer::{self, Says};
use crate::{
    directory::{Answer, Destination, Endpoint, EndpointProtocol, Endpoints, Fleet, Standing},
    limits::{DIRECTORY_ADDRESSES, DIRECTORY_HOLD, DIRECTORY_TOTAL},
};

/// An address that no connection has wanted for so long is followed no longer.
const UNUSED: Duration = Duration::from_secs(600);
/// An address about which nothing came for so long is asked for again: the directory may have had no room for it.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Everything that is remembered.
#[derive(Default)]
pub(super) struct Book {
    /// Whether it is worth waiting for a workload that the directory does not know yet.
    awaits_newcomers: bool,
    known: HashMap<SocketAddr, Entry>,
    /// What the stream of the moment has not said yet. An address stands here once, and one that the
    /// server was never told about leaves no trace: there are never more than twice the addresses
    /// that may be followed.
    unsaid: BTreeMap<SocketAddr, Unsaid>,
    /// The streams so far, and which of them says it.
    streams: u64,
    stream: Option<u64>,
    /// Since when the directory cannot be asked. Before the first attempt has failed, it can.
    away: Option<Instant>,
    /// Told when there is something to say.
    waker: Option<Waker>,
    /// Endpoints of all addresses together.
    total: usize,
}

/// What came of looking an address up.
pub(super) enum Looked {
    /// It is known.
    Known(Answer),
    /// It is asked for, and may be known within this time; told of every answer.
    Awaited(watch::Receiver<()>, Duration),
    /// It is asked for, and no answer is to be expected soon.
    Futile,
    /// More addresses are in use than may be followed.
    Full,
}

/// An answer that was understood, ready to be put in force.
pub(super) enum News {
    /// These endpoints, and how to speak to them where there are any.
    Meshed(Vec<Endpoint>, Option<EndpointProtocol>),
    NotMeshed,
    Unknown,
}

/// What came of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Applied {
    /// It holds.
    Taken,
    /// Nobody has asked, or nobody asks any more.
    Unasked,
    /// There is no room for so many endpoints; what held before holds on.
    TooLarge,
}

/// One address.
struct Entry {
    status: Status,
    /// Where connections go, from the first answer that named workloads on: they live through lists.
    endpoints: Option<Endpoints>,
    news: watch::Sender<()>,
    used: Instant,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Status {
    /// Nobody has answered yet, and since then nobody was asked again.
    Asked(Instant),
    Meshed,
    NotMeshed,
    /// Nobody has had it since then.
    Unknown(Instant),
}

/// A question that is still to be put.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Unsaid {
    Follow,
    Forget,
    /// It was given up and is wanted again: the server answers once more only to one who asks anew.
    ForgetAndFollow,
}

// === impl Book ===

impl Book {
    /// An empty one. `awaits_newcomers`: a connection to an address that nobody has is held for those who are just
    /// coming into being, because the alternative is to refuse it.
    pub(super) fn new(awaits_newcomers: bool) -> Self {
        Self { awaits_newcomers, ..Self::default() }
    }

    /// What is known about `addr`, which a connection wants now.
    pub(super) fn look(&mut self, addr: SocketAddr, now: Instant) -> Looked {
        if let Some(entry) = self.known.get_mut(&addr) {
            entry.used = now;
            return match entry.says() {
                Some(answer) => Looked::Known(answer),
                None => entry.awaited(self.away, self.awaits_newcomers, now),
            };
        }
        if self.known.len() >= DIRECTORY_ADDRESSES {
            self.make_room();
        }
        if self.known.len() >= DIRECTORY_ADDRESSES {
            return Looked::Full;
        }
        let entry =
            Entry { status: Status::Asked(now), endpoints: None, news: watch::Sender::new(()), used: now };
        let looked = entry.awaited(self.away, self.awaits_newcomers, now);
        self.known.insert(addr, entry);
        let forgotten = self.unsaid.get(&addr) == Some(&Unsaid::Forget);
        self.say(addr, if forgotten { Unsaid::ForgetAndFollow } else { Unsaid::Follow });
        looked
    }

    /// What came of it for `addr`, after news of it. `None`: more news may follow.
    pub(super) fn heard(&self, addr: SocketAddr) -> Option<Answer> {
        let entry = self.known.get(&addr)?;
        let is_futile = matches!(entry.status, Status::Unknown(_)) && !self.awaits_newcomers;
        entry.says().or_else(|| is_futile.then_some(Answer::Silent))
    }

    /// What is known about `addr` by now.
    #[cfg(any(test, fuzzing))]
    pub(super) fn says(&self, addr: SocketAddr) -> Option<Answer> {
        self.known.get(&addr)?.says()
    }

    /// Whether somebody follows `addr`.
    pub(super) fn follows(&self, addr: SocketAddr) -> bool {
        self.known.contains_key(&addr)
    }

    /// Puts what the directory says in force.
    pub(super) fn apply(&mut self, addr: SocketAddr, news: News, now: Instant) -> Applied {
        let Some(entry) = self.known.get_mut(&addr) else { return Applied::Unasked };
        let (before, after) = (entry.size(), news.size());
        if after > before && self.total - before + after > DIRECTORY_TOTAL {
            return Applied::TooLarge;
        }
        entry.apply(news, now);
        self.total = self.total - before + entry.size();
        entry.news.send_replace(());
        Applied::Taken
    }

    /// How many addresses are followed.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// A new stream begins, under the number that is given: it asks for everything again, and no older one says
    /// anything more, also one that another server has just refused.
    pub(super) fn begin(&mut self) -> u64 {
        self.streams += 1;
        self.stream = Some(self.streams);
        self.unsaid = self.known.keys().map(|addr| (*addr, Unsaid::Follow)).collect();
        self.wake();
        self.streams
    }

    /// The directory has taken the stream.
    pub(super) fn connected(&mut self) {
        self.away = None;
    }

    /// There is no stream, or none could be opened. What is known stays.
    pub(super) fn disconnected(&mut self, now: Instant) {
        self.stream = None;
        self.away.get_or_insert(now);
        self.unsaid.clear();
        self.wake();
    }

    /// The next thing that `stream` has to say. `Err` once it is not the stream of the moment; without a
    /// question the waker is told of the next.
    pub(super) fn next(&mut self, stream: u64, waker: &Waker) -> Result<Option<wire::Question>, ()> {
        if self.stream != Some(stream) {
            return Err(());
        }
        let Some((addr, unsaid)) = self.unsaid.pop_first() else {
            self.waker = Some(waker.clone());
            return Ok(None);
        };
        let address = answer::address(addr);
        let kind = match unsaid {
            Unsaid::Follow => Kind::Follow(address),
            Unsaid::Forget => Kind::Forget(address),
            Unsaid::ForgetAndFollow => {
                self.unsaid.insert(addr, Unsaid::Follow);
                Kind::Forget(address)
            }
        };
        Ok(Some(wire::Question { kind: Some(kind) }))
    }

    /// Asks again about what nobody has said anything of for long.
    pub(super) fn ask_again(&mut self, now: Instant) {
        let mut again = Vec::new();
        for (addr, entry) in &mut self.known {
            if let Status::Asked(since) = &mut entry.status
                && now.duration_since(*since) >= ASK_AGAIN
                && !self.unsaid.contains_key(addr)
            {
                *since = now;
                again.push(*addr);
            }
        }
        again.into_iter().for_each(|addr| self.say(addr, Unsaid::Follow));
    }

    /// Gives up what nobody has used for long.
    pub(super) fn forget_unused(&mut self, now: Instant) {
        let old: Vec<_> = self
            .known
            .iter()
            .filter(|(_, entry)| !entry.is_in_use() && now.duration_since(entry.used) >= UNUSED)
            .map(|(addr, _)| *addr)
            .collect();
        old.into_iter().for_each(|addr| self.forget(addr));
    }

    /// Gives up half of what nobody uses, the longest unused first: one more address is then not one more
    /// search.
    fn make_room(&mut self) {
        let unused = self.known.iter().filter(|(_, entry)| !entry.is_in_use());
        let mut unused: Vec<_> = unused.map(|(addr, entry)| (entry.used, *addr)).collect();
        unused.sort_unstable();
        let half = unused.len().div_ceil(2);
        unused.into_iter().take(half).for_each(|(_, addr)| self.forget(addr));
    }

    fn forget(&mut self, addr: SocketAddr) {
        let Some(entry) = self.known.remove(&addr) else { return };
        self.total -= entry.size();
        match self.unsaid.get(&addr) {
            // The server was never told.
            Some(Unsaid::Follow) => drop(self.unsaid.remove(&addr)),
            Some(Unsaid::Forget | Unsaid::ForgetAndFollow) | None => self.say(addr, Unsaid::Forget),
        }
    }

    fn say(&mut self, addr: SocketAddr, what: Unsaid) {
        // A stream that comes asks for everything anyway.
        if self.stream.is_some() {
            self.unsaid.insert(addr, what);
            self.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

// === impl Entry ===

impl Entry {
    fn says(&self) -> Option<Answer> {
        match self.status {
            Status::Meshed => {
                self.endpoints.clone().map(|endpoints| Answer::Goes(Destination::Mesh(endpoints)))
            }
            Status::NotMeshed => Some(Answer::Unmeshed),
            Status::Asked(_) | Status::Unknown(_) => None,
        }
    }

    /// How long waiting for an answer is of use to a connection that comes now: as long as something may change soon.
    fn awaited(&self, away: Option<Instant>, awaits_newcomers: bool, now: Instant) -> Looked {
        let since = match self.status {
            Status::Unknown(since) => awaits_newcomers.then_some(since),
            _ => Some(away.unwrap_or(now)),
        };
        let left = since.map(|since| DIRECTORY_HOLD.saturating_sub(now.duration_since(since)));
        match left.filter(|left| !left.is_zero()) {
            Some(left) => Looked::Awaited(self.news.subscribe(), left),
            None => Looked::Futile,
        }
    }

    fn apply(&mut self, news: News, now: Instant) {
        match news {
            News::Meshed(list, protocol) => {
                self.status = Status::Meshed;
                let before = self.endpoints.as_ref().map(Endpoints::protocol);
                // Without endpoints nobody says how to speak to those that come.
                let protocol = protocol.or(before).unwrap_or(EndpointProtocol::AskPeer);
                match &self.endpoints {
                    Some(live) => {
                        live.speak(protocol);
                        // Whoever sends looks its connections up again after a change.
                        if !is_same(&live.current(), &list) {
                            live.replace(list);
                        }
                    }
                    None => self.endpoints = Some(Endpoints::new(list, protocol, Standing::default())),
                }
            }
            News::NotMeshed => {
                self.status = Status::NotMeshed;
                if let Some(former) = self.endpoints.take() {
                    former.replace(Vec::new());
                    former.standing().end();
                }
            }
            // Nobody is there at the moment, and nobody else either: what is under way may finish.
            News::Unknown => {
                if !matches!(self.status, Status::Unknown(_)) {
                    self.status = Status::Unknown(now);
                }
                self.endpoints.take_if(|live| !live.is_in_use());
                if let Some(live) = &self.endpoints {
                    live.replace(Vec::new());
                }
            }
        }
    }

    fn size(&self) -> usize {
        self.endpoints.as_ref().map_or(0, |live| size(&live.current()))
    }

    fn is_in_use(&self) -> bool {
        self.news.receiver_count() > 0 || self.endpoints.as_ref().is_some_and(Endpoints::is_in_use)
    }
}

// === impl News ===

impl News {
    /// What `says` means, with what is known of the endpoints.
    pub(super) fn of(says: Says, fleet: &Fleet) -> Self {
        match says {
            Says::Meshed(meshed) => {
                // Nobody reads it where there are no endpoints.
                let protocol = meshed.protocol.unwrap_or(EndpointProtocol::AskPeer);
                let endpoint =
                    |(addr, expected)| Endpoint { addr, expected, protocol, health: fleet.health(addr) };
                Self::Meshed(meshed.workloads.into_iter().map(endpoint).collect(), meshed.protocol)
            }
            Says::NotMeshed => Self::NotMeshed,
            Says::Unknown => Self::Unknown,
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Meshed(list, _) => size(list),
            Self::NotMeshed | Self::Unknown => 0,
        }
    }
}

/// What endpoints count for: one whose address is kept holds the identities of many.
fn size(list: &[Endpoint]) -> usize {
    let identities = |endpoint: &Endpoint| match &endpoint.expected {
        ExpectedPeer::OneOf(ids) => ids.len(),
        ExpectedPeer::AnyIn(_) => 1,
    };
    list.iter().map(identities).sum()
}

fn is_same(known: &[Endpoint], new: &[Endpoint]) -> bool {
    let is_same = |(known, new): (&Endpoint, &Endpoint)| {
        (known.addr, known.protocol) == (new.addr, new.protocol) && known.expected == new.expected
    };
    known.len() == new.len() && known.iter().zip(new).all(is_same)
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
