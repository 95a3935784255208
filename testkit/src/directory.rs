//! A cluster's directory over real mutual TLS that says what the test tells it to.
//!
//! It runs on a thread of its own, and holds what is so: whoever follows an address is told what was said of
//! it before, or that nobody knows it, and each change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use mantlet_proto::directory::directory_server::{Directory as Service, DirectoryServer};
pub use mantlet_proto::directory::{
    Address, Answer, Endpoint, Meshed, NotMeshed, Protocol, Question, Unknown, answer::Says, question::Kind,
};
use rustls::ServerConfig;
use tokio::io::{DuplexStream, copy_bidirectional};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::pki::{Authority, TestSvid};
use crate::tls::{AcceptAny, FixedCertificate, certified, provider};
use crate::wait::eventually;

/// Who the directory is, in its short form.
pub const INJECTOR: &str = "mantlet-system/mantlet-injector";

/// The server; dropping it closes every connection.
pub struct Directory {
    addr: SocketAddr,
    config: Arc<ServerConfig>,
    state: Arc<State>,
    running: Mutex<Option<Running>>,
}

#[derive(Default)]
struct State(Mutex<Book>);

#[derive(Default)]
struct Book {
    says: BTreeMap<SocketAddr, Option<Says>>,
    streams: Vec<Follower>,
    /// Streams since the start.
    opened: usize,
    /// Every question of every stream.
    questions: Vec<(char, SocketAddr)>,
    refuses: Option<Status>,
}

struct Follower {
    follows: BTreeSet<SocketAddr>,
    answers: mpsc::UnboundedSender<Result<Answer, Status>>,
}

struct Running {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// An address as it stands in a message.
pub fn address(of: SocketAddr) -> Address {
    let ip = match of.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    Address { ip, port: of.port().into() }
}

/// An endpoint at this address, where this workload of `td.test` is, given as `namespace/account`.
pub fn endpoint(at: SocketAddr, short: &str, protocol: Protocol) -> Endpoint {
    let (namespace, account) = short.split_once('/').expect("namespace/account");
    let Address { ip, port } = address(at);
    let spiffe_id = format!("spiffe://td.test/ns/{namespace}/sa/{account}");
    Endpoint { ip, port, spiffe_id, protocol: protocol.into() }
}

/// These endpoints.
pub fn meshed(endpoints: impl IntoIterator<Item = Endpoint>) -> Says {
    Says::Meshed(Meshed { endpoints: endpoints.into_iter().collect(), keep_address: false })
}

fn socket(address: &Address) -> Option<SocketAddr> {
    let ip = match address.ip.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(&address.ip[..]).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(&address.ip[..]).ok()?),
    };
    Some(SocketAddr::new(ip, address.port.try_into().ok()?))
}

// === impl Directory ===

impl Directory {
    /// The directory of this authority's trust domain at this address, listening.
    pub fn start(authority: &Authority, addr: SocketAddr) -> Self {
        Self::start_as(&authority.workload(INJECTOR), addr)
    }

    /// One with this identity.
    pub fn start_as(svid: &TestSvid, addr: SocketAddr) -> Self {
        let verifier = Arc::new(AcceptAny { mandatory: true });
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(FixedCertificate(certified(svid))));
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (config, state) = (Arc::new(config), Arc::default());
        let directory = Self { addr, config, state, running: Mutex::default() };
        directory.up();
        directory
    }

    /// Listens again.
    ///
    /// # Panics
    /// When it listens already, or somebody else does.
    pub fn up(&self) {
        let mut running = self.running.lock().expect("not poisoned");
        assert!(running.is_none(), "the directory is running");
        let (state, config, addr) = (Arc::clone(&self.state), Arc::clone(&self.config), self.addr);
        let (stop, stopped) = oneshot::channel();
        let (bound, ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            // Dropping the runtime drops every connection: a stop is a kill.
            runtime.expect("runtime").block_on(async move {
                let listener = TcpListener::bind(addr).await.expect("the directory's address");
                let _ = bound.send(());
                let (accepted, connections) = mpsc::unbounded_channel();
                let service = DirectoryServer::new(Following(state));
                let incoming = UnboundedReceiverStream::new(connections);
                tokio::select! {
                    served = Server::builder().serve_with_incoming(service, incoming) => served.expect("serves"),
                    () = accept(listener, config, accepted) => {}
                    _ = stopped => {}
                }
            });
        });
        ready.recv().expect("the directory listens");
        *running = Some(Running { stop: Some(stop), thread: Some(thread) });
    }

    /// Closes every connection at once, and listens no more.
    pub fn down(&self) {
        drop(self.running.lock().expect("not poisoned").take());
        self.state.book().streams.clear();
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on this holds for `of`.
    pub fn say(&self, of: SocketAddr, says: Says) {
        let mut book = self.state.book();
        book.says.insert(of, Some(says.clone()));
        let answer = Answer { address: Some(address(of)), says: Some(says) };
        book.streams.retain(|stream| {
            !stream.follows.contains(&of) || stream.answers.send(Ok(answer.clone())).is_ok()
        });
    }

    /// Says nothing of `of`, not even that nobody knows it.
    pub fn keep_silent(&self, of: SocketAddr) {
        self.state.book().says.insert(of, None);
    }

    /// Sends this to everybody, whatever it is.
    pub fn send(&self, answer: &Answer) {
        self.state.book().streams.retain(|stream| stream.answers.send(Ok(answer.clone())).is_ok());
    }

    /// Refuses new streams, and ends those that are open.
    pub fn refuse(&self, status: Option<Status>) {
        let mut book = self.state.book();
        if let Some(status) = &status {
            for stream in std::mem::take(&mut book.streams) {
                let _ = stream.answers.send(Err(status.clone()));
            }
        }
        book.refuses = status;
    }

    /// Every question since the start: `+` to follow, `-` to forget.
    pub fn questions(&self) -> Vec<(char, SocketAddr)> {
        self.state.book().questions.clone()
    }

    /// Streams since the start.
    pub fn opened(&self) -> usize {
        self.state.book().opened
    }

    /// Waits until `addr` is followed on a stream that is open.
    pub async fn follows(&self, addr: SocketAddr) {
        eventually(format!("{addr} to be followed"), async || self.is_followed(addr).then_some(())).await;
    }

    /// Whether `addr` is followed on a stream that is open.
    pub fn is_followed(&self, addr: SocketAddr) -> bool {
        let book = self.state.book();
        book.streams.iter().any(|stream| stream.follows.contains(&addr) && !stream.answers.is_closed())
    }
}

/// Handshakes run beside each other.
async fn accept(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    accepted: mpsc::UnboundedSender<std::io::Result<DuplexStream>>,
) {
    loop {
        let Ok((tcp, _)) = listener.accept().await else { continue };
        let (config, accepted) = (Arc::clone(&config), accepted.clone());
        tokio::spawn(async move {
            if let Ok(mut stream) = TlsAcceptor::from(config).accept(tcp).await {
                // tonic takes streams that it knows.
                let (near, mut far) = tokio::io::duplex(64 << 10);
                let _ = accepted.send(Ok(near));
                let _ = copy_bidirectional(&mut stream, &mut far).await;
            }
        });
    }
}

struct Following(Arc<State>);

#[tonic::async_trait]
impl Service for Following {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<Answer, Status>> + Send>>;

    async fn follow(
        &self,
        request: Request<Streaming<Question>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let (answers, receiver) = mpsc::unbounded_channel();
        {
            let mut book = self.0.book();
            book.opened += 1;
            if let Some(status) = &book.refuses {
                return Err(status.clone());
            }
            book.streams.push(Follower { follows: BTreeSet::new(), answers: answers.clone() });
        }
        let (state, mut questions) = (Arc::clone(&self.0), request.into_inner());
        tokio::spawn(async move {
            while let Some(Ok(question)) = questions.next().await {
                state.book().asked(&answers, &question);
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))))
    }
}

// === impl State ===

impl State {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().expect("not poisoned")
    }
}

// === impl Book ===

impl Book {
    fn asked(&mut self, answers: &mpsc::UnboundedSender<Result<Answer, Status>>, question: &Question) {
        let (sign, named) = match &question.kind {
            Some(Kind::Follow(address)) => ('+', address),
            Some(Kind::Forget(address)) => ('-', address),
            None => panic!("a question without a meaning"),
        };
        let addr = socket(named).expect("an address");
        self.questions.push((sign, addr));
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.answers.same_channel(answers)) else {
            return;
        };
        if sign == '-' {
            stream.follows.remove(&addr);
            return;
        }
        if stream.follows.insert(addr) {
            let says = self.says.get(&addr).cloned().unwrap_or(Some(Says::Unknown(Unknown {})));
            if let Some(says) = says {
                let _ = answers.send(Ok(Answer { address: Some(named.clone()), says: Some(says) }));
            }
        }
    }
}

// === impl Running ===

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
