//! Who am I, who is my peer.
//!
//! - [`IdentitySource`] keeps one stream to the SPIFFE Workload API open and publishes [`Credentials`]:
//!   the pod's X.509-SVID and the trust bundles, one immutable snapshot, complete before anyone sees it.
//! - [`Credentials::server_handshake`] and [`Credentials::client_handshake`] give rustls what one connection
//!   needs; [`Handshake::verified`] gives back the [`PeerIdentity`], which exists only after verification.
//! - [`HandshakeReason`] is the closed list of why a handshake fails: metric label, log field and CLI word.
//!
//! Standards cited here: ID = SPIFFE-ID, XS = X509-SVID, WE = SPIFFE Workload Endpoint, WA = SPIFFE Workload
//! API, TB = SPIFFE Trust Domain and Bundle.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]
#![forbid(unsafe_code)]

mod bundle;
mod certificate;
mod chain;
mod credentials;
mod der;
mod document;
mod endpoint;
#[cfg(fuzzing)]
pub mod fuzzing;
mod handshake;
mod issuers;
mod peer;
mod provider;
mod reason;
mod source;
mod svid;
mod usage;
mod workload_api;

pub use bundle::{Authority, TrustBundle, TrustBundles};
pub use chain::PeerRole;
pub use credentials::Credentials;
pub use document::{BundleDocument, DocumentError, parse_bundle, parse_bundle_map};
pub use endpoint::{ENDPOINT_ENV, Endpoint, EndpointError};
pub use handshake::Handshake;
pub use peer::{ExpectedPeer, PeerIdentity};
pub use provider::provider;
pub use reason::HandshakeReason;
pub use source::{
    IdentityCounts, IdentityErrorKind, IdentityHandle, IdentitySource, IdentityState, IdentityStatus,
    SourceConfig, UpdateError,
};
pub use usage::LeafConstraints;
pub use workload_api::{ApiError, GrpcWorkloadApi, SvidEntry, Updates, WorkloadApi, X509Update};
