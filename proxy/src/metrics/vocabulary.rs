//! Words that metrics, logs, headers and the command line share. A label value exists only as a
//! variant here (or of the decision and handshake vocabularies of the crates below), so nothing
//! from the network can become one.

use mantlet_identity::{HandshakeReason, IdentityErrorKind};
use mantlet_policy::{Reason, Verdict};

/// A closed set of label values.
pub(super) trait Word: Copy + 'static {
    /// Every one, in the order of declaration.
    const ALL: &'static [Self];

    /// The label value.
    fn word(self) -> &'static str;

    /// Its place in [`Word::ALL`].
    fn number(self) -> usize;
}

/// Declares an enum whose variants are label values.
macro_rules! closed_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $label:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every variant, for documentation and for series that must exist from the start.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Word for $name {
            const ALL: &'static [Self] = $name::ALL;

            fn word(self) -> &'static str {
                self.as_str()
            }

            fn number(self) -> usize {
                self as usize
            }
        }
    };
}

closed_enum! {
    /// Which side of the pod a connection is on.
    Direction {
        /// From a peer to the application of this pod.
        Inbound = "inbound",
        /// From the application of this pod to a peer.
        Outbound = "outbound",
    }
}

closed_enum! {
    /// What carries a connection between pods.
    Transport {
        /// Mutual TLS with SPIFFE identities, HTTP inside.
        Mtls = "mtls",
        /// Mutual TLS with SPIFFE identities, bytes inside.
        Opaque = "opaque",
        /// No TLS of ours.
        Plaintext = "plaintext",
    }
}

closed_enum! {
    /// Why a connection or request ended.
    CloseReason {
        /// Both sides were done.
        Eof = "eof",
        /// A side reset the connection, in the TLS handshake or after it.
        Reset = "reset",
        /// A timer ran out.
        Timeout = "timeout",
        /// Policy refused it at the start.
        Denied = "denied",
        /// A policy change ended it while it was open.
        Policy = "policy",
        /// A grant's `until` passed.
        Expired = "expired",
        /// A trust bundle change: the peer's chain no longer verifies.
        Bundle = "bundle",
        /// The peer's SVID expired and the grace is over.
        PeerExpired = "peer_expired",
        /// The own identity was withdrawn or expired.
        Withdrawn = "withdrawn",
        /// The sidecar is stopping.
        Drain = "drain",
        /// The destination was the sidecar itself.
        Loop = "loop",
        /// The connection did not come through interception.
        NotRedirected = "not_redirected",
        /// A limit was reached.
        Limit = "limit",
        /// A side broke its protocol.
        Protocol = "protocol",
        /// The TLS handshake failed: a side refused the other, or left before the end.
        Tls = "tls",
        /// The upstream could not be reached.
        Connect = "connect",
        /// A defect of the sidecar; look at the log.
        Internal = "internal",
    }
}

closed_enum! {
    /// A limit that somebody ran into; `limits::TABLE` says what each means.
    Limit {
        /// Open connections.
        Connections = "connections",
        /// Open connections of one address.
        PeerConnections = "peer_connections",
        /// TLS handshakes in progress.
        Handshakes = "handshakes",
        /// File descriptors, or the kernel's memory for sockets.
        Descriptors = "descriptors",
        /// Resident memory.
        Memory = "memory",
        /// Requests in flight.
        Requests = "requests",
        /// Requests that wait for an upstream connection.
        PendingRequests = "pending_requests",
        /// Streams that the peer resets.
        Resets = "resets",
        /// Frames that lead nowhere.
        Frames = "frames",
        /// What the HTTP/2 library itself limits.
        Http2 = "http2",
    }
}

closed_enum! {
    /// How an attempt to reach an upstream ended.
    ConnectResult {
        /// Connected, and the peer proved the expected identity where one is expected.
        Ok = "ok",
        /// Nobody listens there.
        Refused = "refused",
        /// No answer in time.
        Timeout = "timeout",
        /// The TLS handshake failed for another reason than the identity.
        Tls = "tls",
        /// The peer proved an identity that is not expected there.
        Identity = "identity",
        /// The name could not be resolved.
        Dns = "dns",
        /// Another error of the network.
        Error = "error",
    }
}

closed_enum! {
    /// How a lookup of a name ended.
    LookupResult {
        /// With addresses.
        Ok = "ok",
        /// There is no such name, or it has no address.
        Empty = "empty",
        /// No server answered in time.
        Timeout = "timeout",
        /// The servers failed, or cannot be reached.
        Error = "error",
    }
}

closed_enum! {
    /// Whether an endpoint takes part.
    EndpointState {
        /// It does.
        In = "in",
        /// It could not be reached, and is left out for a while.
        Out = "out",
    }
}

closed_enum! {
    /// Whether the stream to the cluster's directory is there.
    DirectoryState {
        /// There is no directory.
        None = "none",
        /// It is.
        Connected = "connected",
        /// It is not: what was known holds on.
        Away = "away",
    }
}

closed_enum! {
    /// An answer of the cluster's directory.
    DirectoryAnswer {
        /// Workloads of the mesh.
        Meshed = "meshed",
        /// No workload of the mesh.
        NotMeshed = "not_meshed",
        /// Nobody has the address.
        Unknown = "unknown",
        /// It says nothing that can be used.
        Malformed = "malformed",
        /// There is no room for so many endpoints.
        TooLarge = "too_large",
        /// Nobody follows the address.
        Unasked = "unasked",
    }
}

closed_enum! {
    /// Why a stream to the cluster's directory ended, or did not begin.
    DirectoryEnd {
        /// Its name has no address.
        Dns = "dns",
        /// Nobody can be reached there.
        Connect = "connect",
        /// The TLS handshake failed for another reason than the identity.
        Tls = "tls",
        /// Somebody else is there.
        Identity = "identity",
        /// The directory ended it.
        Refused = "refused",
        /// The connection was lost.
        Lost = "lost",
        /// The sidecar ended it: identities have changed since it began.
        Renewed = "renewed",
    }
}

closed_enum! {
    /// What came of waiting for the directory's answer.
    DirectoryWait {
        /// The answer.
        Answered = "answered",
        /// Nothing, in time.
        Timeout = "timeout",
        /// Nothing at once: the directory has said that nobody is there, or it is away.
        Futile = "futile",
        /// Too many wait, or too many addresses are in use.
        Limit = "limit",
    }
}

closed_enum! {
    /// What a decision is about.
    Layer {
        /// A request.
        Http = "http",
        /// The bytes of a connection.
        Tcp = "tcp",
    }
}

closed_enum! {
    /// Which way bytes went.
    Io {
        /// From whoever opened the connection.
        Read = "read",
        /// To whoever opened the connection.
        Write = "write",
    }
}

closed_enum! {
    /// The first digit of an HTTP status.
    CodeClass {
        /// Informational.
        Informational = "1xx",
        /// Success.
        Success = "2xx",
        /// Redirection.
        Redirection = "3xx",
        /// The client's mistake.
        ClientError = "4xx",
        /// The server's.
        ServerError = "5xx",
        /// There was no answer.
        None = "-",
    }
}

closed_enum! {
    /// A request's method. What RFC 9110 and RFC 5789 do not know shares one word, because a client can
    /// invent it.
    MethodLabel {
        /// GET.
        Get = "GET",
        /// HEAD.
        Head = "HEAD",
        /// POST.
        Post = "POST",
        /// PUT.
        Put = "PUT",
        /// DELETE.
        Delete = "DELETE",
        /// PATCH.
        Patch = "PATCH",
        /// OPTIONS.
        Options = "OPTIONS",
        /// TRACE.
        Trace = "TRACE",
        /// CONNECT.
        Connect = "CONNECT",
        /// Any other.
        Other = "_OTHER",
    }
}

closed_enum! {
    /// How a gRPC call ended.
    GrpcStatus {
        /// OK.
        Ok = "0",
        /// CANCELLED.
        Cancelled = "1",
        /// UNKNOWN.
        Unknown = "2",
        /// INVALID_ARGUMENT.
        InvalidArgument = "3",
        /// DEADLINE_EXCEEDED.
        DeadlineExceeded = "4",
        /// NOT_FOUND.
        NotFound = "5",
        /// ALREADY_EXISTS.
        AlreadyExists = "6",
        /// PERMISSION_DENIED.
        PermissionDenied = "7",
        /// RESOURCE_EXHAUSTED.
        ResourceExhausted = "8",
        /// FAILED_PRECONDITION.
        FailedPrecondition = "9",
        /// ABORTED.
        Aborted = "10",
        /// OUT_OF_RANGE.
        OutOfRange = "11",
        /// UNIMPLEMENTED.
        Unimplemented = "12",
        /// INTERNAL.
        Internal = "13",
        /// UNAVAILABLE.
        Unavailable = "14",
        /// DATA_LOSS.
        DataLoss = "15",
        /// UNAUTHENTICATED.
        Unauthenticated = "16",
        /// A number that gRPC does not know.
        Other = "_OTHER",
        /// It ended without one.
        None = "-",
    }
}

closed_enum! {
    /// The TLS version of a session.
    TlsVersion {
        /// TLS 1.3, the only one that is offered.
        Tls13 = "1.3",
        /// Anything else: it cannot happen.
        Other = "_OTHER",
    }
}

closed_enum! {
    /// The key exchange of a TLS session.
    TlsGroup {
        /// The hybrid with ML-KEM: safe from a later quantum computer.
        X25519MlKem768 = "X25519MLKEM768",
        /// X25519.
        X25519 = "X25519",
        /// NIST P-256.
        Secp256r1 = "secp256r1",
        /// NIST P-384.
        Secp384r1 = "secp384r1",
        /// Anything else: it cannot happen.
        Other = "_OTHER",
    }
}

closed_enum! {
    /// The cipher of a TLS session.
    TlsCipher {
        /// AES-128.
        Aes128Gcm = "TLS13_AES_128_GCM_SHA256",
        /// AES-256.
        Aes256Gcm = "TLS13_AES_256_GCM_SHA384",
        /// ChaCha20.
        ChaCha20Poly1305 = "TLS13_CHACHA20_POLY1305_SHA256",
        /// Anything else: it cannot happen.
        Other = "_OTHER",
    }
}

closed_enum! {
    /// What came of an update of the Workload API.
    RefreshResult {
        /// It changed something.
        Updated = "updated",
        /// It said what was known.
        Unchanged = "unchanged",
        /// It was not taken.
        Rejected = "rejected",
    }
}

closed_enum! {
    /// What came of a load of the policy.
    ReloadResult {
        /// It is in force.
        Accepted = "accepted",
        /// The one before stays in force.
        Rejected = "rejected",
    }
}

closed_enum! {
    /// A stream of log lines that may be dropped.
    LogStream {
        /// One line a request or connection.
        Access = "access",
        /// Decisions.
        Audit = "audit",
    }
}

closed_enum! {
    /// Where an upstream connection is.
    PoolState {
        /// It carries nothing.
        Idle = "idle",
        /// It carries a request.
        Busy = "busy",
    }
}

closed_enum! {
    /// What was full, so that something was counted as `_other`.
    Full {
        /// The list of peers that have a label of their own.
        Peer = "peer",
        /// The family of this name.
        ConnectionsOpened = "mantlet_connections_opened_total",
        /// The family of this name.
        HttpRequests = "mantlet_http_requests_total",
        /// The family of this name.
        GrpcResponses = "mantlet_grpc_responses_total",
        /// The family of this name.
        AuthzDecisions = "mantlet_authz_decisions_total",
        /// The family of this name.
        PolicyRuleHits = "mantlet_policy_rule_hits_total",
        /// The family of this name.
        BundleNotAfter = "mantlet_identity_bundle_not_after_timestamp_seconds",
        /// The family of this name.
        BundleAuthorities = "mantlet_identity_bundle_authorities",
    }
}

/// The vocabularies that live in other crates.
macro_rules! words_of {
    ($name:ident, $all:expr) => {
        impl Word for $name {
            const ALL: &'static [Self] = &$all;

            fn word(self) -> &'static str {
                self.as_str()
            }

            fn number(self) -> usize {
                self as usize
            }
        }
    };
}

words_of!(HandshakeReason, HandshakeReason::ALL);
words_of!(IdentityErrorKind, IdentityErrorKind::ALL);
words_of!(Reason, Reason::ALL);
words_of!(Verdict, [Verdict::Allow, Verdict::Deny, Verdict::WouldDeny]);
