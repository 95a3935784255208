//! Source 4: the cluster's directory, which the injector serves.
//!
//! It is asked about an address when the first connection wants to go there, and tells every change from
//! then on. What it said holds until it says something else: an injector that is down, or that starts, takes
//! nothing away. Its silence means nothing either, least of all that a workload has no sidecar.

mod answer;
mod book;
mod follow;
#[cfg(fuzzing)]
pub mod fuzzing;
mod questions;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use ipnet::IpNet;
use mantlet_id::TrustDomain;
use mantlet_proto::directory as wire;
use tokio::time;
use tracing::debug;

pub use self::follow::Follower;
use self::{
    answer::Says,
    book::{Applied, Book, Looked, News},
};
use super::{Answer, Fleet, Found, Source, table::is_inside};
use crate::{
    addr::OrigDst,
    config::{Defaults, Unknown},
    limits::DIRECTORY_WAITING,
    metrics::{DirectoryAnswer, DirectoryState, DirectoryWait, Metrics},
};

/// What the directory has said. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    /// Addresses outside these networks are nobody's of the cluster; without any, every one may be.
    ranges: Vec<IpNet>,
    book: Mutex<Book>,
    fleet: Fleet,
    metrics: Arc<Metrics>,
    /// Connections that wait for an answer.
    waiting: AtomicUsize,
}

/// A place among those who wait, until it is dropped.
struct Place<'a>(&'a AtomicUsize);

// === impl Cluster ===

impl Cluster {
    /// Nothing is known yet; `defaults` is what holds for whom it does not know.
    #[must_use]
    pub fn new(defaults: &Defaults, fleet: Fleet, metrics: &Arc<Metrics>) -> Self {
        metrics.directory_is(DirectoryState::Away);
        let (metrics, waiting) = (Arc::clone(metrics), AtomicUsize::new(0));
        let book = Mutex::new(Book::new(defaults.unknown == Unknown::Refuse));
        let ranges = defaults.mesh_cidrs.clone();
        Self { shared: Arc::new(Shared { ranges, book, fleet, metrics, waiting }) }
    }

    async fn find(&self, OrigDst(wanted): OrigDst) -> Answer {
        let shared = &self.shared;
        let addr = SocketAddr::new(wanted.ip().to_canonical(), wanted.port());
        if !is_inside(&shared.ranges, addr.ip()) {
            return Answer::Silent;
        }
        let looked = {
            let mut book = shared.book();
            let looked = book.look(addr, Instant::now());
            shared.metrics.directory_follows(book.len());
            looked
        };
        let silent = |why| {
            shared.metrics.directory_waited(why);
            Answer::Silent
        };
        let (mut news, at_most) = match looked {
            Looked::Known(answer) => return answer,
            Looked::Awaited(news, at_most) => (news, at_most),
            Looked::Futile => return silent(DirectoryWait::Futile),
            Looked::Full => return silent(DirectoryWait::Limit),
        };
        let Some(_place) = Place::among(&shared.waiting) else { return silent(DirectoryWait::Limit) };
        // An answer may say that nobody is there: who has just come into being is told of a moment later.
        let answered = async {
            while news.changed().await.is_ok() {
                if let Some(answer) = shared.book().heard(addr) {
                    return answer;
                }
            }
            std::future::pending().await
        };
        match time::timeout(at_most, answered).await {
            Ok(answer) => {
                shared.metrics.directory_waited(DirectoryWait::Answered);
                answer
            }
            Err(_) => silent(DirectoryWait::Timeout),
        }
    }

    /// Takes over an answer of the directory; `own` is the trust domain of this process.
    fn answered(&self, answer: &wire::Answer, own: &TrustDomain) -> DirectoryAnswer {
        let shared = &self.shared;
        let said = answer::about(answer).and_then(|addr| Ok((addr, answer::says(answer, addr, own)?)));
        let (addr, says) = match said {
            Ok(said) => said,
            Err(malformed) => {
                debug!(event = "directory_answer_dropped", cause = %malformed);
                return DirectoryAnswer::Malformed;
            }
        };
        let kind = match says {
            Says::Meshed(_) => DirectoryAnswer::Meshed,
            Says::NotMeshed => DirectoryAnswer::NotMeshed,
            Says::Unknown => DirectoryAnswer::Unknown,
        };
        if !shared.book().follows(addr) {
            return DirectoryAnswer::Unasked;
        }
        // Put together before anybody has to wait for it.
        let news = News::of(says, &shared.fleet);
        match shared.book().apply(addr, news, Instant::now()) {
            Applied::Taken => kind,
            Applied::Unasked => DirectoryAnswer::Unasked,
            Applied::TooLarge => DirectoryAnswer::TooLarge,
        }
    }
}

impl Source for Cluster {
    fn find(&self, wanted: OrigDst) -> Found<'_> {
        Box::pin(Cluster::find(self, wanted))
    }
}

// === impl Shared ===

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Place ===

impl<'a> Place<'a> {
    fn among(waiting: &'a AtomicUsize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < DIRECTORY_WAITING).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
