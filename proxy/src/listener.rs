//! Accepting connections: a permit first, then the connection; errors slow the loop down, they
//! never end it.

mod admission;
mod handshakes;
mod origin;
mod own_calls;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
    time,
};
use tracing::warn;

pub use self::{
    admission::{Admission, Place},
    handshakes::Handshakes,
    origin::{Interception, Misdirected, Origin},
    own_calls::OwnCalls,
};
use crate::{
    addr::{ClientAddr, OrigDst},
    limits::{LONGEST_PAUSE, UNSENT_BYTES},
    metrics::{CloseReason, ConnectionGuard, Direction, Limit, Metrics},
    sys,
};

const BACKLOG: i32 = 4096;
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// One worker's share of a listening address.
pub struct Listener {
    tcp: TcpListener,
    door: Door,
}

/// What is asked of a connection before it is let in.
pub struct Door {
    /// How it is known where a connection wanted to go.
    pub origin: Origin,
    /// Which side of the pod it comes from.
    pub direction: Direction,
    /// The limits of the process.
    pub admission: Arc<Admission>,
    /// Counts who is turned away.
    pub metrics: Arc<Metrics>,
}

/// A connection that counts against the limit until it is dropped.
pub struct Accepted {
    /// The socket, with `TCP_NODELAY` set.
    pub tcp: TcpStream,
    /// Who connected.
    pub client: ClientAddr,
    /// Where it wanted to go; a connection that may not be here has no such place.
    pub orig_dst: Result<OrigDst, Misdirected>,
    /// The connection's place in the limits.
    pub place: Place,
}

/// Opens a listening socket. Every worker opens its own on the same address (`SO_REUSEPORT`): the
/// kernel spreads connections over them, and no connection ever changes threads.
///
/// # Errors
/// What the kernel says, for example that the address is in use.
pub fn bind(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    open(addr, false)
}

/// As [`bind`], and an address of IPv6 stands for that family alone: each family has a listener of its
/// own, so that no client's address arrives in the other family's form.
///
/// # Errors
/// What the kernel says.
pub fn bind_family(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    open(addr, addr.is_ipv6())
}

fn open(addr: SocketAddr, only_v6: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if only_v6 {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

// === impl Listener ===

impl Listener {
    /// Takes over a socket of [`bind`]; must be called on the worker's own runtime.
    ///
    /// # Errors
    /// The socket cannot be registered with the runtime.
    pub fn new(socket: std::net::TcpListener, door: Door) -> io::Result<Self> {
        Ok(Self { tcp: TcpListener::from_std(socket)?, door })
    }

    /// The next connection.
    ///
    /// The place is reserved before the connection is accepted: at the limit new connections wait
    /// in the kernel's backlog, where they cost nothing, and a stop cannot miss one between the two
    /// steps. Running out of descriptors or memory pauses the loop, longer each time; it goes on by
    /// itself when the shortage ends.
    pub async fn accept(&self) -> Accepted {
        let Door { admission, metrics, .. } = &self.door;
        let mut pause = FIRST_PAUSE;
        loop {
            let place = match admission.try_reserve() {
                Some(place) => place,
                None => {
                    metrics.limit(Limit::Connections);
                    admission.reserve().await
                }
            };
            match self.tcp.accept().await.and_then(|(tcp, client)| prepare(tcp, client)) {
                Ok(arrived) => {
                    if let Some(accepted) = self.door.admit(arrived, place) {
                        return accepted;
                    }
                }
                // The client gave up between its SYN and our accept: nothing is wrong here.
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    metrics.limit(Limit::Descriptors);
                    warn!(event = "accept_failed", %error, pause_ms = pause.as_millis() as u64,
                        hint = "look at process_open_fds against process_max_fds");
                    time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Closes the socket, and hands out the connections that were waiting in its queue by then, one
    /// after the other: closing resets what is left there.
    pub fn close(self) -> impl Iterator<Item = Accepted> {
        let Self { tcp, door } = self;
        let socket = tcp.into_std().ok();
        std::iter::from_fn(move || door.next_waiting(socket.as_ref()?))
    }
}

// === impl Door ===

impl Door {
    /// Lets a connection in, unless its peer or the process has too much already: then it is reset.
    fn admit(
        &self,
        (tcp, client, local): (TcpStream, SocketAddr, SocketAddr),
        place: OwnedSemaphorePermit,
    ) -> Option<Accepted> {
        let admitted = match self.direction {
            Direction::Outbound => Ok(Place::own(place)),
            Direction::Inbound if !self.admission.has_memory() => Err(Limit::Memory),
            Direction::Inbound => self.admission.peer(place, client.ip()).ok_or(Limit::PeerConnections),
        };
        match admitted {
            Ok(place) => {
                let (client, orig_dst) = self.origin.of(&tcp, client, local);
                Some(Accepted { tcp, client, orig_dst, place })
            }
            Err(limit) => {
                self.metrics.limit(limit);
                ConnectionGuard::new(Arc::clone(&self.metrics), self.direction).finish(CloseReason::Limit);
                // A reset leaves nothing behind here, not even for a minute.
                let _ = SockRef::from(&tcp).set_linger(Some(Duration::ZERO));
                None
            }
        }
    }

    /// `None` once the queue is empty, or the limit of connections is reached.
    fn next_waiting(&self, socket: &std::net::TcpListener) -> Option<Accepted> {
        loop {
            let place = self.admission.try_reserve()?;
            let arrived = socket.accept().and_then(|(tcp, client)| {
                tcp.set_nonblocking(true)?;
                prepare(TcpStream::from_std(tcp)?, client)
            });
            match arrived {
                Ok(arrived) => {
                    if let Some(accepted) = self.admit(arrived, place) {
                        return Some(accepted);
                    }
                }
                Err(error) if is_the_clients(&error) => {}
                Err(_) => return None,
            }
        }
    }
}

fn prepare(tcp: TcpStream, client: SocketAddr) -> io::Result<(TcpStream, SocketAddr, SocketAddr)> {
    sys::prepare(&tcp, UNSENT_BYTES)?;
    let local = tcp.local_addr()?;
    Ok((tcp, client, local))
}

fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, InvalidInput, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | NotConnected | InvalidInput)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Options;

    fn listener(socket: std::net::TcpListener, connections: usize) -> Listener {
        let admission = Admission::new(connections, connections, 1);
        let metrics = Metrics::new(Options::default());
        let door = Door { origin: Origin::Local, direction: Direction::Inbound, admission, metrics };
        Listener::new(socket, door).unwrap()
    }

    #[tokio::test]
    async fn at_the_limit_connections_wait_and_are_served_when_a_place_is_free() {
        let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = socket.local_addr().unwrap();
        let listener = listener(socket, 1);
        let _first = TcpStream::connect(addr).await.unwrap();
        let _second = TcpStream::connect(addr).await.unwrap();
        let held = listener.accept().await;
        let mut next = std::pin::pin!(listener.accept());
        assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(next.as_mut().poll(cx).is_pending())).await);
        drop(held);
        next.await;
    }

    #[tokio::test]
    async fn a_socket_that_closes_resets_nobody_who_has_connected() {
        let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = socket.local_addr().unwrap();
        let listener = listener(socket, 10);
        let clients = [TcpStream::connect(addr).await.unwrap(), TcpStream::connect(addr).await.unwrap()];
        let accepted: Vec<Accepted> = listener.close().collect();
        assert_eq!(accepted.len(), 2);
        for client in clients {
            let local = client.local_addr().unwrap();
            assert!(accepted.iter().any(|accepted| accepted.client.0 == local));
        }
        assert!(TcpStream::connect(addr).await.is_err());
    }

    #[test]
    fn workers_share_one_port() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        bind(first.local_addr().unwrap()).unwrap();
    }
}
