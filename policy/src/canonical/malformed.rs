use std::fmt;

/// Why a request has no single meaning and is refused before any rule is asked.
///
/// Closed: [`Malformed::as_str`] is what the `x-mantlet-denied: malformed(..)` header, the log and
/// `expect bad .. because` name.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Malformed {
    /// More header fields, or more bytes in them, than anybody needs.
    HeadTooLarge,
    /// A request target longer than anybody needs.
    TargetTooLong,
    /// The message's length could be read in two ways (RFC 9112 section 6.3).
    Framing,
    /// The request target is none of the forms this method may have (RFC 9112 section 3.2).
    Target,
    /// `CONNECT`, extended or not: nothing is tunnelled.
    Connect,
    /// The method is not a token (RFC 9110 section 9.1).
    Method,
    /// HTTP/1.1 without a `Host` field (RFC 9112 section 3.2).
    HostMissing,
    /// More than one `Host` field, even with equal values (RFC 9112 section 3.2).
    HostRepeated,
    /// The authority in the target and the `Host` field name different hosts.
    HostConflict,
    /// The host has characters or parts that servers read differently.
    Host,
    /// A header name that maps to an owned or policy-named one once `_` and `.` become `-`.
    HeaderAlias,
    /// A policy-named header whose value is not visible ASCII.
    HeaderValue,
    /// `Connection` names a header that may not be dropped on the way.
    ConnectionHeader,
    /// A byte that no URI path may have (RFC 3986 section 3.3).
    BadChar,
    /// A `%` without two hexadecimal digits.
    BadEscape,
    /// An escaped control character.
    Control,
    /// An escaped `/` or `\`.
    EncodedSlash,
    /// An escaped `%` in front of two hexadecimal digits: decoded twice it means something else.
    DoubleEncoding,
    /// Escapes that are not UTF-8.
    BadUtf8,
    /// A `;`, literal or escaped: servers cut it off, or do not.
    PathParams,
    /// A `.` or `..` segment, literal or escaped.
    DotSegment,
    /// An empty segment that is not the last one.
    EmptySegment,
    /// More than [`MAX_SEGMENTS`](super::MAX_SEGMENTS) path segments.
    TooManySegments,
    /// A query byte that servers repair in different ways.
    BadQuery,
}

// === impl Malformed ===

impl Malformed {
    /// Every reason, for tests and documentation.
    pub const ALL: [Self; 24] = [
        Self::HeadTooLarge,
        Self::TargetTooLong,
        Self::Framing,
        Self::Target,
        Self::Connect,
        Self::Method,
        Self::HostMissing,
        Self::HostRepeated,
        Self::HostConflict,
        Self::Host,
        Self::HeaderAlias,
        Self::HeaderValue,
        Self::ConnectionHeader,
        Self::BadChar,
        Self::BadEscape,
        Self::Control,
        Self::EncodedSlash,
        Self::DoubleEncoding,
        Self::BadUtf8,
        Self::PathParams,
        Self::DotSegment,
        Self::EmptySegment,
        Self::TooManySegments,
        Self::BadQuery,
    ];

    /// The name that headers, logs and test files use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HeadTooLarge => "head-too-large",
            Self::TargetTooLong => "target-too-long",
            Self::Framing => "framing",
            Self::Target => "target",
            Self::Connect => "connect",
            Self::Method => "method",
            Self::HostMissing => "host-missing",
            Self::HostRepeated => "host-repeated",
            Self::HostConflict => "host-conflict",
            Self::Host => "host",
            Self::HeaderAlias => "header-alias",
            Self::HeaderValue => "header-value",
            Self::ConnectionHeader => "connection-header",
            Self::BadChar => "bad-char",
            Self::BadEscape => "bad-escape",
            Self::Control => "control",
            Self::EncodedSlash => "encoded-slash",
            Self::DoubleEncoding => "double-encoding",
            Self::BadUtf8 => "bad-utf8",
            Self::PathParams => "path-params",
            Self::DotSegment => "dot-segment",
            Self::EmptySegment => "empty-segment",
            Self::TooManySegments => "too-many-segments",
            Self::BadQuery => "bad-query",
        }
    }

    /// The HTTP status of the refusal.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Connect => 405,
            Self::TargetTooLong => 414,
            Self::HeadTooLarge => 431,
            _ => 400,
        }
    }

    /// Whether the defect is in the path alone. Only these may pass in audit mode, where the request
    /// goes on as it came and is counted: everything else refuses in every mode.
    #[must_use]
    pub fn is_path(self) -> bool {
        matches!(
            self,
            Self::BadChar
                | Self::BadEscape
                | Self::Control
                | Self::EncodedSlash
                | Self::DoubleEncoding
                | Self::BadUtf8
                | Self::PathParams
                | Self::DotSegment
                | Self::EmptySegment
                | Self::TooManySegments
        )
    }

    /// What is wrong and what to send instead, in one sentence.
    #[must_use]
    pub fn explain(self) -> &'static str {
        match self {
            Self::HeadTooLarge => "the header fields are too many or too large",
            Self::TargetTooLong => "the request target is too long",
            Self::Framing => "the message length is ambiguous",
            Self::Target => "the request target must be a path that starts with \"/\"",
            Self::Connect => "CONNECT is not served",
            Self::Method => "the method is not a token",
            Self::HostMissing => "HTTP/1.1 needs a Host header",
            Self::HostRepeated => "there must be exactly one Host header",
            Self::HostConflict => "the target and the Host header name different hosts",
            Self::Host => "the host must be a name or an address, with an optional port",
            Self::HeaderAlias => "a header name differs from a reserved one only in \"_\" or \".\"",
            Self::HeaderValue => "a header that the policy reads must be visible ASCII",
            Self::ConnectionHeader => "Connection names a header that must not be dropped",
            Self::BadChar => "the path has a character that must be percent-encoded",
            Self::BadEscape => "\"%\" needs two hexadecimal digits",
            Self::Control => "the path has an encoded control character",
            Self::EncodedSlash => "the path has an encoded slash or backslash",
            Self::DoubleEncoding => "the path is percent-encoded twice",
            Self::BadUtf8 => "the path does not decode to UTF-8",
            Self::PathParams => "the path has \";\" parameters",
            Self::DotSegment => "the path has a \".\" or \"..\" segment",
            Self::EmptySegment => "the path has an empty segment",
            Self::TooManySegments => "the path has more than 64 segments",
            Self::BadQuery => "the query has a character that must be percent-encoded",
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
