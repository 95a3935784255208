//! `--describe`, the scrape and promtool agree.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::{Command, Stdio};

use mantlet_proxy::metrics::{Description, Level, Metrics, Options};
use mantlet_testkit::apps::{App, Protocol, Reply, TcpApp};
use mantlet_testkit::client::{HttpClient, Request, connect};
use mantlet_testkit::sidecar::Sidecar;
use mantlet_testkit::tools;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::common::Inbound;

const LEVELS: [(&str, Level); 3] =
    [("minimal", Level::Minimal), ("default", Level::Default), ("full", Level::Full)];

/// A sidecar that has seen traffic of every kind, in both directions.
struct Busy {
    sidecar: Sidecar,
    _others: (App, TcpApp, Inbound),
}

async fn busy(level: &str) -> Busy {
    let app = App::with(Protocol::H2c, async |_| Reply::ok("hello").trailer("grpc-status", "0")).await;
    let tcp = TcpApp::echo().await;
    let policy = format!(
        "allow shop/orders to grpc shop.v1.Orders/* on {} as call\n\
         allow shop/orders to tcp on {} as bytes\n",
        app.port(),
        tcp.addr().port()
    );
    let inbound = Inbound::with(app.addr(), |sidecar| {
        sidecar.inbound(tcp.addr()).policy(policy).arg("--metrics-level", level)
    })
    .await;
    let (http, opaque) = (inbound.addr, inbound.sidecar.inbound(1).await);
    let caller = crate::common::sidecar()
        .identity(&inbound.svid)
        .outbound(http, "shop/orders as http")
        .outbound(opaque, "shop/orders as tcp")
        .start()
        .await;
    let mut client = HttpClient::plain(caller.outbound(0).await, Protocol::H2c).await;
    let call = |target: &str| Request::new("POST", target).header("content-type", "application/grpc");
    assert_eq!(client.send(&call("/shop.v1.Orders/Get")).await.status, 200);
    assert_eq!(client.send(&call("/shop.v1.Other/Get")).await.header("grpc-status"), ["7"]);
    let mut bytes = connect(caller.outbound(1).await).await;
    bytes.write_all(b"ping").await.unwrap();
    bytes.read_exact(&mut [0; 4]).await.unwrap();
    drop((client, bytes));
    inbound.sidecar.metric_reaches("mantlet_connections_closed_total", &[("reason", "eof")], 1.0).await;
    let Inbound { authority, svid, sidecar, addr } = inbound;
    Busy { sidecar, _others: (app, tcp, Inbound { authority, svid, sidecar: caller, addr }) }
}

#[derive(Debug, Default, PartialEq)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

/// The families of a scrape in the classic format, in no order.
fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            families.entry(name.to_owned()).or_default().help = help.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else {
            let name = &line[..line.find(['{', ' ']).unwrap()];
            let family = ["", "_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix).filter(|name| families.contains_key(*name)))
                .unwrap_or_else(|| panic!("{line} belongs to no family"));
            let labels = line.strip_prefix(name).unwrap().strip_prefix('{').into_iter();
            let names =
                labels.flat_map(|labels| labels.split("=\"").map(|part| part.rsplit([',', '"']).next()));
            let names: Vec<String> = names.flatten().map(str::to_owned).collect();
            let last = names.len().saturating_sub(1);
            let names = names.into_iter().take(last).filter(|name| name != "le");
            families.get_mut(family).unwrap().labels.extend(names);
        }
    }
    families
}

fn described(level: Level) -> BTreeMap<String, Family> {
    let metrics = Metrics::new(Options::default());
    let shown = metrics.describe().iter().filter(|family| family.level <= level);
    let family = |Description { kind, help, labels, .. }: &Description| Family {
        kind: (*kind).to_owned(),
        help: help.clone(),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
    };
    shown.map(|described| (described.name.clone(), family(described))).collect()
}

#[tokio::test]
async fn a_sidecar_under_traffic_exposes_exactly_the_families_that_describe_lists() {
    for (name, level) in LEVELS {
        let busy = busy(name).await;
        let exposed = families(&busy.sidecar.get("/metrics").await.text());
        let described = described(level);
        let names = |all: &BTreeMap<String, Family>| all.keys().cloned().collect::<Vec<_>>();
        // A family that no traffic of this test feeds would hide behind a filter, so there is none.
        assert_eq!(names(&exposed), names(&described), "level {name}");
        assert_eq!(exposed, described, "level {name}");
    }
}

#[tokio::test]
async fn promtool_finds_nothing_to_say_about_a_scrape() {
    let test = "promtool_finds_nothing_to_say_about_a_scrape";
    let Some(promtool) = tools::find(test, "promtool", "prometheus") else { return };
    let busy = busy("full").await;
    let text = busy.sidecar.get("/metrics").await.text();
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
}

#[tokio::test]
async fn a_scrape_is_classic_text_or_openmetrics_or_packed_as_the_scraper_asks() {
    let busy = busy("default").await;
    let addr = busy.sidecar.admin().await;
    let mut client = HttpClient::plain(addr, Protocol::Http1).await;
    let classic = client.send(&Request::get("/metrics")).await;
    assert_eq!(classic.header("content-type"), ["text/plain; version=0.0.4; charset=utf-8"]);
    assert!(!classic.text().contains("# EOF"));
    let open = client.send(&Request::get("/metrics").header("accept", "application/openmetrics-text")).await;
    assert_eq!(open.header("content-type"), ["application/openmetrics-text; version=1.0.0; charset=utf-8"]);
    assert!(open.text().ends_with("# EOF\n"));
    let packed = client.send(&Request::get("/metrics").header("accept-encoding", "gzip")).await;
    assert_eq!(packed.header("content-encoding"), ["gzip"]);
    assert!(packed.body.len() * 4 < classic.body.len(), "{} of {}", packed.body.len(), classic.body.len());
}

/// `docs/metrics.md`, from the same descriptions.
#[test]
fn the_page_of_the_metrics_is_what_describe_says() {
    let metrics = Metrics::new(Options::default());
    let mut page = PAGE.to_owned();
    for (name, level) in LEVELS {
        page.push_str(&format!("\n## {name}\n\n| family | type | labels | says |\n|---|---|---|---|\n"));
        for family in metrics.describe().iter().filter(|family| family.level == level) {
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let labels = labels.join(", ");
            let Description { name, kind, help, .. } = family;
            page.push_str(&format!("| `{name}` | {kind} | {labels} | {help} |\n"));
        }
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    if std::env::var_os("TEST_BLESS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page, "docs/metrics.md is out of date: run with TEST_BLESS=1 to write it anew");
}

const PAGE: &str = "\
<!-- Written by the test of the metrics. Change the code, then TEST_BLESS=1 cargo test -p mantlet-proxy --test metrics -->
# Metrics

`/metrics` on the admin address answers in the classic text format, in OpenMetrics 1.0.0 when `Accept` asks for it,
packed when `Accept-Encoding` says gzip. `mantlet metrics --describe` prints this list, with `-o json` for tools.

- Names, labels and their meaning are stable, except at the level `full`.
- `peer` is an identity that was proved in a handshake, or `-`. The first 64 have a label (`--metrics-peers`), later
  ones are `_other`.
- `route` is a pattern of the policy and `rule` the name of a rule, or `-`. No path, host or query becomes a label.
- A family has at most 200 series with labels of that kind. What comes later is counted under `_other`, methods as
  `_OTHER` and statuses as `2xx`, and shows in `mantlet_metrics_label_overflow_total`.
- `reason`, `decision` and `close` are the words of the audit log.
- Series whose labels are known beforehand exist from the start at 0, and no series ever expires.
- Pod, namespace and workload come from the scraper, never from the process.

Each level shows the ones above it too. `--metrics-level` is `default` unless told otherwise.
";
