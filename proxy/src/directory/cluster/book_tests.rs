use std::task::Waker;

use mantlet_proto::directory::question::Kind;

use super::*;
use crate::directory::cluster::answer::Meshed;

const STREAM: u64 = 1;

fn addr(n: usize) -> SocketAddr {
    let n = u32::try_from(n).unwrap();
    SocketAddr::new(std::net::Ipv4Addr::from(0x0a00_0000 + n).into(), 80)
}

fn meshed(endpoints: impl IntoIterator<Item = usize>, protocol: EndpointProtocol) -> News {
    let expected = || ExpectedPeer::one_of(["spiffe://td.test/a".parse().unwrap()]);
    let workloads: Vec<_> = endpoints.into_iter().map(|n| (addr(n), expected())).collect();
    let protocol = (!workloads.is_empty()).then_some(protocol);
    News::of(Says::Meshed(Meshed { workloads, protocol }), &Fleet::default())
}

fn book() -> Book {
    let mut book = Book::new(true);
    assert_eq!(book.begin(), STREAM);
    book.connected();
    book
}

fn endpoints(book: &Book, n: usize) -> Endpoints {
    match book.says(addr(n)) {
        Some(Answer::Goes(Destination::Mesh(endpoints))) => endpoints,
        other => panic!("{other:?}"),
    }
}

/// What the stream says next, `+` for following and `-` for forgetting.
fn asked(book: &mut Book) -> Vec<(char, u8)> {
    asked_by(book, STREAM)
}

fn asked_by(book: &mut Book, stream: u64) -> Vec<(char, u8)> {
    let next = || book.next(stream, Waker::noop()).unwrap();
    std::iter::from_fn(next)
        .map(|question| match question.kind.unwrap() {
            Kind::Follow(address) => ('+', address.ip[3]),
            Kind::Forget(address) => ('-', address.ip[3]),
        })
        .collect()
}

#[test]
fn an_address_is_asked_for_once_and_again_on_a_new_stream() {
    let (mut book, now) = (book(), Instant::now());
    assert!(matches!(book.look(addr(1), now), Looked::Awaited(..)));
    assert!(matches!(book.look(addr(1), now), Looked::Awaited(..)));
    assert_eq!(asked(&mut book), [('+', 1)]);
    assert_eq!(book.apply(addr(1), News::NotMeshed, Instant::now()), Applied::Taken);
    assert!(matches!(book.look(addr(1), now), Looked::Known(Answer::Unmeshed)));
    assert_eq!(asked(&mut book), []);
    book.disconnected(now);
    assert!(matches!(book.look(addr(1), now), Looked::Known(Answer::Unmeshed)), "what was said holds on");
    assert!(matches!(book.look(addr(2), now), Looked::Awaited(..)));
    assert!(book.next(STREAM, Waker::noop()).is_err(), "a stream that is gone says nothing more");
    let second = book.begin();
    assert!(book.next(STREAM, Waker::noop()).is_err(), "nor when there is another");
    assert_eq!(asked_by(&mut book, second), [('+', 1), ('+', 2)]);
    assert_eq!(book.apply(addr(3), News::NotMeshed, Instant::now()), Applied::Unasked);
}

#[test]
fn a_destination_lives_through_lists_and_protocols_until_it_is_none_of_the_mesh() {
    let (mut book, now) = (book(), Instant::now());
    drop(book.look(addr(1), now));
    book.apply(addr(1), meshed([5, 6], EndpointProtocol::Http), Instant::now());
    let live = endpoints(&book, 1);
    let unchanged = live.current();
    book.apply(addr(1), meshed([5, 6], EndpointProtocol::Http), Instant::now());
    assert!(std::sync::Arc::ptr_eq(&unchanged, &live.current()));
    book.apply(addr(1), meshed([6], EndpointProtocol::AskPeer), Instant::now());
    assert_eq!((live.current().len(), live.protocol()), (1, EndpointProtocol::AskPeer));
    book.apply(addr(1), meshed([], EndpointProtocol::Http), Instant::now());
    assert_eq!((live.current().len(), live.protocol()), (0, EndpointProtocol::AskPeer));
    // Nobody is there for a moment: what is under way is not cut, and nothing new is sent.
    book.apply(addr(1), meshed([6], EndpointProtocol::AskPeer), Instant::now());
    book.apply(addr(1), News::Unknown, Instant::now());
    assert!(book.says(addr(1)).is_none() && live.current().is_empty() && !live.standing().is_over());
    book.apply(addr(1), meshed([7], EndpointProtocol::AskPeer), Instant::now());
    assert_eq!(live.current()[0].addr, addr(7));
    book.apply(addr(1), News::NotMeshed, Instant::now());
    assert!(live.standing().is_over() && live.current().is_empty());
    assert!(matches!(book.says(addr(1)), Some(Answer::Unmeshed)));
    book.apply(addr(1), meshed([5], EndpointProtocol::Http), Instant::now());
    assert!(live.current().is_empty() && endpoints(&book, 1).current().len() == 1);
}

#[tokio::test]
async fn http_leaves_a_destination_that_speaks_bytes_and_bytes_go_on() {
    let mut book = book();
    drop(book.look(addr(1), Instant::now()));
    book.apply(addr(1), meshed([5], EndpointProtocol::AskPeer), Instant::now());
    let live = endpoints(&book, 1);
    let mut leave = std::pin::pin!(live.over_for_http());
    assert!(futures_pending(leave.as_mut()));
    book.apply(addr(1), meshed([5], EndpointProtocol::Http), Instant::now());
    assert!(futures_pending(leave.as_mut()));
    book.apply(addr(1), meshed([5], EndpointProtocol::Opaque), Instant::now());
    leave.await;
    assert!(!live.standing().is_over());
}

fn futures_pending(future: std::pin::Pin<&mut impl Future<Output = ()>>) -> bool {
    future.poll(&mut std::task::Context::from_waker(Waker::noop())).is_pending()
}

#[test]
fn more_addresses_than_the_limit_push_out_those_that_nobody_uses() {
    let (mut book, start) = (book(), Instant::now());
    drop(book.look(addr(0), start));
    book.apply(addr(0), meshed([1], EndpointProtocol::Http), Instant::now());
    let in_use = endpoints(&book, 0);
    for n in 1..3 * DIRECTORY_ADDRESSES {
        let now = start + Duration::from_millis(u64::try_from(n).unwrap());
        assert!(matches!(book.look(addr(n), now), Looked::Awaited(..)));
        assert!(book.len() <= DIRECTORY_ADDRESSES && book.unsaid.len() <= DIRECTORY_ADDRESSES);
    }
    assert!(book.follows(addr(0)), "a connection uses it");
    drop(in_use);
    // All of them awaited: there is nothing to give up.
    let mut waiting = Vec::new();
    let mut full = Book::default();
    for n in 0..DIRECTORY_ADDRESSES {
        waiting.push(full.look(addr(n), start));
    }
    assert!(matches!(full.look(addr(DIRECTORY_ADDRESSES), start), Looked::Full));
}

#[test]
fn what_nobody_uses_for_long_is_forgotten_and_can_be_asked_for_again() {
    let (mut book, start) = (book(), Instant::now());
    drop((book.look(addr(1), start), book.look(addr(2), start)));
    asked(&mut book);
    book.apply(addr(1), meshed([5], EndpointProtocol::Http), Instant::now());
    book.apply(addr(2), meshed([5], EndpointProtocol::Http), Instant::now());
    let in_use = endpoints(&book, 2);
    book.forget_unused(start + UNUSED - Duration::from_secs(1));
    assert_eq!(book.len(), 2);
    book.forget_unused(start + UNUSED);
    assert!(!book.follows(addr(1)) && book.follows(addr(2)));
    assert_eq!(book.total, 1);
    // It is wanted again before the server was told that it is not: its answer has to come again.
    drop(book.look(addr(1), start + UNUSED));
    assert_eq!(asked(&mut book), [('-', 1), ('+', 1)]);
    drop(in_use);
}

#[test]
fn endpoints_are_bounded_all_together() {
    let (mut book, now) = (book(), Instant::now());
    for n in 0..4 {
        drop(book.look(addr(n), now));
        let quarter = n * DIRECTORY_TOTAL / 4..(n + 1) * DIRECTORY_TOTAL / 4;
        assert_eq!(
            book.apply(addr(n), meshed(quarter, EndpointProtocol::Http), Instant::now()),
            Applied::Taken
        );
    }
    drop(book.look(addr(4), now));
    assert_eq!(book.apply(addr(4), meshed([1], EndpointProtocol::Http), Instant::now()), Applied::TooLarge);
    assert!(book.says(addr(4)).is_none());
    assert_eq!(book.apply(addr(0), meshed([9], EndpointProtocol::Http), Instant::now()), Applied::Taken);
    assert_eq!(book.apply(addr(4), meshed([1], EndpointProtocol::Http), Instant::now()), Applied::Taken);
}

/// How long a connection to an address would wait; nothing where it does not.
fn wait(book: &mut Book, n: usize, now: Instant) -> Option<Duration> {
    match book.look(addr(n), now) {
        Looked::Awaited(_, at_most) => Some(at_most),
        Looked::Futile => None,
        Looked::Known(_) | Looked::Full => panic!("it is asked for"),
    }
}

#[test]
fn who_is_unknown_is_waited_for_once_and_not_by_each_connection() {
    let (mut book, start) = (book(), Instant::now());
    let after = |millis| start + Duration::from_millis(millis);
    assert_eq!(wait(&mut book, 1, start), Some(DIRECTORY_HOLD), "nothing has come yet");
    book.apply(addr(1), News::Unknown, after(10));
    assert!(book.heard(addr(1)).is_none(), "somebody may be coming into being");
    assert_eq!(wait(&mut book, 1, after(10)), Some(DIRECTORY_HOLD));
    // The same once more changes nothing.
    book.apply(addr(1), News::Unknown, after(1000));
    assert_eq!(wait(&mut book, 1, after(1010)), Some(Duration::from_secs(1)));
    assert_eq!(wait(&mut book, 1, after(2010)), None);
    assert_eq!(wait(&mut book, 1, after(60_000)), None);
    // Somebody comes and goes: the next may be on its way.
    book.apply(addr(1), meshed([5], EndpointProtocol::Http), after(61_000));
    book.apply(addr(1), News::Unknown, after(62_000));
    assert_eq!(wait(&mut book, 1, after(62_000)), Some(DIRECTORY_HOLD));
}

#[test]
fn where_the_unknown_may_be_anybody_nobody_waits_for_more_than_the_answer() {
    let (mut book, now) = (Book::new(false), Instant::now());
    assert_eq!(wait(&mut book, 1, now), Some(DIRECTORY_HOLD), "the answer can still come");
    book.apply(addr(1), News::Unknown, now);
    assert!(matches!(book.heard(addr(1)), Some(Answer::Silent)));
    assert_eq!(wait(&mut book, 1, now), None);
}

#[test]
fn a_directory_that_is_away_is_not_waited_for_at_each_address() {
    let (mut book, start) = (book(), Instant::now());
    let after = |millis| start + Duration::from_millis(millis);
    book.disconnected(start);
    // It may be back at once.
    assert_eq!(wait(&mut book, 1, after(500)), Some(Duration::from_millis(1500)));
    // Further attempts that fail make it no younger, and a stream that was not taken is none.
    book.begin();
    book.disconnected(after(1500));
    assert_eq!(wait(&mut book, 1, after(2000)), None);
    assert_eq!(wait(&mut book, 2, after(60_000)), None);
    book.begin();
    assert_eq!(wait(&mut book, 3, after(60_000)), None);
    book.connected();
    assert_eq!(wait(&mut book, 1, after(60_000)), Some(DIRECTORY_HOLD));
}

#[test]
fn what_is_not_answered_is_asked_again_in_a_while() {
    let (mut book, start) = (book(), Instant::now());
    drop((book.look(addr(1), start), book.look(addr(2), start), book.look(addr(3), start)));
    assert_eq!(asked(&mut book), [('+', 1), ('+', 2), ('+', 3)]);
    book.apply(addr(1), News::Unknown, start);
    book.apply(addr(2), meshed([5], EndpointProtocol::Http), start);
    book.ask_again(start + ASK_AGAIN - Duration::from_millis(1));
    assert_eq!(asked(&mut book), []);
    book.ask_again(start + ASK_AGAIN);
    book.ask_again(start + ASK_AGAIN);
    assert_eq!(asked(&mut book), [('+', 3)]);
    book.ask_again(start + ASK_AGAIN + ASK_AGAIN);
    assert_eq!(asked(&mut book), [('+', 3)]);
}
