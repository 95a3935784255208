//! The seam between the supervisor and the wire: what a Workload API says, in types of our own.

use std::future::Future;

use zeroize::Zeroizing;

mod grpc;

pub use grpc::GrpcWorkloadApi;

/// Something that streams X.509 updates (`FetchX509SVID`, WA 5.2.1).
pub trait WorkloadApi: Send + Sync {
    /// An open stream.
    type Updates: Updates;

    /// Connects and opens a stream. The address is resolved anew each time.
    fn open(&self) -> impl Future<Output = Result<Self::Updates, ApiError>> + Send;
}

/// An open stream of updates, each the full state (WA 4.4).
pub trait Updates: Send {
    /// The next update; `None` where the stream ends without a status.
    fn next(&mut self) -> impl Future<Output = Result<Option<X509Update>, ApiError>> + Send;
}

/// One `X509SVIDResponse`.
#[derive(Default)]
pub struct X509Update {
    /// The SVIDs, in the order of the message.
    pub svids: Vec<SvidEntry>,
    /// Bundles of other trust domains: the key as it was on the wire, concatenated DER.
    pub federated_bundles: Vec<(String, Vec<u8>)>,
    /// How many revocation lists came along. None is looked at (WA 5.1: MAY).
    pub revocation_lists: usize,
}

/// One `X509SVID`.
pub struct SvidEntry {
    /// `spiffe_id`.
    pub spiffe_id: String,
    /// `x509_svid`: concatenated DER, leaf first.
    pub chain: Vec<u8>,
    /// `x509_svid_key`: PKCS#8 DER. Wiped when dropped.
    pub key: Zeroizing<Vec<u8>>,
    /// `bundle`: concatenated DER.
    pub bundle: Vec<u8>,
    /// `hint`; empty if there is none.
    pub hint: String,
}

/// Why no update came.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// Nobody answers at the address.
    #[error("cannot reach the agent at {address}: {cause}")]
    Unreachable {
        /// Where.
        address: String,
        /// What the system says.
        cause: String,
    },
    /// `PermissionDenied`: the agent knows no identity for us.
    #[error("agent says {0}")]
    PermissionDenied(String),
    /// `InvalidArgument`: the agent does not take our call.
    #[error("agent refuses the call: {0}")]
    InvalidArgument(String),
    /// `Unimplemented`: this is no Workload API, or one without X.509.
    #[error("agent does not offer X.509 identities: {0}")]
    Unimplemented(String),
    /// Every other status. Treated as `Unavailable` (WE 6).
    #[error("agent is not available: {0}")]
    Unavailable(String),
    /// The message is larger than we take.
    #[error("agent sent more than we take: {0}")]
    TooLarge(String),
}

// === impl SvidEntry ===

impl std::fmt::Debug for SvidEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SvidEntry")
            .field("spiffe_id", &self.spiffe_id)
            .field("key", &"<redacted>")
            .field("hint", &self.hint)
            .finish_non_exhaustive()
    }
}

// === impl X509Update ===

impl std::fmt::Debug for X509Update {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("X509Update")
            .field("svids", &self.svids)
            .field("federated_bundles", &self.federated_bundles.len())
            .finish_non_exhaustive()
    }
}
