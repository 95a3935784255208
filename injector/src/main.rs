//! The injector as a program of its own: what a cluster runs.

use std::process::ExitCode;

fn main() -> ExitCode {
    mantlet_injector::main("mantlet-injector", std::env::args_os().skip(1))
}
