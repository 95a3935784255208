//! Every limit, in one place: its number, what happens at it, and where it is counted.
//!
//! `docs/limits.md` is made from [`TABLE`]; a test holds the two equal, and every metric that a row names
//! to the metrics that exist.

use std::time::Duration;

/// Most fields of a request head, `Host` and pseudo-header fields included.
pub const HEAD_FIELDS: usize = 100;
/// Most bytes of a request head, for both versions of HTTP.
pub const HEAD_BYTES: usize = 32 * 1024;
/// Most bytes of path and query.
pub const TARGET_BYTES: usize = 8 * 1024;
/// CONTINUATION frames of a request head: what the HTTP library gives to heads of [`HEAD_BYTES`].
pub const CONTINUATIONS: usize = 5;
/// Streams that a peer may have open on one HTTP/2 connection.
pub const STREAMS: u32 = 100;
/// What a stream may hold unread: two frames, so that one is on its way while the other is handed on. A hundred of
/// them and what else a stream holds are the 8 MiB that the stalled streams of a connection may cost; a transfer
/// over a link with a round trip of 1 ms gets 32 MiB/s of it.
pub const STREAM_WINDOW: u32 = 32 * 1024;
/// What all streams of a connection may hold unread together: nobody has to wait for another's window.
pub const CONNECTION_WINDOW: u32 = STREAMS * STREAM_WINDOW;
/// What is read of an upstream's body at a time: one frame, which with its head fills one TLS record.
pub const READ_BYTES: u64 = 16 * 1024 - 9;
/// What a stream may have ready for the connection that carries it.
pub const SEND_BYTES: usize = 16 * 1024;
/// What the kernel takes of a connection ahead of what may be sent; by itself it would take megabytes.
pub const UNSENT_BYTES: u32 = 64 * 1024;
/// Streams within a second that the peer itself resets, before it matters how many it opened.
pub const RESETS: u32 = 200;
/// Resets of streams that nobody has looked at yet, which can only pile up within one read
/// (CVE-2023-44487).
///
/// The HTTP library's own number is 20, and too small for a sidecar with a CPU quota: it stands still for
/// most of 100 ms at a time, and an app that gives up on three of ten requests, of 1 000 in a second, has
/// reset 30 by then, or 60 after two such pauses. That app must not lose its connection, and with it
/// everybody else's requests. These streams hold their heads until they are looked at, and are fewer than
/// those that may be open: a flood costs less than a connection full of ordinary requests.
pub const PENDING_RESETS: usize = 64;
/// Streams of one connection that break the rules, or come past the limit of open ones (CVE-2025-8671).
pub const BROKEN_STREAMS: usize = 100;
/// PING, SETTINGS and the like, and frames of unknown types, within a second, without a request or a body byte between them.
pub const IDLE_FRAMES: u32 = 200;
/// WINDOW_UPDATE frames within a second beyond what our own bytes give reason for.
pub const WINDOW_UPDATES: u32 = 200;
/// Bytes of ours that give reason for one WINDOW_UPDATE.
pub const BYTES_PER_UPDATE: u64 = 16;
/// A client of a port that accepts plaintext decides with its first byte, within this time.
pub const FIRST_BYTE: Duration = Duration::from_secs(5);
/// Handshakes of peers that have begun and not ended.
pub const HANDSHAKES: usize = 512;
/// Requests that wait for a connection to one upstream.
pub const PENDING_REQUESTS: usize = 1024;
/// Most that is kept of a request's body while the request may have to be sent again.
pub const KEPT_BODY: usize = 64 * 1024;
/// The same of all requests of the process together.
pub const KEPT_BODIES: usize = 1024 * 1024;
/// Addresses that the sidecar follows in the cluster's directory.
pub const DIRECTORY_ADDRESSES: usize = 4096;
/// Endpoints of one address in an answer of the directory.
pub const DIRECTORY_ENDPOINTS: usize = 4096;
/// Endpoints of all addresses together.
pub const DIRECTORY_TOTAL: usize = 16_384;
/// Connections that wait for the directory's answer.
pub const DIRECTORY_WAITING: usize = 4096;
/// So long a connection waits for the directory's answer.
pub const DIRECTORY_HOLD: Duration = Duration::from_secs(2);
/// How long an application whose destination is refused has for its first bytes. One that speaks HTTP is told; one that
/// waits for its server's greeting is not kept waiting.
pub const REFUSAL_WAIT: Duration = Duration::from_secs(1);
/// The longest that the accept loop pauses when descriptors or memory have run out.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// One limit.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Of what there may only be so much.
    pub what: &'static str,
    /// How much.
    pub number: Number,
    /// What happens at the limit. Other connections go on in every case.
    pub refusal: &'static str,
    /// The metric that moves, with its labels; `-` where nobody is refused anything.
    pub metric: &'static str,
}

/// How much.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    /// The value of this configuration key.
    Key(&'static str),
    /// So many.
    Count(u64),
    /// So many within a second.
    PerSecond(u64),
    /// So many bytes.
    Bytes(u64),
    /// So long.
    Time(Duration),
    /// What the kernel says.
    Kernel(&'static str),
}

const CLOSED: &str = "mantlet_connections_closed_total{reason=\"timeout\"}";
const PROTOCOL: &str = "mantlet_connections_closed_total{reason=\"protocol\"}";
const MALFORMED: &str = "mantlet_authz_decisions_total{reason=\"malformed\"}";
const HTTP2: &str = "mantlet_limits_reached_total{limit=\"http2\"}";

/// All limits, from the socket inwards.
pub const TABLE: &[Row] = &[
    row(
        "open connections",
        Number::Key("max-connections"),
        "the next one waits in the kernel's queue",
        "mantlet_limits_reached_total{limit=\"connections\"}",
    ),
    row(
        "open inbound connections of one address",
        Number::Key("max-connections-per-peer"),
        "the next one is reset",
        "mantlet_limits_reached_total{limit=\"peer_connections\"}",
    ),
    row(
        "file descriptors",
        Number::Kernel("RLIMIT_NOFILE, raised to its hard limit"),
        "accepting pauses, at most 1 s at a time; a request that needs a new upstream connection gets 502",
        "mantlet_limits_reached_total{limit=\"descriptors\"}",
    ),
    row(
        "resident memory",
        Number::Key("max-memory"),
        "new inbound connections are reset, new requests get 503",
        "mantlet_limits_reached_total{limit=\"memory\"}",
    ),
    row(
        "TLS handshake",
        Number::Key("handshake-timeout"),
        "closed",
        "mantlet_tls_handshakes_total{reason=\"timeout\"}",
    ),
    row(
        "TLS handshakes of peers in progress, from their first byte",
        Number::Count(HANDSHAKES as u64),
        "the oldest is closed, and the new one goes on",
        "mantlet_limits_reached_total{limit=\"handshakes\"}",
    ),
    row("first byte, on a port that accepts plaintext", Number::Time(FIRST_BYTE), "closed", CLOSED),
    row("first to last byte of a request head", Number::Key("header-timeout"), "closed", CLOSED),
    row(
        "idle between requests",
        Number::Key("idle-timeout"),
        "closed in order, HTTP/2 with GOAWAY",
        "mantlet_connections_closed_total{reason=\"eof\"}",
    ),
    row("waiting bytes of which the peer takes none", Number::Key("stall-timeout"), "closed", CLOSED),
    row(
        "request body of known length of which no byte comes",
        Number::Key("stall-timeout"),
        "408",
        "mantlet_http_requests_total{code=\"408\"}",
    ),
    row(
        "no answer from the host at the other end (TCP keep-alive)",
        Number::Key("dead-after"),
        "closed; a request in flight there gets 504",
        CLOSED,
    ),
    row("fields of a request head, HTTP/1", Number::Count(HEAD_FIELDS as u64), "431, and closed", PROTOCOL),
    row("the same, HTTP/2", Number::Count(HEAD_FIELDS as u64), "431", MALFORMED),
    row("bytes of a request head, HTTP/1", Number::Bytes(HEAD_BYTES as u64), "431, and closed", PROTOCOL),
    row(
        "the same, HTTP/2, decoded",
        Number::Bytes(HEAD_BYTES as u64),
        "431, which the HTTP library says before there is a request to count",
        "-",
    ),
    row("bytes of a request target", Number::Bytes(TARGET_BYTES as u64), "414", MALFORMED),
    row("bytes of a head's CONTINUATION frames", Number::Bytes(HEAD_BYTES as u64), "GOAWAY", PROTOCOL),
    row("their number", Number::Count(CONTINUATIONS as u64), "GOAWAY (ENHANCE_YOUR_CALM)", HTTP2),
    row("requests in flight, each direction", Number::Key("max-requests"), "503", REQUESTS),
    row(
        "requests that wait for a connection to one upstream",
        Number::Count(PENDING_REQUESTS as u64),
        "503",
        "mantlet_limits_reached_total{limit=\"pending_requests\"}",
    ),
    row(
        "body of a request to an HTTP/2 upstream that is kept until the answer begins",
        Number::Bytes(KEPT_BODY as u64),
        "nothing is kept, and the request is not sent again",
        "-",
    ),
    row(
        "the same of all requests together",
        Number::Bytes(KEPT_BODIES as u64),
        "nothing is kept of those that come later",
        "-",
    ),
    row(
        "open streams of an HTTP/2 connection",
        Number::Count(STREAMS as u64),
        "the stream is refused (REFUSED_STREAM)",
        HTTP2,
    ),
    row(
        "refused and broken streams of an HTTP/2 connection",
        Number::Count(BROKEN_STREAMS as u64),
        "GOAWAY (ENHANCE_YOUR_CALM)",
        HTTP2,
    ),
    row(
        "streams reset by the peer, where they are more than half of those it opened",
        Number::PerSecond(RESETS as u64),
        "closed",
        "mantlet_limits_reached_total{limit=\"resets\"}",
    ),
    row(
        "the same within one read: what comes while the sidecar stands still for 0.2 s, from an app that \
         gives up on 300 requests in a second",
        Number::Count(PENDING_RESETS as u64),
        "GOAWAY (ENHANCE_YOUR_CALM)",
        HTTP2,
    ),
    row(
        "PING, SETTINGS, PRIORITY, unknown and empty DATA frames without progress",
        Number::PerSecond(IDLE_FRAMES as u64),
        "closed",
        "mantlet_limits_reached_total{limit=\"frames\"}",
    ),
    row(
        "WINDOW_UPDATE frames beyond one for each 16 bytes sent",
        Number::PerSecond(WINDOW_UPDATES as u64),
        "closed",
        "mantlet_limits_reached_total{limit=\"frames\"}",
    ),
    row(
        "addresses that are followed in the cluster's directory and in use",
        Number::Count(DIRECTORY_ADDRESSES as u64),
        "a further one is not asked for, and counts as unknown",
        "mantlet_directory_waits_total{result=\"limit\"}",
    ),
    row(
        "endpoints of one address in the directory's answer",
        Number::Count(DIRECTORY_ENDPOINTS as u64),
        "the answer is dropped, and the one before it holds",
        "mantlet_directory_answers_total{kind=\"malformed\"}",
    ),
    row(
        "endpoints of all addresses that are followed",
        Number::Count(DIRECTORY_TOTAL as u64),
        "an answer with more is dropped, and the one before it holds",
        "mantlet_directory_answers_total{kind=\"too_large\"}",
    ),
    row(
        "connections that wait for the directory's answer",
        Number::Count(DIRECTORY_WAITING as u64),
        "the destination of a further one counts as unknown",
        "mantlet_directory_waits_total{result=\"limit\"}",
    ),
    row(
        "wait for the directory's answer, and for who is unknown to come into being",
        Number::Time(DIRECTORY_HOLD),
        "the destination counts as unknown",
        "mantlet_directory_waits_total{result=\"timeout\"}",
    ),
    row(
        "wait for the first bytes of an application whose destination is refused",
        Number::Time(REFUSAL_WAIT),
        "the connection is closed without an answer",
        "mantlet_connections_closed_total{direction=\"outbound\",reason=\"denied\"}",
    ),
    row("unread bytes of a stream", Number::Bytes(STREAM_WINDOW as u64), "the sender waits", "-"),
    row("unread bytes of a connection", Number::Bytes(CONNECTION_WINDOW as u64), "the sender waits", "-"),
    row(
        "bytes of a body between reading and writing, of a stream or an HTTP/1 connection",
        Number::Bytes(SEND_BYTES as u64),
        "nothing more is read of it, once the piece is complete that passes it",
        "-",
    ),
    row(
        "bytes in the kernel that a connection may not send yet",
        Number::Bytes(UNSENT_BYTES as u64),
        "nothing more is written to it",
        "-",
    ),
];

const REQUESTS: &str = "mantlet_limits_reached_total{limit=\"requests\"}";

const fn row(what: &'static str, number: Number, refusal: &'static str, metric: &'static str) -> Row {
    Row { what, number, refusal, metric }
}
