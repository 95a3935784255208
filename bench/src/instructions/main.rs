//! User instructions that a sidecar spends on one request, counted by callgrind and compared with the
//! committed counts (`bench/instructions.txt`). Run it with `bench/instructions`.
//!
//! Time varies with the machine, its neighbours and its temperature; instructions hardly do. Two
//! readings of one process are taken, after a warm-up and after the requests that count, so start-up
//! and the end are no part of them. Valgrind shows every program the same processor, whatever the real
//! one is, as long as that has AVX2: the libraries that choose code by processor choose the same
//! everywhere. The kernel's share, and what a wider processor would save, are not in these counts.

#![cfg_attr(test, allow(clippy::unwrap_used))]
// A report on standard output is what this program is for.
#![allow(clippy::print_stdout)]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::{fs, io};

use clap::Parser;

mod count;
mod scenario;

use scenario::SCENARIOS;

/// Counts the instructions per request of a sidecar. Needs valgrind.
#[derive(Debug, Parser)]
struct Arguments {
    /// The sidecar, built with `--release`.
    #[arg(long, default_value = "target/release/mantlet-proxy")]
    mantlet: PathBuf,
    /// The committed counts.
    #[arg(long, default_value = "bench/instructions.txt")]
    committed: PathBuf,
    /// Writes the counts instead of comparing them.
    #[arg(long)]
    bless: bool,
    /// Requests that count, one after the other.
    #[arg(long, default_value_t = 200)]
    requests: u64,
    /// Scenarios whose name holds this text.
    #[arg(long, default_value = "")]
    only: String,
    /// Keeps callgrind's own files in this folder, for callgrind_annotate.
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// How far a count may be from the committed one, either way: what became cheaper is written down too.
const BAND: f64 = 0.05;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mantlet-instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> io::Result<bool> {
    let mut counts = Vec::new();
    for scenario in SCENARIOS.iter().filter(|scenario| scenario.name.contains(&arguments.only)) {
        let count =
            count::per_request(&arguments.mantlet, scenario, arguments.requests, arguments.keep.as_deref());
        counts.push((scenario.name, count.await?));
    }
    if arguments.bless {
        fs::write(&arguments.committed, write(&counts))?;
        print!("{}", write(&counts));
        return Ok(true);
    }
    let committed = read(&fs::read_to_string(&arguments.committed)?);
    let mut good = true;
    for (name, count) in counts {
        let (verdict, text) = compare(count, committed.iter().find(|(known, _)| known == name));
        good &= verdict;
        println!("{name:<14} {count:>7}  {text}");
    }
    if !good {
        println!("If the change is meant: bench/instructions --bless, and say in the commit why.");
    }
    Ok(good)
}

fn compare(count: u64, committed: Option<&(String, u64)>) -> (bool, String) {
    let Some((_, before)) = committed else { return (false, "no committed count".to_owned()) };
    let change = count as f64 / *before as f64 - 1.0;
    let good = change.abs() <= BAND;
    let verdict = if good { "" } else { ", outside the band" };
    (good, format!("{:+.1} % of {before}{verdict}", change * 100.0))
}

fn write(counts: &[(&str, u64)]) -> String {
    let mut text = String::from(
        "# User instructions per request of one sidecar, release build, callgrind. bench/instructions compares\n\
         # with a band of 5 % and writes this file with --bless.\n",
    );
    for (name, count) in counts {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} {count}");
    }
    text
}

fn read(text: &str) -> Vec<(String, u64)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once(' ').and_then(|(n, c)| Some((n.to_owned(), c.parse().ok()?))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let counts = [("inbound-h1", 12_345), ("outbound-h2", 7)];
        assert_eq!(read(&write(&counts)), counts.map(|(name, count)| (name.to_owned(), count)));
    }

    #[test]
    fn both_more_and_less_than_the_band_are_told() {
        let committed = ("a".to_owned(), 1000);
        assert!(compare(1049, Some(&committed)).0 && compare(951, Some(&committed)).0);
        assert!(!compare(1051, Some(&committed)).0 && !compare(949, Some(&committed)).0);
        assert!(!compare(1000, None).0);
    }
}
