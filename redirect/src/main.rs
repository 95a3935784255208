//! `mantlet-init`: redirects the connections of its network namespace to the sidecar, and exits.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod arguments;
mod verify;

use std::io::{self, Write as _};
use std::process::ExitCode;

use arguments::Command;
use mantlet_redirect::{Config, Privileges, apply};

const NOT_INSTALLED: u8 = 1;
const USAGE: u8 = 2;
const NOT_REDIRECTED: u8 = 3;

fn main() -> ExitCode {
    let command = match arguments::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(mistakes) => {
            mistakes.iter().for_each(complain);
            return ExitCode::from(USAGE);
        }
    };
    match command {
        Command::Help => say(&arguments::HELP),
        Command::Version => say(&format_args!("mantlet-init {}\n", env!("CARGO_PKG_VERSION"))),
        Command::Print(ruleset) => say(&ruleset),
        Command::Install(ruleset, config) => match apply(&ruleset) {
            Ok(()) => say(&format_args!("mantlet-init: installed {}\n", installed(&config))),
            Err(failure) => {
                complain(&failure);
                ExitCode::from(NOT_INSTALLED)
            }
        },
        Command::Verify(config, limit) => {
            match verify::verify(&config, Privileges::of_this_process(), limit) {
                Ok([v4, v6]) => say(&format_args!("mantlet-init: verified; IPv4: {v4}, IPv6: {v6}\n")),
                Err(error) => {
                    complain(&error);
                    ExitCode::from(NOT_REDIRECTED)
                }
            }
        }
    }
}

/// For the log of the init container: what, and by which right.
fn installed(config: &Config) -> String {
    let Config { proxy_uid, proxy_gid, ports, .. } = config;
    format!(
        "{}: inbound to port {}, outbound to port {}, but for user {proxy_uid} with group {proxy_gid}",
        Privileges::of_this_process().how(),
        ports.inbound,
        ports.outbound,
    )
}

fn say(text: &dyn std::fmt::Display) -> ExitCode {
    // A reader that went away wants no more of it.
    let _ = write!(io::stdout(), "{text}");
    ExitCode::SUCCESS
}

fn complain(problem: &impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "mantlet-init: {problem}");
}
