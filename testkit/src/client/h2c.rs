//! HTTP/2 with the `h2` crate: no client library decides anything.

use std::fmt;
use std::future::poll_fn;
use std::io;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Uri};
use tokio::task::AbortHandle;

use super::{Request, Response};
use crate::apps::{h2_fields, h2_map, h2_read};
use crate::http1::Io;
use crate::wait::within;

/// An HTTP/2 client connection.
pub struct Http2 {
    sender: SendRequest<Bytes>,
    driver: AbortHandle,
    ended: tokio::sync::watch::Receiver<Option<String>>,
}

/// One HTTP/2 stream that the test drives itself.
pub struct Http2Stream {
    /// Sends the body.
    pub body: SendStream<Bytes>,
    response: ResponseFuture,
    receive: Option<RecvStream>,
}

// === impl Http2 ===

impl Http2 {
    /// Exchanges prefaces on this stream and drives the connection.
    pub async fn new(io: Io) -> Result<Self, h2::Error> {
        let (sender, connection) = within("the HTTP/2 preface", h2::client::handshake(io)).await?;
        let (end, ended) = tokio::sync::watch::channel(None);
        let driver = tokio::spawn(async move {
            let result = connection.await;
            end.send_replace(Some(result.map_or_else(|error| error.to_string(), |()| "closed".to_owned())));
        });
        Ok(Self { sender, driver: driver.abort_handle(), ended })
    }

    /// Sends a request and reads its response.
    pub async fn send(&mut self, request: &Request) -> Result<Response, h2::Error> {
        let mut stream = self.open(request, request.body.is_empty() && request.trailers.is_empty()).await?;
        if !request.body.is_empty() {
            let body = Bytes::from(request.body.clone());
            stream.body.send_data(body, request.trailers.is_empty())?;
        }
        if !request.trailers.is_empty() {
            stream.body.send_trailers(h2_map(&request.trailers))?;
        }
        let mut response = stream.head().await?;
        let receive = stream.receive.take().expect("the head came first");
        let (body, trailers) = h2_read(receive).await?;
        response.body = body;
        response.trailers = h2_fields(&trailers);
        Ok(response)
    }

    /// Sends the head of a request and leaves the rest to the test.
    pub async fn open(&mut self, request: &Request, end: bool) -> Result<Http2Stream, h2::Error> {
        let ready = poll_fn(|cx| self.sender.poll_ready(cx));
        within("room for a stream", ready).await?;
        let (response, body) = self.sender.send_request(head(request), end)?;
        Ok(Http2Stream { body, response, receive: None })
    }

    /// Waits for the end of the connection and says how it ended.
    pub async fn ended(&mut self) -> String {
        let ended = within("the HTTP/2 connection to end", self.ended.wait_for(Option::is_some)).await;
        ended.map(|ended| ended.clone().unwrap_or_default()).unwrap_or_default()
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl fmt::Debug for Http2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2").field("ended", &*self.ended.borrow()).finish_non_exhaustive()
    }
}

// === impl Http2Stream ===

impl Http2Stream {
    /// Waits for the head of the response.
    pub async fn head(&mut self) -> Result<Response, h2::Error> {
        let response = within("the head of an HTTP/2 response", &mut self.response).await?;
        let (parts, body) = response.into_parts();
        self.receive = Some(body);
        Ok(Response {
            status: parts.status.as_u16(),
            headers: h2_fields(&parts.headers),
            ..Response::default()
        })
    }

    /// The next piece of the body; `None` at its end.
    pub async fn data(&mut self) -> io::Result<Option<Bytes>> {
        let receive = self.receive.as_mut().expect("the head comes first");
        match within("a DATA frame or the end", receive.data()).await {
            Some(chunk) => {
                let chunk = chunk.map_err(io::Error::other)?;
                receive.flow_control().release_capacity(chunk.len()).map_err(io::Error::other)?;
                Ok(Some(chunk))
            }
            None => Ok(None),
        }
    }

    /// The trailers, after the body has ended.
    pub async fn trailers(&mut self) -> Result<crate::http1::Fields, h2::Error> {
        let receive = self.receive.as_mut().expect("the head comes first");
        let trailers = within("trailers or the end", receive.trailers()).await?;
        Ok(h2_fields(&trailers.unwrap_or_default()))
    }
}

impl fmt::Debug for Http2Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2Stream").finish_non_exhaustive()
    }
}

fn head(request: &Request) -> http::Request<()> {
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(PathAndQuery::try_from(request.target.as_str()).expect("a path"));
    if let Some(authority) = &request.authority {
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(Authority::try_from(authority.as_str()).expect("an authority"));
    }
    let mut head = http::Request::new(());
    *head.method_mut() = Method::from_bytes(request.method.as_bytes()).expect("a method");
    *head.uri_mut() = Uri::from_parts(uri).expect("a target");
    *head.version_mut() = http::Version::HTTP_2;
    *head.headers_mut() = h2_map(&request.headers);
    head
}
