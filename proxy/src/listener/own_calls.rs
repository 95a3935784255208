//! The pod that calls itself.
//!
//! An application may be an endpoint of the service that it calls. A connection of the sidecar to its own
//! pod would not come back to it: the rules leave the sidecar alone, and so it would reach the application
//! without TLS, identity or policy. So it is handed to the inbound side instead, over a loopback listener
//! that takes nobody but the sidecar itself, and is judged there like any peer's.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::net::{TcpSocket, TcpStream};

use crate::addr::OrigDst;

/// Connects the sidecar to its own inbound side.
#[derive(Debug)]
pub struct OwnCalls {
    /// Where the inbound side accepts them.
    listener: SocketAddr,
    pod_ips: Arc<[IpAddr]>,
    /// Where the connections go that are on their way to the listener, by the address they come from.
    /// Whoever else dials it is not among them.
    expected: Mutex<HashMap<SocketAddr, OrigDst>>,
}

/// A connection on its way; one that does not arrive is expected no longer.
struct Expected<'c> {
    calls: &'c OwnCalls,
    from: SocketAddr,
    arrives: bool,
}

// === impl OwnCalls ===

impl OwnCalls {
    /// Calls to a pod of these addresses, by a listener at `listener`.
    #[must_use]
    pub fn new(listener: SocketAddr, pod_ips: Arc<[IpAddr]>) -> Self {
        Self { listener, pod_ips, expected: Mutex::default() }
    }

    /// Whether it is an address of the own pod.
    #[must_use]
    pub fn are_to(&self, ip: IpAddr) -> bool {
        self.pod_ips.contains(&ip)
    }

    /// A connection to the inbound side, for `to`.
    ///
    /// # Errors
    /// The network's.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let from = socket.local_addr()?;
        self.lock().insert(from, OrigDst(to));
        let mut expected = Expected { calls: self, from, arrives: false };
        let tcp = socket.connect(self.listener).await?;
        expected.arrives = true;
        Ok(tcp)
    }

    /// Where the connection from this address goes, if it is one of the sidecar's.
    pub(super) fn taken(&self, from: SocketAddr) -> Option<OrigDst> {
        self.lock().remove(&from)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, OrigDst>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Expected ===

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        if !self.arrives {
            self.calls.taken(self.from);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        listener::{Admission, Door, Listener, Misdirected, Origin},
        metrics::{Direction, Metrics, Options},
    };

    #[tokio::test]
    async fn a_call_arrives_with_its_destination_and_a_stranger_does_not() {
        let socket = crate::listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = socket.local_addr().unwrap();
        let pod: IpAddr = "10.244.1.5".parse().unwrap();
        let calls = Arc::new(OwnCalls::new(addr, [pod].into()));
        assert!(calls.are_to(pod) && !calls.are_to("10.244.1.6".parse().unwrap()));
        let origin = Origin::Own(Arc::clone(&calls));
        let (admission, metrics) = (Admission::new(9, 9, 9), Metrics::new(Options::default()));
        let door = Door { origin, direction: Direction::Inbound, admission, metrics };
        let listener = Listener::new(socket, door).unwrap();
        let _stranger = TcpStream::connect(addr).await.unwrap();
        let refused = listener.accept().await;
        assert_eq!(refused.orig_dst, Err(Misdirected::NotRedirected(addr)));
        let to = SocketAddr::new(pod, 8080);
        let call = calls.connect(to).await.unwrap();
        let accepted = listener.accept().await;
        assert_eq!(accepted.orig_dst, Ok(OrigDst(to)));
        assert_eq!(accepted.client.0, SocketAddr::new(pod, call.local_addr().unwrap().port()));
        assert!(calls.lock().is_empty());
    }

    #[tokio::test]
    async fn a_call_that_does_not_arrive_is_forgotten() {
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let calls = OwnCalls::new(nobody.local_addr().unwrap(), [].into());
        drop(nobody);
        calls.connect("10.244.1.5:8080".parse().unwrap()).await.unwrap_err();
        assert!(calls.lock().is_empty());
    }
}
