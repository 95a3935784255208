//! D22-D25, D30: one framing, one request.

use crate::fixture::{Fixture, denied, verdict};

#[tokio::test]
async fn d22_two_framings_are_one_request_or_none() {
    let f = Fixture::start().await;
    let smuggled = "0\r\n\r\nGET /admin/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = f.h1("ops/dev").await;
    let head = "POST /orders HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n";
    client.write(format!("{head}Content-Length: {}\r\n\r\n{smuggled}", smuggled.len())).await.unwrap();
    let response = client.read().await.unwrap();
    assert!([200, 400].contains(&response.status), "{response:?}");
    client.closed().await;
    let seen = f.app.seen();
    assert!(seen.len() <= 1, "{seen:?}");
    for seen in seen {
        assert_eq!((seen.header("content-length").len(), seen.body.len()), (0, 0), "{seen:?}");
    }
}

#[tokio::test]
async fn d24_a_length_is_one_number() {
    let f = Fixture::start().await;
    for lines in [
        "Content-Length: +5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length:\r\n",
    ] {
        let mut client = f.h1("ops/dev").await;
        let request = format!("POST /orders HTTP/1.1\r\nHost: a\r\n{lines}\r\nhello");
        let response = client.raw(request).await.unwrap();
        assert_eq!(response.status, 400, "{lines:?}: {response:?}");
    }
    f.assert_untouched();
}

#[tokio::test]
async fn d25_a_body_is_never_a_request() {
    let f = Fixture::start().await;
    let body = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
    let head = format!("GET /orders/1 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut client = f.h1("ops/dev").await;
    assert_eq!(client.raw(format!("{head}{body}")).await.unwrap().status, 200);
    let seen = f.app.only();
    assert_eq!((seen.target.as_str(), seen.body.as_slice()), ("/orders/1", body.as_bytes()));
    // The connection is in step: the next request is the next one.
    assert_eq!(client.raw("GET /orders/2 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap().status, 200);
    assert_eq!(f.app.seen()[1].target, "/orders/2");
}

#[tokio::test]
async fn d25_the_body_of_a_denied_request_is_never_a_request() {
    let f = Fixture::start().await;
    let body = "GET /orders/1 HTTP/1.1\r\nHost: a\r\n\r\n";
    let head = format!("POST /admin HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut client = f.h1("ops/dev").await;
    assert_eq!(verdict(&client.raw(format!("{head}{body}")).await.unwrap()), denied("deny_rule"));
    f.assert_untouched();
}

#[tokio::test]
async fn d30_a_method_in_lower_case_is_another_method() {
    let f = Fixture::start().await;
    let response = f.raw("web/bff", "get /orders/1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(verdict(&response), denied("default"));
    f.assert_untouched();
}

#[tokio::test]
async fn host_is_said_exactly_once() {
    let f = Fixture::start().await;
    for lines in [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host: \r\n",
        "Host: a@b\r\n",
        "Host: a b\r\n",
    ] {
        let response = f.raw("web/bff", format!("GET /orders/1 HTTP/1.1\r\n{lines}\r\n")).await;
        assert_eq!(response.status, 400, "{lines:?}: {response:?}");
    }
    f.assert_untouched();
}

#[tokio::test]
async fn obsolete_spellings_of_fields_are_refused() {
    let f = Fixture::start().await;
    for lines in ["x-a: b\r\n folded\r\n", "x-a : b\r\n", ": b\r\n"] {
        let response = f.raw("web/bff", format!("GET /orders/1 HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).await;
        assert_eq!(response.status, 400, "{lines:?}: {response:?}");
    }
    f.assert_untouched();
}

#[tokio::test]
async fn d23_transfer_encoding_is_chunked_and_nothing_else() {
    let f = Fixture::start().await;
    for encoding in [
        "xchunked",
        "chunked, identity",
        "gzip, chunked",
        "identity",
        "chunked\r\nTransfer-Encoding: chunked",
    ] {
        let request =
            format!("POST /orders HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {encoding}\r\n\r\n0\r\n\r\n");
        let mut client = f.h1("ops/dev").await;
        let response = client.raw(request).await.unwrap();
        assert_eq!(response.status, 400, "{encoding}: {response:?}");
    }
    f.assert_untouched();
}
