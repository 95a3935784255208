//! How long a connection may take for a head, and how old it becomes.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mantlet_testkit::wait::within;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;

use crate::api::Api;
use crate::client::{NAME, review, tls};
use crate::injector::Injector;
use crate::pods::{create, pod};

/// Longer than what the injector is told here, and shorter than what it does where nobody says anything.
const SOON: Duration = Duration::from_secs(10);

/// Waits until the other side ends it; what it said before that.
async fn ended(what: &str, stream: &mut TlsStream<TcpStream>) -> String {
    let mut said = Vec::new();
    // However it ends: it may well be in the middle of what is being sent.
    let _ = within(what, stream.read_to_end(&mut said)).await;
    String::from_utf8_lossy(&said).into_owned()
}

fn head(length: usize) -> String {
    format!(
        "POST /mutate?timeout=30s HTTP/1.1\r\nhost: {NAME}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_head_that_comes_slowly_and_a_silence_end_their_connection_and_no_other() {
    let api = Api::start().await;
    let injector = Injector::with(&api, "{}", &["--head-timeout", "1s"]).await;
    let bundle = api.bundles().remove(0);
    let connect = async || tls(injector.addr, &bundle, &["http/1.1"]).await.unwrap();
    let begun = Instant::now();

    let mut silent = connect().await;
    let (mut reads, mut writes) = tokio::io::split(connect().await);
    let drips = tokio::spawn(async move {
        // A byte at a time: each of them is progress, and all together are none.
        let mut byte = b"POST /mutate HTTP/1.1\r\nx-".iter().chain(std::iter::repeat(&b'x'));
        while let Some(byte) = byte.next()
            && writes.write_all(&[*byte]).await.is_ok()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut answered = connect().await;
    let body = review(&create(&pod()));
    answered.write_all(head(body.len()).as_bytes()).await.unwrap();
    answered.write_all(body.as_bytes()).await.unwrap();

    let said = ended("the end of a connection that was answered once", &mut answered).await;
    assert!(said.starts_with("HTTP/1.1 200 ") && said.contains("\"allowed\":true"), "{said}");
    assert_eq!(ended("the end of a connection that says nothing", &mut silent).await, "");
    let mut said = Vec::new();
    let _ = within("the end of a slow head", reads.read_to_end(&mut said)).await;
    assert!(!said.starts_with(b"HTTP/1.1 200 "));
    within("the drips to end", drips).await.unwrap();
    assert!((Duration::from_secs(1)..SOON).contains(&begun.elapsed()), "{:?}", begun.elapsed());

    let response = injector.caller(&api).await.review("/mutate", &create(&pod())).await;
    assert_eq!(response["allowed"], true);
}

/// A body that comes when somebody sends it.
struct Parts(mpsc::Receiver<Bytes>);

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|part| part.map(|part| Ok(Frame::data(part))))
    }
}

#[tokio::test]
async fn an_old_connection_is_asked_to_end_and_what_it_carries_is_answered_first() {
    let api = Api::start().await;
    let injector = Injector::with(&api, "{}", &["--connection-age", "1s"]).await;
    let bundle = api.bundles().remove(0);
    let body = review(&create(&pod()));
    let (first, rest) = body.split_at(body.len() / 2);

    let mut one = tls(injector.addr, &bundle, &["http/1.1"]).await.unwrap();
    one.write_all(head(body.len()).as_bytes()).await.unwrap();
    one.write_all(first.as_bytes()).await.unwrap();

    let stream = tls(injector.addr, &bundle, &["h2"]).await.unwrap();
    let io = TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let (parts, receiver) = mpsc::channel(2);
    let request = Request::post(format!("https://{NAME}/mutate?timeout=30s"))
        .header("content-type", "application/json")
        .body(Parts(receiver))
        .unwrap();
    let answer = tokio::spawn(sender.send_request(request));
    parts.send(Bytes::copy_from_slice(first.as_bytes())).await.unwrap();

    // Younger than both and without a request: when it has ended, they are old.
    let mut idle = tls(injector.addr, &bundle, &["http/1.1"]).await.unwrap();
    let begun = Instant::now();
    assert_eq!(ended("the end of an idle connection", &mut idle).await, "");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());

    one.write_all(rest.as_bytes()).await.unwrap();
    let said = ended("the answer and the end of an old connection", &mut one).await;
    assert!(said.starts_with("HTTP/1.1 200 ") && said.contains("\"allowed\":true"), "{said}");
    parts.send(Bytes::copy_from_slice(rest.as_bytes())).await.unwrap();
    drop(parts);
    let answer = within("an answer", answer).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&text).contains("\"allowed\":true"));
    let _ = within("the end of an old connection of HTTP/2", connection).await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());

    // An API server that comes back is let in.
    let response = injector.caller(&api).await.review("/mutate", &create(&pod())).await;
    assert_eq!(response["allowed"], true);
}

/// One request after another on a connection that is kept, until an answer says that it is the last.
async fn until_announced(mut sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>) -> usize {
    let body = Bytes::from(review(&create(&pod())));
    for count in 1.. {
        let request = Request::post("/mutate?timeout=30s")
            .header("host", NAME)
            .header("content-type", "application/json")
            .body(Full::new(body.clone()))
            .unwrap();
        let answer = within("an answer", sender.send_request(request)).await.expect("no request is lost");
        assert_eq!(answer.status(), 200);
        let last = answer.headers().get("connection").is_some_and(|value| value == "close");
        answer.into_body().collect().await.unwrap();
        if last {
            return count;
        }
        within("the connection to be kept", sender.ready()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    0
}

#[tokio::test]
async fn a_connection_that_is_in_use_is_told_that_it_ends_and_no_request_meets_a_closed_one() {
    let api = Api::start().await;
    let connect = async |injector: &Injector| {
        let bundle = api.bundles().remove(0);
        let io = TokioIo::new(tls(injector.addr, &bundle, &["http/1.1"]).await.unwrap());
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        sender
    };
    // When it is old.
    let injector = Injector::with(&api, "{}", &["--connection-age", "1s"]).await;
    assert!(until_announced(connect(&injector).await).await > 1);
    drop(injector);

    // And when the process is told to stop, from then on and not only once it accepts no more.
    let injector = Injector::with(&api, "{}", &["--stop-delay", "60s"]).await;
    let kept = connect(&injector).await;
    injector.terminate();
    injector.event("stopping").await;
    assert_eq!(until_announced(kept).await, 1);
    assert_eq!(until_announced(connect(&injector).await).await, 1);
}
