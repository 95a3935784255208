//! The callers. What went wrong is an answer like any other.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

type Failure = Box<dyn Error + Send + Sync>;
type Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

/// Longer than anything that is to answer.
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) async fn get(url: &str, method: &str) -> Value {
    answer(async {
        let (to, path) = parts(url)?;
        let mut sender = http1(to).await?;
        let response = sender.send_request(request(method, to, path)?).await?;
        told(response).await
    })
    .await
}

/// Prints when a response has begun, and then how it ended.
pub(crate) async fn hold(url: &str) -> Value {
    let begun = Instant::now();
    let outcome: Result<Value, Failure> = async {
        let (to, path) = parts(url)?;
        let mut sender = http1(to).await?;
        let response = sender.send_request(request("GET", to, path)?).await?;
        let status = response.status().as_u16();
        println!("{}", json!({"status": status}));
        let mut body = response.into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => bytes += frame.data_ref().map_or(0, Bytes::len),
                Err(error) => return Ok(json!({"ended": error.to_string(), "bytes": bytes})),
            }
        }
        Ok(json!({"ended": "end", "bytes": bytes}))
    }
    .await;
    let mut value = outcome.unwrap_or_else(|error| failed(&error));
    value["seconds"] = json!(begun.elapsed().as_secs_f64());
    value
}

/// Asks again and again, and prints each status that is another than the one before.
pub(crate) async fn changes(url: &str) -> ! {
    let mut last = Value::Null;
    loop {
        let status = get(url, "GET").await["status"].take();
        if status != last {
            println!("{}", json!({"status": status}));
            last = status;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Keeps connections, and opens a new one where the last was closed after its response.
pub(crate) async fn load(url: &str, requests: usize, connections: usize, pause: usize) -> Value {
    let (to, path) = parts(url).expect("a url");
    let left = Arc::new(AtomicUsize::new(requests));
    let pause = Duration::from_millis(pause as u64);
    let _ = std::fs::remove_file(crate::STOP);
    let ended = move |left: &AtomicUsize| match requests {
        0 => std::path::Path::new(crate::STOP).exists(),
        _ => left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err(),
    };
    println!("{}", json!({"begun": requests}));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let (left, to, path) = (Arc::clone(&left), to.to_owned(), path.to_owned());
        tasks.spawn(async move {
            let (mut good, mut bad, mut sender) = (0_usize, Vec::new(), None::<Sender>);
            while !ended(&left) {
                tokio::time::sleep(pause).await;
                let once: Result<u16, Failure> = async {
                    let mut ready = match sender.take().filter(|sender| !sender.is_closed()) {
                        Some(sender) => sender,
                        None => http1(&to).await?,
                    };
                    ready.ready().await?;
                    let response = ready.send_request(request("GET", &to, &path)?).await?;
                    let status = response.status().as_u16();
                    let closing = response.headers().get("connection").is_some_and(|value| value == "close");
                    response.into_body().collect().await?;
                    sender = (!closing).then_some(ready);
                    Ok(status)
                }
                .await;
                match once {
                    Ok(200) => good += 1,
                    Ok(status) => bad.push(format!("status {status}")),
                    Err(error) => bad.push(failed(&error).to_string()),
                }
            }
            (good, bad)
        });
    }
    let (mut good, mut bad) = (0, Vec::new());
    while let Some(Ok((some_good, some_bad))) = tasks.join_next().await {
        good += some_good;
        bad.extend(some_bad);
    }
    let failed = bad.len();
    bad.truncate(5);
    json!({"ok": good, "failed": failed, "first": bad})
}

pub(crate) async fn grpc(to: &str, path: &str) -> Value {
    answer(async {
        let stream = TcpStream::connect(to).await?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::post(format!("http://{to}{path}"))
            .version(Version::HTTP_2)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from_static(&[0, 0, 0, 0, 0])))?;
        told(sender.send_request(request).await?).await
    })
    .await
}

pub(crate) async fn websocket(to: &str, path: &str) -> Value {
    answer(async {
        let mut stream = BufReader::new(TcpStream::connect(to).await?);
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.get_mut().write_all(head.as_bytes()).await?;
        let mut first = String::new();
        stream.read_line(&mut first).await?;
        let status: u16 = first.split(' ').nth(1).unwrap_or_default().parse()?;
        let mut line = first;
        while line.trim() != "" {
            line.clear();
            stream.read_line(&mut line).await?;
        }
        if status != 101 {
            return Ok(json!({"status": status}));
        }
        // A masked text of two bytes, which the application sends back as it is.
        let frame = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
        stream.get_mut().write_all(&frame).await?;
        let mut back = [0; 8];
        stream.read_exact(&mut back).await?;
        Ok(json!({"status": status, "same": back == frame}))
    })
    .await
}

pub(crate) async fn tcp(to: &str, text: &str) -> Value {
    answer(async {
        let mut stream = BufReader::new(TcpStream::connect(to).await?);
        stream.get_mut().write_all(format!("{text}\n").as_bytes()).await?;
        line(&mut stream).await
    })
    .await
}

pub(crate) async fn banner(to: &str) -> Value {
    answer(async { line(&mut BufReader::new(TcpStream::connect(to).await?)).await }).await
}

/// Opens connections and says nothing on them.
pub(crate) async fn idle(to: &str, count: usize, seconds: usize) -> Value {
    let mut open = Vec::new();
    for _ in 0..count {
        open.extend(TcpStream::connect(to).await);
    }
    println!("{}", json!({"open": open.len()}));
    tokio::time::sleep(Duration::from_secs(seconds as u64)).await;
    json!({"held": open.len()})
}

async fn line(stream: &mut BufReader<TcpStream>) -> Result<Value, Failure> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err("closed".into());
    }
    Ok(json!({"line": line.trim_end()}))
}

async fn http1(to: &str) -> Result<Sender, Failure> {
    let stream = TcpStream::connect(to).await?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

fn request(method: &str, to: &str, path: &str) -> Result<Request<Full<Bytes>>, Failure> {
    Ok(Request::builder().method(method).uri(path).header("host", to).body(Full::default())?)
}

fn parts(url: &str) -> Result<(&str, &str), Failure> {
    let rest = url.strip_prefix("http://").ok_or("a url with http")?;
    Ok(rest.find('/').map_or((rest, "/"), |at| rest.split_at(at)))
}

async fn told(response: Response<Incoming>) -> Result<Value, Failure> {
    let (head, body) = response.into_parts();
    let body = body.collect().await?;
    let fields = |map: &http::HeaderMap| -> serde_json::Map<String, Value> {
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        map.iter().map(|(name, value)| (name.to_string(), json!(text(value)))).collect()
    };
    let trailers = body.trailers().map(fields).unwrap_or_default();
    let bytes = body.to_bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    // What the application saw, where it was the application that answered.
    let from = text.find('{').unwrap_or(0);
    let seen: Value = serde_json::from_str(text[from..].trim()).unwrap_or(Value::Null);
    Ok(json!({
        "status": head.status.as_u16(), "headers": fields(&head.headers), "trailers": trailers,
        "text": text, "seen": seen,
    }))
}

async fn answer(call: impl Future<Output = Result<Value, Failure>>) -> Value {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => failed(&error),
        Err(_) => json!({"error": "nothing came"}),
    }
}

fn failed(error: &Failure) -> Value {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    json!({"error": text})
}
