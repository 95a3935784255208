//! Words that metrics, logs, headers and the command line share. A label value exists only as a
//! variant here (or of the decision and handshake vocabularies of the crates below), so nothing
//! from the network can become one.

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

        impl prometheus_client::encoding::EncodeLabelValue for $name {
            fn encode(
                &self,
                encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
            ) -> Result<(), std::fmt::Error> {
                self.as_str().encode(encoder)
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
        /// A side reset the connection.
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
        /// The TLS handshake failed.
        Tls = "tls",
        /// The upstream could not be reached.
        Connect = "connect",
        /// A defect of the sidecar; look at the log.
        Internal = "internal",
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
