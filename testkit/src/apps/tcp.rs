//! Applications that speak no HTTP.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::{listen, wait_for};

/// A TCP application: says a banner if it has one, then echoes.
#[derive(Debug)]
pub struct TcpApp {
    addr: SocketAddr,
    state: Arc<State>,
    accepting: AbortHandle,
}

#[derive(Debug)]
struct State {
    banner: Vec<u8>,
    received: watch::Sender<Vec<u8>>,
    connections: watch::Sender<usize>,
    closed: watch::Sender<usize>,
}

// === impl TcpApp ===

impl TcpApp {
    /// Echoes whatever arrives.
    pub async fn echo() -> Self {
        Self::banner("").await
    }

    /// Speaks first, then echoes.
    pub async fn banner(banner: impl Into<Vec<u8>>) -> Self {
        Self::on(listen().await.0, banner)
    }

    /// The same on a listener of the test's.
    ///
    /// # Panics
    /// When the listener has no address.
    pub fn on(listener: TcpListener, banner: impl Into<Vec<u8>>) -> Self {
        let addr = listener.local_addr().expect("bound");
        let state = Arc::new(State {
            banner: banner.into(),
            received: watch::Sender::new(Vec::new()),
            connections: watch::Sender::new(0),
            closed: watch::Sender::new(0),
        });
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((io, _)) = listener.accept().await {
                shared.connections.send_modify(|count| *count += 1);
                connections.spawn(serve(io, Arc::clone(&shared)));
            }
        });
        Self { addr, state, accepting: accepting.abort_handle() }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its port, for policies.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        *self.state.connections.borrow()
    }

    /// Every byte that arrived, of all connections.
    pub fn received(&self) -> Vec<u8> {
        self.state.received.borrow().clone()
    }

    /// Waits until so many connections have ended.
    pub async fn wait_for_closed(&self, count: usize) {
        wait_for(&self.state.closed, "a connection of the app to end", |closed| *closed >= count).await;
    }
}

impl Drop for TcpApp {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut io: TcpStream, state: Arc<State>) {
    let _ = io.write_all(&state.banner).await;
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = io.read(&mut buffer).await {
        state.received.send_modify(|all| all.extend_from_slice(&buffer[..count]));
        if io.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    let _ = io.shutdown().await;
    state.closed.send_modify(|count| *count += 1);
}
