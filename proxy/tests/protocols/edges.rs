//! The corners of HTTP that a proxy gets wrong first.

use mantlet_testkit::apps::{App, Protocol, RawApp, Reply};
use mantlet_testkit::client::{Http1, HttpClient, Request, connect, exactly, until_end};
use mantlet_testkit::{Io, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::common::{BOTH, Inbound};

const ALLOW: &str = "allow web/frontend to * /**\n";

/// An app whose connections the test handles itself, behind two sidecars.
async fn raw() -> (RawApp, Inbound, mantlet_testkit::sidecar::Sidecar, std::net::SocketAddr) {
    let app = RawApp::start().await;
    let inbound = Inbound::start(app.addr(), ALLOW).await;
    let (caller, addr) = inbound.caller("web/frontend", " as http").await;
    (app, inbound, caller, addr)
}

async fn http1(addr: std::net::SocketAddr) -> Http1 {
    Http1::new(Box::new(connect(addr).await))
}

/// Reads a request head at the app.
async fn head(io: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let read = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(io.read_u8().await.unwrap());
        }
    };
    within("a request head at the app", read).await;
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

#[tokio::test]
async fn a_caller_that_waits_for_100_continue_is_answered_by_its_own_sidecar() {
    let app = App::with(Protocol::Http1, |seen| async { Reply::ok(seen.body) }).await;
    let inbound = Inbound::start(app.addr(), ALLOW).await;
    let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
    let mut client = http1(addr).await;
    client
        .write("PUT /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(client.read_head().await.unwrap().status, 100);
    let response = client.raw("hello").await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    let seen = app.only();
    assert_eq!(seen.header("expect"), Vec::<String>::new(), "it was met on the first hop");
    assert_eq!(seen.body, b"hello");
}

#[tokio::test]
async fn interim_answers_of_an_app_are_not_taken_for_its_answer() {
    let (app, _inbound, _caller, addr) = raw().await;
    let mut client = http1(addr).await;
    client.write("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
    let mut io = app.accept().await;
    head(&mut io).await;
    io.write_all(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
          HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\ndone",
    )
    .await
    .unwrap();
    let first = client.read_head().await.unwrap();
    assert_eq!((first.status, first.header("link")), (201, vec![]));
    assert_eq!(client.exactly(4).await.unwrap(), b"done");
}

#[tokio::test]
async fn interim_answers_of_an_http_2_app_are_not_taken_for_its_answer() {
    let (app, _inbound, _caller, addr) = raw().await;
    let serving = tokio::spawn(async move {
        let mut h2 = h2::server::handshake(app.accept().await).await.unwrap();
        while let Some(Ok((_, mut respond))) = h2.accept().await {
            for status in [100, 103] {
                let interim = http::Response::builder().status(status).body(()).unwrap();
                respond.send_informational(interim).unwrap();
            }
            let head = http::Response::builder().status(201).body(()).unwrap();
            respond.send_response(head, false).unwrap().send_data("done".into(), true).unwrap();
        }
    });
    let mut client = HttpClient::plain(addr, Protocol::H2c).await;
    let response = client.send(&Request::new("POST", "/a").body("hi")).await;
    assert_eq!((response.status, response.text().as_str()), (201, "done"));
    serving.abort();
}

#[tokio::test]
async fn an_answer_that_comes_before_the_upload_is_over_reaches_the_caller() {
    let (app, _inbound, _caller, addr) = raw().await;
    let mut client = http1(addr).await;
    // More than all buffers on the way hold, and never finished.
    let part = vec![b'x'; 64 * 1024];
    client.write("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n").await.unwrap();
    client.write(&part).await.unwrap();
    let mut io = app.accept().await;
    head(&mut io).await;
    io.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
        .await
        .unwrap();
    let response = client.read().await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (413, "big"));
}

#[tokio::test]
async fn an_http_2_answer_that_comes_before_the_upload_is_over_reaches_the_caller() {
    let (app, _inbound, _caller, addr) = raw().await;
    let serving = tokio::spawn(async move {
        let mut h2 = h2::server::handshake(app.accept().await).await.unwrap();
        while let Some(Ok((_, mut respond))) = h2.accept().await {
            let head = http::Response::builder().status(413).body(()).unwrap();
            respond.send_response(head, false).unwrap().send_data("big".into(), true).unwrap();
        }
    });
    let HttpClient::Http2(mut client) = HttpClient::plain(addr, Protocol::H2c).await else { unreachable!() };
    let mut stream = client.open(&Request::new("POST", "/a"), false).await.unwrap();
    stream.body.send_data(vec![b'x'; 1000].into(), false).unwrap();
    assert_eq!(stream.head().await.unwrap().status, 413);
    assert_eq!(stream.data().await.unwrap().unwrap(), "big");
    // The stream is over, the connection is not.
    let again = client.send(&Request::get("/b")).await.unwrap();
    assert_eq!(again.status, 413);
    serving.abort();
}

#[tokio::test]
async fn a_client_that_has_closed_its_half_still_gets_the_answer() {
    let (open, gate) = watch::channel(false);
    let app = App::with(Protocol::Http1, move |_| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|open| *open).await.unwrap();
            Reply::ok("late")
        }
    })
    .await;
    let inbound = Inbound::start(app.addr(), ALLOW).await;
    let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
    let mut io = connect(addr).await;
    io.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    io.shutdown().await.unwrap();
    app.wait_for_requests(1).await;
    open.send_replace(true);
    let mut io: Io = Box::new(io);
    let answer = String::from_utf8(until_end(&mut io).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nlate"), "{answer}");
}

#[tokio::test]
async fn pipelined_requests_through_two_sidecars_are_answered_in_order() {
    let app = App::with(Protocol::Http1, |seen| async move { Reply::ok(seen.target) }).await;
    let inbound = Inbound::start(app.addr(), "allow web/frontend to GET /orders/**\n").await;
    let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
    let mut client = http1(addr).await;
    let targets: Vec<String> =
        (0..20).map(|n| format!("{}{n}", if n % 5 == 4 { "/x/" } else { "/orders/" })).collect();
    let requests: String = targets.iter().map(|t| format!("GET {t} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    client.write(requests).await.unwrap();
    for target in &targets {
        let response = client.read().await.unwrap();
        match target.starts_with("/orders/") {
            true => assert_eq!((response.status, &response.text()), (200, target)),
            false => assert_eq!((response.status, response.denied().as_deref()), (403, Some("default"))),
        }
    }
}

#[tokio::test]
async fn a_get_with_a_body_of_unknown_length_keeps_its_body() {
    for protocol in BOTH {
        let app = App::with(protocol, |seen| async { Reply::ok(seen.body) }).await;
        let inbound = Inbound::start(app.addr(), ALLOW).await;
        let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
        match HttpClient::plain(addr, protocol).await {
            HttpClient::Http1(mut client) => {
                for _ in 0..2 {
                    let request = "GET /search HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                                   5\r\nquery\r\n0\r\n\r\n";
                    assert_eq!(client.raw(request).await.unwrap().text(), "query");
                }
            }
            HttpClient::Http2(mut client) => {
                let response = client.send(&Request::get("/search").body("query")).await.unwrap();
                assert_eq!(response.text(), "query");
            }
        }
        assert_eq!(app.seen()[0].body, b"query", "{protocol:?}");
    }
}

#[tokio::test]
async fn the_length_of_an_answer_to_head_is_what_the_app_said() {
    let (app, _inbound, _caller, addr) = raw().await;
    let mut client = http1(addr).await;
    for _ in 0..2 {
        client.write("HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut io = app.accept().await;
        head(&mut io).await;
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nConnection: close\r\n\r\n";
        io.write_all(answer.as_bytes()).await.unwrap();
        let response = client.read_head().await.unwrap();
        assert_eq!((response.status, response.header("content-length")), (200, vec!["1234".to_owned()]));
    }
}

#[tokio::test]
async fn an_http_1_0_app_is_read_to_its_end() {
    for protocol in BOTH {
        let app = RawApp::start().await;
        let inbound = Inbound::start(app.addr(), ALLOW).await;
        // Of another make: it does not say what its app spoke, so the app behind us gets HTTP/1.
        let mut peer = inbound.http("web/frontend", protocol).await;
        let answering = async {
            let mut io = app.accept().await;
            head(&mut io).await;
            io.write_all(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil ").await.unwrap();
            io.write_all(b"the end").await.unwrap();
        };
        let request = Request::get("/a");
        let (response, ()) = tokio::join!(peer.send(&request), answering);
        assert_eq!((response.status, response.text().as_str()), (200, "until the end"), "{protocol:?}");
    }
}

/// A client must be able to tell a whole answer from one that broke off.
#[tokio::test]
async fn an_answer_that_breaks_off_is_not_passed_off_as_whole() {
    for framing in ["Content-Length: 100\r\n\r\nfirst", "Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"] {
        for protocol in BOTH {
            let app = RawApp::start().await;
            let inbound = Inbound::start(app.addr(), ALLOW).await;
            let mut peer = inbound.http("web/frontend", protocol).await;
            let request = Request::get("/a");
            let answering = async {
                let mut io = app.accept().await;
                head(&mut io).await;
                io.write_all(format!("HTTP/1.1 200 OK\r\n{framing}").as_bytes()).await.unwrap();
            };
            let (response, ()) = tokio::join!(peer.try_send(&request), answering);
            assert!(response.is_err(), "{protocol:?} {framing:?}: {response:?}");
        }
    }
}

/// A client that has closed may have closed its half alone and still want the answer: that nobody
/// reads any more is known when something is written.
#[tokio::test]
async fn server_sent_events_arrive_one_by_one_and_end_with_their_reader() {
    let (app, _inbound, _caller, addr) = raw().await;
    let mut client = http1(addr).await;
    client.write("GET /events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n").await.unwrap();
    let mut io = app.accept().await;
    head(&mut io).await;
    io.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let response = client.read_head().await.unwrap();
    assert_eq!(response.header("content-type"), ["text/event-stream"]);
    for n in 0..10 {
        // The next event is not sent before this one has arrived.
        let event = format!("data: {n}\n\n");
        io.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await.unwrap();
        let chunk = client.exactly(3 + event.len() + 2).await.unwrap();
        assert_eq!(String::from_utf8(chunk).unwrap(), format!("{:x}\r\n{event}\r\n", event.len()));
    }
    drop(client);
    let telling = async {
        while io.write_all(b"5\r\ndata:\r\n").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    within("the app to be told that nobody reads", telling).await;
}

#[tokio::test]
async fn bytes_of_a_websocket_that_were_sent_ahead_are_not_lost() {
    let app = RawApp::start().await;
    let inbound = Inbound::start(app.addr(), "allow web/live to WEBSOCKET /chat\n").await;
    let (_caller, addr) = inbound.caller("web/live", " as http").await;
    let mut client = http1(addr).await;
    client
        .write(
            "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await
        .unwrap();
    let mut io = app.accept().await;
    head(&mut io).await;
    // The server's first frames come in the same segment as its answer.
    io.write_all(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nwelcome",
    )
    .await
    .unwrap();
    assert_eq!(client.read().await.unwrap().status, 101);
    assert_eq!(client.exactly(7).await.unwrap(), b"welcome");
    client.write("thanks").await.unwrap();
    let mut io: Io = Box::new(io);
    assert_eq!(exactly(&mut io, 6).await, b"thanks");
    // Half of it closed, the other half goes on.
    io.shutdown().await.unwrap();
    assert_eq!(client.closed().await, b"");
}
