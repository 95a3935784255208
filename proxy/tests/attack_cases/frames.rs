//! HTTP/2 frames by hand, for what no library would send.

use mantlet_testkit::sidecar::Sidecar;
use mantlet_testkit::{Io, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// How a connection answered a flood.
#[derive(Debug, Default)]
pub(crate) struct End {
    /// Error code of GOAWAY.
    pub(crate) goaway: Option<u32>,
    /// The last stream that GOAWAY says was looked at.
    pub(crate) last_stream: u32,
    /// Error codes of RST_STREAM.
    pub(crate) resets: Vec<u32>,
    /// Header blocks of responses.
    pub(crate) heads: Vec<Vec<u8>>,
    /// Whether the connection is gone.
    pub(crate) closed: bool,
}

/// The client's preface with empty SETTINGS.
pub(crate) fn preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, &[])].concat()
}

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The header block of a GET, without Huffman coding or dynamic entries.
pub(crate) fn get(path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x04, path.len() as u8]; // :method GET, :scheme http, :path
    block.extend(path.as_bytes());
    block.extend([0x01, 1, b'a']); // :authority
    block
}

/// Writes it all, reading meanwhile, until the peer ends the connection or `done`.
pub(crate) async fn flood(io: &mut Io, bytes: &[u8], done: impl Fn(&End) -> bool) -> End {
    let (mut read, mut write) = tokio::io::split(io);
    let writing = async {
        let _ = write.write_all(bytes).await;
        let _ = write.flush().await;
        // The answer is the reader's; a writer that is done waits for it.
        std::future::pending::<()>().await;
    };
    let mut end = End::default();
    let reading = async {
        loop {
            let mut head = [0; 9];
            if read.read_exact(&mut head).await.is_err() {
                end.closed = true;
                return;
            }
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            if read.read_exact(&mut payload).await.is_err() {
                end.closed = true;
                return;
            }
            match head[3] {
                GOAWAY => {
                    let last = payload.get(..4).map(|last| u32::from_be_bytes(last.try_into().unwrap()));
                    end.last_stream = last.unwrap_or_default();
                    end.goaway = payload.get(4..8).map(|code| u32::from_be_bytes(code.try_into().unwrap()));
                    if end.goaway != Some(0) {
                        return;
                    }
                }
                RST_STREAM => end.resets.push(u32::from_be_bytes(payload[..4].try_into().unwrap())),
                HEADERS => end.heads.push(payload),
                _ => {}
            }
            if done(&end) {
                return;
            }
        }
    };
    within("the end of a flood", async {
        tokio::select! {
            () = reading => {}
            () = writing => {}
        }
    })
    .await;
    end
}

/// Resident memory of the process.
pub(crate) fn resident_kib(sidecar: &Sidecar) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sidecar.pid().unwrap())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

// === impl End ===

impl End {
    /// Whether the one request was answered 431, or its stream or connection ended.
    pub(crate) fn refused(&self) -> bool {
        // 431 as HPACK writes it: three digits, plain or Huffman-coded.
        let says_431 =
            |head: &Vec<u8>| head.windows(3).any(|three| three == b"431" || three == [0x69, 0x90, 0xff]);
        self.closed
            || self.goaway.is_some()
            || self.resets.iter().any(|code| *code != 0)
            || self.heads.iter().any(says_431)
    }
}
