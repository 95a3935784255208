//! The keys about how much and how long.

use super::{DAY, HOUR, Id, Key, Kind, LIMITS, MINUTE, key, millis, secs};

pub(super) const BOUNDS: &[Key] = &[
    Key {
        default: Some("10000"),
        meaning: "Connections that may be open at a time; the next one waits in the kernel's queue.",
        ..key(
            Id::MaxConnections,
            LIMITS,
            "max-connections",
            "MANTLET_MAX_CONNECTIONS",
            "COUNT",
            Kind::Count(1, 1_000_000),
        )
    },
    Key {
        default: Some("1024"),
        meaning: "Inbound connections of one address that may be open at a time; the next one is reset.",
        ..key(
            Id::MaxConnectionsPerPeer,
            LIMITS,
            "max-connections-per-peer",
            "MANTLET_MAX_CONNECTIONS_PER_PEER",
            "COUNT",
            Kind::Count(1, 1_000_000),
        )
    },
    Key {
        default: Some("10000"),
        meaning: "HTTP requests of each direction that may be in flight; the next one is answered 503.",
        ..key(
            Id::MaxRequests,
            LIMITS,
            "max-requests",
            "MANTLET_MAX_REQUESTS",
            "COUNT",
            Kind::Count(1, 10_000_000),
        )
    },
    Key {
        unset: "nine tenths of the cgroup's limit, if there is one",
        meaning: "Resident memory in MiB past which new inbound connections are reset and new requests answered 503.",
        ..key(Id::MaxMemory, LIMITS, "max-memory", "MANTLET_MAX_MEMORY", "MIB", Kind::Count(1, 1_000_000))
    },
    Key {
        default: Some("5s"),
        meaning: "Longest wait for a TCP connection to an app or a peer.",
        ..key(
            Id::ConnectTimeout,
            LIMITS,
            "connect-timeout",
            "MANTLET_CONNECT_TIMEOUT",
            "DURATION",
            Kind::Duration(millis(10), secs(5 * MINUTE)),
        )
    },
    Key {
        default: Some("10s"),
        meaning: "Longest TLS handshake, both directions.",
        ..key(
            Id::HandshakeTimeout,
            LIMITS,
            "handshake-timeout",
            "MANTLET_HANDSHAKE_TIMEOUT",
            "DURATION",
            Kind::Duration(millis(10), secs(5 * MINUTE)),
        )
    },
    Key {
        default: Some("10s"),
        meaning: "From the first byte of a request head to its end.",
        ..key(
            Id::HeaderTimeout,
            LIMITS,
            "header-timeout",
            "MANTLET_HEADER_TIMEOUT",
            "DURATION",
            Kind::Duration(millis(10), secs(5 * MINUTE)),
        )
    },
    Key {
        default: Some("5m"),
        meaning: "How long a connection between requests is kept.",
        ..key(
            Id::IdleTimeout,
            LIMITS,
            "idle-timeout",
            "MANTLET_IDLE_TIMEOUT",
            "DURATION",
            Kind::Duration(secs(1), secs(DAY)),
        )
    },
    Key {
        default: Some("1m"),
        meaning: "How long an HTTP peer may take none of the bytes that wait for it, or send none of a request body \
                  whose length it said.",
        ..key(
            Id::StallTimeout,
            LIMITS,
            "stall-timeout",
            "MANTLET_STALL_TIMEOUT",
            "DURATION",
            Kind::Duration(millis(100), secs(DAY)),
        )
    },
    Key {
        default: Some("1m"),
        meaning: "How long a host may answer nothing before it is taken for gone and its connections end. Every \
                  connection has TCP keep-alive. Where bytes of HTTP wait for the host, the limit is that of \
                  `--stall-timeout` if it is longer. Where opaque bytes wait, the kernel decides \
                  (`net.ipv4.tcp_retries2`, about 15 minutes): a reader that only pauses looks the same.",
        ..key(
            Id::DeadAfter,
            LIMITS,
            "dead-after",
            "MANTLET_DEAD_AFTER",
            "DURATION",
            Kind::Duration(secs(3), secs(HOUR)),
        )
    },
    Key {
        default: Some("0s"),
        meaning: "How long the sidecar goes on as before after SIGTERM, unready, before it tells its peers and stops \
                  accepting; counted from `drain` where that came first. For load balancers that take their \
                  time to notice.",
        ..key(
            Id::StopDelay,
            LIMITS,
            "stop-delay",
            "MANTLET_STOP_DELAY",
            "DURATION",
            Kind::Duration(secs(0), secs(HOUR)),
        )
    },
    Key {
        default: Some("30s"),
        meaning: "How long running requests and connections may take to finish once the sidecar stops.",
        ..key(
            Id::DrainDeadline,
            LIMITS,
            "drain-deadline",
            "MANTLET_DRAIN_DEADLINE",
            "DURATION",
            Kind::Duration(secs(0), secs(HOUR)),
        )
    },
];
