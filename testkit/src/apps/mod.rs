//! Applications behind a sidecar that record exactly what arrived: the "app sees" of the case lists.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::http1::{self, Fields};
use crate::wait::within;

mod h1;
mod h2c;
mod tcp;

pub(crate) use h2c::{fields as h2_fields, map as h2_map, read as h2_read};
pub use tcp::TcpApp;

/// The protocol an application speaks; it understands no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 on raw sockets.
    Http1,
    /// HTTP/2 with prior knowledge.
    H2c,
}

/// An HTTP application on a port of its own.
#[derive(Debug)]
pub struct App {
    addr: SocketAddr,
    state: Arc<State>,
    accepting: AbortHandle,
}

/// One request as the application saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Number of the connection it came on, from 1.
    pub connection: usize,
    /// `HTTP/1.1`, `HTTP/1.0` or `HTTP/2`.
    pub version: String,
    /// Method.
    pub method: String,
    /// The request target as it was written; for HTTP/2 `:path`.
    pub target: String,
    /// HTTP/2 `:authority`; for HTTP/1 the Host field.
    pub authority: Option<String>,
    /// Header fields in order, names as they were written.
    pub headers: Fields,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: Fields,
    /// HTTP/1: the bytes of the head.
    pub raw_head: Vec<u8>,
}

/// What the application answers.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// Status.
    pub status: u16,
    /// Header fields; framing is added.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
    /// Trailers; HTTP/1 then uses chunked framing.
    pub trailers: Vec<(String, String)>,
    /// After the body the response stays open for as long as the connection or stream lives.
    pub open: bool,
    /// HTTP/1: close the connection after the response.
    pub close: bool,
}

/// A raw listener whose connections the test itself handles.
#[derive(Debug)]
pub struct RawApp {
    addr: SocketAddr,
    connections: tokio::sync::Mutex<mpsc::UnboundedReceiver<TcpStream>>,
    count: watch::Receiver<usize>,
    accepting: AbortHandle,
}

type Handler = dyn Fn(Seen) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync;

struct State {
    seen: watch::Sender<Vec<Seen>>,
    connections: watch::Sender<usize>,
    /// Open responses that were cut from the other side.
    cut: watch::Sender<usize>,
    handler: Box<Handler>,
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("free port");
    let addr = listener.local_addr().expect("bound");
    (listener, addr)
}

async fn wait_for<T: Clone>(sender: &watch::Sender<T>, what: &str, done: impl Fn(&T) -> bool) -> T {
    let mut receiver = sender.subscribe();
    let value = within(what, receiver.wait_for(done)).await.expect("the sender is ours");
    value.clone()
}

// === impl App ===

impl App {
    /// An application that answers 200 with the body `hello` (and for HTTP/2 the trailer `x-end: yes`).
    pub async fn start(protocol: Protocol) -> Self {
        Self::with(protocol, move |_| async move {
            let reply = Reply::ok("hello");
            match protocol {
                Protocol::Http1 => reply,
                Protocol::H2c => reply.trailer("x-end", "yes"),
            }
        })
        .await
    }

    /// An application that answers what the handler says, which may wait for the test.
    pub async fn with<F, R>(protocol: Protocol, handler: F) -> Self
    where
        F: Fn(Seen) -> R + Send + Sync + 'static,
        R: Future<Output = Reply> + Send + 'static,
    {
        Self::on(listen().await.0, protocol, handler)
    }

    /// The same on a listener of the test's.
    ///
    /// # Panics
    /// When the listener has no address.
    pub fn on<F, R>(listener: TcpListener, protocol: Protocol, handler: F) -> Self
    where
        F: Fn(Seen) -> R + Send + Sync + 'static,
        R: Future<Output = Reply> + Send + 'static,
    {
        let addr = listener.local_addr().expect("bound");
        let state = Arc::new(State {
            seen: watch::Sender::new(Vec::new()),
            connections: watch::Sender::new(0),
            cut: watch::Sender::new(0),
            handler: Box::new(move |seen| Box::pin(handler(seen))),
        });
        let accepting = tokio::spawn(accept(listener, protocol, Arc::clone(&state))).abort_handle();
        Self { addr, state, accepting }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its port, for policies.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.borrow().clone()
    }

    /// The only request so far.
    ///
    /// # Panics
    /// When there were none or several.
    pub fn only(&self) -> Seen {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "requests that reached the app: {seen:#?}");
        seen.remove(0)
    }

    /// Waits for so many requests and gives them.
    pub async fn wait_for_requests(&self, count: usize) -> Vec<Seen> {
        wait_for(&self.state.seen, "requests at the app", |seen| seen.len() >= count).await
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        *self.state.connections.borrow()
    }

    /// Open responses that were cut from the other side so far.
    pub fn cut(&self) -> usize {
        *self.state.cut.borrow()
    }

    /// Waits until so many open responses were cut from the other side.
    pub async fn wait_for_cut(&self, count: usize) {
        wait_for(&self.state.cut, "an open response to be cut", |cut| *cut >= count).await;
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The connections end with the application: they are tasks of this one.
async fn accept(listener: TcpListener, protocol: Protocol, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((io, _)) = listener.accept().await {
        let _ = io.set_nodelay(true);
        state.connections.send_modify(|count| *count += 1);
        let number = *state.connections.borrow();
        let state = Arc::clone(&state);
        match protocol {
            Protocol::Http1 => connections.spawn(h1::serve(io, number, state)),
            Protocol::H2c => connections.spawn(h2c::serve(io, number, state)),
        };
    }
}

// === impl Seen ===

impl Seen {
    /// Every value of a header field.
    pub fn header(&self, name: &str) -> Vec<String> {
        http1::values(&self.headers, name)
    }

    /// Every value of a trailer field.
    pub fn trailer(&self, name: &str) -> Vec<String> {
        http1::values(&self.trailers, name)
    }

    /// Names of all header fields in lower case.
    pub fn names(&self) -> Vec<String> {
        self.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect()
    }
}

// === impl Reply ===

impl Reply {
    /// 200 with this body.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }

    /// This status without a body.
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// 200 with this much of a body that does not end.
    pub fn open(body: impl Into<Vec<u8>>) -> Self {
        Self { open: true, ..Self::ok(body) }
    }

    /// The same with a further header field.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with a further trailer.
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self
    }
}

// === impl State ===

impl State {
    async fn answer(&self, seen: Seen) -> Reply {
        self.seen.send_modify(|all| all.push(seen.clone()));
        (self.handler)(seen).await
    }

    fn was_cut(&self) {
        self.cut.send_modify(|count| *count += 1);
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("connections", &*self.connections.borrow()).finish_non_exhaustive()
    }
}

// === impl RawApp ===

impl RawApp {
    /// Listens; nothing is read or written until the test does it.
    pub async fn start() -> Self {
        let (listener, addr) = listen().await;
        let (sender, connections) = mpsc::unbounded_channel();
        let (counter, count) = watch::channel(0);
        let accepting = tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                counter.send_modify(|count| *count += 1);
                let _ = io.set_nodelay(true);
                let _ = sender.send(io);
            }
        });
        let accepting = accepting.abort_handle();
        Self { addr, connections: tokio::sync::Mutex::new(connections), count, accepting }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its port, for policies.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// The next connection; waits for one.
    pub async fn accept(&self) -> TcpStream {
        let mut connections = self.connections.lock().await;
        within("a connection to the app", connections.recv()).await.expect("accepting")
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        *self.count.borrow()
    }
}

impl Drop for RawApp {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
