//! The servers. Each writes a line of JSON for what arrived.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::ReceiverStream;

type Body = BoxBody<Bytes, Infallible>;

pub(crate) async fn serve(listeners: &[&str]) {
    let mut linger = 0;
    for word in listeners {
        let (kind, number) = word.split_once('=').expect("KIND=NUMBER");
        if kind == "linger" {
            linger = number.parse().expect("seconds");
            continue;
        }
        let port: u16 = number.parse().expect("a port");
        if kind == "door" {
            tokio::spawn(door(port));
            continue;
        }
        let listener = listen(port).await;
        let kind = kind.to_owned();
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let kind = kind.clone();
                tokio::spawn(async move { connection(&kind, stream).await });
            }
        });
    }
    say(&json!({"serving": listeners}));
    signal(SignalKind::terminate()).expect("a handler").recv().await;
    say(&json!({"ending": linger}));
    tokio::time::sleep(Duration::from_secs(linger)).await;
}

/// On both families where there are two.
async fn listen(port: u16) -> TcpListener {
    match TcpListener::bind(("::", port)).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind(("0.0.0.0", port)).await.expect("the port is free"),
    }
}

/// Listens while the application is well, and only then.
async fn door(port: u16) {
    let mut open = None;
    loop {
        match (crate::healthy(), &open) {
            (true, None) => open = Some(listen(port).await),
            (false, Some(_)) => open = None,
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn connection(kind: &str, stream: TcpStream) {
    match kind {
        "http" => {
            let serve = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service_fn(http))
                .with_upgrades();
            let _ = serve.await;
        }
        "grpc" => {
            let serve = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service_fn(grpc));
            let _ = serve.await;
        }
        "tcp" => echo(stream, "").await,
        "banner" => echo(stream, &format!("220 {}\n", name())).await,
        _ => panic!("no such server: {kind}"),
    }
}

/// Says something first, if there is something, and then every line again.
async fn echo(mut stream: TcpStream, banner: &str) {
    let (read, mut write) = stream.split();
    if write.write_all(banner.as_bytes()).await.is_err() {
        return;
    }
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        say(&json!({"line": line}));
        if write.write_all(format!("{} {line}\n", name()).as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn http(mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let seen = record(request.method().as_str(), request.uri().path(), request.headers());
    if request.headers().get("upgrade").is_some_and(|value| value == "websocket") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let Ok(io) = upgrade.await else { return };
            let mut io = TokioIo::new(io);
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = io.read(&mut buffer).await {
                if io.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        });
        let switching = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            // What RFC 6455 derives from the one key that the callers here send.
            .header("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        return Ok(switching.body(full("")).expect("a response"));
    }
    match request.uri().path() {
        "/healthz" => {
            let status = if crate::healthy() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            Ok(Response::builder()
                .status(status)
                .body(full("the application's own word\n"))
                .expect("a response"))
        }
        "/stream" => {
            let (send, receive) = tokio::sync::mpsc::channel(1);
            tokio::spawn(async move {
                while send.send(Ok(Frame::data(Bytes::from_static(b"tick\n")))).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
            Ok(Response::new(StreamBody::new(ReceiverStream::new(receive)).boxed()))
        }
        _ => {
            // Read to its end, so that the connection can go on.
            let _ = request.into_body().collect().await;
            Ok(Response::new(full(format!("{seen}\n"))))
        }
    }
}

/// Every method answers a `google.protobuf.StringValue` with what arrived, but that of health.
async fn grpc(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let seen = record(request.method().as_str(), &path, request.headers()).to_string();
    let _ = request.into_body().collect().await;
    let message = if path == "/grpc.health.v1.Health/Check" {
        vec![8, if crate::healthy() { 1 } else { 2 }]
    } else {
        let mut message = vec![10];
        let mut length = seen.len();
        while length > 127 {
            message.push((length % 128) as u8 | 128);
            length /= 128;
        }
        message.push(length as u8);
        message.extend(seen.as_bytes());
        message
    };
    let length = u32::try_from(message.len()).expect("a short message");
    let bytes = [&[0], length.to_be_bytes().as_slice(), &message].concat();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    let frames = tokio_stream::iter([Ok(Frame::data(Bytes::from(bytes))), Ok(Frame::trailers(trailers))]);
    let response = Response::builder().header("content-type", "application/grpc");
    Ok(response.body(StreamBody::new(frames).boxed()).expect("a response"))
}

fn record(method: &str, path: &str, headers: &HeaderMap) -> Value {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers: serde_json::Map<String, Value> =
        headers.iter().map(|(name, value)| (name.to_string(), json!(text(value)))).collect();
    let seen = json!({"app": name(), "method": method, "path": path, "headers": headers});
    if path != "/healthz" {
        say(&seen);
    }
    seen
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

/// The pod's.
fn name() -> String {
    std::env::var("HOSTNAME").unwrap_or_default()
}

fn say(line: &Value) {
    println!("{line}");
}
