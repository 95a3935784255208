use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderName, Uri, header};
use mantlet_identity::provider;
use mantlet_testkit::{
    apps::{App, Protocol, RawApp, Reply, TcpApp},
    pki::Authority,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::Action;

const KUBELET: HeaderValue = HeaderValue::from_static("kube-probe/1.34");

/// Asks with a single recorded handler.
async fn ask_within(to: SocketAddr, action: Action, timeout: Option<Duration>) -> Asked {
    let handler = config::Handler { action, to, timeout };
    let probes = Probes::new(config::Probes { handlers: BTreeMap::from([("/it".to_owned(), handler)]) });
    probes.ask("/it", Some(&KUBELET)).await
}

async fn ask(to: SocketAddr, action: Action) -> Asked {
    ask_within(to, action, Some(Duration::from_secs(20))).await
}

fn http(target: &'static str) -> Action {
    Action::Http { tls: false, target: Uri::from_static(target), headers: Vec::new() }
}

fn grpc(service: &str) -> Action {
    Action::Grpc { service: service.to_owned() }
}

fn answered(asked: Asked) -> (u16, String) {
    match asked {
        Asked::Answered(Answer { status, body }) => {
            (status.as_u16(), String::from_utf8_lossy(&body).into_owned())
        }
        asked => panic!("{asked:?}"),
    }
}

fn failed(asked: Asked) -> (u16, String) {
    match asked {
        Asked::Failed(failure) => (failure.status().as_u16(), failure.to_string()),
        asked => panic!("{asked:?}"),
    }
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn the_app_sees_the_probe_that_was_recorded() {
    let app = App::start(Protocol::Http1).await;
    let fields =
        [("host", "shop.test"), ("cookie", "shop_session-id=x-readiness-probe"), ("x-a", "1"), ("x-a", "2")];
    let headers =
        fields.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    let target = Uri::from_static("/healthz?full=true");
    let action = Action::Http { tls: false, target, headers: headers.to_vec() };
    assert_eq!(answered(ask(app.addr(), action).await).0, 200);
    let seen = app.only();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/healthz?full=true"));
    assert_eq!(seen.header("host"), ["shop.test"]);
    assert_eq!(seen.header("cookie"), ["shop_session-id=x-readiness-probe"]);
    assert_eq!(seen.header("x-a"), ["1", "2"]);
    assert_eq!(seen.header("user-agent"), ["kube-probe/1.34"]);
    assert_eq!(seen.header("accept"), ["*/*"]);
    assert_eq!(seen.header("connection"), ["close"]);
}

#[tokio::test]
async fn without_a_host_of_its_own_a_probe_names_the_address_as_the_kubelet_does() {
    let app = App::start(Protocol::Http1).await;
    answered(ask(app.addr(), http("/")).await);
    assert_eq!(app.only().header("host"), [app.addr().to_string()]);
}

#[tokio::test]
async fn a_failing_app_fails_its_probe_with_its_own_status_and_words() {
    let app = App::with(Protocol::Http1, |_| async {
        Reply { status: 503, body: b"db: no connection".to_vec(), ..Reply::default() }
    })
    .await;
    assert_eq!(answered(ask(app.addr(), http("/")).await), (503, "db: no connection".to_owned()));
}

#[tokio::test]
async fn a_redirect_is_success_and_is_not_followed_by_anybody() {
    let app = App::with(Protocol::Http1, |_| async {
        Reply::status(302).header("location", "http://169.254.169.254/latest/meta-data")
    })
    .await;
    let (status, said) = answered(ask(app.addr(), http("/")).await);
    assert_eq!(status, 200);
    assert!(said.contains("302"), "{said}");
    assert_eq!(app.connections(), 1);
}

#[tokio::test]
async fn of_an_endless_answer_the_beginning_is_taken() {
    let app = App::with(Protocol::Http1, |_| async { Reply::open(vec![b'x'; 64 << 10]) }).await;
    let (status, said) = answered(ask(app.addr(), http("/")).await);
    assert_eq!((status, said.len()), (200, 10 << 10));
}

#[tokio::test]
async fn each_probe_has_a_connection_of_its_own_and_leaves_none_behind() {
    let app = App::start(Protocol::Http1).await;
    for _ in 0..3 {
        answered(ask(app.addr(), http("/")).await);
    }
    assert_eq!(app.connections(), 3);
}

#[tokio::test]
async fn who_does_not_listen_fails_every_kind_of_probe_with_the_cause() {
    let to = nobody().await;
    for action in [http("/"), Action::Tcp, grpc("")] {
        let (status, why) = failed(ask(to, action).await);
        assert_eq!(status, 502);
        assert!(why.contains("refused"), "{why}");
    }
}

#[tokio::test]
async fn a_silent_app_fails_its_probe_before_the_kubelet_gives_up() {
    let app = RawApp::start().await;
    let limit = Duration::from_millis(50);
    for action in [http("/"), grpc("")] {
        let (status, why) = failed(ask_within(app.addr(), action, Some(limit)).await);
        assert_eq!((status, why.as_str()), (504, "no answer in 50ms"));
    }
}

#[tokio::test]
async fn an_app_that_speaks_something_else_fails_its_probe_and_the_cause_says_so() {
    let app = TcpApp::banner("220 mail ready\r\n").await;
    let (status, why) = failed(ask(app.addr(), http("/")).await);
    assert_eq!(status, 502);
    assert!(why.contains("does not answer in HTTP"), "{why}");
    let (_, why) = failed(ask(app.addr(), grpc("")).await);
    assert!(why.contains("does not answer in gRPC"), "{why}");
    let https = Action::Http { tls: true, target: Uri::from_static("/"), headers: Vec::new() };
    let (_, why) = failed(ask(app.addr(), https).await);
    assert!(why.contains("does not speak TLS 1.3"), "{why}");
}

#[tokio::test]
async fn a_connection_is_all_that_a_tcp_probe_asks_for() {
    let app = TcpApp::echo().await;
    assert_eq!(answered(ask(app.addr(), Action::Tcp).await).0, 200);
    app.wait_for_closed(1).await;
    assert!(app.received().is_empty());
}

#[tokio::test]
async fn https_is_asked_whatever_certificate_is_shown() {
    let svid = Authority::new("elsewhere.test").workload("a/b");
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(svid.chain.clone(), svid.key.clone_key().into())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    let serve = async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut io = TlsAcceptor::from(Arc::new(config)).accept(tcp).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            io.read_buf(&mut head).await.unwrap();
        }
        io.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        io.shutdown().await.unwrap();
        String::from_utf8(head).unwrap()
    };
    let https = Action::Http { tls: true, target: Uri::from_static("/livez"), headers: Vec::new() };
    let (asked, head) = tokio::join!(ask(to, https), serve);
    assert_eq!(answered(asked).0, 204);
    assert!(head.starts_with("GET /livez HTTP/1.1\r\n"), "{head}");
}

/// A server that says this of its health.
async fn health(message: &'static [u8], status: &'static str) -> App {
    App::with(Protocol::H2c, move |_| async move {
        let reply = Reply::ok(message).header("content-type", "application/grpc");
        reply.trailer("grpc-status", status).trailer("grpc-message", "because")
    })
    .await
}

#[tokio::test]
async fn a_grpc_probe_asks_for_its_service_and_believes_serving_alone() {
    let serving = health(&[0, 0, 0, 0, 2, 8, 1], "0").await;
    assert_eq!(answered(ask(serving.addr(), grpc("shop.Orders")).await), (200, "SERVING\n".to_owned()));
    let seen = serving.only();
    assert_eq!(seen.target, "/grpc.health.v1.Health/Check");
    assert_eq!(seen.header(header::CONTENT_TYPE.as_str()), ["application/grpc"]);
    assert_eq!(seen.header("te"), ["trailers"]);
    assert_eq!(seen.body, b"\0\0\0\0\x0d\x0a\x0bshop.Orders");
    for (message, status, said) in [
        (&[0, 0, 0, 0, 2, 8, 2][..], "0", "NotServing"),
        (&[0, 0, 0, 0, 0], "0", "Unknown"),
        (&[], "12", "gRPC status 12: because"),
    ] {
        let (code, text) = answered(ask(health(message, status).await.addr(), grpc("")).await);
        assert_eq!(code, 503);
        assert!(text.contains(said), "{text}");
    }
    let (code, why) = failed(ask(health(b"<html>", "0").await.addr(), grpc("")).await);
    assert_eq!(code, 502);
    assert!(why.contains("HealthCheckResponse"), "{why}");
}

#[tokio::test]
async fn a_hook_has_no_limit_and_its_failure_is_no_status() {
    assert!(matches!(ask_within(nobody().await, http("/"), None).await, Asked::HookFailed));
    let app = App::with(Protocol::Http1, |_| async { Reply::status(500) }).await;
    // For the kubelet a hook that was answered was run.
    assert_eq!(answered(ask_within(app.addr(), http("/"), None).await).0, 500);
}

#[tokio::test]
async fn a_path_that_was_not_recorded_asks_nobody_anything() {
    assert!(matches!(Probes::default().ask("/app-health/x/web/ready", None).await, Asked::Unknown));
}

#[tokio::test]
async fn one_probe_does_not_pile_up_against_a_silent_app() {
    let app = RawApp::start().await;
    let handler =
        config::Handler { action: http("/"), to: app.addr(), timeout: Some(Duration::from_secs(20)) };
    let handlers = BTreeMap::from([("/it".to_owned(), handler)]);
    let probes = Arc::new(Probes::new(config::Probes { handlers }));
    let mut running = Vec::new();
    let mut open = Vec::new();
    for _ in 0..RUNS {
        let probes = Arc::clone(&probes);
        running.push(tokio::spawn(async move { probes.ask("/it", None).await }));
        open.push(app.accept().await);
    }
    assert_eq!(failed(probes.ask("/it", None).await).0, 429);
    open.pop();
    let first_over = running.pop().unwrap().await.unwrap();
    assert_eq!(failed(first_over).0, 502);
    running.iter().for_each(|run| run.abort());
}
