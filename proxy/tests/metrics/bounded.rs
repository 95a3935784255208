//! However many peers, rules and hostile requests there are, a scrape stays small.

use std::net::SocketAddr;

use mantlet_testkit::apps::{App, Protocol, Reply};
use mantlet_testkit::client::{Http2, HttpClient, Request, TlsClient};
use tokio::task::JoinSet;

use crate::common::Inbound;

const PEERS: usize = 100;

/// One for everybody, and the others for one peer each.
const RULES: usize = 256;

/// All that have a label of their own, and two that have not.
const METHODS: [&str; 11] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "X-ODD"];

const STATUSES: [u16; 20] =
    [200, 201, 202, 206, 301, 302, 307, 308, 400, 401, 403, 404, 409, 410, 422, 429, 500, 502, 503, 504];

/// Of each peer; ten thousand together.
const HOSTILE: usize = 100;

/// Streams that a peer has open at the same time.
const AT_ONCE: usize = 50;

/// Most lines with a value that a scrape may have at `default`.
const CEILING: usize = 2000;

/// What the policy lets this peer do, with every status as an answer, and all methods in turn.
fn ordinary(peer: usize) -> Vec<Request> {
    let own = (peer..RULES - 1).step_by(PEERS).map(|rule| format!("/rule-{rule}"));
    let places =
        own.chain(["/open".to_owned()]).flat_map(|place| STATUSES.map(|status| (place.clone(), status)));
    // Beginning with another one each time, every method meets every status.
    let methods = METHODS.iter().cycle().skip(peer);
    places
        .zip(methods)
        .map(|((place, status), method)| Request::new(method, &format!("{place}/{status}")))
        .collect()
}

/// Each with a path, a host or a method that nobody else sends, or with all three.
fn hostile(peer: usize) -> impl Iterator<Item = Request> {
    (0..HOSTILE).map(move |n| match n % 5 {
        0 => Request::get(&format!("/secret/{peer}/{n}")),
        1 => Request::get(&format!("/open/..%2f{peer}-{n}")),
        2 => Request::get("/open/200").host(&format!("host-{peer}-{n}.test")),
        3 => Request::new(&format!("ODD-{peer}-{n}"), "/open/200"),
        _ => Request::new(&format!("M{peer}-{n}"), &format!("/open/{peer}-{n}/200"))
            .host(&format!("h{peer}-{n}")),
    })
}

/// Sends everything that one peer has, and says how much that was.
async fn one_of_the_crowd(client: TlsClient, addr: SocketAddr, peer: usize) -> usize {
    let requests: Vec<_> = ordinary(peer).into_iter().chain(hostile(peer)).collect();
    let HttpClient::Http2(mut h2) = client.http(addr, Protocol::H2c).await else { unreachable!() };
    for some in requests.chunks(AT_ONCE) {
        answered(&mut h2, some).await;
    }
    let HttpClient::Http1(mut h1) = client.http(addr, Protocol::Http1).await else { unreachable!() };
    let connect = format!("CONNECT host-{peer}.test:443 HTTP/1.1\r\nHost: host-{peer}.test:443\r\n\r\n");
    assert_eq!(h1.raw(connect).await.unwrap().status, 405);
    requests.len() + 1
}

async fn answered(h2: &mut Http2, requests: &[Request]) {
    let mut streams = Vec::new();
    for request in requests {
        streams.push(h2.open(request, true).await.unwrap());
    }
    for (mut stream, request) in streams.into_iter().zip(requests) {
        let status = stream.head().await.unwrap_or_else(|error| panic!("{request:?}: {error}")).status;
        assert!(status >= 200, "{request:?}: {status}");
        while stream.data().await.unwrap().is_some() {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_crowd_makes_no_more_than_two_thousand_series() {
    // The app answers with whatever status the path asks for.
    let app = App::with(Protocol::Http1, async |seen| {
        let status = seen.target.rsplit('/').next().and_then(|last| last.parse().ok());
        Reply::status(status.filter(|status| (200..600).contains(status)).unwrap_or(200))
    })
    .await;
    let rules: String = (0..RULES - 1)
        .map(|n| format!("allow shop/peer-{} to * /rule-{n}/** as rule-{n}\n", n % PEERS))
        .chain(["allow shop/* to * /open/** as open\n".to_owned()])
        .collect();
    let inbound = Inbound::start(app.addr(), &rules).await;
    let mut crowd = JoinSet::new();
    let mut sent = 0;
    for peer in 0..PEERS {
        // A few at a time: the point is their number, not their haste.
        if crowd.len() == 10 {
            sent += crowd.join_next().await.unwrap().unwrap();
        }
        crowd.spawn(one_of_the_crowd(inbound.peer(&format!("shop/peer-{peer}")), inbound.addr, peer));
    }
    sent += crowd.join_all().await.into_iter().sum::<usize>();

    let metrics = inbound.sidecar.metrics().await;
    eprintln!("{sent} requests left {} series", metrics.len());
    for family in ["mantlet_http_requests_total", "mantlet_authz_decisions_total"] {
        assert_eq!(metrics.sum(family, &[]), sent as f64, "{family} counts every request");
        assert!(metrics.count(family, &[]) <= 260, "{} of {family}", metrics.count(family, &[]));
        let overflow = metrics.sum("mantlet_metrics_label_overflow_total", &[("label", family)]);
        assert!(overflow > 0.0, "{family} overflows visibly");
    }
    assert!(metrics.len() <= CEILING, "{} series", metrics.len());
    assert_eq!(metrics.count("mantlet_policy_rule_hits_total", &[]), 201);
    assert_eq!(metrics.values("mantlet_connections_opened_total", "peer").len(), 65);
    assert_eq!(
        metrics.sum("mantlet_metrics_label_overflow_total", &[("label", "peer")]),
        72.0,
        "36 peers, twice"
    );
}
