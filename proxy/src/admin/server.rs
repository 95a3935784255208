//! Accepting and serving: HTTP/1.1 on a TCP listener and on a Unix socket.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::AbortHandle,
    time::sleep,
};

use super::{
    Sources,
    route::{Origin, answer},
    socket::Socket,
    watch::Cut,
};

/// Connections at a time. Scrapers and probes need a handful; the rest belongs to whoever holds them idle.
const CONNECTIONS: usize = 128;
/// A connection that asks nothing for so long is closed; longer than any sane scrape interval.
const IDLE: Duration = Duration::from_secs(75);
/// Pause after an error of accept: the descriptors are used up, and trying again at once would only burn CPU.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Serves health, metrics and dumps until the future is dropped.
pub async fn serve(listener: TcpListener, sources: Arc<Sources>) {
    let mut slots = Slots::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let origin =
                    stream.local_addr().map_or(Origin::Network, |local| Origin::of(local.ip(), peer.ip()));
                slots.spawn(stream, origin, &sources);
            }
            Err(error) => back_off(&error).await,
        }
    }
}

/// Serves everything, mutations included, on the Unix socket until the future is dropped.
pub async fn serve_socket(socket: Socket, sources: Arc<Sources>) {
    let mut slots = Slots::default();
    loop {
        match socket.accept().await {
            Ok(Some(stream)) => slots.spawn(stream, Origin::Socket, &sources),
            Ok(None) => {
                tracing::warn!(event = "admin_socket_foreign_user", "another user's connection was refused")
            }
            Err(error) => back_off(&error).await,
        }
    }
}

async fn back_off(error: &io::Error) {
    tracing::warn!(event = "admin_accept_failed", %error, "the admin listener cannot accept; trying again");
    sleep(BACK_OFF).await;
}

/// The open connections, oldest first. A new one never waits behind idle ones: a probe must not fail because
/// somebody opened connections and said nothing.
#[derive(Default)]
struct Slots {
    open: Vec<Slot>,
}

struct Slot {
    task: AbortHandle,
    /// Requests being answered right now.
    busy: Arc<AtomicUsize>,
}

// === impl Slots ===

impl Slots {
    fn spawn(
        &mut self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        origin: Origin,
        sources: &Arc<Sources>,
    ) {
        self.open.retain(|slot| !slot.task.is_finished());
        if self.open.len() >= CONNECTIONS && !self.evict() {
            // Every one of them is being answered, which takes no time: whoever comes now asks again.
            return;
        }
        let busy = Arc::new(AtomicUsize::new(0));
        let connection = connection(stream, origin, Arc::clone(sources), Arc::clone(&busy));
        let task = tokio::spawn(connection).abort_handle();
        self.open.push(Slot { task, busy });
    }

    /// Closes the connection that has been idle longest.
    fn evict(&mut self) -> bool {
        let idle = self.open.iter().position(|slot| slot.busy.load(Ordering::Relaxed) == 0);
        idle.map(|at| self.open.remove(at).task.abort()).is_some()
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.open.iter().for_each(|slot| slot.task.abort());
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    origin: Origin,
    sources: Arc<Sources>,
    busy: Arc<AtomicUsize>,
) {
    let cut = Cut::default();
    let service = service_fn(|request| {
        let (sources, busy, cut) = (Arc::clone(&sources), Arc::clone(&busy), cut.clone());
        async move {
            busy.fetch_add(1, Ordering::Relaxed);
            let answer = answer(request, &sources, origin, &cut).await;
            busy.fetch_sub(1, Ordering::Relaxed);
            answer
        }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service);
    // What goes wrong on such a connection is the other side's affair.
    tokio::select! {
        _ = serving => {}
        () = cut.due() => {}
    }
}
