//! Names to addresses: a stub resolver that a static binary can carry, and the names that this process
//! keeps up to date.
//!
//! A lookup asks the servers of `resolv.conf` for A and AAAA together, over UDP and, where an answer
//! does not fit, over TCP. Each question has a random id and a port of its own, and only an answer
//! that repeats it counts (RFC 5452).

mod conf;
mod exchange;
#[cfg(fuzzing)]
pub mod fuzzing;
mod message;
mod names;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tokio::time;

pub use self::names::{Names, Want};
use self::{conf::ResolvConf, message::MOST_ADDRESSES};
use crate::metrics::{LookupResult, Metrics};

/// A lookup takes no longer, whatever the servers do.
const LOOKUP_LIMIT: Duration = Duration::from_secs(10);
/// How long what a hosts file says holds: then it is read again.
const HOSTS_TTL: Duration = Duration::from_secs(10);

/// Looks names up. Cheap to clone.
#[derive(Clone)]
pub struct Resolver {
    inner: Arc<Inner>,
}

struct Inner {
    resolv_conf: PathBuf,
    hosts: PathBuf,
    metrics: Arc<Metrics>,
}

/// What is known about a name.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Answer {
    /// Its addresses; none when there is no such name, or it has no address.
    pub addresses: Vec<IpAddr>,
    /// How long this holds.
    pub ttl: Duration,
}

/// Why nothing is known about a name.
#[derive(Debug, Error)]
pub enum LookupError {
    /// It cannot be asked for.
    #[error("no DNS name")]
    Name,
    /// No server answered in time.
    #[error("no answer in time")]
    Timeout,
    /// The servers could not answer.
    #[error("the server failed")]
    ServerFailure,
    /// An answer that says nothing.
    #[error("a malformed answer")]
    Malformed,
    /// No server can be reached, or `resolv.conf` cannot be read.
    #[error("cannot ask")]
    Io(#[source] std::io::Error),
}

// === impl Resolver ===

impl Resolver {
    /// A resolver that reads these files anew for each lookup: who runs the pod may change them.
    #[must_use]
    pub fn new(resolv_conf: PathBuf, hosts: PathBuf, metrics: Arc<Metrics>) -> Self {
        Self { inner: Arc::new(Inner { resolv_conf, hosts, metrics }) }
    }

    /// The addresses of a name.
    ///
    /// # Errors
    /// Nobody knows whether it has any.
    pub async fn lookup(&self, name: &str) -> Result<Answer, LookupError> {
        let found = time::timeout(LOOKUP_LIMIT, self.find(name)).await.unwrap_or(Err(LookupError::Timeout));
        self.inner.metrics.lookup(match &found {
            Ok(answer) if answer.addresses.is_empty() => LookupResult::Empty,
            Ok(_) => LookupResult::Ok,
            Err(LookupError::Timeout) => LookupResult::Timeout,
            Err(_) => LookupResult::Error,
        });
        found
    }

    async fn find(&self, name: &str) -> Result<Answer, LookupError> {
        // RFC 6761, 6.3: the name means this host, whoever is asked.
        if name == "localhost" || name.ends_with(".localhost") {
            let addresses = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            return Ok(Answer { addresses, ttl: HOSTS_TTL });
        }
        // A file that is missing says nothing.
        let addresses = conf::hosts(&conf::read(&self.inner.hosts).unwrap_or_default(), name);
        if !addresses.is_empty() {
            return Ok(Answer { addresses, ttl: HOSTS_TTL });
        }
        let conf = ResolvConf::parse(&conf::read(&self.inner.resolv_conf).map_err(LookupError::Io)?);
        let mut empty = None;
        for candidate in conf.candidates(name) {
            let answer = addresses_of(&conf, &candidate).await?;
            if !answer.addresses.is_empty() {
                return Ok(answer);
            }
            // The shortest: any of the names may come into being.
            let ttl = empty.map_or(answer.ttl, |ttl: Duration| ttl.min(answer.ttl));
            empty = Some(ttl);
        }
        Ok(Answer { addresses: Vec::new(), ttl: empty.unwrap_or(HOSTS_TTL) })
    }
}

/// Both families of one full name. A failure ends the search: behind a name that cannot be asked for
/// at the moment there may be another of the same beginning that means somebody else.
async fn addresses_of(conf: &ResolvConf, name: &str) -> Result<Answer, LookupError> {
    let (v4, v6) = tokio::join!(exchange::ask(conf, name, false), exchange::ask(conf, name, true));
    match (v4, v6) {
        (Ok(v4), Ok(v6)) => Ok(v4.and(v6)),
        // Servers exist that know one family only.
        (Ok(one), Err(_)) | (Err(_), Ok(one)) if !one.addresses.is_empty() => Ok(one),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

// === impl Answer ===

impl Answer {
    fn and(mut self, other: Self) -> Self {
        self.ttl = match (self.addresses.is_empty(), other.addresses.is_empty()) {
            (false, true) => self.ttl,
            (true, false) => other.ttl,
            _ => self.ttl.min(other.ttl),
        };
        self.addresses.extend(other.addresses);
        self.addresses.truncate(MOST_ADDRESSES);
        self
    }
}
