//! The Mantlet sidecar: mutual TLS with SPIFFE identities and policy, one linear function per
//! connection.
//!
//! Read [`inbound`] and [`outbound`] first: each is the life of a connection, top to bottom. Modules
//! import only downward, in this order: `app`; `worker`; `inbound`, `outbound`; `connection`; `http`,
//! `forward`, `admin`; `pool`; `authz`; `tls`, `directory`, `policy_watch`; and the leaves.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]
#![forbid(unsafe_code)]

pub mod activity;
pub mod addr;
pub mod admin;
pub mod app;
pub mod authz;
pub mod config;
pub mod connection;
pub mod detect;
pub mod directory;
pub mod dns;
pub mod drain;
pub mod forward;
pub mod http;
pub mod inbound;
pub mod io;
pub mod last_word;
pub mod lifetime;
pub mod limits;
pub mod listener;
pub mod log;
pub mod metrics;
pub mod outbound;
pub mod policy_watch;
pub mod pool;
pub mod probes;
pub mod readiness;
pub mod revoke;
pub mod sys;
pub mod tls;
pub mod vital;
pub mod vouch;
pub mod watched;
pub mod worker;

use std::{ffi::OsString, io::Write, process::ExitCode};

use config::Loaded;
use last_word::LastWord;

/// The whole program: reads the configuration, runs the sidecar, and says how it ended.
/// Exit codes: 0 stopped as told, 1 could not start, 2 the configuration is wrong, 70 a defect that the process
/// does not survive (see [`vital`]).
#[must_use]
pub fn main(program: &'static str, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match config::load(program, arguments, std::env::vars_os()) {
        Ok(Loaded::Print(text)) => {
            // A reader that went away wants no more of it.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Loaded::Drain(socket)) => told(program, admin::post(&socket, "/drain", None)),
        Ok(Loaded::LogLevel { socket, level, limit }) => {
            let body = serde_json::json!({"level": level, "for": limit}).to_string();
            told(program, admin::post(&socket, "/log", Some(&body)))
        }
        Ok(Loaded::Run(config)) => {
            let last_word = LastWord::to(config.termination_message.clone());
            match app::run(*config, &last_word) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    complain(program, &error);
                    last_word.failed(&error);
                    ExitCode::FAILURE
                }
            }
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::from(config::LoadError::EXIT_CODE)
        }
    }
}

/// What the running sidecar answered.
fn told(program: &str, answer: std::io::Result<String>) -> ExitCode {
    match answer {
        Ok(answer) => {
            let _ = writeln!(std::io::stdout(), "{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(program, &error);
            ExitCode::FAILURE
        }
    }
}

fn complain(program: &str, error: &dyn std::error::Error) {
    let _ = writeln!(std::io::stderr(), "{program}: {}", last_word::whole(error));
}
