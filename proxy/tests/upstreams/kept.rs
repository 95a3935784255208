//! What is kept of request bodies while nobody has answered: a mebibyte in all, which comes back however the
//! requests end.

use mantlet_testkit::apps::Protocol;
use mantlet_testkit::client::{HttpClient, Request};
use mantlet_testkit::peer::TlsPeer;
use mantlet_testkit::pki::Authority;
use mantlet_testkit::sidecar::Sidecar;
use mantlet_testkit::{Io, eventually, within};
use tokio::task::JoinSet;

use crate::common::ORDERS;
use crate::repeats::{Hand, Says};
use crate::replica::caller;

/// Just below what is kept of one request.
const BODY: usize = 60_000;
/// So many of them are kept: with what their frames cost, one more would pass a mebibyte.
const KEPT: usize = 17;
const UPLOADS: usize = 24;

/// How all uploads end.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The peer says that it has processed none of them.
    Unprocessed,
    /// The connection to the peer breaks.
    Broken,
    /// Nobody wants the answers any more.
    Cancelled,
}

struct Fixture {
    peer: TlsPeer,
    caller: Sidecar,
}

/// Reads every request of a connection and answers it.
async fn serve(io: Io) {
    let mut connection = within("a preface", h2::server::handshake(io)).await.unwrap();
    let mut requests = JoinSet::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        requests.spawn(async move {
            let (mut body, mut read) = (request.into_body(), 0);
            while let Some(piece) = body.data().await {
                let piece = piece.unwrap();
                body.flow_control().release_capacity(piece.len()).unwrap();
                read += piece.len();
            }
            assert_eq!(read, BODY);
            respond.send_response(http::Response::new(()), true).unwrap();
        });
    }
}

// === impl Fixture ===

impl Fixture {
    /// Uploads one after the other, none of them answered, then ends them all; the statuses in their order.
    async fn round(&self, end: End) -> Vec<u16> {
        let HttpClient::Http2(mut client) =
            HttpClient::plain(self.caller.outbound(0).await, Protocol::H2c).await
        else {
            unreachable!("asked for HTTP/2")
        };
        let mut upload = async || {
            let mut stream = client.open(&Request::new("POST", "/"), false).await.unwrap();
            stream.body.send_data(vec![b'b'; BODY].into(), true).unwrap();
            stream
        };
        let mut uploads = vec![upload().await];
        let mut hand = Hand::greet(self.peer.accept().await.into_io()).await;
        hand.takes(4 << 20).await;
        assert_eq!(hand.body(0).await, BODY);
        while uploads.len() < UPLOADS {
            uploads.push(upload().await);
            assert_eq!(hand.body(0).await, BODY);
        }
        let serving = match end {
            End::Unprocessed => {
                hand.says(Says::GoAway(0, 0)).await;
                Some(serve(self.peer.accept().await.into_io()))
            }
            End::Broken => {
                drop(hand);
                None
            }
            End::Cancelled => {
                drop(uploads);
                eventually("no request to be under way", async || {
                    let metrics = self.caller.metrics().await;
                    let under_way =
                        metrics.sum("mantlet_http_requests_in_flight", &[("direction", "outbound")]);
                    (under_way == 0.0).then_some(())
                })
                .await;
                return Vec::new();
            }
        };
        let answers = async {
            let mut statuses = Vec::new();
            for upload in &mut uploads {
                statuses.push(within("an answer", upload.head()).await.unwrap().status);
            }
            statuses
        };
        match serving {
            Some(serving) => tokio::select! {
                statuses = answers => statuses,
                () = serving => panic!("the connection ended"),
            },
            None => answers.await,
        }
    }
}

#[tokio::test]
async fn a_mebibyte_of_bodies_is_kept_in_all_and_comes_back_however_the_requests_end() {
    let authority = Authority::new("td.test");
    let peer = TlsPeer::start(&authority.svid(ORDERS), &["h2"]).await;
    let (caller, _) = caller(&authority, &[peer.addr()], " as http").await;
    let f = Fixture { peer, caller };
    // What is beyond is sent once: nobody knows its body any more.
    let expected: Vec<u16> = (0..UPLOADS).map(|n| if n < KEPT { 200 } else { 502 }).collect();
    for end in [End::Cancelled, End::Broken, End::Unprocessed] {
        let statuses = f.round(end).await;
        match end {
            End::Cancelled => {}
            End::Broken => assert!(statuses.iter().all(|status| *status == 502), "{statuses:?}"),
            End::Unprocessed => assert_eq!(statuses, expected),
        }
        assert_eq!(f.round(End::Unprocessed).await, expected, "after {end:?}");
    }
}
