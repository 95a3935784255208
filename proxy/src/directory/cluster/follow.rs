//! The stream to the directory: opened, kept, and opened again.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use hyper_util::rt::TokioIo;
use mantlet_identity::{Credentials, ExpectedPeer, HandshakeReason, IdentityHandle, PeerIdentity};
use mantlet_proto::directory::{Answer, directory_client::DirectoryClient};
use rustls::pki_types::ServerName;
use tokio::{
    net::TcpStream,
    time::{self, MissedTickBehavior},
};
use tokio_rustls::TlsConnector;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};

use super::{Cluster, questions::Questions};
use crate::{
    config::{DirectoryServer, UpstreamAddr},
    dns::Resolver,
    io::BoxIo,
    log::Log,
    metrics::{DirectoryEnd, DirectoryState},
};

/// An address that does not take a connection in this time counts as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// So long may the handshake and the beginning of the stream take.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection on which nothing comes is asked for a sign of life so often, and has as long to give it.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// How often what nobody uses any more is looked for, and that the directory is still there is noted.
const ROUND: Duration = Duration::from_secs(5);
/// The pause after a stream that lasted, or after the first attempt that failed: doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A stream that has lived this long ended for a reason of its own.
const SETTLED: Duration = Duration::from_secs(5);
/// Servers that are tried one after the other before the name is looked up again.
const MOST_TRIES: usize = 8;
/// The ALPN of HTTP/2 (RFC 9113, 3.1).
const H2: &[u8] = b"h2";

/// Follows the directory, on the control thread.
pub struct Follower {
    /// Where its answers go.
    pub cluster: Cluster,
    /// Where it is, and who it must be.
    pub server: DirectoryServer,
    /// The own identity.
    pub identity: IdentityHandle,
    /// Finds its addresses.
    pub resolver: Resolver,
    /// Says when it comes and goes.
    pub log: Log,
}

/// A stream that was opened.
struct Open {
    answers: Streaming<Answer>,
    /// The connection lives as long as the stream.
    _client: DirectoryClient<Channel>,
    at: SocketAddr,
    peer: PeerIdentity,
    /// By which the peer was verified last.
    credentials: Arc<Credentials>,
}

/// Why there is no stream any more.
struct Ended {
    reason: DirectoryEnd,
    cause: String,
}

// === impl Follower ===

impl Follower {
    /// Keeps the answers up to date. Never returns.
    pub async fn run(self) {
        let (mut failures, mut said, mut servers) = (0, None, Vec::new());
        loop {
            let credentials = self.credentials().await;
            let opened = self.open(&mut servers, &credentials).await;
            let (ended, lived) = match opened {
                Ok(open) => {
                    let since = Instant::now();
                    self.connected(&open);
                    said = None;
                    (self.follow(open).await, since.elapsed())
                }
                Err(ended) => (ended, Duration::ZERO),
            };
            self.cluster.shared.book().disconnected(Instant::now());
            self.ended(&ended, &mut said);
            failures = if lived >= SETTLED { 0 } else { failures + 1 };
            time::sleep(pause(failures)).await;
        }
    }

    /// Waits for an own identity, without which there is nothing to connect with.
    async fn credentials(&self) -> Arc<Credentials> {
        let mut changes = self.identity.subscribe();
        loop {
            if let Some(credentials) = self.identity.credentials() {
                return credentials;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Tries the server's addresses from a random one on: sidecars spread over its replicas. `servers` are those that
    /// were found last.
    async fn open(
        &self,
        servers: &mut Vec<SocketAddr>,
        credentials: &Arc<Credentials>,
    ) -> Result<Open, Ended> {
        match self.addresses().await {
            Ok(found) => *servers = found,
            // Where they were they may still be; whoever is there has to prove who it is.
            Err(_) if !servers.is_empty() => {}
            Err(ended) => return Err(ended),
        }
        let mut last = Ended::new(DirectoryEnd::Dns, "its name has no address");
        let from = random(servers.len());
        servers.rotate_left(from);
        for at in servers.iter().take(MOST_TRIES) {
            match self.begin(*at, credentials).await {
                Ok(open) => return Ok(open),
                Err(ended) => last = ended,
            }
        }
        Err(last)
    }

    /// Where the server is by now: a name is asked for each time. None, where it has no address.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, Ended> {
        match &self.server.addr {
            UpstreamAddr::Ip(addr) => Ok(vec![*addr]),
            UpstreamAddr::Name { host, port } => {
                let found = self.resolver.lookup(host).await;
                let found = found.map_err(|error| Ended::new(DirectoryEnd::Dns, error.to_string()))?;
                Ok(found.addresses.into_iter().map(|ip| SocketAddr::new(ip, *port)).collect())
            }
        }
    }

    async fn begin(&self, at: SocketAddr, credentials: &Arc<Credentials>) -> Result<Open, Ended> {
        let tcp = match time::timeout(CONNECT_TIMEOUT, TcpStream::connect(at)).await {
            Ok(connected) => {
                connected.map_err(|error| Ended::new(DirectoryEnd::Connect, format!("{at}: {error}")))?
            }
            Err(_) => return Err(Ended::new(DirectoryEnd::Connect, format!("{at} does not answer"))),
        };
        let began = time::timeout(BEGIN_TIMEOUT, async {
            let (io, peer) = self.handshake(tcp, at, credentials).await?;
            let mut client = DirectoryClient::new(channel(io).await?);
            let shared = Arc::clone(&self.cluster.shared);
            let stream = shared.book().begin();
            let answers = client.follow(Questions { shared, stream }).await;
            let answers = answers.map_err(|status| Ended::of(&status))?.into_inner();
            Ok(Open { answers, _client: client, at, peer, credentials: Arc::clone(credentials) })
        });
        began.await.unwrap_or_else(|_| Err(Ended::new(DirectoryEnd::Lost, format!("{at} begins no stream"))))
    }

    async fn handshake(
        &self,
        tcp: TcpStream,
        at: SocketAddr,
        credentials: &Arc<Credentials>,
    ) -> Result<(BoxIo, PeerIdentity), Ended> {
        // Without it a question waits for the acknowledgement of the one before.
        let _ = tcp.set_nodelay(true);
        let expected = ExpectedPeer::one(self.server.id.clone());
        let (config, handshake) = credentials.client_handshake(expected, &[H2]);
        let name = ServerName::IpAddress(at.ip().into());
        let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(|error| {
            let reason = HandshakeReason::of_io(&error);
            let end = match reason {
                HandshakeReason::PeerNotExpected => DirectoryEnd::Identity,
                _ => DirectoryEnd::Tls,
            };
            Ended::new(end, format!("{at}: {reason}"))
        })?;
        let connection = stream.get_ref().1;
        if connection.alpn_protocol() != Some(H2) {
            return Err(Ended::new(DirectoryEnd::Tls, format!("{at} does not speak HTTP/2")));
        }
        match handshake.verified(connection) {
            Some(peer) => Ok((Box::new(stream), peer)),
            None => Err(Ended::new(DirectoryEnd::Tls, format!("{at} has not proved who it is"))),
        }
    }

    /// Takes answers over until there are no more.
    async fn follow(&self, mut open: Open) -> Ended {
        let shared = &self.cluster.shared;
        let own = open.credentials.id().trust_domain().clone();
        let mut identities = self.identity.subscribe();
        let mut rounds = time::interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                answer = open.answers.message() => match answer {
                    Ok(Some(answer)) => {
                        let kind = self.cluster.answered(&answer, &own);
                        shared.metrics.directory_answered(kind);
                        shared.metrics.directory_heard();
                    }
                    Ok(None) => return Ended::new(DirectoryEnd::Refused, "the directory ended the stream"),
                    Err(status) => return Ended::of(&status),
                },
                changed = identities.changed() => if changed.is_err() {
                    return Ended::new(DirectoryEnd::Renewed, "the sidecar stops");
                },
                _ = rounds.tick() => {
                    // It answers to signs of life, or the stream would have ended.
                    shared.metrics.directory_heard();
                    let addresses = {
                        let (mut book, now) = (shared.book(), Instant::now());
                        book.forget_unused(now);
                        book.ask_again(now);
                        book.len()
                    };
                    shared.metrics.directory_follows(addresses);
                }
            }
            if !self.still_stands(&mut open) {
                return Ended::new(DirectoryEnd::Renewed, "identities have changed since the stream began");
            }
        }
    }

    /// Whether the identities that the connection was made with are as good as they were. Signatures are verified
    /// once for each change of them, and not for each answer.
    fn still_stands(&self, open: &mut Open) -> bool {
        let now = SystemTime::now();
        let Some(own) = self.identity.credentials() else { return false };
        if own.generation() != open.credentials.generation() {
            if own.reverify(&open.peer, now).is_err() {
                return false;
            }
            open.credentials = own;
        }
        now < open.peer.not_after()
    }

    fn connected(&self, open: &Open) {
        self.cluster.shared.book().connected();
        let metrics = &self.cluster.shared.metrics;
        metrics.directory_is(DirectoryState::Connected);
        metrics.directory_heard();
        let at = open.at.to_string();
        self.log.event("directory_connected", &[("addr", at.as_str().into())]);
    }

    /// Says an end; the same cause once, however often it is tried again.
    fn ended(&self, ended: &Ended, said: &mut Option<DirectoryEnd>) {
        let metrics = &self.cluster.shared.metrics;
        metrics.directory_is(DirectoryState::Away);
        metrics.directory_ended(ended.reason);
        if said.replace(ended.reason) != Some(ended.reason) {
            let (reason, cause) = (ended.reason.as_str(), ended.cause.as_str());
            tracing::warn!(event = "directory_away", reason, cause, hint = "what it said holds on");
            self.log.event("directory_away", &[("reason", reason.into()), ("cause", cause.into())]);
        }
    }
}

/// HTTP/2 on a connection that has proved who is at its other end.
async fn channel(io: BoxIo) -> Result<Channel, Ended> {
    // The name is only for the `:authority` of HTTP/2.
    let endpoint = Endpoint::from_static("http://directory")
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    // There is one connection, and no other in its place once it is gone.
    let mut io = Some(io);
    let connector = tower::service_fn(move |_: Uri| {
        let io = io.take().map(TokioIo::new).ok_or(io::ErrorKind::NotConnected);
        std::future::ready(io.map_err(io::Error::from))
    });
    let connected = endpoint.connect_with_connector(connector).await;
    connected.map_err(|error| Ended::new(DirectoryEnd::Lost, error.to_string()))
}

/// How long to wait after so many failures in a row: a random part of it is left out, so that the sidecars of
/// a cluster do not come back in step.
fn pause(failures: u32) -> Duration {
    let longest = FIRST_PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE);
    longest / 2 + (longest / 2).mul_f64(f64::from(u8::try_from(random(256)).unwrap_or(u8::MAX)) / 255.0)
}

/// A random number below `bound`; 0 for 0. Nothing secret hangs on it.
fn random(bound: usize) -> usize {
    let bits = RandomState::new().build_hasher().finish();
    usize::try_from(bits % u64::try_from(bound).unwrap_or(u64::MAX).max(1)).unwrap_or_default()
}

// === impl Ended ===

impl Ended {
    fn new(reason: DirectoryEnd, cause: impl Into<String>) -> Self {
        Self { reason, cause: cause.into() }
    }

    /// The server's own end of the stream, or that of the connection.
    fn of(status: &Status) -> Self {
        // What the connection says has a source; what the server says has none.
        let lost = std::error::Error::source(status).is_some();
        let reason = if lost { DirectoryEnd::Lost } else { DirectoryEnd::Refused };
        // The other side chose the text.
        let text: String = status.message().chars().filter(|c| !c.is_control()).take(200).collect();
        Self::new(reason, format!("{}: {text}", status.code().description()))
    }
}
