//! The figures as tables, with what a reader needs to doubt them.

use std::fmt::{self, Write as _};

use crate::peers::Peer;
use crate::rows::{LoadRow, Memory, Sample, Start};
use crate::stats::{estimate, median, paired};

/// Collects tables; prints them as Markdown.
#[derive(Debug)]
pub(crate) struct Report {
    text: String,
    foreign_limit: f64,
    sound: bool,
}

/// Half of the interval of a ratio may be this wide before the row is called unsound.
const WIDEST: f64 = 0.03;
/// Rounds that must be left after those with a busy neighbour are thrown away.
const FEWEST: usize = 5;

// === impl Report ===

impl Report {
    pub(crate) fn new(foreign_limit: f64) -> Self {
        Self { text: String::new(), foreign_limit, sound: true }
    }

    /// Whether every ratio was measured well enough to be quoted.
    pub(crate) fn sound(&self) -> bool {
        self.sound
    }

    pub(crate) fn row(&mut self, row: &LoadRow, samples: &[(Peer, Vec<Option<Sample>>)]) {
        let ours = samples.iter().find(|(peer, _)| *peer == Peer::Mantlet).map(|(_, samples)| cpu(samples));
        let out = &mut self.text;
        let _ = writeln!(out, "\n### {}. {}, {} connections\n", row.number, row.title, row.connections);
        out.push_str("| pair | CPU us/request | ours / this (95 % CI) | requests/s | p50 us | p99 us | origin + load us | errors | rounds |\n");
        out.push_str("|---|---|---|---|---|---|---|---|---|\n");
        for (peer, samples) in samples {
            let kept: Vec<Sample> = samples.iter().flatten().copied().collect();
            let mid = |value: fn(&Sample) -> f64| median(&kept.iter().map(value).collect::<Vec<_>>());
            let ratio = match &ours {
                Some(ours) if *peer != Peer::Mantlet && *peer != Peer::Direct => {
                    let ratios = paired(ours, &cpu(samples));
                    if ratios.is_empty() {
                        self.sound = false;
                        "no round left".to_owned()
                    } else {
                        let ratio = estimate(&ratios);
                        self.sound &= self.foreign_limit.is_infinite()
                            || (ratio.half_width() <= WIDEST && ratios.len() >= FEWEST);
                        format!("{:.3} ({:.3} to {:.3})", ratio.median, ratio.low, ratio.high)
                    }
                }
                _ => "-".to_owned(),
            };
            let _ = writeln!(
                out,
                "| {} | {:.1} | {ratio} | {:.0} | {:.0} | {:.0} | {:.1} | {} | {} of {} |",
                peer.label(),
                mid(|sample| sample.cpu_us),
                mid(|sample| sample.load.per_second),
                mid(|sample| sample.load.p50_us),
                mid(|sample| sample.load.p99_us),
                mid(|sample| sample.control_us),
                kept.iter().map(|sample| sample.load.errors).sum::<u64>(),
                kept.len(),
                samples.len(),
            );
        }
    }

    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn memory(&mut self, all: Vec<(Peer, Memory)>, count: usize) {
        let out = &mut self.text;
        let _ = writeln!(out, "\n### 12. Memory, idle and per idle connection ({count} of them)\n");
        out.push_str("| pair | outbound PSS MB | inbound PSS MB | inbound RSS MB | kB per idle h1 connection, pair | kB per idle TCP-mTLS connection, pair |\n");
        out.push_str("|---|---|---|---|---|---|\n");
        let mb = |bytes: u64| bytes as f64 / 1e6;
        for (peer, memory) in all {
            let _ = writeln!(
                out,
                "| {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} |",
                family(peer),
                mb(memory.outbound_pss),
                mb(memory.inbound_pss),
                mb(memory.inbound_rss),
                memory.per_http / 1e3,
                memory.per_tcp / 1e3
            );
        }
    }

    pub(crate) fn starts(&mut self, all: &[(Peer, Vec<Start>)]) {
        self.text.push_str("\n### 15. Start: exec of the sending sidecar to the first answer\n\n");
        self.text.push_str("| pair | wall ms | CPU ms |\n|---|---|---|\n");
        for (peer, starts) in all {
            let mid = |value: fn(&Start) -> f64| median(&starts.iter().map(value).collect::<Vec<_>>()) * 1e3;
            let (wall, cpu) = (mid(|start| start.wall.as_secs_f64()), mid(|start| start.cpu.as_secs_f64()));
            let _ = writeln!(self.text, "| {} | {wall:.1} | {cpu:.1} |", family(*peer));
        }
    }

    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn sizes(&mut self, all: Vec<(Peer, u64)>) {
        self.text.push_str("\n### 17. Size of the stripped program\n\n| program | MB |\n|---|---|\n");
        for (peer, bytes) in all {
            let _ = writeln!(self.text, "| {} | {:.1} |", family(peer), bytes as f64 / 1e6);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if !self.sound {
            writeln!(
                f,
                "\nNot sound: a ratio's interval is wider than 3 % or fewer than {FEWEST} rounds were undisturbed."
            )?;
        }
        Ok(())
    }
}

fn cpu(samples: &[Option<Sample>]) -> Vec<Option<f64>> {
    samples.iter().map(|sample| sample.map(|sample| sample.cpu_us)).collect()
}

/// The name without the hop, for rows in which the hop makes no difference.
fn family(peer: Peer) -> &'static str {
    peer.label().split(',').next().unwrap_or_default()
}
