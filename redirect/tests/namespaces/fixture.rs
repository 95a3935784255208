//! A pod with rules and a stand-in for the sidecar.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mantlet_testkit::netns::{Lab, Place, SIDECAR, runnable};
use mantlet_testkit::within;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub(crate) const INBOUND: u16 = 24143;
pub(crate) const OUTBOUND: u16 = 24140;
pub(crate) const HEALTH: u16 = 24190;

/// The built program with these arguments, for [`Place::command`].
pub(crate) fn init(arguments: &str) -> String {
    format!("{} {arguments}", runnable(env!("CARGO_BIN_EXE_mantlet-init")).display())
}

/// A pod with the rules of these arguments.
pub(crate) async fn intercepted(arguments: &str) -> Lab {
    let lab = Lab::new().await;
    lab.pod.command(&init(arguments)).await;
    lab
}

/// Listens on an address of the place; each family's listener is for that family alone.
pub(crate) fn listen(addr: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_reuse_address(true).unwrap();
    if addr.is_ipv6() {
        socket.set_only_v6(true).unwrap();
    }
    socket.set_nonblocking(true).unwrap();
    socket.bind(&addr.into()).unwrap_or_else(|error| panic!("{addr}: {error}"));
    socket.listen(4096).unwrap();
    TcpListener::from_std(socket.into()).unwrap()
}

/// Where the client of a connection wanted to go, as the kernel remembers it.
fn wanted(tcp: &TcpStream) -> SocketAddr {
    let socket = SockRef::from(tcp);
    let asked = match tcp.local_addr().unwrap() {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    asked.unwrap().as_socket().unwrap()
}

/// Answers each connection with a word and closes it. Ends when it is dropped.
pub(crate) struct Server {
    _tasks: JoinSet<()>,
    accepted: Arc<AtomicUsize>,
}

// === impl Server ===

impl Server {
    /// What an application is: it says `direct`.
    pub(crate) async fn app(place: &Place, addrs: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self::start(place, addrs.into_iter().map(|addr| (addr, "direct")).collect()).await
    }

    /// What a sidecar is to the rules: it says `in` or `out`, and where the client wanted to go.
    pub(crate) async fn sidecar(lab: &Lab) -> Self {
        Self::sidecar_of(lab, &[Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]).await
    }

    /// The same for these families.
    pub(crate) async fn sidecar_of(lab: &Lab, any: &[IpAddr]) -> Self {
        let mut listeners = Vec::new();
        for any in any {
            let loopback: IpAddr =
                if any.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            listeners.push((SocketAddr::new(*any, INBOUND), "in"));
            listeners.push((SocketAddr::new(*any, HEALTH), "health"));
            listeners.push((SocketAddr::new(loopback, OUTBOUND), "out"));
        }
        Self::start(&lab.sidecar, listeners).await
    }

    async fn start(place: &Place, addrs: Vec<(SocketAddr, &'static str)>) -> Self {
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let serve = async move {
            let mut tasks = JoinSet::new();
            for (addr, word) in addrs {
                let (listener, count) = (listen(addr), Arc::clone(&count));
                tasks.spawn(async move {
                    let mut connections = JoinSet::new();
                    while let Ok((tcp, _)) = listener.accept().await {
                        count.fetch_add(1, Ordering::Relaxed);
                        connections.spawn(answer(tcp, word));
                        while connections.try_join_next().is_some() {}
                    }
                });
            }
            tasks
        };
        Self { _tasks: place.run(serve).await, accepted }
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// The word at once; then whatever the client says, as an echo, until it is done.
async fn answer(mut tcp: TcpStream, word: &'static str) {
    let said = match word {
        "in" | "out" => format!("{word} {}\n", wanted(&tcp)),
        word => format!("{word}\n"),
    };
    let _ = tcp.write_all(said.as_bytes()).await;
    let (mut read, mut write) = tcp.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

/// What the server behind this address says to a connection from this place.
pub(crate) async fn ask(place: &Place, addr: SocketAddr) -> Result<String, ErrorKind> {
    place
        .run(async move {
            let asked = async {
                let mut tcp = TcpStream::connect(addr).await?;
                tcp.shutdown().await?;
                let mut said = String::new();
                tcp.read_to_string(&mut said).await?;
                Ok(said.trim_end().to_owned())
            };
            within(format!("an answer from {addr}"), asked)
                .await
                .map_err(|error: std::io::Error| error.kind())
        })
        .await
}

/// The same, and it must be answered.
pub(crate) async fn answered(place: &Place, addr: SocketAddr) -> String {
    ask(place, addr).await.unwrap_or_else(|error| panic!("{addr}: {error}"))
}

/// The user and group of the sidecar.
pub(crate) const X: u32 = SIDECAR;
