//! Accepting connections: a permit first, then the connection; errors slow the loop down, they
//! never end it.

mod origin;
mod own_calls;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};
use tracing::warn;

pub use self::{
    origin::{Interception, Misdirected, Origin},
    own_calls::OwnCalls,
};
use crate::addr::{ClientAddr, OrigDst};

const BACKLOG: i32 = 4096;
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// One worker's share of a listening address.
pub struct Listener {
    tcp: TcpListener,
    origin: Origin,
    permits: Arc<Semaphore>,
}

/// A connection that counts against the limit until it is dropped.
pub struct Accepted {
    /// The socket, with `TCP_NODELAY` set.
    pub tcp: TcpStream,
    /// Who connected.
    pub client: ClientAddr,
    /// Where it wanted to go; a connection that may not be here has no such place.
    pub orig_dst: Result<OrigDst, Misdirected>,
    /// The connection's place in the limit.
    pub permit: OwnedSemaphorePermit,
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
    pub fn new(socket: std::net::TcpListener, origin: Origin, permits: Arc<Semaphore>) -> io::Result<Self> {
        Ok(Self { tcp: TcpListener::from_std(socket)?, origin, permits })
    }

    /// Closes the socket, and hands out the connections that were waiting in its queue by then.
    pub fn close(self) -> impl Iterator<Item = Accepted> {
        let Self { tcp, origin, permits } = self;
        let socket = tcp.into_std().ok();
        std::iter::from_fn(move || next_waiting(socket.as_ref()?, &origin, &permits))
    }

    /// The next connection.
    ///
    /// The permit is reserved before the connection is accepted: at the limit new connections wait
    /// in the kernel's backlog, where they cost nothing, and a stop cannot miss one between the two
    /// steps. Running out of descriptors or memory pauses the loop, longer each time; it goes on by
    /// itself when the shortage ends.
    pub async fn accept(&self) -> Accepted {
        let mut pause = FIRST_PAUSE;
        let permit = match Arc::clone(&self.permits).acquire_owned().await {
            Ok(permit) => permit,
            // Nobody closes the semaphore.
            Err(_) => std::future::pending().await,
        };
        loop {
            match self.tcp.accept().await.and_then(|(tcp, client)| prepare(tcp, client)) {
                Ok((tcp, client, local)) => {
                    let (client, orig_dst) = self.origin.of(&tcp, client, local);
                    return Accepted { tcp, client, orig_dst, permit };
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
}

/// What the kernel has accepted for a socket that is about to be closed, one after the other: closing
/// resets what is left in its queue. `None` once the queue is empty, or the limit is reached.
fn next_waiting(
    socket: &std::net::TcpListener,
    origin: &Origin,
    permits: &Arc<Semaphore>,
) -> Option<Accepted> {
    loop {
        let permit = Arc::clone(permits).try_acquire_owned().ok()?;
        let accepted = socket.accept().and_then(|(tcp, client)| {
            tcp.set_nonblocking(true)?;
            prepare(TcpStream::from_std(tcp)?, client)
        });
        match accepted {
            Ok((tcp, client, local)) => {
                let (client, orig_dst) = origin.of(&tcp, client, local);
                return Some(Accepted { tcp, client, orig_dst, permit });
            }
            Err(error) if is_the_clients(&error) => {}
            Err(_) => return None,
        }
    }
}

fn prepare(tcp: TcpStream, client: SocketAddr) -> io::Result<(TcpStream, SocketAddr, SocketAddr)> {
    tcp.set_nodelay(true)?;
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

    #[tokio::test]
    async fn at_the_limit_connections_wait_and_are_served_when_a_place_is_free() {
        let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = socket.local_addr().unwrap();
        let listener = Listener::new(socket, Origin::Local, Arc::new(Semaphore::new(1))).unwrap();
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
        let listener = Listener::new(socket, Origin::Local, Arc::new(Semaphore::new(10))).unwrap();
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
