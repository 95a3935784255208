//! Development SPIFFE Workload API server and certificate authority.
//!
//! [`Server::bind`] opens a Unix socket that speaks the SPIFFE Workload API: it attests each
//! caller by what the kernel says about it (uid, gid, pid, executable), looks up the entries that
//! match, and streams X.509-SVIDs and bundles that it renews at half life. [`Handle`] adds and
//! removes entries and rotates SVIDs and authorities while the server runs.
//!
//! It serves development trust domains only (`*.test`, `*.localhost`, `demo.local`), so an
//! identity that it mints can never be mistaken for one of production. The JWT and WIT profiles
//! are not offered: their calls answer `Unimplemented`, as the standard allows.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod authorities;
mod authority;
mod caller;
mod config;
mod control;
mod core;
mod duration;
mod entries_file;
mod entry;
mod handle;
mod server;
mod service;
mod socket;
mod storage;

pub use authorities::{AuthorityError, AuthorityInfo, AuthorityState};
pub use caller::Caller;
pub use config::{CaStorage, Config, ConfigError};
pub use core::{Cause, EntryError, Issuance};
pub use duration::{DurationError, parse_duration};
pub use entries_file::{EntriesError, parse_entries};
pub use entry::{Entry, EntryKey, Selectors};
pub use handle::Handle;
pub use server::{BindError, RunError, Server};
