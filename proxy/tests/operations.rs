//! What an operator meets at a running sidecar: health, dumps, the policy file, the audit log, the drain.

use mantlet_testkit::{
    apps::{App, Protocol},
    client::{HttpClient, Request, Response, TlsClient},
    pki::Authority,
    sidecar::{Sidecar, SidecarBuilder},
    temp::TempDir,
    wait::eventually,
    workload_api::{Answer, WorkloadApi},
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

const BINARY: &str = env!("CARGO_BIN_EXE_mantlet-proxy");
const POLICY: &str = "allow shop/web to GET /orders/** as read\n";

struct Shop {
    ca: Authority,
    app: App,
}

impl Shop {
    async fn new() -> Self {
        Self { ca: Authority::new("prod.test"), app: App::start(Protocol::Http1).await }
    }

    fn sidecar(&self) -> SidecarBuilder {
        SidecarBuilder::new(BINARY).identity(&self.ca.workload("shop/api")).inbound(self.app.addr())
    }

    /// Sends a request as this workload and returns status and refusal.
    async fn ask(&self, sidecar: &Sidecar, short: &str, request: &Request) -> (u16, Option<String>) {
        let svid = self.ca.workload(short);
        let client = TlsClient::new(&svid).alpn(&["http/1.1"]);
        let mut client = client.http(sidecar.inbound(0).await, Protocol::Http1).await;
        let response = client.send(request).await;
        (response.status, response.header("x-mantlet-denied").pop())
    }
}

/// A dump, asked for under a name that the Host check takes.
async fn dump(sidecar: &Sidecar, path: &str) -> Value {
    let mut client = HttpClient::plain(sidecar.admin().await, Protocol::Http1).await;
    let Response { status, body, .. } = client.send(&Request::get(path).host("localhost")).await;
    assert_eq!(status, 200);
    serde_json::from_slice(&body).unwrap()
}

fn stream(sidecar: &Sidecar, name: &str) -> Vec<Value> {
    let lines = sidecar.stdout();
    let values = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    values.filter(|line| line["stream"] == name).collect()
}

#[tokio::test]
async fn readyz_says_what_is_missing_until_identity_and_policy_are_there() {
    let shop = Shop::new().await;
    let api = std::sync::Arc::new(WorkloadApi::absent());
    let sidecar = SidecarBuilder::new(BINARY)
        .workload_api(&api)
        .expect_id("spiffe://prod.test/ns/shop/sa/api")
        .inbound(shop.app.addr())
        .policy("allow shop/web GET /orders\n")
        .spawn();
    let unready = eventually("both conditions", async || {
        let response = sidecar.get("/readyz").await;
        assert_eq!(response.status, 503);
        Some(response.text()).filter(|text| text.contains("cannot"))
    })
    .await;
    assert!(unready.contains("policy: the policy is not usable: ") && unready.contains(":1:"), "{unready}");
    assert_eq!(unready.lines().filter(|line| line.contains("(next: ")).count(), 2, "{unready}");
    assert_eq!(sidecar.get("/livez").await.status, 200);
    assert_eq!(sidecar.get("/startupz").await.status, 503);

    sidecar.set_policy(POLICY);
    api.serve(Answer::of(&shop.ca.workload("shop/api")));
    api.start();
    sidecar.ready().await;
    assert_eq!(sidecar.get("/readyz").await.text(), "ready\n");
    assert_eq!(sidecar.get("/startupz").await.status, 200);
}

#[tokio::test]
async fn a_refused_caller_s_id_is_found_in_the_audit_log_with_the_reason_and_without_its_query() {
    let shop = Shop::new().await;
    let sidecar = shop.sidecar().policy(POLICY).start().await;
    let request = Request::new("DELETE", "/orders/42?token=secret").header("authorization", "Bearer secret");
    let (status, denied) = shop.ask(&sidecar, "shop/web", &request).await;
    assert_eq!(status, 403);
    let denied = denied.unwrap();
    let id = denied.split("id=").nth(1).unwrap().to_owned();
    assert_eq!(id.len(), 26, "{denied}");
    let line = eventually("the audit line", async || {
        stream(&sidecar, "audit").into_iter().find(|line| line["id"] == id)
    })
    .await;
    for (field, value) in [
        ("decision", "deny"),
        ("reason", "default"),
        ("mode", "enforce"),
        ("layer", "http"),
        ("peer.id", "spiffe://prod.test/ns/shop/sa/web"),
        ("http.request.method", "DELETE"),
        ("url.path", "/orders/42"),
        ("nearest_rule", "read"),
    ] {
        assert_eq!(line[field], value, "{field} in {line}");
    }
    assert!(!sidecar.stdout().concat().contains("secret"));
    assert!(!sidecar.stderr().concat().contains("secret"));
}

#[tokio::test]
async fn what_no_rule_allowed_stands_in_the_audit_log_beside_the_rule_that_came_nearest() {
    let shop = Shop::new().await;
    let tcp = App::start(Protocol::Http1).await;
    let (port, opaque) = (shop.app.port(), tcp.port());
    let policy = format!(
        "allow shop/web to GET /orders/{{id}} on {port} as read\n\
         allow shop/web to POST /orders on {port} when header x-tenant = acme as create\n\
         allow shop/web to GET /old on {port} until 2020-01-01T00:00Z as retired\n\
         allow shop/batch to * /export on {port} as export\n\
         deny shop/web to * /admin/** on {port} as no-admin\n\
         allow data/etl to tcp on {opaque} as pg\n"
    );
    let sidecar = shop.sidecar().inbound(tcp.addr()).policy(policy).start().await;
    let nearest = async |denied: &str| {
        let id = denied.split("id=").nth(1).unwrap();
        let line = eventually("the audit line", async || {
            stream(&sidecar, "audit").into_iter().find(|line| line["id"] == *id)
        })
        .await;
        (line["reason"].as_str().unwrap().to_owned(), line["nearest_rule"].as_str().map(str::to_owned))
    };
    for (peer, request, reason, rule) in [
        ("shop/web", Request::new("DELETE", "/orders/1"), "default", Some("read")),
        ("shop/web", Request::new("POST", "/orders").header("x-tenant", "evil"), "default", Some("create")),
        ("shop/web", Request::new("GET", "/old"), "expired", Some("retired")),
        ("shop/web", Request::new("POST", "/export"), "default", Some("export")),
        ("shop/web", Request::new("GET", "/admin/x"), "deny_rule", None),
        ("shop/web", Request::new("GET", "/orders/../x"), "malformed(dot-segment)", None),
    ] {
        let (_, denied) = shop.ask(&sidecar, peer, &request).await;
        let expected = (reason.to_owned(), rule.map(str::to_owned));
        assert_eq!(nearest(&denied.unwrap()).await, expected, "{request:?}");
    }
    // A connection is refused without a word.
    let client = TlsClient::new(&shop.ca.workload("shop/web")).alpn(&["mantlet-tcp"]);
    let mut io = client.connect(sidecar.inbound(1).await).await.into_io();
    mantlet_testkit::client::until_end(&mut io).await;
    let line = eventually("the audit line of the connection", async || {
        stream(&sidecar, "audit").into_iter().find(|line| line["layer"] == "tcp")
    })
    .await;
    assert_eq!((&line["reason"], &line["nearest_rule"]), (&"default".into(), &"pg".into()), "{line}");
}

#[tokio::test]
async fn a_live_edit_takes_effect_and_a_broken_one_keeps_the_last_good_policy() {
    let shop = Shop::new().await;
    let sidecar = shop.sidecar().policy(POLICY).start().await;
    let get = Request::get("/orders/42");
    assert_eq!(shop.ask(&sidecar, "shop/web", &get).await.0, 200);
    sidecar.set_policy("allow shop/other to GET /orders/**\n");
    sidecar.event("policy_loaded", |event| event["generation"] == 2).await;
    assert_eq!(shop.ask(&sidecar, "shop/web", &get).await.0, 403);
    sidecar.set_policy("allow everybody\n");
    let rejected = sidecar.event("policy_rejected", |_| true).await;
    assert_eq!(rejected["kept_generation"], 2);
    assert_eq!(shop.ask(&sidecar, "shop/other", &get).await.0, 200);
    assert_eq!(sidecar.get("/readyz").await.status, 200);
    assert_eq!(sidecar.metrics().await.sum("mantlet_policy_last_reload_success", &[]), 0.0);
    let policy = dump(&sidecar, "/v1/policy").await;
    assert_eq!((&policy["generation"], &policy["last_reload"]["ok"]), (&2.into(), &false.into()));
    assert!(policy["last_reload"]["error"].as_str().unwrap().contains("policy:1:"), "{policy}");
}

#[tokio::test]
async fn the_access_log_has_a_line_per_request_and_one_per_connection_that_failed() {
    let shop = Shop::new().await;
    for (which, expected) in
        [("off", &[][..]), ("errors", &["denied", "tls"]), ("all", &["eof", "denied", "tls"])]
    {
        let mut sidecar = shop.sidecar().policy(POLICY).arg("--access-log", which).start().await;
        assert_eq!(shop.ask(&sidecar, "shop/web", &Request::get("/orders/42?token=secret")).await.0, 200);
        let (_, denied) = shop.ask(&sidecar, "shop/intruder", &Request::get("/orders/42")).await;
        TlsClient::anonymous().alpn(&["http/1.1"]).refused(sidecar.inbound(0).await).await;
        sidecar.metric_reaches("mantlet_connections_closed_total", &[("reason", "tls")], 1.0).await;
        sidecar.terminate();
        assert!(sidecar.exited().await.success());
        sidecar.event("stopped", |_| true).await;
        let lines = stream(&sidecar, "access");
        let closes: Vec<&str> = lines.iter().filter_map(|line| line["close"].as_str()).collect();
        assert_eq!(closes, expected, "{which}");
        if let Some(line) = lines.iter().find(|line| line["close"] == "denied") {
            assert!(denied.unwrap().ends_with(line["id"].as_str().unwrap()), "{line}");
            assert_eq!(line["peer.id"], "spiffe://prod.test/ns/shop/sa/intruder");
        }
        if let Some(line) = lines.iter().find(|line| line["close"] == "eof") {
            assert_eq!((&line["rule"], &line["url.path"]), (&"read".into(), &"/orders/42".into()));
        }
        assert!(!sidecar.stdout().concat().contains("secret"));
    }
}

#[tokio::test]
async fn the_dumps_show_certificates_and_configuration_and_no_secret() {
    let shop = Shop::new().await;
    let sidecar = shop.sidecar().policy(POLICY).start().await;
    let certs = dump(&sidecar, "/v1/certs").await;
    assert_eq!(certs["svid"]["spiffe_id"], "spiffe://prod.test/ns/shop/sa/api");
    assert!(!certs.to_string().contains("PRIVATE"));
    let config = dump(&sidecar, "/v1/config").await;
    assert!(config.to_string().contains("drain-deadline"), "{config}");
}

#[tokio::test]
async fn edges_and_events_say_who_called_what_came_of_it_and_which_rule_said_so() {
    let shop = Shop::new().await;
    let sidecar = shop.sidecar().policy(POLICY).start().await;
    let mut watching = TcpStream::connect(sidecar.admin().await).await.unwrap();
    let request = b"GET /v1/events?decision=deny HTTP/1.1\r\nhost: localhost\r\n\r\n";
    watching.write_all(request).await.unwrap();
    let mut lines = BufReader::new(watching).lines();
    while lines.next_line().await.unwrap().unwrap() != ": watching" {}

    assert_eq!(shop.ask(&sidecar, "shop/web", &Request::get("/orders/42")).await.0, 200);
    let (_, denied) = shop.ask(&sidecar, "shop/intruder", &Request::get("/orders/42?token=secret")).await;
    let event = loop {
        let line = lines.next_line().await.unwrap().unwrap();
        if let Some(data) = line.strip_prefix("data: ") {
            break serde_json::from_str::<Value>(data).unwrap();
        }
    };
    for (field, value) in [
        ("decision", "deny"),
        ("reason", "default"),
        ("peer.id", "spiffe://prod.test/ns/shop/sa/intruder"),
        ("http.request.method", "GET"),
        ("url.path", "/orders/42"),
    ] {
        assert_eq!(event[field], value, "{field} in {event}");
    }
    assert!(denied.unwrap().ends_with(event["id"].as_str().unwrap()), "the id that the caller was given");
    assert!(!event.to_string().contains("secret"));

    let edges = dump(&sidecar, "/v1/edges").await;
    assert_eq!(edges["self"], "spiffe://prod.test/ns/shop/sa/api");
    let mut seen: Vec<_> = edges["edges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|edge| {
            let word = |name: &str| edge[name].as_str().unwrap_or("-").to_owned();
            (word("peer"), word("decision"), word("rule"), edge["count"].as_u64().unwrap())
        })
        .collect();
    seen.sort();
    let id = |name: &str| format!("spiffe://prod.test/ns/shop/sa/{name}");
    let (allow, deny) = ("allow".to_owned(), "deny".to_owned());
    assert_eq!(seen, [(id("intruder"), deny, "-".to_owned(), 1), (id("web"), allow, "read".to_owned(), 1)]);
}

#[tokio::test]
async fn the_log_level_is_changed_at_run_time_and_goes_back_by_itself() {
    let shop = Shop::new().await;
    let dir = TempDir::new();
    let socket = dir.path().join("admin.sock").display().to_string();
    let sidecar = shop.sidecar().policy(POLICY).arg("--admin-socket", &socket).start().await;
    let set = |level: &'static str, limit: &'static str| {
        let socket = socket.clone();
        async move {
            let arguments = ["log-level", level, "--for", limit, "--admin-socket", &socket];
            tokio::process::Command::new(BINARY).args(arguments).env_clear().output().await.unwrap()
        }
    };
    let debug = |sidecar: &Sidecar| sidecar.stderr().concat().matches("inbound_failed").count();
    // A caller without a certificate shows at debug level only.
    let knock = async || {
        let failed = sidecar.metrics().await.sum("mantlet_connections_closed_total", &[("reason", "tls")]);
        TlsClient::anonymous().alpn(&["http/1.1"]).refused(sidecar.inbound(0).await).await;
        sidecar.metric_reaches("mantlet_connections_closed_total", &[("reason", "tls")], failed + 1.0).await;
    };
    knock().await;
    let answer = set("debug", "1h").await;
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    assert!(String::from_utf8_lossy(&answer.stdout).contains("\"then\": \"info\""));
    knock().await;
    eventually("a line at debug level", async || (debug(&sidecar) == 1).then_some(())).await;
    assert!(set("trace", "1s").await.status.success());
    sidecar.event("log_level", |event| event["level"] == "info" && event["for"].is_null()).await;
    knock().await;
    assert_eq!(debug(&sidecar), 1);
    let wrong = set("debug", "soon").await;
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("10m"), "the answer says how to write it");
}
