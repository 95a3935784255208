//! Accepting connections: bounded in number, in all and for each address, and in the time of their handshake.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};
use tracing::warn;

use crate::metrics::{DirectoryMetrics, Metrics, Refused};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A port that is listened at.
pub(crate) struct Listener {
    tcp: TcpListener,
    permits: Arc<Semaphore>,
    addresses: Arc<Addresses>,
    counts: Arc<dyn Counts>,
}

/// Where connections are counted.
pub(crate) trait Counts: Send + Sync {
    /// One more connection, or one less.
    fn connections(&self, change: i64);
    /// One ran into a limit.
    fn refused(&self, limit: Refused);
}

/// A connection's place, until it is dropped.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    addresses: Arc<Addresses>,
    address: IpAddr,
    counts: Arc<dyn Counts>,
}

/// Connections by address.
struct Addresses {
    most: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

// === impl Listener ===

impl Listener {
    /// At most `connections` at a time, of which one address has at most `of_one`: others find a place whatever one
    /// pod does.
    pub(crate) fn new(tcp: TcpListener, connections: usize, of_one: usize, counts: Arc<dyn Counts>) -> Self {
        let addresses = Addresses { most: of_one, open: Mutex::default() };
        Self { tcp, permits: Arc::new(Semaphore::new(connections)), addresses: Arc::new(addresses), counts }
    }

    /// The next connection. Its place is reserved before it is accepted: at the limit connections wait in the
    /// kernel's queue. Errors slow the loop down and never end it.
    pub(crate) async fn accept(&self) -> (TcpStream, Place) {
        let mut pause = FIRST_PAUSE;
        loop {
            let permit = match Arc::clone(&self.permits).try_acquire_owned() {
                Ok(permit) => permit,
                Err(_) => {
                    self.counts.refused(Refused::Connections);
                    match Arc::clone(&self.permits).acquire_owned().await {
                        Ok(permit) => permit,
                        // Nobody closes the semaphore.
                        Err(_) => std::future::pending().await,
                    }
                }
            };
            match self.tcp.accept().await {
                Ok(arrived) => {
                    if let Some(admitted) = self.admit(arrived, permit) {
                        return admitted;
                    }
                }
                // The client gave up between its SYN and our accept: nothing is wrong here.
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    warn!(event = "accept_failed", %error, pause_ms = pause.as_millis() as u64,
                        hint = "look at process_open_fds against process_max_fds");
                    time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    fn admit(
        &self,
        (tcp, client): (TcpStream, SocketAddr),
        permit: OwnedSemaphorePermit,
    ) -> Option<(TcpStream, Place)> {
        let address = client.ip();
        if !self.addresses.enter(address) {
            self.counts.refused(Refused::Address);
            // A reset leaves nothing behind here, not even for a minute.
            let _ = SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
            return None;
        }
        // Without it a small answer may wait for an acknowledgement.
        let _ = tcp.set_nodelay(true);
        self.counts.connections(1);
        let (addresses, counts) = (Arc::clone(&self.addresses), Arc::clone(&self.counts));
        Some((tcp, Place { _permit: permit, addresses, address, counts }))
    }
}

impl Place {
    /// Where the connection comes from.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.addresses.leave(self.address);
        self.counts.connections(-1);
    }
}

// === impl Counts ===

impl Counts for Metrics {
    fn connections(&self, change: i64) {
        Self::connections(self, change);
    }

    fn refused(&self, limit: Refused) {
        Self::refused(self, limit);
    }
}

impl Counts for DirectoryMetrics {
    fn connections(&self, change: i64) {
        Self::connections(self, change);
    }

    fn refused(&self, limit: Refused) {
        Self::refused(self, limit);
    }
}

// === impl Addresses ===

impl Addresses {
    fn enter(&self, address: IpAddr) -> bool {
        let mut open = self.open();
        let count = open.entry(address).or_insert(0);
        let enters = *count < self.most;
        *count += usize::from(enters);
        enters
    }

    fn leave(&self, address: IpAddr) {
        let mut open = self.open();
        if let Some(count) = open.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&address);
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, InvalidInput, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | NotConnected | InvalidInput)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_at_its_limit_keeps_nobody_else_out_and_leaves_nothing_behind() {
        let addresses = Addresses { most: 2, open: Mutex::default() };
        let (one, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        assert!(addresses.enter(one) && addresses.enter(one));
        assert!(!addresses.enter(one));
        assert!(addresses.enter(other));
        addresses.leave(one);
        assert!(addresses.enter(one));
        [one, one, other].into_iter().for_each(|address| addresses.leave(address));
        assert!(addresses.open().is_empty());
    }
}
