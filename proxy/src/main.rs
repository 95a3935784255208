//! The sidecar as a program of its own: what a pod runs.

use std::process::ExitCode;

fn main() -> ExitCode {
    mantlet_proxy::main("mantlet-proxy", std::env::args_os().skip(1))
}
