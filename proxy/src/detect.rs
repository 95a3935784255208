//! Sniffing as pure, total functions over the bytes seen so far, with "need more" as an answer.
//!
//! Sniffing only ever chooses between versions of HTTP on a stream that is HTTP already. It never
//! chooses between HTTP and opaque bytes: a client must not be able to pick weaker rules by what it
//! sends, or by sending nothing.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The client connection preface of HTTP/2 (RFC 9113, 3.4).
pub const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How a peer speaks HTTP on a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum HttpVersion {
    /// HTTP/1.0 or 1.1.
    H1,
    /// HTTP/2 with prior knowledge or by ALPN.
    H2,
}

/// The answer of a detector.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Detected<T> {
    /// The bytes say so, whatever follows.
    Known(T),
    /// More bytes could decide either way.
    NeedMore,
}

/// Tells HTTP/2 from HTTP/1 by the preface; everything that is not the preface is for the HTTP/1
/// parser to accept or refuse.
#[must_use]
pub fn http_version(seen: &[u8]) -> Detected<HttpVersion> {
    let compared = seen.len().min(H2_PREFACE.len());
    if seen.get(..compared) != H2_PREFACE.get(..compared) {
        Detected::Known(HttpVersion::H1)
    } else if compared == H2_PREFACE.len() {
        Detected::Known(HttpVersion::H2)
    } else {
        Detected::NeedMore
    }
}

/// What a client's first bytes are, where nobody says what is spoken. Only audit asks about a port without a rule:
/// an enforced one has a protocol by its rules. And a connection that is refused anyway can be told so in HTTP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Spoken {
    /// A request of HTTP/1 or the preface of HTTP/2.
    Http(HttpVersion),
    /// Something else.
    Bytes,
}

/// Methods by which a request of HTTP/1 is known.
const METHODS: [&[u8]; 9] =
    [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"PATCH ", b"OPTIONS ", b"TRACE ", b"CONNECT "];

/// Tells HTTP from other bytes, by at most as many as the preface of HTTP/2 has.
#[must_use]
pub fn spoken(seen: &[u8]) -> Detected<Spoken> {
    let starts = |word: &[u8]| {
        let compared = word.len().min(seen.len());
        seen.get(..compared) == word.get(..compared)
    };
    let whole = |word: &[u8]| seen.len() >= word.len() && starts(word);
    if whole(H2_PREFACE) {
        Detected::Known(Spoken::Http(HttpVersion::H2))
    } else if METHODS.iter().any(|method| whole(method)) {
        Detected::Known(Spoken::Http(HttpVersion::H1))
    } else if starts(H2_PREFACE) || METHODS.iter().any(|method| starts(method)) {
        Detected::NeedMore
    } else {
        Detected::Known(Spoken::Bytes)
    }
}

/// The length of the header of an HTTP/2 frame (RFC 9113, 4.1).
pub const H2_FRAME_HEADER: usize = 9;

/// Whether a server's first bytes are the connection preface of HTTP/2: a SETTINGS frame, which a server
/// may send before it has heard anything (RFC 9113, 3.4). Such a server did not speak first in any
/// sense that matters: it waits for requests like every other server of HTTP.
#[must_use]
pub fn begins_as_h2_server(header: &[u8; H2_FRAME_HEADER]) -> bool {
    let [high, middle, low, kind, flags, stream @ ..] = *header;
    // A setting has six bytes (RFC 9113, 6.5.1), and no server has thousands of them.
    let length = u32::from_be_bytes([0, high, middle, low]);
    kind == 0x4 && flags == 0 && stream == [0; 4] && length.is_multiple_of(6) && length <= 6 * 64
}

/// Reads until [`http_version`] knows, and returns what was read so that it can be replayed.
/// `None`: the peer closed before it said anything that decides.
///
/// # Errors
/// The read error of the stream.
pub async fn read_http_version(
    io: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<(HttpVersion, BytesMut)>> {
    read_until(io, http_version).await
}

/// Reads until [`spoken`] knows, as [`read_http_version`] does.
///
/// # Errors
/// The read error of the stream.
pub async fn read_spoken(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(Spoken, BytesMut)>> {
    read_until(io, spoken).await
}

async fn read_until<T>(
    io: &mut (impl AsyncRead + Unpin),
    detect: fn(&[u8]) -> Detected<T>,
) -> io::Result<Option<(T, BytesMut)>> {
    let mut seen = BytesMut::with_capacity(H2_PREFACE.len());
    loop {
        if io.read_buf(&mut seen).await? == 0 {
            return Ok(None);
        }
        if let Detected::Known(known) = detect(&seen) {
            return Ok(Some((known, seen)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_does_not_depend_on_how_the_bytes_are_packed() {
        for end in 1..H2_PREFACE.len() {
            assert_eq!(http_version(&H2_PREFACE[..end]), Detected::NeedMore);
        }
        assert_eq!(http_version(H2_PREFACE), Detected::Known(HttpVersion::H2));
        let mut longer = H2_PREFACE.to_vec();
        longer.extend_from_slice(b"\0\0\0\x04");
        assert_eq!(http_version(&longer), Detected::Known(HttpVersion::H2));
    }

    #[test]
    fn one_differing_byte_is_http_1() {
        assert_eq!(http_version(b"G"), Detected::Known(HttpVersion::H1));
        assert_eq!(http_version(b"PRI * HTTP/1"), Detected::Known(HttpVersion::H1));
        assert_eq!(http_version(b"PUT /"), Detected::Known(HttpVersion::H1));
        assert_eq!(http_version(b""), Detected::NeedMore);
    }

    #[test]
    fn http_is_told_from_other_bytes_by_its_first_word() {
        assert_eq!(spoken(b"GET / HTTP/1.1"), Detected::Known(Spoken::Http(HttpVersion::H1)));
        assert_eq!(spoken(H2_PREFACE), Detected::Known(Spoken::Http(HttpVersion::H2)));
        assert_eq!(spoken(b"PRI * HTTP/2.0\r\n"), Detected::NeedMore);
        assert_eq!(spoken(b"P"), Detected::NeedMore);
        assert_eq!(spoken(b""), Detected::NeedMore);
        assert_eq!(spoken(b"PIN"), Detected::Known(Spoken::Bytes));
        assert_eq!(spoken(b"\x16\x03\x01"), Detected::Known(Spoken::Bytes));
        assert_eq!(spoken(b"GETX /"), Detected::Known(Spoken::Bytes));
    }

    #[test]
    fn a_server_that_begins_with_settings_is_known_from_one_with_a_banner() {
        assert!(begins_as_h2_server(&[0, 0, 18, 4, 0, 0, 0, 0, 0]));
        assert!(begins_as_h2_server(&[0, 0, 0, 4, 0, 0, 0, 0, 0]));
        assert!(!begins_as_h2_server(b"220 ready"));
        // The greeting of MySQL, and frames that are no first frame of a server.
        assert!(!begins_as_h2_server(&[0x4a, 0, 0, 0, 0x0a, b'8', b'.', b'0', b'.']));
        assert!(!begins_as_h2_server(&[0, 0, 0, 4, 1, 0, 0, 0, 0]), "an acknowledgement");
        assert!(!begins_as_h2_server(&[0, 0, 17, 4, 0, 0, 0, 0, 0]), "not whole settings");
        assert!(!begins_as_h2_server(&[0, 0, 18, 4, 0, 0, 0, 0, 1]), "on a stream");
        assert!(!begins_as_h2_server(&[1, 0, 2, 4, 0, 0, 0, 0, 0]), "far too many");
    }

    #[tokio::test]
    async fn a_peer_that_closes_inside_the_preface_is_nothing() {
        let mut io: &[u8] = b"PRI *";
        assert!(read_http_version(&mut io).await.unwrap().is_none());
    }
}
