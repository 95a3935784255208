//! The words of the labels: closed lists, the same in metrics and log lines.

use crate::inject::Reason;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
        pub(crate) enum $name {
            $($(#[$of])* $variant,)*
        }

        impl $name {
            /// All of them, in order.
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The label's value.
            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

words! {
    /// Which of our webhooks.
    Webhook {
        /// Adds the sidecar to pods.
        Mutate = "mutate",
        /// Checks annotations.
        Validate = "validate",
    }
}

words! {
    /// What is wrong with a request, before anybody looks at its object.
    BadRequest {
        /// No such path.
        Path = "path",
        /// Not POST.
        Method = "method",
        /// Not JSON by its own words.
        ContentType = "content_type",
        /// No JSON, or more than one.
        Json = "json",
        /// No admission review of version 1.
        Review = "review",
        /// The deadline in the query.
        Timeout = "timeout",
        /// The client stopped in the middle.
        Incomplete = "incomplete",
    }
}

words! {
    /// How a handshake ended.
    Handshake {
        /// Well.
        Ok = "ok",
        /// The client did not want our certificate, or is no TLS client.
        Failed = "failed",
        /// The client took too long.
        Timeout = "timeout",
    }
}

words! {
    /// Which limit somebody ran into.
    Refused {
        /// Connections at a time; they wait in the kernel.
        Connections = "connections",
        /// Connections of one address.
        Address = "address",
        /// The size of a body.
        Body = "body",
        /// The bodies of all requests together.
        Memory = "memory",
        /// The deadline of the caller.
        Deadline = "deadline",
    }
}

words! {
    /// Where there was no room for one more address in the directory.
    Room {
        /// Addresses that all streams follow.
        Followed = "followed",
        /// Addresses that the streams from one address follow.
        FollowedByOne = "followed_by_one",
    }
}

words! {
    /// What was done to the certificates.
    Rotation {
        /// There were none.
        Created = "created",
        /// What was there could not be used.
        Repaired = "repaired",
        /// A new serving certificate.
        Renewed = "renewed",
        /// The next authority, to be published before it signs anything.
        Prepared = "prepared",
        /// The next authority signs now.
        Promoted = "promoted",
        /// The last authority's certificates have all expired.
        Retired = "retired",
        /// The authorities in the webhook configurations were set.
        Published = "published",
    }
}

words! {
    /// What was asked of the API server.
    Call {
        /// The Secret of the certificates.
        Secret = "secret",
        /// The webhook configurations.
        Webhooks = "webhooks",
        /// Events.
        Events = "events",
        /// Labels of a namespace.
        Namespaces = "namespaces",
        /// Its version.
        Version = "version",
    }
}

words! {
    /// What became of an Event.
    EventResult {
        /// The API server has it.
        Sent = "sent",
        /// The same was said a short while ago.
        Repeated = "repeated",
        /// Too many were waiting.
        Dropped = "dropped",
        /// The API server did not take it.
        Failed = "failed",
    }
}

words! {
    /// A kind of objects that the directory watches.
    Watched {
        /// Pods.
        Pods = "pods",
        /// Services.
        Services = "services",
        /// EndpointSlices.
        EndpointSlices = "endpointslices",
    }
}

words! {
    /// What the directory says about an address.
    Said {
        /// Workloads with sidecars.
        Meshed = "meshed",
        /// Workloads without.
        NotMeshed = "not_meshed",
        /// Nobody that is known.
        Unknown = "unknown",
    }
}

words! {
    /// How a handshake with the directory ended.
    Caller {
        /// Well.
        Ok = "ok",
        /// The client has no certificate that is good, did not want ours, or is no TLS client.
        Failed = "failed",
        /// The client took too long.
        Timeout = "timeout",
        /// It has an identity of another trust domain.
        TrustDomain = "trust_domain",
        /// It does not speak HTTP/2.
        Protocol = "protocol",
        /// We have no identity to present.
        NoIdentity = "no_identity",
    }
}

words! {
    /// Why a stream of the directory ended.
    StreamEnd {
        /// The client ended it, or its connection.
        Client = "client",
        /// The client asked what is no question.
        Question = "question",
        /// It wanted to follow too many addresses.
        Limit = "limit",
        /// The cluster is not known yet.
        NotReady = "not_ready",
        /// The client's certificate is over.
        PeerExpired = "peer_expired",
        /// The trust bundle no longer vouches for the client.
        Bundle = "bundle",
        /// Our own identity is over or was withdrawn.
        Withdrawn = "withdrawn",
        /// The process stops.
        Drain = "drain",
    }
}

/// What was answered to an admission review.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Admission {
    /// A pod, judged by the injection.
    Pod(Reason),
    /// The operation or kind is none that we look at.
    NotOurs,
    /// Annotations without an error.
    Valid,
    /// Annotations that this change does not touch.
    Unchanged,
    /// Annotations with errors.
    Invalid,
    /// A container that was added to a running pod and could undo interception.
    Ephemeral,
    /// Our own failure.
    Failed,
}

// === impl Admission ===

impl Admission {
    /// The label `result`.
    pub(crate) fn result(self) -> &'static str {
        match self {
            Self::Pod(reason) => reason.result().as_str(),
            Self::NotOurs => "skipped",
            Self::Valid | Self::Unchanged => "allowed",
            Self::Invalid | Self::Ephemeral => "denied",
            Self::Failed => "error",
        }
    }

    /// The label `reason`.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Pod(reason) => reason.as_str(),
            Self::NotOurs => "not_ours",
            Self::Valid => "valid",
            Self::Unchanged => "unchanged",
            Self::Invalid => Reason::PolicyInvalid.as_str(),
            Self::Ephemeral => "ephemeral_container",
            Self::Failed => "internal",
        }
    }

    /// What a webhook can answer.
    pub(super) fn all(webhook: Webhook) -> Vec<Self> {
        match webhook {
            Webhook::Mutate => {
                let reasons = Reason::ALL.iter().map(|reason| Self::Pod(*reason));
                reasons.chain([Self::NotOurs, Self::Failed]).collect()
            }
            Webhook::Validate => {
                vec![
                    Self::Valid,
                    Self::Unchanged,
                    Self::Invalid,
                    Self::Ephemeral,
                    Self::NotOurs,
                    Self::Failed,
                ]
            }
        }
    }
}
