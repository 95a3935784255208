//! Cables: what stands between two sockets, and can be held up or broken at any byte.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::wait::eventually;

/// Relays every connection to one place, byte by byte as it comes, until the test breaks them.
#[derive(Debug)]
pub struct Cable {
    addr: SocketAddr,
    to: SocketAddr,
    state: Arc<State>,
    accepting: AbortHandle,
}

/// How many bytes of a connection go through; what follows stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Through {
    /// Of the side that connected.
    pub there: usize,
    /// Of the side that accepted.
    pub back: usize,
}

/// How far the newest connection has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Bytes of the side that connected.
    pub there: usize,
    /// Bytes of the side that accepted.
    pub back: usize,
    /// Bytes that the side that connected had sent before the other one said anything.
    pub greeting: usize,
}

#[derive(Debug)]
struct State {
    through: Mutex<Through>,
    /// Changes when all connections are to break.
    broken: watch::Sender<usize>,
    /// Whether nothing goes through for now.
    held: watch::Sender<bool>,
    /// One for each connection, in order: its local address towards the other end, and what has passed.
    links: watch::Sender<Vec<(SocketAddr, Passed)>>,
}

// === impl Through ===

impl Through {
    /// Everything.
    pub const ALL: Self = Self { there: usize::MAX, back: usize::MAX };

    /// So many bytes of the side that connects.
    pub fn there(bytes: usize) -> Self {
        Self { there: bytes, ..Self::ALL }
    }

    /// So many bytes of the side that accepts.
    pub fn back(bytes: usize) -> Self {
        Self { back: bytes, ..Self::ALL }
    }
}

// === impl Cable ===

impl Cable {
    /// A cable that leads there, from wherever there is room.
    pub async fn to(to: SocketAddr) -> Self {
        Self::between(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), to).await
    }

    /// A cable that leads from here to there.
    pub async fn between(from: SocketAddr, to: SocketAddr) -> Self {
        let listener = TcpListener::bind(from).await.expect("a port that is free");
        let addr = listener.local_addr().expect("bound");
        let state = Arc::new(State {
            through: Mutex::new(Through::ALL),
            broken: watch::Sender::new(0),
            held: watch::Sender::new(false),
            links: watch::Sender::new(Vec::new()),
        });
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(to).await else { continue };
                tokio::spawn(link(near, far, Arc::clone(&shared)));
            }
        });
        Self { addr, to, state, accepting: accepting.abort_handle() }
    }

    /// Where it begins.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Lets so much of every later connection through.
    pub fn let_through(&self, through: Through) {
        *self.state.through.lock().unwrap_or_else(PoisonError::into_inner) = through;
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.state.links.borrow().len()
    }

    /// Waits until the newest connection has come so far, and gives how far it has come.
    pub async fn passed(&self, what: &str, enough: impl Fn(Passed) -> bool) -> Passed {
        eventually(what, async || self.newest().map(|(_, passed)| passed).filter(|passed| enough(*passed)))
            .await
    }

    /// Waits until whoever the newest connection leads to has accepted it and read all that went there.
    pub async fn read(&self) {
        eventually("what went through the cable to be read", async || {
            let (from, _) = self.newest()?;
            let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
            let (local, remote) = (in_table(self.to), in_table(from));
            table.lines().find_map(|line| {
                // sl, local, remote, state, tx:rx queues, timer, retransmissions, uid, timeout, inode: no
                // inode before somebody has accepted it.
                let fields: Vec<_> = line.split_whitespace().collect();
                let here = fields.get(1) == Some(&local.as_str()) && fields.get(2) == Some(&remote.as_str());
                let empty = fields.get(4).is_some_and(|queues| queues.ends_with(":00000000"));
                (here && empty && fields.get(9).is_some_and(|inode| *inode != "0")).then_some(())
            })
        })
        .await;
    }

    /// From now on nothing goes through any more, in either direction: all connections stay open, and new ones are
    /// accepted.
    pub fn hold(&self) {
        self.state.held.send_replace(true);
    }

    /// Resets both ends of every connection.
    pub fn reset(&self) {
        self.state.broken.send_modify(|count| *count += 1);
    }

    fn newest(&self) -> Option<(SocketAddr, Passed)> {
        self.state.links.borrow().last().copied()
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn link(mut near: TcpStream, mut far: TcpStream, state: Arc<State>) {
    let mut broken = state.broken.subscribe();
    let through = *state.through.lock().unwrap_or_else(PoisonError::into_inner);
    let (from, mut number) = (far.local_addr().expect("connected"), 0);
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    state.links.send_modify(|links| {
        number = links.len();
        links.push((from, Passed::default()));
    });
    let count = |change: &dyn Fn(&mut Passed)| state.links.send_modify(|links| change(&mut links[number].1));
    let ((near_read, near_write), (far_read, far_write)) = (near.split(), far.split());
    tokio::select! {
        _ = async {
            tokio::join!(
                relay(near_read, far_write, through.there, &state.held, |bytes| count(&|passed| {
                    passed.there += bytes;
                    passed.greeting += if passed.back == 0 { bytes } else { 0 };
                })),
                relay(far_read, near_write, through.back, &state.held, |bytes| count(&|passed| passed.back += bytes)),
            )
        } => {}
        _ = broken.changed() => {
            let _ = (near.set_zero_linger(), far.set_zero_linger());
        }
    }
}

/// Until the end, or for ever once nothing goes through any more.
async fn relay(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut through: usize,
    held: &watch::Sender<bool>,
    passed: impl Fn(usize),
) {
    let mut buffer = vec![0; 16 * 1024];
    let mut held = held.subscribe();
    while through > 0 {
        let room = through.min(buffer.len());
        let Ok(count @ 1..) = from.read(&mut buffer[..room]).await else {
            let _ = to.shutdown().await;
            return;
        };
        let _ = held.wait_for(|held| !held).await;
        // Counted first: whoever waits for an answer to it must find it counted.
        passed(count);
        through -= count;
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    std::future::pending().await
}

/// An IPv4 address as `/proc/net/tcp` writes it: in the byte order of the machine.
fn in_table(addr: SocketAddr) -> String {
    let SocketAddr::V4(v4) = addr else { panic!("{addr} is not IPv4") };
    format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port())
}
