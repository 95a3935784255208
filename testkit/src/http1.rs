//! HTTP/1 framing on raw bytes, shared by the raw applications and clients.
//!
//! Deliberately dumb: it repairs nothing and judges nothing, so what a test sees is what was on the wire.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// Header fields in order of arrival, names as they were written.
pub type Fields = Vec<(String, Vec<u8>)>;

/// A byte stream of any kind.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

/// A byte stream with its type erased.
pub type Io = Box<dyn Stream>;

/// A head and what follows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// The head as it arrived, its empty line included.
    pub(crate) head: Vec<u8>,
    pub(crate) first_line: String,
    pub(crate) fields: Fields,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Fields,
}

/// Reads messages off a stream and keeps what came too early.
pub(crate) struct Reader {
    pub(crate) io: Io,
    pub(crate) buffer: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Framing {
    Empty,
    Length(usize),
    Chunked,
    UntilEof,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Every value of a field, names compared without regard to case, bytes that are no text replaced.
pub(crate) fn values(fields: &Fields, name: &str) -> Vec<String> {
    let matching = fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
    matching.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
}

// === impl Reader ===

impl Reader {
    pub(crate) fn new(io: Io) -> Self {
        Self { io, buffer: Vec::new() }
    }

    /// The next request; `None` where the stream ends before its first byte.
    pub(crate) async fn request(&mut self) -> io::Result<Option<Message>> {
        let Some(mut message) = self.head().await? else { return Ok(None) };
        let framing = framing(&message.fields).unwrap_or(Framing::Empty);
        self.body(&mut message, framing).await?;
        Ok(Some(message))
    }

    /// The next response, 1xx other than 101 skipped.
    pub(crate) async fn response(&mut self, to_head: bool) -> io::Result<Message> {
        loop {
            let Some(mut message) = self.head().await? else { return Err(eof("before a response")) };
            let status = status(&message.first_line);
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let empty = to_head || matches!(status, 101 | 204 | 304);
            let framing = match empty {
                true => Framing::Empty,
                false => framing(&message.fields).unwrap_or(Framing::UntilEof),
            };
            self.body(&mut message, framing).await?;
            return Ok(message);
        }
    }

    /// Only the head of the next message.
    pub(crate) async fn head(&mut self) -> io::Result<Option<Message>> {
        let end = loop {
            match self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None if self.fill().await? == 0 => match self.buffer.is_empty() {
                    true => return Ok(None),
                    false => return Err(eof("inside a head")),
                },
                None => {}
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let mut lines = split_lines(&head);
        let first_line = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
        let fields = lines.map(field).collect();
        Ok(Some(Message { head, first_line, fields, ..Message::default() }))
    }

    /// Reads until there are at least so many bytes, and takes them.
    pub(crate) async fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            if self.fill().await? == 0 {
                return Err(eof("inside a body"));
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }

    async fn body(&mut self, message: &mut Message, framing: Framing) -> io::Result<()> {
        match framing {
            Framing::Empty => {}
            Framing::Length(length) => message.body = self.exactly(length).await?,
            Framing::UntilEof => {
                while self.fill().await? > 0 {}
                message.body = std::mem::take(&mut self.buffer);
            }
            Framing::Chunked => loop {
                let size = self.line().await?;
                let size = size.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
                if size == 0 {
                    message.trailers = self.trailers().await?;
                    break;
                }
                message.body.extend(self.exactly(size).await?);
                self.exactly(2).await?;
            },
        }
        Ok(())
    }

    async fn trailers(&mut self) -> io::Result<Fields> {
        let mut fields = Fields::new();
        loop {
            match self.line().await? {
                line if line.is_empty() => return Ok(fields),
                line => fields.push(field(line.as_bytes())),
            }
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if self.fill().await? == 0 {
                return Err(eof("inside a line"));
            }
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.io.read_buf(&mut self.buffer).await
    }
}

/// The status of a response's first line; 0 where there is none.
pub(crate) fn status(first_line: &str) -> u16 {
    first_line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// Transfer-Encoding wins, as for every proxy that would forward both.
fn framing(fields: &Fields) -> Option<Framing> {
    let chunked = values(fields, "transfer-encoding").iter().any(|value| value.ends_with("chunked"));
    if chunked {
        return Some(Framing::Chunked);
    }
    let length = values(fields, "content-length").first()?.trim().parse().ok()?;
    Some(Framing::Length(length))
}

fn split_lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let text = head.strip_suffix(b"\r\n\r\n").unwrap_or(head);
    text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn field(line: &[u8]) -> (String, Vec<u8>) {
    let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
    let value = line.get(colon + 1..).unwrap_or_default().trim_ascii().to_vec();
    (String::from_utf8_lossy(&line[..colon]).into_owned(), value)
}

fn eof(place: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the stream ended {place}"))
}
