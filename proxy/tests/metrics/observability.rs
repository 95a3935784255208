//! The alerts and the dashboard: they name what a sidecar measures, and a real Prometheus answers them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use mantlet_injector::metrics::FAMILIES;
use mantlet_proxy::metrics::{Description, Level, Metrics, Options};
use mantlet_testkit::TempDir;
use mantlet_testkit::apps::{App, Protocol};
use mantlet_testkit::client::{HttpClient, Request};
use mantlet_testkit::real_peers::{free_port, run};
use mantlet_testkit::{eventually, tools};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::common::Inbound;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/observability")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

fn dashboard() -> Value {
    serde_json::from_str(&read("dashboard.json")).unwrap()
}

/// Title and query of each target of the dashboard, Grafana's variables filled in.
fn queries() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let filled = |text: &str| {
        text.replace("$__rate_interval", "1m")
            .replace("$__range", "5m")
            .replace("$namespace", ".*")
            .replace("$pod", ".*")
    };
    let targets = panels.iter().flat_map(|panel| {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(move |target| (title.to_owned(), filled(target["expr"].as_str().unwrap())))
    });
    targets.collect()
}

/// Words of a text that are names of families.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| ["mantlet_", "process_", "tokio_"].iter().any(|prefix| word.starts_with(prefix)))
}

fn find<'a>(metrics: &'a Metrics, name: &str) -> Option<&'a Description> {
    metrics.describe().iter().find(|family| is_of(name, &family.name, family.kind))
}

/// Whether a name is that of a family, or of a part of one.
fn is_of(name: &str, family: &str, kind: &str) -> bool {
    let parts = ["_bucket", "_sum", "_count"].iter().filter_map(|suffix| name.strip_suffix(suffix));
    family == name || (kind == "histogram" && parts.into_iter().any(|part| part == family))
}

#[test]
fn alerts_and_dashboard_name_only_what_the_level_shows() {
    let metrics = Metrics::new(Options::default());
    let alerts = ["alerts.yaml", "alerts_test.yaml", "alerts_days_test.yaml"].map(read).concat();
    let dashboard = read("dashboard.json");
    for (text, level) in [(&alerts, Level::Minimal), (&dashboard, Level::Default)] {
        assert!(names(text).count() > 20);
        for name in names(text) {
            if name.starts_with("mantlet_injector_") {
                let known = FAMILIES.iter().any(|family| is_of(name, family.name, family.kind));
                assert!(known, "{name} is no family of the injector");
                continue;
            }
            let family = find(&metrics, name).unwrap_or_else(|| panic!("{name} is no family of a sidecar"));
            assert!(family.level <= level, "{name} is not shown at {level:?}");
        }
    }
}

/// The values that `label="value"` and `label=~"a|b"` select, by label.
fn selected(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut values = BTreeMap::<String, Vec<String>>::new();
    for label in ["decision", "transport", "direction", "result", "stream", "mode", "reason"] {
        for operator in ["=\"", "!=\"", "=~\""] {
            for (at, found) in text.match_indices(&format!("{label}{operator}")) {
                let rest = &text[at + found.len()..];
                let value = &rest[..rest.find(['"', '\\']).unwrap()];
                values.entry(label.to_owned()).or_default().extend(value.split('|').map(str::to_owned));
            }
        }
    }
    values
}

#[test]
fn alerts_and_dashboard_use_the_words_of_the_vocabulary() {
    use mantlet_identity::HandshakeReason;
    use mantlet_policy::Reason;
    use mantlet_proxy::metrics::{CloseReason, Direction, LogStream, Transport};
    let known: BTreeMap<&str, Vec<&str>> = BTreeMap::from([
        ("decision", vec!["allow", "deny", "would_deny"]),
        ("transport", Transport::ALL.iter().map(|word| word.as_str()).collect()),
        ("direction", Direction::ALL.iter().map(|word| word.as_str()).collect()),
        ("stream", LogStream::ALL.iter().map(|word| word.as_str()).collect()),
        ("mode", vec!["enforce", "audit", "permissive"]),
        ("result", vec!["ok", "error", "injected", "skipped", "denied", "allowed"]),
        (
            "reason",
            HandshakeReason::ALL
                .iter()
                .map(|word| word.as_str())
                .chain(Reason::ALL.iter().map(|word| word.as_str()))
                .chain(CloseReason::ALL.iter().map(|word| word.as_str()))
                .chain(mantlet_injector::inject::Reason::ALL.iter().map(|word| word.as_str()))
                .chain(["internal"])
                .collect(),
        ),
    ]);
    for file in ["alerts.yaml", "alerts_test.yaml", "alerts_days_test.yaml", "dashboard.json"] {
        for (label, values) in selected(&read(file).replace("\\\"", "\"")) {
            for value in values {
                assert!(known[&*label].contains(&&*value), "{file}: {label} is never {value:?}");
            }
        }
    }
}

#[test]
fn every_alert_has_a_runbook_and_a_case_that_fires_and_one_that_does_not() {
    let (alerts, runbooks) = (read("alerts.yaml"), read("../../docs/runbooks/README.md"));
    let cases = read("alerts_test.yaml") + &read("alerts_days_test.yaml");
    let named: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(named.len() > 20, "the alerts are found: {named:?}");
    for alert in &named {
        assert!(runbooks.contains(&format!("\n## {alert}\n")), "no runbook for {alert}");
        assert!(alerts.contains(&format!("docs/runbooks/README.md#{}\"", alert.to_lowercase())), "{alert}");
        assert!(cases.contains(&format!("- name: {alert} fires\n")), "{alert}");
        assert!(cases.contains(&format!("- name: {alert} is silent\n")), "{alert}");
    }
    assert_eq!(runbooks.matches("\n## Mantlet").count(), named.len(), "a runbook without an alert");
}

#[tokio::test]
async fn promtool_accepts_the_rules_and_their_cases() {
    let test = "promtool_accepts_the_rules_and_their_cases";
    let Some(promtool) = tools::find(test, "promtool", "prometheus") else { return };
    let promtool = || {
        let mut command = Command::new(&promtool);
        command.current_dir(folder());
        command
    };
    run(promtool().args(["check", "rules", "alerts.yaml"])).await.unwrap();
    run(promtool().args(["test", "rules", "alerts_test.yaml", "alerts_days_test.yaml"])).await.unwrap();
}

/// A Prometheus that scrapes one sidecar every second.
struct Prometheus {
    _child: Child,
    _dir: TempDir,
    addr: std::net::SocketAddr,
}

impl Prometheus {
    async fn start(program: &Path, sidecar: std::net::SocketAddr) -> Self {
        let dir = TempDir::new();
        let config = dir.file(
            "prometheus.yml",
            format!(
                "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
                 scrape_configs:\n\
                 - job_name: mantlet-sidecar\n  \
                   static_configs: [{{targets: ['{sidecar}'], labels: {{namespace: shop, pod: orders-1}}}}]\n"
            ),
        );
        // The port was free a moment ago; should somebody have taken it, another one will do.
        loop {
            let addr = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
            let mut child = Command::new(program)
                .arg(format!("--config.file={}", config.display()))
                .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
                .arg(format!("--web.listen-address={addr}"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            let listening =
                eventually("Prometheus to listen or to end", async || match child.try_wait().unwrap() {
                    Some(_) => Some(false),
                    None => TcpStream::connect(addr).await.is_ok().then_some(true),
                })
                .await;
            if listening {
                return Self { _child: child, _dir: dir, addr };
            }
        }
    }

    /// What the query gives: the values of its vector.
    async fn query(&self, query: &str) -> Vec<f64> {
        let escaped: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let mut client = HttpClient::plain(self.addr, Protocol::Http1).await;
        let target = format!("/api/v1/query?query={escaped}");
        let response = client.send(&Request::get(&target).header("connection", "close")).await;
        if response.status == 503 {
            return Vec::new();
        }
        let answer: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let samples = answer["data"]["result"].as_array().unwrap();
        samples.iter().map(|sample| sample["value"][1].as_str().unwrap().parse().unwrap()).collect()
    }
}

#[tokio::test]
async fn a_real_prometheus_answers_every_query_of_the_dashboard() {
    let test = "a_real_prometheus_answers_every_query_of_the_dashboard";
    let Some(program) = tools::find(test, "prometheus", "prometheus") else { return };
    let app = App::start(Protocol::Http1).await;
    let inbound = Inbound::start(app.addr(), "allow web/bff to GET /orders/** as read\n").await;
    let prometheus = Prometheus::start(&program, inbound.sidecar.admin().await).await;
    let mut client = inbound.http("web/bff", Protocol::Http1).await;
    // A counter, its rate, a gauge, a share, an information, a quantile: from a sidecar under traffic.
    for query in [
        "sum(mantlet_authz_decisions_total{decision=\"deny\"}) > 0",
        "sum(rate(mantlet_http_requests_total{direction=\"inbound\"}[1m])) > 0",
        "mantlet_identity_not_after_timestamp_seconds - time() > 0",
        "count(mantlet_policy_info{mode=\"enforce\"}) / count(mantlet_policy_info) == 1",
        "mantlet_build_info == 1",
        "histogram_quantile(0.99, sum by (le) (rate(mantlet_http_proxy_overhead_seconds_bucket[1m]))) > 0",
    ] {
        eventually(format!("an answer to {query}"), async || {
            client.send(&Request::get("/orders/1")).await;
            client.send(&Request::get("/secret")).await;
            (!prometheus.query(query).await.is_empty()).then_some(())
        })
        .await;
    }
    for (title, query) in queries() {
        let quiet =
            ["Errors", "Failed handshakes", "gRPC failures", "Closed, but not in order"].contains(&&*title);
        let values = prometheus.query(&query).await;
        assert!(quiet || !values.is_empty(), "{title} shows nothing: {query}");
    }
}
