//! What the upstreams lines say about redirected connections, of both versions of IP.

use std::net::SocketAddr;
use std::sync::Arc;

use mantlet_testkit::apps::{App, Protocol, TcpApp};
use mantlet_testkit::client::{connect, exactly, until_end};
use mantlet_testkit::netns::{Counters, Place, SERVICE, both};
use mantlet_testkit::{Io, in_namespaces};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::fixture::http_app;
use crate::outbound::{get, pod_with, workload};

const MESH: u16 = 7001;
const OTHER: u16 = 7002;
const PLAIN: u16 = 7003;
const REFUSED: u16 = 7004;
const UNKNOWN: u16 = 7005;

/// One line for each of both addresses.
fn lines(port: u16, rest: &str) -> String {
    both(SERVICE, port).map(|addr| format!("{addr} {rest}\n")).concat()
}

#[test]
fn each_kind_of_line_holds_for_redirected_connections() {
    in_namespaces!(async || {
        let all = [
            lines(MESH, "is shop/web as http"),
            // Somebody else is there.
            lines(OTHER, "is shop/other as http"),
            lines(PLAIN, "passthrough"),
            lines(REFUSED, "refuse"),
        ]
        .concat();
        let (pod, _lines) = pod_with("allow ./orders to GET / on 8080\n", &all).await;
        let app = &pod.lab.app;
        let mut closed = 0.0;
        for n in 0..2 {
            let at = |port: u16| both(SERVICE, port)[n];
            // `is`: mutual TLS with whom the line names, who lets in nobody but this pod.
            let web = App::start(Protocol::Http1).await;
            let _one = workload(&pod, "shop/web", at(MESH), web.addr(), "GET /**").await;
            assert_eq!(get(app, at(MESH), "/x").await, (200, "hello".to_owned()), "{}", at(MESH));
            assert_eq!(web.only().target, "/x");
            let _two = workload(&pod, "shop/web", at(OTHER), web.addr(), "GET /**").await;
            assert_eq!(get(app, at(OTHER), "/y").await.0, 502, "{}", at(OTHER));
            assert_eq!(web.seen().len(), 1, "nothing was said to whom the line does not name");

            // `passthrough`: byte for byte, whoever speaks first, and nothing before that.
            let plain = tcp_app(&pod.lab.node, at(PLAIN), "ready\n").await;
            assert_eq!(
                talk(app, at(PLAIN), "ready\n", b"\x16\x03\x01no TLS of ours").await,
                b"\x16\x03\x01no TLS of ours"
            );
            assert_eq!(plain.received(), b"\x16\x03\x01no TLS of ours");

            // `refuse`, and what no line names: told so before anybody is dialled.
            for port in [REFUSED, UNKNOWN] {
                let nobody = http_app(&pod.lab.node, [at(port)]).await;
                let told = told(app, at(port)).await;
                assert!(told.starts_with("HTTP/1.1 403 "), "{}: {told}", at(port));
                assert!(told.contains("\r\nx-mantlet-error: denied; id="), "{}: {told}", at(port));
                closed += 1.0;
                pod.closed("outbound", "denied", closed).await;
                assert_eq!(nobody[0].connections(), 0);
            }
        }
        // Five connections by each version of IP, and the kernel has redirected every one.
        let counters = Counters::read(&pod.lab.pod).await;
        assert_eq!(counters.packets("nat_out", "redirect"), 10);
    });
}

/// A server without TLS that greets and then says what it hears.
async fn tcp_app(place: &Place, addr: SocketAddr, banner: &'static str) -> Arc<TcpApp> {
    place.run(async move { Arc::new(TcpApp::on(TcpListener::bind(addr).await.unwrap(), banner)) }).await
}

/// What comes back for `said`, after the greeting.
async fn talk(place: &Place, addr: SocketAddr, banner: &'static str, said: &'static [u8]) -> Vec<u8> {
    let talk = async move {
        let mut io: Io = Box::new(connect(addr).await);
        assert_eq!(exactly(&mut io, banner.len()).await, banner.as_bytes());
        io.write_all(said).await.unwrap();
        exactly(&mut io, said.len()).await
    };
    place.run(talk).await
}

/// Everything that a request is answered.
async fn told(place: &Place, addr: SocketAddr) -> String {
    let talk = async move {
        let mut io: Io = Box::new(connect(addr).await);
        let _ = io.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        String::from_utf8_lossy(&until_end(&mut io).await).into_owned()
    };
    place.run(talk).await
}
