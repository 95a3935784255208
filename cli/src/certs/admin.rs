//! The document from a sidecar's admin listener.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::failure::Failure;

/// How long a sidecar may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest document that is read.
const MAX_DOCUMENT: usize = 4 << 20;

/// Asks the sidecar whose admin listener is at `addr`.
pub(super) async fn fetch(addr: SocketAddr) -> Result<Value, Failure> {
    let unreachable = |error: &dyn std::error::Error| {
        Failure::unreachable(format!("no sidecar answers on {addr}"))
            .because(error)
            .next("the address is the one of --admin; it is in the sidecar's event \"listening\"")
    };
    match tokio::time::timeout(PATIENCE, exchange(addr)).await {
        Ok(Ok((StatusCode::OK, body))) => serde_json::from_slice(&body).map_err(|error| {
            Failure::finding(format!("what answers on {addr} is no sidecar")).because(&error)
        }),
        Ok(Ok((status, body))) => {
            let text = String::from_utf8_lossy(&body);
            let text: String = text.trim().chars().filter(|c| !c.is_control()).take(200).collect();
            Err(Failure::finding(format!("the sidecar on {addr} answers {status}: {text}")))
        }
        Ok(Err(error)) => Err(unreachable(&*error)),
        Err(late) => Err(unreachable(&late)),
    }
}

async fn exchange(addr: SocketAddr) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(addr).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    // The sidecar answers only to names of the loopback interface, against DNS rebinding.
    let request = Request::get("/v1/certs").header("host", "localhost").body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_DOCUMENT).collect().await?.to_bytes();
    connection.abort();
    Ok((status, body))
}
