//! Bodies are streamed: who reads slowly slows the sender down, and fills nobody's memory.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mantlet_testkit::sidecar::Sidecar;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::timeout;

use crate::common::Inbound;
use crate::memory::Memory;

pub(crate) const MIB: usize = 1024 * 1024;
/// What a sidecar may hold for one body that nobody reads.
const ALLOWANCE: u64 = 8 * MIB as u64;
/// A sender that moves nothing for so long is blocked. On a busy machine it may only be slow; then
/// less is in flight, and the promise is easier to keep.
const BLOCKED: Duration = Duration::from_millis(700);

/// One direction of a transfer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Direction {
    Upload,
    Download,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Carrier {
    Http1,
    H2c,
    Tcp,
}

pub(crate) type Stream = Box<dyn Both>;
pub(crate) trait Both: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Both for T {}

/// Both ends of a body that flows through two sidecars, and the sidecars.
pub(crate) struct Transfer {
    pub(crate) from: Sending,
    pub(crate) to: Receiving,
    pub(crate) sidecars: [Sidecar; 2],
    pub(crate) before: [Memory; 2],
    pub(crate) _rest: Vec<Box<dyn Send>>,
}

pub(crate) enum Sending {
    Socket(Stream),
    H2(h2::SendStream<bytes::Bytes>),
}

pub(crate) enum Receiving {
    Socket(Stream),
    H2(h2::RecvStream, bytes::Bytes),
}

/// A listening app with small buffers of the kernel's: what is in flight is in the sidecars.
fn listen() -> (TcpListener, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    socket.set_send_buffer_size(64 * 1024).unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let listener = socket.listen(16).unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

async fn small_socket(addr: SocketAddr) -> Stream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    socket.set_send_buffer_size(64 * 1024).unwrap();
    let io = socket.connect(addr).await.unwrap();
    io.set_nodelay(true).unwrap();
    Box::new(io)
}

async fn read_head(io: &mut Stream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.unwrap());
    }
}

impl Transfer {
    /// Opens it: heads have been exchanged, no byte of the body has been sent.
    pub(crate) async fn open(carrier: Carrier, direction: Direction, length: usize) -> Self {
        let (listener, app) = listen();
        let (policy, rest) = match carrier {
            Carrier::Tcp => (format!("allow web/frontend to tcp on {}\n", app.port()), " as tcp"),
            _ => ("allow web/frontend to * /**\n".to_owned(), " as http"),
        };
        let inbound = Inbound::start(app, &policy).await;
        let (caller, addr) = inbound.caller("web/frontend", rest).await;
        let sidecars = [inbound.sidecar, caller];
        let accept = async || {
            let (io, _) = listener.accept().await.unwrap();
            io.set_nodelay(true).unwrap();
            let io: Stream = Box::new(io);
            io
        };
        let mut kept: Vec<Box<dyn Send>> = Vec::new();
        let (client, server): (Side, Side) = match carrier {
            Carrier::Tcp => {
                let (mut client, mut server) = (small_socket(addr).await, accept().await);
                // The path is open when a byte has come through.
                client.write_all(b"?").await.unwrap();
                server.read_u8().await.unwrap();
                (Side::Socket(client), Side::Socket(server))
            }
            Carrier::Http1 => {
                let mut client = small_socket(addr).await;
                let head = match direction {
                    Direction::Upload => {
                        format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
                    }
                    Direction::Download => "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
                };
                client.write_all(head.as_bytes()).await.unwrap();
                let mut server = accept().await;
                read_head(&mut server).await;
                if direction == Direction::Download {
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                    server.write_all(head.as_bytes()).await.unwrap();
                    read_head(&mut client).await;
                }
                (Side::Socket(client), Side::Socket(server))
            }
            Carrier::H2c => {
                let (mut send, driver) = h2::client::handshake(small_socket(addr).await).await.unwrap();
                kept.push(Box::new(tokio::spawn(driver)));
                let request =
                    http::Request::post("http://a/").version(http::Version::HTTP_2).body(()).unwrap();
                let end = direction == Direction::Download;
                let (response, up) = send.send_request(request, end).unwrap();
                let mut server = h2::server::handshake(accept().await).await.unwrap();
                let (request, mut respond) = server.accept().await.unwrap().unwrap();
                kept.push(Box::new(tokio::spawn(async move { while server.accept().await.is_some() {} })));
                kept.push(Box::new(send));
                match direction {
                    Direction::Upload => {
                        kept.push(Box::new((response, respond)));
                        (Side::Send(up), Side::Receive(request.into_body()))
                    }
                    Direction::Download => {
                        let head = http::Response::new(());
                        let down = respond.send_response(head, false).unwrap();
                        let body = response.await.unwrap().into_body();
                        kept.push(Box::new((up, respond, request)));
                        (Side::Receive(body), Side::Send(down))
                    }
                }
            }
        };
        let (from, to) = match direction {
            Direction::Upload => (client, server),
            Direction::Download => (server, client),
        };
        let before = [Memory::of(&sidecars[0]), Memory::of(&sidecars[1])];
        kept.push(Box::new(listener));
        Self { from: from.sending(), to: to.receiving(), sidecars, before, _rest: kept }
    }

    fn growth(&self) -> [u64; 2] {
        let now = |n: usize| Memory::of(&self.sidecars[n]).since(self.before[n]);
        [now(0), now(1)]
    }
}

enum Side {
    Socket(Stream),
    Send(h2::SendStream<bytes::Bytes>),
    Receive(h2::RecvStream),
}

impl Side {
    fn sending(self) -> Sending {
        match self {
            Self::Socket(io) => Sending::Socket(io),
            Self::Send(stream) => Sending::H2(stream),
            Self::Receive(_) => unreachable!("a sender"),
        }
    }

    fn receiving(self) -> Receiving {
        match self {
            Self::Socket(io) => Receiving::Socket(io),
            Self::Receive(stream) => Receiving::H2(stream, bytes::Bytes::new()),
            Self::Send(_) => unreachable!("a receiver"),
        }
    }
}

impl Sending {
    /// Writes some of `data`, as much as there is room for, and waits for room for one byte.
    async fn some(&mut self, data: &bytes::Bytes) -> io::Result<usize> {
        match self {
            Self::Socket(io) => io.write(data).await,
            Self::H2(stream) => {
                stream.reserve_capacity(data.len());
                loop {
                    if stream.capacity() > 0 {
                        let count = stream.capacity().min(data.len());
                        stream.send_data(data.slice(..count), false).map_err(io::Error::other)?;
                        return Ok(count);
                    }
                    let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
                    room.unwrap_or(Ok(0)).map_err(io::Error::other)?;
                }
            }
        }
    }

    pub(crate) fn end(&mut self) {
        if let Self::H2(stream) = self {
            stream.send_data(bytes::Bytes::new(), true).unwrap();
        }
    }
}

impl Receiving {
    /// Reads at most what fits; 0 at the end.
    async fn some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Socket(io) => io.read(buffer).await,
            Self::H2(stream, rest) => {
                while rest.is_empty() {
                    match stream.data().await {
                        Some(chunk) => *rest = chunk.map_err(io::Error::other)?,
                        None => return Ok(0),
                    }
                    stream.flow_control().release_capacity(rest.len()).map_err(io::Error::other)?;
                }
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest.split_to(count));
                Ok(count)
            }
        }
    }
}

/// Byte number `n` of every body here.
fn byte(n: usize) -> u8 {
    (n % 251) as u8
}

/// 251 KiB and some, so that any piece of the pattern is a slice of it.
pub(crate) fn pattern() -> bytes::Bytes {
    (0..251 * 1024).map(byte).collect::<Vec<u8>>().into()
}

/// Writes the bytes from `sent` to `length`.
pub(crate) async fn send(sending: &mut Sending, sent: &AtomicUsize, length: usize) -> io::Result<()> {
    let (pattern, mut done) = (pattern(), sent.load(Relaxed));
    while done < length {
        let from = done % 251;
        let to = pattern.len().min(from + (length - done));
        done += sending.some(&pattern.slice(from..to)).await?;
        sent.store(done, Relaxed);
    }
    Ok(())
}

/// Reads and checks the bytes from `received` to `length`.
pub(crate) async fn receive(receiving: &mut Receiving, received: &mut usize, length: usize) {
    let mut buffer = vec![0; 256 * 1024];
    let expected = pattern();
    while *received < length {
        let room = buffer.len().min(length - *received);
        let count = receiving.some(&mut buffer[..room]).await.unwrap();
        assert!(count > 0, "ended after {received} of {length} bytes");
        let mut checked = 0;
        while checked < count {
            let from = (*received + checked) % 251;
            let run = (expected.len() - from).min(count - checked);
            assert!(
                buffer[checked..checked + run] == expected[from..from + run],
                "a byte is wrong near {received}"
            );
            checked += run;
        }
        *received += count;
    }
}

pub(crate) const ALL: [(Carrier, Direction); 6] = [
    (Carrier::Http1, Direction::Upload),
    (Carrier::Http1, Direction::Download),
    (Carrier::H2c, Direction::Upload),
    (Carrier::H2c, Direction::Download),
    (Carrier::Tcp, Direction::Upload),
    (Carrier::Tcp, Direction::Download),
];

#[tokio::test]
async fn a_reader_that_stops_reading_costs_at_most_eight_mebibytes_in_each_sidecar() {
    for (carrier, direction) in ALL {
        let length = 256 * MIB;
        let mut transfer = Transfer::open(carrier, direction, length).await;
        let sent = AtomicUsize::new(0);
        // Push until nothing moves any more.
        loop {
            let before = sent.load(Relaxed);
            let _ = timeout(BLOCKED, send(&mut transfer.from, &sent, length)).await;
            if sent.load(Relaxed) == before {
                break;
            }
        }
        let sent = sent.into_inner();
        assert!(sent > 0 && sent < length / 2, "{carrier:?} {direction:?}: {sent} bytes are on their way");
        let growth = transfer.growth();
        eprintln!("{carrier:?} {direction:?}: {sent} bytes under way, grown by {growth:?} bytes");
        assert!(growth.iter().all(|grown| *grown <= ALLOWANCE), "{carrier:?} {direction:?}: {growth:?}");
        // Nothing was lost: a slow reader gets all of it.
        receive(&mut transfer.to, &mut 0, sent).await;
    }
}

/// Writes that the kernel takes in crumbs, towards a reader that takes them in crumbs.
#[tokio::test]
async fn sockets_that_take_a_few_bytes_at_a_time_lose_none() {
    for (carrier, direction) in ALL {
        let length = 300_000;
        let mut transfer = Transfer::open(carrier, direction, length).await;
        let sending = async {
            let (mut sent, pattern) = (0, pattern());
            let mut sizes = [1, 7, 1400, 3, 9000, 16_385, 250].into_iter().cycle();
            while sent < length {
                let from = sent % 251;
                let size = sizes.next().unwrap().min(length - sent);
                sent += transfer.from.some(&pattern.slice(from..from + size)).await.unwrap();
                tokio::task::yield_now().await;
            }
            transfer.from.end();
        };
        let receiving = async {
            let mut received = 0;
            let mut sizes = [3, 1, 4096, 17, 1].into_iter().cycle();
            let mut buffer = vec![0; 4096];
            while received < length {
                let count = transfer.to.some(&mut buffer[..sizes.next().unwrap()]).await.unwrap();
                assert!(count > 0, "ended after {received} bytes");
                let right = (0..count).all(|n| buffer[n] == byte(received + n));
                assert!(right, "{carrier:?} {direction:?}: a byte is wrong near {received}");
                received += count;
            }
        };
        let both = async { tokio::join!(sending, receiving) };
        mantlet_testkit::within(format!("{carrier:?} {direction:?}"), both).await;
    }
}
