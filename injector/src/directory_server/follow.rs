//! One stream: questions in, answers out, until somebody or something ends it.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mantlet_proto::directory::{
    Address as WireAddress, Answer, Endpoint as WireEndpoint, Meshed, NotMeshed, Protocol as WireProtocol,
    Question, Unknown, answer, directory_server, question,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    core::{Endpoint, Protocol, Says},
    hub::{Address, Followed, Hub, Subscription},
};
use crate::metrics::{DirectoryMetrics, Said, StreamEnd};

/// Answers that are on their way from us to the connection. They are a stream's own, where all that wait are shared, and
/// a reader that stands still keeps them: of the large ones there is one.
const IN_FLIGHT: usize = 16;
/// An answer with more endpoints is large.
const LARGE: usize = 64;
/// After changes were sent, how long the next ones are gathered: one that comes alone waits for nothing.
const GATHER: Duration = Duration::from_millis(50);
/// Changes that are sent at a time: with [`GATHER`], 5 120 in a second.
const MOST_AT_A_TIME: usize = 256;
/// Questions that may come at once, and then in a second. More wait in the connection.
const QUESTIONS: f64 = 8192.0;
const QUESTIONS_PER_SECOND: f64 = 1024.0;

/// The service of one connection.
#[derive(Clone)]
pub(super) struct Follow {
    pub(super) hub: Hub,
    pub(super) metrics: Arc<DirectoryMetrics>,
    /// Why the connection ends, once it does.
    pub(super) ending: watch::Receiver<Option<StreamEnd>>,
    /// Where the connection comes from.
    pub(super) source: IpAddr,
    /// Streams of this connection.
    pub(super) open: Arc<AtomicUsize>,
}

/// A running stream.
struct Stream {
    subscription: Subscription,
    metrics: Arc<DirectoryMetrics>,
    answers: mpsc::Sender<Result<Answer, Status>>,
    budget: Budget,
    /// When changes may be sent again, and how many still now.
    changes_from: Instant,
    sent_at_once: usize,
}

/// What has come first.
enum Next {
    Over(StreamEnd),
    Sent {
        is_change: bool,
    },
    Asked(Question),
    /// Too large, no question, or the end of the connection.
    Unreadable(Status),
    Again,
}

/// How many questions may still come.
struct Budget {
    left: f64,
    at: Instant,
}

/// One more stream of a connection, until it is dropped.
struct Open(Arc<AtomicUsize>);

// === impl Follow ===

#[tonic::async_trait]
impl directory_server::Directory for Follow {
    type FollowStream = ReceiverStream<Result<Answer, Status>>;

    async fn follow(
        &self,
        request: Request<Streaming<Question>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        if !self.hub.is_complete() {
            self.metrics.stream_end(StreamEnd::NotReady);
            return Err(Status::unavailable("the directory does not know the whole cluster yet"));
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        let open = Open(Arc::clone(&self.open));
        let (answers, stream) = mpsc::channel(IN_FLIGHT);
        let now = Instant::now();
        let running = Stream {
            subscription: self.hub.subscribe(self.source),
            metrics: Arc::clone(&self.metrics),
            answers,
            budget: Budget { left: QUESTIONS, at: now },
            changes_from: now,
            sent_at_once: 0,
        };
        let (ending, metrics) = (self.ending.clone(), Arc::clone(&self.metrics));
        tokio::spawn(async move {
            let reason = running.run(request.into_inner(), ending).await;
            metrics.stream_end(reason);
            drop(open);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

// === impl Stream ===

impl Stream {
    async fn run(
        mut self,
        mut questions: Streaming<Question>,
        mut ending: watch::Receiver<Option<StreamEnd>>,
    ) -> StreamEnd {
        let (reason, status) = loop {
            let backlog = self.subscription.subscriber.backlog();
            let (now, asked_from) = (Instant::now(), self.budget.free_from());
            let may_change = backlog.changed > 0 && now >= self.changes_from;
            let waits = (backlog.changed > 0 && !may_change).then_some(self.changes_from);
            let is_large = self.is_next_large(may_change);
            let room = if is_large { IN_FLIGHT } else { 1 };
            let wakes = waits.into_iter().chain((now < asked_from).then_some(asked_from)).min();
            let next = tokio::select! {
                biased;
                Ok(why) = ending.wait_for(Option::is_some) => Next::Over(why.unwrap_or(StreamEnd::Drain)),
                () = self.answers.closed() => Next::Over(StreamEnd::Client),
                Ok(mut room) = self.answers.reserve_many(room), if backlog.asked > 0 || may_change => {
                    // Meanwhile it may have grown.
                    let next = (is_large || !self.is_next_large(may_change))
                        .then(|| self.subscription.subscriber.take(may_change))
                        .flatten();
                    match (next, room.next()) {
                        (Some((address, says, is_change)), Some(permit)) => {
                            let (said, answer) = wire(address, &says);
                            permit.send(Ok(answer));
                            self.metrics.answer(said);
                            Next::Sent { is_change }
                        }
                        _ => Next::Again,
                    }
                }
                question = questions.message(), if now >= asked_from => match question {
                    Ok(Some(question)) => Next::Asked(question),
                    // Whoever asks nothing more wants to hear nothing more.
                    Ok(None) => Next::Over(StreamEnd::Client),
                    Err(status) => Next::Unreadable(status),
                },
                () = self.subscription.subscriber.woken() => Next::Again,
                () = sleep_until(wakes.unwrap_or(now)), if wakes.is_some() => Next::Again,
            };
            match next {
                Next::Over(StreamEnd::Client) => break (StreamEnd::Client, None),
                Next::Unreadable(status) => {
                    let is_a_question = matches!(status.code(), Code::OutOfRange | Code::Internal);
                    break (
                        if is_a_question { StreamEnd::Question } else { StreamEnd::Client },
                        Some(status),
                    );
                }
                Next::Over(why) => {
                    let text = format!("connect again: {}", why.as_str());
                    break (why, Some(Status::unavailable(text)));
                }
                Next::Sent { is_change: true } => self.count_change(backlog.changed),
                Next::Asked(question) => {
                    if let Err(ended) = self.question(question) {
                        break ended;
                    }
                }
                Next::Sent { is_change: false } | Next::Again => {}
            }
        };
        if let Some(status) = status {
            // A client that does not read learns it from the end of its connection.
            let _ = self.answers.try_send(Err(status));
        }
        reason
    }

    fn is_next_large(&self, changes: bool) -> bool {
        self.subscription.subscriber.next_endpoints(changes) > LARGE
    }

    fn question(&mut self, question: Question) -> Result<(), (StreamEnd, Option<Status>)> {
        self.budget.spend();
        let bad = |text| Err((StreamEnd::Question, Some(Status::invalid_argument(text))));
        let (address, follows) = match question.kind {
            Some(question::Kind::Follow(address)) => (address, true),
            Some(question::Kind::Forget(address)) => (address, false),
            // A kind of question that a later version has.
            None => return Ok(()),
        };
        let Some(address) = read(&address) else {
            return bad("an address is 4 or 16 bytes and a port of 1 to 65535");
        };
        if !follows {
            self.subscription.forget(address);
            return Ok(());
        }
        match self.subscription.follow(address) {
            // Without room it is not answered: what the stream follows goes on, and it may ask again.
            Followed::Yes | Followed::NoRoom(_) => Ok(()),
            Followed::TooMany => {
                let status = Status::resource_exhausted("the stream follows as many addresses as one may");
                Err((StreamEnd::Limit, Some(status)))
            }
        }
    }

    /// After a change was sent, of so many that waited.
    fn count_change(&mut self, waited: usize) {
        self.sent_at_once += 1;
        if waited <= 1 || self.sent_at_once >= MOST_AT_A_TIME {
            self.sent_at_once = 0;
            self.changes_from = Instant::now() + GATHER;
        }
    }
}

// === impl Budget ===

impl Budget {
    fn spend(&mut self) {
        let now = Instant::now();
        let gained = now.duration_since(self.at).as_secs_f64() * QUESTIONS_PER_SECOND;
        self.left = (self.left + gained).min(QUESTIONS) - 1.0;
        self.at = now;
    }

    /// When the next question may be read.
    fn free_from(&self) -> Instant {
        match self.left < 1.0 {
            true => self.at + Duration::from_secs_f64((1.0 - self.left) / QUESTIONS_PER_SECOND),
            false => self.at,
        }
    }
}

// === impl Open ===

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An address as it comes: never one family in the clothes of the other.
fn read(address: &WireAddress) -> Option<Address> {
    let ip = match *address.ip.as_slice() {
        ref bytes if bytes.len() == 4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        ref bytes => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    let port = u16::try_from(address.port).ok().filter(|port| *port > 0)?;
    (ip.to_canonical() == ip).then_some((ip, port))
}

fn wire((ip, port): Address, says: &Says) -> (Said, Answer) {
    let (said, says) = match says {
        Says::Meshed { endpoints, keep_address } => {
            let endpoints = endpoints.iter().map(wire_endpoint).collect();
            (Said::Meshed, answer::Says::Meshed(Meshed { endpoints, keep_address: *keep_address }))
        }
        Says::NotMeshed => (Said::NotMeshed, answer::Says::NotMeshed(NotMeshed {})),
        Says::Unknown => (Said::Unknown, answer::Says::Unknown(Unknown {})),
    };
    let address = WireAddress { ip: octets(ip), port: u32::from(port) };
    (said, Answer { address: Some(address), says: Some(says) })
}

fn wire_endpoint(endpoint: &Endpoint) -> WireEndpoint {
    let protocol = match endpoint.protocol {
        Protocol::AskPeer => WireProtocol::AskPeer,
        Protocol::Http => WireProtocol::Http,
        Protocol::Opaque => WireProtocol::Opaque,
    };
    WireEndpoint {
        ip: octets(endpoint.ip),
        port: u32::from(endpoint.port),
        spiffe_id: endpoint.id.to_string(),
        protocol: protocol.into(),
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
