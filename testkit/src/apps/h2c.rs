//! The HTTP/2 application: prior knowledge, every stream recorded.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Reply, Seen, State};
use crate::http1::Fields;

pub(super) async fn serve(io: TcpStream, connection: usize, state: Arc<State>) {
    let Ok(mut h2) = h2::server::handshake(io).await else { return };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, respond))) = h2.accept().await {
        streams.spawn(stream(request, respond, connection, Arc::clone(&state)));
    }
    // The connection is gone: streams that wait for its end must see it.
    drop(h2);
    while streams.join_next().await.is_some() {}
}

async fn stream(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    connection: usize,
    state: Arc<State>,
) {
    let (parts, body) = request.into_parts();
    let Ok((body, trailers)) = read(body).await else { return };
    let seen = Seen {
        connection,
        version: "HTTP/2".to_owned(),
        method: parts.method.to_string(),
        target: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        authority: parts.uri.authority().map(ToString::to_string),
        headers: fields(&parts.headers),
        body,
        trailers: fields(&trailers),
        raw_head: Vec::new(),
    };
    let head_only = seen.method == "HEAD";
    let mut reply = state.answer(seen).await;
    if head_only {
        reply.body.clear();
        reply.trailers.clear();
    }
    let _ = send(&mut respond, &reply, &state).await;
}

async fn send(respond: &mut SendResponse<Bytes>, reply: &Reply, state: &State) -> Result<(), h2::Error> {
    let mut head = Response::builder().status(reply.status).body(()).expect("a status");
    head.headers_mut().extend(map(&reply.headers));
    let ends = reply.body.is_empty() && reply.trailers.is_empty() && !reply.open;
    let mut stream = respond.send_response(head, ends)?;
    if ends {
        return Ok(());
    }
    let last = reply.trailers.is_empty() && !reply.open;
    if !reply.body.is_empty() || last {
        stream.send_data(Bytes::from(reply.body.clone()), last)?;
    }
    if reply.open {
        let _: Result<Reason, _> = poll_fn(|cx| stream.poll_reset(cx)).await;
        state.was_cut();
        return Ok(());
    }
    if !reply.trailers.is_empty() {
        stream.send_trailers(map(&reply.trailers))?;
    }
    Ok(())
}

/// The whole body, its window given back as it comes.
pub(crate) async fn read(mut body: RecvStream) -> Result<(Vec<u8>, HeaderMap), h2::Error> {
    let mut all = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        all.extend_from_slice(&chunk);
    }
    Ok((all, body.trailers().await?.unwrap_or_default()))
}

pub(crate) fn fields(map: &HeaderMap) -> Fields {
    map.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

pub(crate) fn map(fields: &[(String, String)]) -> HeaderMap {
    let name = |name: &str| HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes());
    let value = |value: &str| HeaderValue::from_bytes(value.as_bytes());
    let mut map = HeaderMap::new();
    for (field, text) in fields {
        map.append(name(field).expect("field name"), value(text).expect("field value"));
    }
    map
}
