//! The rows of the matrix. The numbers are those of docs/performance.md.

use std::io;
use std::time::{Duration, Instant};

use crate::load::{self, Load};
use crate::machine::{self, Usage};
use crate::peers::{Caller, Pair, Peer, Stage};
use crate::process::{get, wait_for_status};

/// A row in which a load generator runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadRow {
    pub(crate) number: u8,
    pub(crate) title: &'static str,
    pub(crate) connections: usize,
    tcp: bool,
    reconnect: bool,
}

/// One measurement of one pair.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Processor time of both sidecars per request, in microseconds.
    pub(crate) cpu_us: f64,
    /// Processor time of origin and load generator per request: the control, the same for all pairs.
    pub(crate) control_us: f64,
    /// Processors that somebody else kept busy meanwhile.
    pub(crate) foreign: f64,
    pub(crate) load: Load,
}

/// Memory of one pair, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) outbound_pss: u64,
    pub(crate) inbound_pss: u64,
    pub(crate) inbound_rss: u64,
    /// Growth of both sidecars per idle connection of the application.
    pub(crate) per_http: f64,
    /// The same where the sidecars relay bytes.
    pub(crate) per_tcp: f64,
}

/// From exec to the first answer through a warm peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

const fn keep_alive(connections: usize) -> LoadRow {
    LoadRow { number: 1, title: "HTTP/1.1 keep-alive, 128 B", connections, tcp: false, reconnect: false }
}

/// Rows 1, 7 and 9.
pub(crate) const LOAD_ROWS: [LoadRow; 6] = [
    keep_alive(16),
    keep_alive(64),
    keep_alive(1),
    keep_alive(256),
    LoadRow { number: 7, title: "TCP ping-pong, 128 B", connections: 16, tcp: true, reconnect: false },
    LoadRow {
        number: 9,
        title: "new mTLS connection per request",
        connections: 16,
        tcp: true,
        reconnect: true,
    },
];

// === impl LoadRow ===

impl LoadRow {
    /// Whether this pair has anything of its own to show in this row.
    pub(crate) fn wants(&self, peer: Peer) -> bool {
        !self.tcp || peer.is_the_family()
    }

    /// Starts the pair afresh, warms it up and measures it for `duration`.
    pub(crate) fn measure(
        &self,
        stage: &Stage,
        origin: u32,
        peer: Peer,
        duration: Duration,
    ) -> io::Result<Sample> {
        let pair = stage.pair(peer)?;
        let port = if self.tcp { peer.tcp_port() } else { peer.http_port() };
        load::run(port, self.connections, Duration::from_secs(1), self.reconnect)?;
        let before = Counters::now(&pair, origin)?;
        let load = load::run(port, self.connections, duration, self.reconnect)?;
        let after = Counters::now(&pair, origin)?;
        if load.requests == 0 || load.errors * 1000 > load.requests {
            return Err(io::Error::other(format!(
                "{}: {} errors in {} requests",
                peer.label(),
                load.errors,
                load.requests
            )));
        }
        let (sidecars, control) = (after.sidecars - before.sidecars, after.control - before.control);
        #[allow(clippy::cast_precision_loss)]
        let per_request = |time: Duration| time.as_secs_f64() * 1e6 / load.requests as f64;
        Ok(Sample {
            cpu_us: per_request(sidecars),
            control_us: per_request(control),
            foreign: after.usage.foreign_since(&before.usage, sidecars + control),
            load,
        })
    }
}

struct Counters {
    sidecars: Duration,
    control: Duration,
    usage: Usage,
}

// === impl Counters ===

impl Counters {
    fn now(pair: &Pair, origin: u32) -> io::Result<Self> {
        Ok(Self {
            sidecars: pair.pids().into_iter().map(machine::cpu_time).sum(),
            control: machine::cpu_time(origin) + load::finished_children(),
            usage: Usage::now()?,
        })
    }
}

/// Before anything is timed: the pair answers 200 to the right caller and refuses the wrong one and
/// one without a certificate. A pair that skips this work would win every row.
pub(crate) fn check_fairness(stage: &Stage, peer: Peer) -> io::Result<()> {
    if peer == Peer::Direct {
        return Ok(());
    }
    let pair = stage.pair(peer)?;
    let tcp = load::idle(peer.tcp_port(), 1);
    tcp.map_err(|error| io::Error::other(format!("{}: TCP does not pass: {error}", peer.label())))?;
    let without = std::process::Command::new("curl")
        .args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5"])
        .arg(format!("https://127.0.0.1:{}/", peer.inbound_port()))
        .output()?;
    let code = String::from_utf8_lossy(&without.stdout).into_owned();
    if code != "000" {
        return Err(io::Error::other(format!("{}: a caller without a certificate got {code}", peer.label())));
    }
    drop(pair.outbound);
    let intruder = stage.outbound(peer, Caller::Intruder)?;
    stage.ready(peer.http_port(), 403, &intruder)?;
    if load::idle(peer.tcp_port(), 1).is_ok() {
        return Err(io::Error::other(format!("{}: the wrong identity passes on TCP", peer.label())));
    }
    Ok(())
}

/// Row 12: memory after one request, and what each of `count` idle connections adds.
pub(crate) fn memory(stage: &Stage, peer: Peer, count: usize) -> io::Result<Memory> {
    let limit = Duration::from_secs(15);
    let both = |pair: &Pair| -> u64 {
        pair.pids().iter().for_each(|pid| machine::settle(*pid, limit));
        pair.pids().into_iter().map(machine::anonymous).sum()
    };
    #[allow(clippy::cast_precision_loss)]
    let growth = |port: u16| -> io::Result<f64> {
        let pair = stage.pair(peer)?;
        let before = both(&pair);
        let _connections = load::idle(port, count)?;
        let after = both(&pair);
        Ok(after.saturating_sub(before) as f64 / count as f64)
    };
    let pair = stage.pair(peer)?;
    both(&pair);
    let outbound = pair.outbound.as_ref().map_or(0, |process| machine::pss(process.pid()));
    let inbound = pair
        .inbound
        .as_ref()
        .map_or((0, 0), |process| (machine::pss(process.pid()), machine::rss(process.pid())));
    drop(pair);
    Ok(Memory {
        outbound_pss: outbound,
        inbound_pss: inbound.0,
        inbound_rss: inbound.1,
        per_http: growth(peer.http_port())?,
        per_tcp: growth(peer.tcp_port())?,
    })
}

/// Row 15: a sending sidecar from exec to its first answer, through a receiving one that is warm.
pub(crate) fn start(stage: &Stage, peer: Peer) -> io::Result<Start> {
    let pair = stage.pair(peer)?;
    drop(pair.outbound);
    let begun = Instant::now();
    let outbound = stage.outbound(peer, Caller::Client)?;
    wait_for_status(peer.http_port(), 200, peer.label())?;
    let start = Start { wall: begun.elapsed(), cpu: machine::cpu_time(outbound.pid()) };
    get(peer.http_port())?;
    Ok(start)
}
