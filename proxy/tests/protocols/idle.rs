//! Ten thousand connections on which nothing happens.

use std::net::SocketAddr;
use std::time::Duration;

use mantlet_testkit::Io;
use mantlet_testkit::apps::{App, Protocol};
use mantlet_testkit::client::{Http1, Request, connect};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::common::{Inbound, app_and_inbound, sidecar};
use crate::memory::{Memory, full_size};

const ALLOW: &str = "allow web/frontend to * /**\n";
/// Bytes that a sidecar may hold for one: buffers that grow with idle connections would pass it.
const LIMIT: u64 = 64 * 1024;
/// Connections that are being opened at a time.
const AT_ONCE: usize = 32;
/// What a process needs for other things.
const OTHER_FILES: u64 = 500;
/// One of these tests at a time: they share the descriptors of this process.
static ALONE: Mutex<()> = Mutex::const_new(());

/// As many connections as asked, or as the hard limit of open files lets this process and its children
/// have each: the soft limit is raised to it.
fn affordable(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(1 << 20);
    setrlimit(Resource::Nofile, Rlimit { current: Some(hard), maximum: limit.maximum }).unwrap();
    let affordable = usize::try_from(hard.saturating_sub(OTHER_FILES)).unwrap_or(wanted);
    if affordable < wanted {
        eprintln!("only {affordable} of {wanted} connections: the hard limit of open files is {hard}");
    }
    affordable.min(wanted)
}

/// Opens so many and uses each once.
async fn open(count: usize, make: impl Fn() -> Connecting) -> Vec<Http1> {
    let (mut opening, mut open) = (JoinSet::new(), Vec::new());
    for _ in 0..count {
        if opening.len() >= AT_ONCE {
            open.push(opening.join_next().await.unwrap().unwrap());
        }
        let connection = make();
        opening.spawn(async move {
            let mut client = Http1::new(connection.await);
            assert_eq!(client.send(&Request::get("/")).await.unwrap().status, 200);
            client
        });
    }
    while let Some(connection) = opening.join_next().await {
        open.push(connection.unwrap());
    }
    open
}

type Connecting = std::pin::Pin<Box<dyn Future<Output = Io> + Send>>;

/// Closed with a reset: ten thousand ports that wait for late segments would be missing elsewhere.
async fn plain(addr: SocketAddr) -> Io {
    let io = connect(addr).await;
    SockRef::from(&io).set_linger(Some(Duration::ZERO)).unwrap();
    Box::new(io)
}

/// All of them still work: each is used again.
async fn all_answer(connections: &mut [Http1]) {
    for client in connections {
        assert_eq!(client.send(&Request::get("/")).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn ten_thousand_idle_connections_of_an_app_are_kept_and_cost_little() {
    let _alone = ALONE.lock().await;
    let count = affordable(10_000);
    let (_app, inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
    let caller =
        sidecar().identity(&inbound.authority.workload("web/frontend")).arg("--max-connections", "12000");
    let caller = caller.outbound(inbound.addr, "shop/orders as http").start().await;
    let addr = caller.outbound(0).await;
    let mut first = open(10, || Box::pin(plain(addr))).await;
    let before = Memory::of(&caller);
    let mut idle = open(count, || Box::pin(plain(addr))).await;
    let each = Memory::of(&caller).since(before) / count as u64;
    eprintln!("{count} idle connections of an app: {each} bytes each");
    assert!(each <= LIMIT, "{each} bytes for an idle connection");
    all_answer(&mut idle).await;
    all_answer(&mut first).await;
}

#[tokio::test]
async fn ten_thousand_idle_peers_are_kept_and_cost_little() {
    let _alone = ALONE.lock().await;
    // A handshake costs milliseconds in a build for tests: the full number is for CI.
    let count = affordable(if full_size() { 10_000 } else { 500 });
    let app = App::start(Protocol::Http1).await;
    let inbound = Inbound::with(app.addr(), |sidecar| {
        sidecar.policy(ALLOW).arg("--max-connections", "12000").arg("--max-connections-per-peer", "12000")
    })
    .await;
    let peer = inbound.peer("web/frontend").alpn(&["http/1.1"]);
    let addr = inbound.addr;
    let make = || -> Connecting {
        let peer = peer.clone();
        Box::pin(async move { peer.connect(addr).await.into_io() })
    };
    let mut first = open(10, make).await;
    let before = Memory::of(&inbound.sidecar);
    let mut idle = open(count, make).await;
    let each = Memory::of(&inbound.sidecar).since(before) / count as u64;
    eprintln!("{count} idle peers: {each} bytes each");
    assert!(each <= LIMIT, "{each} bytes for an idle peer");
    all_answer(&mut idle).await;
    all_answer(&mut first).await;
}
