//! Parts for the tests: malformed SVIDs by name, scripted Workload API, raw applications, sidecar processes.
//!
//! Nothing here pretends: certificates are made by a real CA, sockets are real sockets, sidecars are
//! real processes. What a test waits for is an event, never a length of time.

pub mod apps;
pub mod cable;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod descriptors;
pub mod directory;
pub mod dns;
pub mod grpc;
mod http1;
pub mod kubernetes;
pub mod netns;
pub mod peer;
pub mod pki;
pub mod real_peers;
pub mod sidecar;
pub mod spire;
pub mod temp;
mod tls;
pub mod tools;
pub mod wait;
pub mod workload;
pub mod workload_api;

pub use http1::{Fields, Io, Stream};
pub use temp::TempDir;
pub use wait::{eventually, within};
