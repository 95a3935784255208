//! Connections to one upstream: shared ones, idle ones, and those in use.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant, SystemTime},
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::{
    super::unsent::{Paced, Unsent},
    Body, Host,
};
use crate::{
    detect::HttpVersion,
    directory::balance::Load,
    io::BoxIo,
    limits::{CONNECTION_WINDOW, HEAD_BYTES, HEAD_FIELDS, SEND_BYTES, STREAM_WINDOW},
    metrics::PoolSlot,
};

/// Streams on one HTTP/2 connection before another is opened beside it. Fewer where the peer allows fewer: a
/// request that waits inside the library for another's end could not be told from one that was sent, if the
/// connection ends meanwhile.
const STREAMS_PER_CONNECTION: usize = 90;
/// HTTP/1 connections to one upstream that are kept idle.
const IDLE_PER_HOST: usize = 1024;
/// The connections of one upstream.
#[derive(Default)]
pub(super) struct Connections {
    shared: Vec<Shared>,
    idle: Vec<Idle>,
    /// What the upstream last agreed to; HTTP/1 connections need no turn to be opened.
    pub(super) speaks: Option<HttpVersion>,
    /// Nothing is kept for a later request any more.
    retired: bool,
}

/// A connection that carries a request, alone or beside others.
pub(super) struct Connection {
    sender: Sender,
    not_after: Option<SystemTime>,
}

/// The use of a connection by one exchange.
pub struct Lease {
    host: Weak<Host>,
    connection: Connection,
    /// The exchange's weight on its endpoint.
    _load: Option<Load>,
}

enum Sender {
    H1 { send: http1::SendRequest<Body>, place: Place, unsent: Unsent },
    H2 { send: http2::SendRequest<Body>, place: Place, allowed: Allowed },
}

/// An HTTP/2 connection, as far as it says how many streams the peer allows on it.
#[derive(Clone)]
struct Allowed(Weak<Mutex<Http2>>);

type Http2 = http2::Connection<TokioIo<BoxIo>, Body, TokioExecutor>;

/// An HTTP/2 connection and the number of its open streams.
struct Shared {
    send: http2::SendRequest<Body>,
    streams: Arc<PoolSlot>,
    allowed: Allowed,
    not_after: Option<SystemTime>,
}

/// An HTTP/1 connection that carries nothing.
struct Idle {
    send: http1::SendRequest<Body>,
    slot: Arc<PoolSlot>,
    unsent: Unsent,
    since: Instant,
    not_after: Option<SystemTime>,
}

/// An exchange's place on its connection, until it is dropped.
struct Place(Arc<PoolSlot>);

/// Begins HTTP/1.1 on a stream; the peer at its other end, if it has proved who it is, until `not_after`.
pub(super) async fn http1(
    io: BoxIo,
    not_after: Option<SystemTime>,
    slot: &Arc<PoolSlot>,
) -> hyper::Result<Connection> {
    let unsent = Unsent::default();
    let (send, connection) = http1::Builder::new()
        .max_headers(HEAD_FIELDS)
        .max_buf_size(HEAD_BYTES)
        .handshake(TokioIo::new(Paced::new(io, unsent.clone())))
        .await?;
    drive(connection.with_upgrades());
    Ok(Connection { sender: Sender::H1 { send, place: Place::on(slot), unsent }, not_after })
}

/// Begins HTTP/2 on a stream.
pub(super) async fn http2(
    io: BoxIo,
    not_after: Option<SystemTime>,
    slot: &Arc<PoolSlot>,
) -> hyper::Result<Connection> {
    let (send, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD_BYTES as u32)
        .max_send_buf_size(SEND_BYTES)
        .handshake(TokioIo::new(io))
        .await?;
    let connection = Arc::new(Mutex::new(connection));
    let allowed = Allowed(Arc::downgrade(&connection));
    drive(poll_fn(move |cx| {
        Pin::new(&mut *connection.lock().unwrap_or_else(PoisonError::into_inner)).poll(cx)
    }));
    Ok(Connection { sender: Sender::H2 { send, place: Place::on(slot), allowed }, not_after })
}

/// Moves the connection's bytes until it ends. Why it ended is seen by whoever uses it next, and
/// matters to nobody if nobody does.
fn drive<C>(connection: C)
where
    C: Future<Output = hyper::Result<()>> + Send + 'static,
{
    tokio::spawn(async move {
        let _ = connection.await;
    });
}

// === impl Connections ===

impl Connections {
    /// Lets go of what carries nothing, now and later. What is busy finishes.
    pub(super) fn retire(&mut self) {
        self.retired = true;
        self.let_go();
    }

    /// Lets go of what carries nothing now. What is busy finishes.
    pub(super) fn let_go(&mut self) {
        self.shared.clear();
        self.idle.clear();
    }

    /// Lets others use `connection` too, if it can carry more than one request.
    pub(super) fn share(&mut self, connection: &Connection) {
        if self.retired {
            return;
        }
        if let Sender::H2 { send, place, allowed } = &connection.sender {
            let (send, streams, allowed) = (send.clone(), Arc::clone(&place.0), allowed.clone());
            self.shared.push(Shared { send, streams, allowed, not_after: connection.not_after });
        }
    }

    /// A connection that is fit for another request. One whose peer has an expired SVID is not: what
    /// it carries may finish, nothing is added.
    pub(super) fn take(&mut self, idle_limit: Duration, now: SystemTime) -> Option<Connection> {
        self.shared.retain(|shared| !shared.send.is_closed() && is_valid(shared.not_after, now));
        if let Some(shared) = self.shared.iter().find(|shared| shared.has_room()) {
            return Some(shared.connection());
        }
        // The newest first: the older ones can then grow too old and go.
        while let Some(idle) = self.idle.pop() {
            if idle.since.elapsed() >= idle_limit {
                self.idle.clear();
                return None;
            }
            if idle.send.is_ready() && is_valid(idle.not_after, now) {
                let place = Place::on(&idle.slot);
                let sender = Sender::H1 { send: idle.send, place, unsent: idle.unsent };
                return Some(Connection { sender, not_after: idle.not_after });
            }
        }
        None
    }

    /// Whether a connection stands that [`take`](Self::take) could give, or could if it had room.
    pub(super) fn is_live(&self, idle_limit: Duration, now: SystemTime) -> bool {
        let shared =
            self.shared.iter().any(|shared| !shared.send.is_closed() && is_valid(shared.not_after, now));
        let idle = || {
            self.idle.last().is_some_and(|idle| idle.since.elapsed() < idle_limit && !idle.send.is_closed())
        };
        shared || idle()
    }

    fn give_back(&mut self, connection: Connection) {
        let not_after = connection.not_after;
        if let Sender::H1 { send, place, unsent } = connection.sender
            && !self.retired
            && self.idle.len() < IDLE_PER_HOST
            && !send.is_closed()
        {
            let slot = Arc::clone(&place.0);
            self.idle.push(Idle { send, slot, unsent, since: Instant::now(), not_after });
        }
    }
}

fn is_valid(not_after: Option<SystemTime>, now: SystemTime) -> bool {
    not_after.is_none_or(|not_after| now <= not_after)
}

// === impl Shared ===

impl Shared {
    fn has_room(&self) -> bool {
        self.streams.users() < self.allowed.streams().min(STREAMS_PER_CONNECTION)
    }

    fn connection(&self) -> Connection {
        let (send, place) = (self.send.clone(), Place::on(&self.streams));
        let sender = Sender::H2 { send, place, allowed: self.allowed.clone() };
        Connection { sender, not_after: self.not_after }
    }
}

// === impl Allowed ===

impl Allowed {
    fn streams(&self) -> usize {
        let Some(connection) = self.0.upgrade() else { return 0 };
        // Nobody asks while the connection is polled: a worker does one thing at a time.
        connection.try_lock().map_or(0, |connection| connection.current_max_send_streams())
    }
}

// === impl Place ===

impl Place {
    fn on(slot: &Arc<PoolSlot>) -> Self {
        slot.enter();
        Self(Arc::clone(slot))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.leave();
    }
}

// === impl Connection ===

impl Connection {
    /// What is spoken on it.
    pub(super) fn version(&self) -> HttpVersion {
        match self.sender {
            Sender::H1 { .. } => HttpVersion::H1,
            Sender::H2 { .. } => HttpVersion::H2,
        }
    }

    /// Lets `body` go as the stream under this connection takes it.
    pub(super) fn pace(&self, body: &mut Body) {
        if let Sender::H1 { unsent, .. } = &self.sender {
            body.pace(unsent);
        }
    }

    /// The end of the peer's SVID, if it has one.
    pub(super) fn not_after(&self) -> Option<SystemTime> {
        self.not_after
    }

    /// Sends one request. A failure gives the request back if nothing of it was written.
    pub(super) async fn send(
        mut self,
        request: Box<Request<Body>>,
    ) -> Result<(Response<Incoming>, Self), (hyper::Error, Option<Box<Request<Body>>>)> {
        let sent = match &mut self.sender {
            Sender::H1 { send, .. } => send.try_send_request(*request).await,
            Sender::H2 { send, .. } => send.try_send_request(*request).await,
        };
        match sent {
            Ok(response) => Ok((response, self)),
            Err(mut error) => {
                let unsent = error.take_message().map(Box::new);
                Err((error.into_error(), unsent))
            }
        }
    }
}

// === impl Lease ===

impl Lease {
    pub(super) fn new(host: &Arc<Host>, connection: Connection, load: Option<Load>) -> Self {
        Self { host: Arc::downgrade(host), connection, _load: load }
    }

    /// The exchange is over and the connection is fit for another.
    pub(in crate::http) fn give_back(self) {
        if let Some(host) = self.host.upgrade() {
            host.lock().give_back(self.connection);
        }
    }
}
