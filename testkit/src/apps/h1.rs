//! The HTTP/1 application: raw bytes in, raw bytes out.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Reply, Seen, State};
use crate::http1::{Message, Reader, values};

pub(super) async fn serve(io: TcpStream, connection: usize, state: Arc<State>) {
    let mut reader = Reader::new(Box::new(io));
    while let Ok(Some(message)) = reader.request().await {
        let seen = seen(connection, message);
        let head_only = seen.method == "HEAD";
        let reply = state.answer(seen).await;
        if reader.io.write_all(&encode(&reply, head_only)).await.is_err() {
            return;
        }
        if reply.open {
            // Whatever else arrives, the end of the connection is what is waited for.
            while reader.io.read_u8().await.is_ok() {}
            state.was_cut();
            return;
        }
        if reply.close {
            let _ = reader.io.shutdown().await;
            return;
        }
    }
}

fn seen(connection: usize, message: Message) -> Seen {
    let mut words = message.first_line.splitn(3, ' ').map(str::to_owned);
    let mut word = || words.next().unwrap_or_default();
    let (method, target, version) = (word(), word(), word());
    Seen {
        connection,
        version,
        method,
        target,
        authority: values(&message.fields, "host").first().cloned(),
        headers: message.fields,
        body: message.body,
        trailers: message.trailers,
        raw_head: message.head,
    }
}

fn encode(reply: &Reply, head_only: bool) -> Vec<u8> {
    let chunked = reply.open || !reply.trailers.is_empty();
    let mut out = format!("HTTP/1.1 {} Status\r\n", reply.status);
    for (name, value) in &reply.headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    match (reply.status, chunked) {
        (101 | 204 | 304, _) => {}
        (_, true) => out.push_str("transfer-encoding: chunked\r\n"),
        (_, false) => out.push_str(&format!("content-length: {}\r\n", reply.body.len())),
    }
    if reply.close {
        out.push_str("connection: close\r\n");
    }
    let mut out = [out.as_bytes(), b"\r\n"].concat();
    if head_only {
        return out;
    }
    if !chunked {
        out.extend_from_slice(&reply.body);
        return out;
    }
    if !reply.body.is_empty() {
        out.extend_from_slice(format!("{:x}\r\n", reply.body.len()).as_bytes());
        out.extend_from_slice(&reply.body);
        out.extend_from_slice(b"\r\n");
    }
    if !reply.open {
        out.extend_from_slice(b"0\r\n");
        for (name, value) in &reply.trailers {
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
    out
}
