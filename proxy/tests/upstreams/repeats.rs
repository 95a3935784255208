//! What is sent again when an upstream leaves, and what never is.

use std::future::poll_fn;

use bytes::Bytes;
use http::HeaderMap;
use mantlet_testkit::apps::{Protocol, RawApp};
use mantlet_testkit::client::{HttpClient, Request, Response};
use mantlet_testkit::peer::TlsPeer;
use mantlet_testkit::pki::Authority;
use mantlet_testkit::sidecar::Sidecar;
use mantlet_testkit::{Io, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::{Inbound, ORDERS};
use crate::replica::caller;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const PREFACE: usize = 24;
/// SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113, 6.5.2), 1 MiB.
const WINDOW: [u8; 6] = [0, 4, 0, 16, 0, 0];
/// SETTINGS_MAX_CONCURRENT_STREAMS, 1.
const ONE_STREAM: [u8; 6] = [0, 3, 0, 0, 0, 1];

/// HTTP/2 by hand, as a server: it reads a request and answers with whatever the test wants.
pub(crate) struct Hand {
    io: Io,
}

/// What an upstream says after it has read the first request of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Says {
    /// GOAWAY with this last stream, without an error, or with one.
    GoAway(u32, u32),
    /// RST_STREAM with this code.
    Reset(u32),
    /// Nothing: the connection ends.
    Nothing,
}

/// The whole of a request, as an upstream that serves got it.
#[derive(Debug)]
struct Got {
    method: String,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, 0][..], &stream.to_be_bytes()[..], payload].concat()
}

// === impl Hand ===

impl Hand {
    /// Exchanges prefaces; the client may send a mebibyte.
    pub(crate) async fn greet(mut io: Io) -> Self {
        io.read_exact(&mut [0; PREFACE]).await.unwrap();
        let window = frame(WINDOW_UPDATE, 0, &(1_u32 << 20).to_be_bytes());
        io.write_all(&[frame(SETTINGS, 0, &WINDOW), window].concat()).await.unwrap();
        Self { io }
    }

    /// Reads until so many bytes of a body are there, or its end.
    pub(crate) async fn body(&mut self, count: usize) -> usize {
        within("a request", async {
            let mut read = 0;
            loop {
                let mut head = [0; 9];
                self.io.read_exact(&mut head).await.unwrap();
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                self.io.read_exact(&mut vec![0; length]).await.unwrap();
                read += if head[3] == DATA { length } else { 0 };
                let ended = matches!(head[3], 0 | 1) && head[4] & END_STREAM != 0;
                if ended || (count > 0 && read >= count) {
                    return read;
                }
            }
        })
        .await
    }

    /// Allows no second stream beside the first, which has a body of so many bytes, and returns when the client
    /// knows.
    async fn allows_one(&mut self, body: usize) {
        self.io.write_all(&frame(SETTINGS, 0, &ONE_STREAM)).await.unwrap();
        self.io.flush().await.unwrap();
        within("the settings to be known", async {
            // Those of the greeting, and these.
            let (mut read, mut known) = (0, 0);
            while read < body || known < 2 {
                let mut head = [0; 9];
                self.io.read_exact(&mut head).await.unwrap();
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                self.io.read_exact(&mut vec![0; length]).await.unwrap();
                read += if head[3] == DATA { length } else { 0 };
                known += usize::from(head[3] == SETTINGS && head[4] & ACK != 0);
            }
        })
        .await;
    }

    /// The client may send so much more, all streams together.
    pub(crate) async fn takes(&mut self, bytes: u32) {
        self.io.write_all(&frame(WINDOW_UPDATE, 0, &bytes.to_be_bytes())).await.unwrap();
        self.io.flush().await.unwrap();
    }

    /// Answers the first request with 200 and no body.
    async fn answers(&mut self) {
        // `:status: 200` is number 8 of the static table (RFC 7541, appendix A).
        let mut answer = frame(HEADERS, 1, &[0x88]);
        answer[4] = END_STREAM | END_HEADERS;
        self.io.write_all(&answer).await.unwrap();
        self.io.flush().await.unwrap();
    }

    pub(crate) async fn says(&mut self, says: Says) {
        let bytes = match says {
            Says::GoAway(last, code) => frame(GOAWAY, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat()),
            Says::Reset(code) => frame(RST_STREAM, 1, &code.to_be_bytes()),
            Says::Nothing => Vec::new(),
        };
        self.io.write_all(&bytes).await.unwrap();
        self.io.flush().await.unwrap();
    }
}

/// Serves one request on a new connection, as any server would.
async fn serve(io: Io) -> Got {
    let mut connection = within("a preface", h2::server::handshake(io)).await.unwrap();
    let (request, mut respond) = within("a request", connection.accept()).await.unwrap().unwrap();
    let (head, mut body) = request.into_parts();
    let mut got = Got { method: head.method.to_string(), body: Vec::new(), trailers: None };
    let reading = async {
        while let Some(piece) = body.data().await {
            let piece: Bytes = piece.unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            got.body.extend(&piece);
        }
        got.trailers = body.trailers().await.unwrap();
        respond.send_response(http::Response::new(()), true).unwrap();
    };
    tokio::select! {
        () = within("a body", reading) => {}
        _ = poll_fn(|cx| connection.poll_closed(cx)) => {}
    }
    // Whoever asked has its answer; the connection stays for as long as it is wanted.
    tokio::spawn(async move { while connection.accept().await.is_some() {} });
    got
}

/// The sidecar of a caller in front of one HTTP/2 peer.
async fn to_peer() -> (TlsPeer, Sidecar, HttpClient) {
    let authority = Authority::new("td.test");
    let peer = TlsPeer::start(&authority.svid(ORDERS), &["h2"]).await;
    let (caller, addr) = caller(&authority, &[peer.addr()], " as http").await;
    let client = HttpClient::plain(addr, Protocol::Http1).await;
    (peer, caller, client)
}

fn post(body: usize) -> Request {
    let request = Request::new("POST", "/upload").header("trailer", "X-Sum").trailer("x-sum", "9");
    request.body(vec![b'b'; body])
}

async fn ask(client: &mut HttpClient, request: Request) -> Response {
    client.send(&request).await
}

async fn repeats(caller: &Sidecar) -> f64 {
    caller.metrics().await.sum("mantlet_upstream_repeats_total", &[])
}

#[tokio::test]
async fn a_request_that_the_peer_says_it_did_not_process_is_sent_again_with_all_of_its_body() {
    const REFUSED: u32 = 7;
    for says in [Says::GoAway(0, 0), Says::GoAway(0, 11), Says::Reset(REFUSED)] {
        let (peer, caller, mut client) = to_peer().await;
        let answering = async {
            let mut first = Hand::greet(peer.accept().await.into_io()).await;
            assert_eq!(first.body(0).await, 40_000);
            first.says(says).await;
            // After a refusal of one stream the connection is as good as before.
            let Says::Reset(_) = says else { return serve(peer.accept().await.into_io()).await };
            assert_eq!(first.body(0).await, 40_000);
            first.says(Says::GoAway(1, 0)).await;
            serve(peer.accept().await.into_io()).await
        };
        let (response, got) = tokio::join!(ask(&mut client, post(40_000)), answering);
        assert_eq!((response.status, got.method.as_str()), (200, "POST"), "{says:?}");
        assert_eq!((got.body.len(), got.trailers.unwrap()["x-sum"].as_bytes()), (40_000, &b"9"[..]));
        let times = if let Says::Reset(_) = says { 2.0 } else { 1.0 };
        assert_eq!(repeats(&caller).await, times, "{says:?}");
    }
}

#[tokio::test]
async fn a_request_that_the_peer_may_have_processed_is_never_sent_again() {
    const INTERNAL: u32 = 2;
    const CANCEL: u32 = 8;
    let all = [Says::GoAway(1, 0), Says::GoAway(1, INTERNAL), Says::Reset(INTERNAL), Says::Reset(CANCEL)];
    for says in all.into_iter().chain([Says::Nothing]) {
        let (peer, caller, mut client) = to_peer().await;
        let cutting = async {
            let mut first = Hand::greet(peer.accept().await.into_io()).await;
            first.body(0).await;
            first.says(says).await;
        };
        let (response, ()) = tokio::join!(ask(&mut client, post(1000)), cutting);
        assert_eq!((response.status, response.error().as_deref()), (502, Some("reset")), "{says:?}");
        // The next thing that the peer gets is the next request.
        let (response, got) = tokio::join!(ask(&mut client, Request::get("/next")), async {
            serve(peer.accept().await.into_io()).await
        });
        assert_eq!((response.status, got.method.as_str()), (200, "GET"), "{says:?}");
        assert_eq!(repeats(&caller).await, 0.0, "{says:?}");
    }
}

#[tokio::test]
async fn a_body_of_which_too_much_is_gone_is_not_sent_again() {
    let (peer, caller, mut client) = to_peer().await;
    let answering = async {
        let mut first = Hand::greet(peer.accept().await.into_io()).await;
        assert!(first.body(70_000).await >= 70_000);
        first.says(Says::GoAway(0, 0)).await;
    };
    let (response, ()) = tokio::join!(ask(&mut client, post(200_000)), answering);
    assert_eq!((response.status, response.error().as_deref()), (502, Some("reset")));
    assert_eq!(repeats(&caller).await, 0.0);
}

#[tokio::test]
async fn a_body_that_is_still_coming_goes_on_where_the_request_is_sent_again() {
    let (peer, _caller, client) = to_peer().await;
    let HttpClient::Http1(mut client) = client else { unreachable!("asked for HTTP/1") };
    client.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nfirst").await.unwrap();
    let mut first = Hand::greet(peer.accept().await.into_io()).await;
    first.body(5).await;
    first.says(Says::GoAway(0, 0)).await;
    let second = peer.accept().await.into_io();
    let (got, ()) = tokio::join!(serve(second), async { client.write("last").await.unwrap() });
    assert_eq!(got.body, b"firstlast");
    assert_eq!(client.read().await.unwrap().status, 200);
}

#[tokio::test]
async fn a_request_that_is_sent_to_the_app_again_was_decided_once() {
    let app = RawApp::start().await;
    let inbound = Inbound::start(app.addr(), "allow mesh to * /**\n").await;
    let mut peer = inbound.http("web/frontend", Protocol::H2c).await;
    let answering = async {
        let mut first = Hand::greet(Box::new(app.accept().await)).await;
        first.body(0).await;
        first.says(Says::GoAway(0, 0)).await;
        serve(Box::new(app.accept().await)).await
    };
    let (response, got) = tokio::join!(ask(&mut peer, post(1000).header("x-mantlet-proto", "2")), answering);
    assert_eq!((response.status, got.body.len()), (200, 1000));
    let metrics = inbound.sidecar.metrics().await;
    assert_eq!(metrics.sum("mantlet_authz_decisions_total", &[]), 1.0);
    assert_eq!(metrics.sum("mantlet_upstream_repeats_total", &[]), 1.0);
}

/// A request that waited inside the HTTP library could not be told from one that was sent when the connection
/// goes: none waits there.
#[tokio::test]
async fn a_request_beyond_the_streams_that_a_peer_allows_takes_another_connection_and_survives_its_farewell()
{
    for says in [Says::GoAway(1, 0), Says::GoAway(i32::MAX as u32, 0), Says::Nothing] {
        let (peer, caller, mut first) = to_peer().await;
        let mut second = HttpClient::plain(caller.outbound(0).await, Protocol::Http1).await;
        let peers = async {
            let mut full = Hand::greet(peer.accept().await.into_io()).await;
            full.allows_one(1000).await;
            let (answer, got) = tokio::join!(ask(&mut second, post(2000)), async {
                let other = peer.accept().await.into_io();
                full.says(says).await;
                if matches!(says, Says::GoAway(..)) {
                    full.answers().await;
                } else {
                    drop(full);
                }
                serve(other).await
            });
            assert_eq!((answer.status, got.body.len()), (200, 2000), "{says:?}");
        };
        let (answer, ()) = tokio::join!(ask(&mut first, post(1000)), peers);
        let expected = if matches!(says, Says::GoAway(..)) { 200 } else { 502 };
        assert_eq!(answer.status, expected, "{says:?}");
        assert_eq!(repeats(&caller).await, 0.0, "{says:?}");
    }
}
