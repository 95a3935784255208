//! Saying no to an application whose destination is refused.
//!
//! One that speaks HTTP is told why, with an id that stands in the log. Whoever sends anything else, or says nothing
//! because its server would speak first, has its connection closed: there are no words that it would understand.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::{net::TcpStream, sync::Notify, time};

use super::Outbound;
use crate::{
    connection::ConnectionError,
    detect::{self, Spoken},
    drain::DrainToken,
    http::{Body, headers, server},
    io::{BoxIo, Rewind},
    limits::REFUSAL_WAIT,
    log::AccessRecord,
    metrics::{Counted, Direction, RequestMetrics, Text},
};

/// Answers the requests that come with the first one, and is done.
pub(super) async fn tell(outbound: &Arc<Outbound>, mut tcp: TcpStream, drain: DrainToken) -> ConnectionError {
    // phase: outbound 9 "destination refused: tell who speaks HTTP" | fails: silent, or no HTTP | close: denied | metric: mantlet_http_requests_total
    let first = time::timeout(REFUSAL_WAIT, detect::read_spoken(&mut tcp)).await;
    let Ok(Ok(Some((Spoken::Http(version), bytes)))) = first else {
        return ConnectionError::DestinationRefused;
    };
    let io: BoxIo = Box::new(Rewind::new(bytes.freeze(), tcp));
    let io = Counted::new(io, outbound.metrics.bytes(Direction::Outbound));
    let requests = RequestMetrics::new(Arc::clone(&outbound.metrics), Direction::Outbound, Text::none());
    let told = Arc::new(Notify::new());
    let (serving, last) = (Arc::clone(outbound), Arc::clone(&told));
    let service = move |request| {
        let response = refuse(&serving, &requests, &request);
        // The destination is looked up anew by another connection: by then it may be known.
        last.notify_one();
        std::future::ready(response)
    };
    // However it ends: it was refused before it began.
    let _ = server::serve(io, version, service, outbound.timeouts, drain, told.notified()).await;
    ConnectionError::DestinationRefused
}

fn refuse(
    outbound: &Outbound,
    requests: &Arc<RequestMetrics>,
    request: &Request<Incoming>,
) -> Response<Body> {
    let grpc = headers::is_grpc(request);
    let mut guard = requests.begin(request.method(), grpc);
    let error = ConnectionError::DestinationRefused;
    let record = AccessRecord {
        direction: "outbound",
        protocol: "http",
        took: guard.elapsed(),
        ..AccessRecord::default()
    };
    let id = error.told(outbound.authorizer.log(), record);
    let response = error.refusal(Some(""), id).into_response(grpc);
    guard.answered(response.status(), response.headers(), None);
    response.map(|body| body.with_scope(Box::new((guard, ()))))
}
