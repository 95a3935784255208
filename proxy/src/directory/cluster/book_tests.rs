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
    let mut book = Book::default();
    book.connected(STREAM);
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
    let next = || book.next(STREAM, Waker::noop()).unwrap();
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
    assert!(matches!(book.look(addr(1), now), Looked::Awaited(_)));
    assert!(matches!(book.look(addr(1), now), Looked::Awaited(_)));
    assert_eq!(asked(&mut book), [('+', 1)]);
    assert_eq!(book.apply(addr(1), News::NotMeshed), Applied::Taken);
    assert!(matches!(book.look(addr(1), now), Looked::Known(Answer::Unmeshed)));
    assert_eq!(asked(&mut book), []);
    book.disconnected();
    assert!(matches!(book.look(addr(1), now), Looked::Known(Answer::Unmeshed)), "what was said holds on");
    assert!(matches!(book.look(addr(2), now), Looked::Awaited(_)));
    assert!(book.next(STREAM, Waker::noop()).is_err(), "a stream that is gone says nothing more");
    book.connected(STREAM);
    assert_eq!(asked(&mut book), [('+', 1), ('+', 2)]);
    assert_eq!(book.apply(addr(3), News::NotMeshed), Applied::Unasked);
}

#[test]
fn a_destination_lives_through_lists_and_protocols_until_it_is_none_of_the_mesh() {
    let (mut book, now) = (book(), Instant::now());
    drop(book.look(addr(1), now));
    book.apply(addr(1), meshed([5, 6], EndpointProtocol::Http));
    let live = endpoints(&book, 1);
    let unchanged = live.current();
    book.apply(addr(1), meshed([5, 6], EndpointProtocol::Http));
    assert!(std::sync::Arc::ptr_eq(&unchanged, &live.current()));
    book.apply(addr(1), meshed([6], EndpointProtocol::AskPeer));
    assert_eq!((live.current().len(), live.protocol()), (1, EndpointProtocol::AskPeer));
    book.apply(addr(1), meshed([], EndpointProtocol::Http));
    assert_eq!((live.current().len(), live.protocol()), (0, EndpointProtocol::AskPeer));
    // Nobody is there for a moment: what is under way is not cut, and nothing new is sent.
    book.apply(addr(1), meshed([6], EndpointProtocol::AskPeer));
    book.apply(addr(1), News::Unknown);
    assert!(book.says(addr(1)).is_none() && live.current().is_empty() && !live.standing().is_over());
    book.apply(addr(1), meshed([7], EndpointProtocol::AskPeer));
    assert_eq!(live.current()[0].addr, addr(7));
    book.apply(addr(1), News::NotMeshed);
    assert!(live.standing().is_over() && live.current().is_empty());
    assert!(matches!(book.says(addr(1)), Some(Answer::Unmeshed)));
    book.apply(addr(1), meshed([5], EndpointProtocol::Http));
    assert!(live.current().is_empty() && endpoints(&book, 1).current().len() == 1);
}

#[tokio::test]
async fn http_leaves_a_destination_that_speaks_bytes_and_bytes_go_on() {
    let mut book = book();
    drop(book.look(addr(1), Instant::now()));
    book.apply(addr(1), meshed([5], EndpointProtocol::AskPeer));
    let live = endpoints(&book, 1);
    let mut leave = std::pin::pin!(live.over_for_http());
    assert!(futures_pending(leave.as_mut()));
    book.apply(addr(1), meshed([5], EndpointProtocol::Http));
    assert!(futures_pending(leave.as_mut()));
    book.apply(addr(1), meshed([5], EndpointProtocol::Opaque));
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
    book.apply(addr(0), meshed([1], EndpointProtocol::Http));
    let in_use = endpoints(&book, 0);
    for n in 1..3 * DIRECTORY_ADDRESSES {
        let now = start + Duration::from_millis(u64::try_from(n).unwrap());
        assert!(matches!(book.look(addr(n), now), Looked::Awaited(_)));
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
    book.apply(addr(1), meshed([5], EndpointProtocol::Http));
    book.apply(addr(2), meshed([5], EndpointProtocol::Http));
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
        assert_eq!(book.apply(addr(n), meshed(quarter, EndpointProtocol::Http)), Applied::Taken);
    }
    drop(book.look(addr(4), now));
    assert_eq!(book.apply(addr(4), meshed([1], EndpointProtocol::Http)), Applied::TooLarge);
    assert!(book.says(addr(4)).is_none());
    assert_eq!(book.apply(addr(0), meshed([9], EndpointProtocol::Http)), Applied::Taken);
    assert_eq!(book.apply(addr(4), meshed([1], EndpointProtocol::Http)), Applied::Taken);
}
