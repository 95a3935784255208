//! A running sidecar, asked over its admin listener.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use clap::Args;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use crate::failure::Failure;

/// How long a sidecar may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest document that is read.
const MAX_DOCUMENT: usize = 4 << 20;
/// Longest single event.
const MAX_EVENT: usize = 64 << 10;

/// Which sidecars to ask.
#[derive(Debug, Args)]
pub(crate) struct AdminArgs {
    /// Admin address of a running sidecar; repeat it, or separate several by commas
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', default_value = "127.0.0.1:24190")]
    pub(crate) admin: Vec<SocketAddr>,
}

/// What happens at a sidecar, as it happens.
pub(crate) struct Events {
    addr: SocketAddr,
    body: Incoming,
    buffer: BytesMut,
    connection: AbortHandle,
}

/// One thing that happened.
#[derive(Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) kind: String,
    pub(crate) data: Value,
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// The document at `path` of the sidecar whose admin listener is at `addr`.
pub(crate) async fn fetch(addr: SocketAddr, path: &'static str) -> Result<Value, Failure> {
    serde_json::from_slice(&bytes(addr, path).await?)
        .map_err(|error| Failure::finding(format!("what answers on {addr} is no sidecar")).because(&error))
}

/// The text at `path`, such as the metrics.
pub(crate) async fn text(addr: SocketAddr, path: &'static str) -> Result<String, Failure> {
    Ok(String::from_utf8_lossy(&bytes(addr, path).await?).into_owned())
}

async fn bytes(addr: SocketAddr, path: &'static str) -> Result<Bytes, Failure> {
    let exchange = async {
        let (response, connection) = get(addr, path).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_DOCUMENT).collect().await?.to_bytes();
        connection.abort();
        Ok::<_, Fault>((status, body))
    };
    match tokio::time::timeout(PATIENCE, exchange).await {
        Ok(Ok((StatusCode::OK, body))) => Ok(body),
        Ok(Ok((status, body))) => Err(refused(addr, status, &body)),
        Ok(Err(error)) => Err(unreachable(addr, &*error)),
        Err(late) => Err(unreachable(addr, &late)),
    }
}

async fn get(addr: SocketAddr, path: &str) -> Result<(Response<Incoming>, AbortHandle), Fault> {
    let stream = TcpStream::connect(addr).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection).abort_handle();
    // The sidecar answers only to names of the loopback interface, against DNS rebinding.
    let request = Request::get(path).header("host", "localhost").body(Empty::<Bytes>::new())?;
    Ok((sender.send_request(request).await?, connection))
}

fn unreachable(addr: SocketAddr, error: &dyn std::error::Error) -> Failure {
    Failure::unreachable(format!("no sidecar answers on {addr}"))
        .because(error)
        .next("the address is the one of --admin; it is in the sidecar's event \"listening\"")
}

fn refused(addr: SocketAddr, status: StatusCode, body: &[u8]) -> Failure {
    let text = String::from_utf8_lossy(body);
    let text: String = text.trim().chars().filter(|c| !c.is_control()).take(200).collect();
    Failure::finding(format!("the sidecar on {addr} answers {status}: {text}"))
}

// === impl Events ===

impl Events {
    /// Begins to watch; `query` leaves out decisions.
    pub(crate) async fn of(addr: SocketAddr, query: &str) -> Result<Self, Failure> {
        let path = format!("/v1/events{query}");
        let exchange = async {
            let (response, connection) = get(addr, &path).await?;
            let (parts, body) = response.into_parts();
            if parts.status == StatusCode::OK {
                return Ok(Ok(Self { addr, body, buffer: BytesMut::new(), connection }));
            }
            let body = Limited::new(body, MAX_DOCUMENT).collect().await?.to_bytes();
            Ok::<_, Fault>(Err(refused(addr, parts.status, &body)))
        };
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(Ok(events)) => events,
            Ok(Err(error)) => Err(unreachable(addr, &*error)),
            Err(late) => Err(unreachable(addr, &late)),
        }
    }

    /// The next event; `None` when the sidecar has ended the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, Failure> {
        loop {
            while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block = self.buffer.split_to(end + 2);
                if let Some(event) = event(&String::from_utf8_lossy(&block)) {
                    return Ok(Some(event));
                }
            }
            if self.buffer.len() > MAX_EVENT {
                return Err(Failure::finding(format!("what answers on {} is no sidecar", self.addr)));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => {
                    return Err(
                        Failure::unreachable(format!("the sidecar on {} is gone", self.addr)).because(&error)
                    );
                }
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// One block of an event stream; none for a comment.
fn event(block: &str) -> Option<Event> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let data = serde_json::from_str(field("data")?).ok()?;
    Some(Event { kind: field("event")?.to_owned(), data })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_has_a_kind_and_data_and_a_comment_is_none() {
        let block = "event: decision\ndata: {\"rule\":\"x\"}\n\n";
        assert_eq!(event(block), Some(Event { kind: "decision".into(), data: json!({"rule": "x"}) }));
        assert_eq!(event(": watching\n\n"), None);
        assert_eq!(event("event: decision\ndata: {\n\n"), None);
    }
}
