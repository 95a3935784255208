//! However many peers, rules and hostile requests there are, a scrape stays small.

use mantlet_testkit::apps::{App, Protocol, Reply};
use mantlet_testkit::client::{HttpClient, Request};

use crate::common::Inbound;

const PEERS: usize = 100;
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "X-ODD"];

/// Most lines with a value that a scrape may have at `default`.
const CEILING: usize = 2000;

#[tokio::test]
async fn a_hostile_crowd_makes_no_more_than_two_thousand_series() {
    // The app answers with whatever status the path asks for.
    let app = App::with(Protocol::Http1, async |seen| {
        let status = seen.target.rsplit('/').next().and_then(|last| last.parse().ok());
        Reply::status(status.filter(|status| (200..600).contains(status)).unwrap_or(200))
    })
    .await;
    let rules: String = (0..255)
        .map(|n| format!("allow shop/peer-{} to * /rule-{n}/** as rule-{n}\n", n % PEERS))
        .chain(["allow shop/* to * /open/** as open\n".to_owned()])
        .collect();
    let inbound = Inbound::start(app.addr(), &rules).await;
    let statuses =
        [200, 201, 202, 206, 301, 302, 307, 308, 400, 401, 403, 404, 409, 410, 422, 429, 500, 502, 503, 504];
    let crowd = (0..PEERS).map(async |peer| {
        let mut client = inbound.http(&format!("shop/peer-{peer}"), Protocol::H2c).await;
        for n in 0..PEERS {
            let (method, status) = (METHODS[n % METHODS.len()], statuses[n % statuses.len()]);
            let request = match n % 5 {
                0 => Request::new(method, &format!("/open/{peer}-{n}/{status}")),
                1 => Request::new(method, &format!("/rule-{}/x/{status}", peer + n * PEERS % 200)),
                2 => Request::get(&format!("/secret/{peer}/{n}")).host(&format!("host-{peer}-{n}.test")),
                3 => Request::new(&format!("ODD-{peer}-{n}"), "/open/x/200"),
                _ => Request::get(&format!("/open/..%2f{n}")),
            };
            answered(&mut client, &request).await;
        }
    });
    // A few at a time: the point is their number, not their haste.
    let mut crowd = crowd.collect::<Vec<_>>().into_iter();
    loop {
        let some: Vec<_> = crowd.by_ref().take(10).collect();
        if some.is_empty() {
            break;
        }
        join_all(some).await;
    }
    let metrics = inbound.sidecar.metrics().await;
    assert_eq!(metrics.sum("mantlet_http_requests_total", &[]), (PEERS * PEERS) as f64);
    assert_eq!(metrics.sum("mantlet_authz_decisions_total", &[]), (PEERS * PEERS) as f64);
    assert!(metrics.len() <= CEILING, "{} series", metrics.len());
    for family in ["mantlet_http_requests_total", "mantlet_authz_decisions_total"] {
        assert!(metrics.count(family, &[]) <= 260, "{} of {family}", metrics.count(family, &[]));
        let overflow = metrics.sum("mantlet_metrics_label_overflow_total", &[("label", family)]);
        assert!(overflow > 0.0, "{family} overflows visibly");
    }
    assert_eq!(metrics.sum("mantlet_metrics_label_overflow_total", &[("label", "peer")]), 36.0);
    assert_eq!(metrics.count("mantlet_policy_rule_hits_total", &[]), 201);
    assert_eq!(metrics.values("mantlet_connections_opened_total", "peer").len(), 65);
}

async fn answered(client: &mut HttpClient, request: &Request) {
    assert!(client.send(request).await.status >= 200);
}

async fn join_all<F: Future<Output = ()>>(futures: Vec<F>) {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        futures.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if futures.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
