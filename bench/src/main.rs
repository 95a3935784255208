//! The bench matrix: this proxy beside Envoy and HAProxy on one machine, in interleaved rounds.
//!
//! What is compared is processor time per request of both sidecars together, as paired ratios: in each
//! round every pair is started afresh and measured in turn, so that the machine's drift moves all of
//! them, and the ratio within a round cancels it. docs/performance.md says why, and holds the figures.
//! Run it with `bench/run`.

#![cfg_attr(test, allow(clippy::unwrap_used))]
// A report on standard output is what this program is for.
#![allow(clippy::print_stdout)]

use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;
use mantlet_testkit::TempDir;

mod load;
mod machine;
mod peers;
mod process;
mod report;
mod rows;
mod stats;

use peers::{Peer, Stage};
use report::Report;
use rows::{LOAD_ROWS, LoadRow, Sample};

/// Measures sidecar pairs beside each other. Needs root (or user namespaces), haproxy, nginx, wrk, curl.
#[derive(Debug, Parser)]
struct Arguments {
    /// Rows of the matrix.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 7, 9, 12, 15, 17])]
    rows: Vec<u8>,
    /// Numbers of connections in row 1.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    connections: Vec<usize>,
    /// Pairs to measure.
    #[arg(long, value_delimiter = ',', value_enum,
          default_values_t = [Peer::Direct, Peer::EnvoyH1, Peer::EnvoyH2, Peer::HaproxyH1, Peer::HaproxyH2, Peer::Mantlet])]
    peers: Vec<Peer>,
    /// Rounds that count; one more is run first and thrown away.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Length of one measurement, in seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// A measurement during which others used more than this many processors does not count.
    #[arg(long, default_value_t = 0.05)]
    foreign: f64,
    /// Idle connections in row 12.
    #[arg(long, default_value_t = 1000)]
    idle: usize,
    /// The folder with `envoy` (see testkit/peers/README.md); `TEST_PEERS` where not given.
    #[arg(long)]
    peer_folder: Option<PathBuf>,
    /// The sidecar under test, built with `--release`.
    #[arg(long, default_value = "target/release/mantlet-proxy")]
    mantlet: PathBuf,
    /// Checks that every pair can be measured, and measures next to nothing.
    #[arg(long)]
    smoke: bool,
    /// Set by the program itself once it has a network of its own.
    #[arg(long, hide = true)]
    inside: bool,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    if arguments.smoke {
        (arguments.rounds, arguments.seconds, arguments.foreign, arguments.idle) = (1, 1, f64::INFINITY, 50);
        arguments.connections = vec![16];
    }
    let done = if arguments.inside { run(&arguments) } else { enter_own_network() };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mantlet-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs this program again in a network namespace of its own: fixed ports collide with nobody's, and
/// connections in TIME_WAIT, of which there are many, are gone with it.
fn enter_own_network() -> io::Result<ExitCode> {
    let status = Command::new("unshare")
        .args(["--net", "--", "sh", "-ec"])
        .arg(
            "ip link set lo up
             echo '20000 65000' >/proc/sys/net/ipv4/ip_local_port_range
             echo 4096 >/proc/sys/net/core/somaxconn
             exec \"$0\" \"$@\" --inside",
        )
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .status()
        .map_err(|error| io::Error::new(error.kind(), format!("unshare: {error}")))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run(arguments: &Arguments) -> io::Result<ExitCode> {
    let dir = TempDir::new();
    let folder = arguments
        .peer_folder
        .clone()
        .or_else(|| std::env::var_os("TEST_PEERS").map(PathBuf::from))
        .ok_or_else(|| io::Error::other("where is envoy? export TEST_PEERS=$(testkit/peers/build)"))?;
    let stage = Stage::new(dir.path(), folder.join("envoy"), arguments.mantlet.clone())?;
    let origin = stage.origin()?;
    for peer in &arguments.peers {
        rows::check_fairness(&stage, *peer)?;
        eprintln!("{}: right caller 200, wrong caller 403, no certificate refused", peer.label());
    }
    let mut report = Report::new(arguments.foreign);
    let wanted = LOAD_ROWS.iter().filter(|row| {
        arguments.rows.contains(&row.number)
            && (row.number != 1 || arguments.connections.contains(&row.connections))
    });
    for row in wanted {
        measure_row(arguments, &stage, origin.pid(), row, &mut report)?;
    }
    let families =
        || arguments.peers.iter().copied().filter(|peer| peer.is_the_family() && *peer != Peer::Direct);
    if arguments.rows.contains(&12) {
        let all = families()
            .map(|peer| Ok((peer, rows::memory(&stage, peer, arguments.idle)?)))
            .collect::<io::Result<_>>()?;
        report.memory(all, arguments.idle);
    }
    if arguments.rows.contains(&15) {
        let mut all: Vec<(Peer, Vec<rows::Start>)> = families().map(|peer| (peer, Vec::new())).collect();
        for _ in 0..arguments.rounds {
            for (peer, starts) in &mut all {
                starts.push(rows::start(&stage, *peer)?);
            }
        }
        report.starts(&all);
    }
    if arguments.rows.contains(&17) {
        report.sizes(
            families().map(|peer| Ok((peer, stripped_size(&stage, peer)?))).collect::<io::Result<_>>()?,
        );
    }
    println!("{report}");
    Ok(if report.sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All rounds of one row, the pairs interleaved; the first round only warms the machine.
fn measure_row(
    arguments: &Arguments,
    stage: &Stage,
    origin: u32,
    row: &LoadRow,
    report: &mut Report,
) -> io::Result<()> {
    let peers: Vec<Peer> = arguments.peers.iter().copied().filter(|peer| row.wants(*peer)).collect();
    let mut samples: Vec<(Peer, Vec<Option<Sample>>)> =
        peers.iter().map(|peer| (*peer, Vec::new())).collect();
    for round in 0..=arguments.rounds {
        for (peer, kept) in &mut samples {
            let sample = row.measure(stage, origin, *peer, Duration::from_secs(arguments.seconds))?;
            eprintln!(
                "{} c={} round {round}: {}: {:.1} us/request, {:.0}/s, foreign {:.2}",
                row.title,
                row.connections,
                peer.label(),
                sample.cpu_us,
                sample.load.per_second,
                sample.foreign
            );
            if round > 0 {
                kept.push((sample.foreign <= arguments.foreign).then_some(sample));
            }
        }
    }
    report.row(row, &samples);
    Ok(())
}

/// Size of a program without its symbols.
fn stripped_size(stage: &Stage, peer: Peer) -> io::Result<u64> {
    let copy = stage.dir().join("stripped");
    let status = Command::new("strip").arg("-o").arg(&copy).arg(stage.binary(peer)).status()?;
    if !status.success() {
        return Err(io::Error::other(format!("strip {}: {status}", stage.binary(peer).display())));
    }
    Ok(std::fs::metadata(&copy)?.len())
}
