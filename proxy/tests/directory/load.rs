//! Requests while something happens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mantlet_testkit::apps::Protocol as Speaks;
use mantlet_testkit::client::{HttpClient, Request};
use mantlet_testkit::eventually;
use tokio::task::JoinSet;

use crate::fixture::Caller;

/// Clients at a time.
pub(crate) const CLIENTS: usize = 8;

/// Requests without end to the first destination, on connections that stay open; every answer is 200.
pub(crate) struct Load {
    state: Arc<State>,
    clients: JoinSet<Duration>,
}

#[derive(Default)]
struct State {
    sent: AtomicUsize,
    over: AtomicBool,
}

// === impl Load ===

impl Load {
    pub(crate) async fn start(caller: &Caller) -> Self {
        let (state, mut clients) = (Arc::new(State::default()), JoinSet::new());
        for _ in 0..CLIENTS {
            clients.spawn(client(Arc::clone(&state), caller.sidecar.outbound(0).await));
        }
        Self { state, clients }
    }

    /// Waits for so many more.
    pub(crate) async fn sent(&self, count: usize) {
        let sent = || self.state.sent.load(Ordering::Relaxed);
        let before = sent();
        eventually("requests", async || (sent() >= before + count).then_some(())).await;
    }

    /// Ends it. The slowest is returned.
    pub(crate) async fn end(mut self) -> Duration {
        self.state.over.store(true, Ordering::Relaxed);
        let mut slowest = Duration::ZERO;
        while let Some(client) = self.clients.join_next().await {
            slowest = slowest.max(client.unwrap());
        }
        slowest
    }
}

async fn client(state: Arc<State>, addr: SocketAddr) -> Duration {
    let (mut client, mut slowest) = (HttpClient::plain(addr, Speaks::Http1).await, Duration::ZERO);
    while !state.over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answer = client.send(&Request::get("/")).await;
        assert_eq!(answer.status, 200, "{:?}", answer.error());
        slowest = slowest.max(begun.elapsed());
        state.sent.fetch_add(1, Ordering::Relaxed);
    }
    slowest
}
