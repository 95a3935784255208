//! `mantlet policy` as people run it: what they type and what they see.

mod support;

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use serde_json::Value;
use support::{Scratch, mantlet, run, stderr, stdout};

const POLICY: &str = "\
group @readers = web/frontend, web/bff
allow @readers     to GET,HEAD /orders/{id}  on 8080  as orders-read
allow web/checkout to POST /orders on 8080 when header x-tenant present as orders-create
deny  mesh except ops/oncall to * /admin/** on 8080  as no-admin
allow ops/* to * /** on 8080 as ops
allow data/etl to tcp on 5432
";

/// A manifest of `kind` around a pod with these annotations.
fn manifest(kind: &str, annotations: &[(&str, &str)]) -> String {
    let annotations: String = annotations
        .iter()
        .map(|(key, text)| {
            let lines: String = text.lines().map(|line| format!("    {line}\n")).collect();
            format!("   {key}: |\n{lines}")
        })
        .collect();
    let indent = |by: usize, text: &str| -> String {
        text.lines().map(|line| format!("{:by$}{line}\n", "")).collect()
    };
    let metadata =
        if annotations.is_empty() { String::new() } else { format!("  annotations:\n{annotations}") };
    let ports = "ports: [{name: http, containerPort: 8080}, {name: pg, containerPort: 5432}]";
    let spec = format!("spec:\n  serviceAccountName: orders\n  containers:\n  - name: app\n    {ports}\n");
    match kind {
        "Pod" => format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: orders\n  namespace: shop\n{metadata}{spec}"
        ),
        "CronJob" => {
            let template = indent(8, &format!("metadata:\n{metadata}{spec}"));
            format!(
                "kind: CronJob\nmetadata: {{name: orders, namespace: shop}}\nspec:\n jobTemplate:\n  spec:\n    template:\n{template}"
            )
        }
        kind => {
            let template = indent(4, &format!("metadata:\n{metadata}{spec}"));
            format!(
                "kind: {kind}\nmetadata: {{name: orders, namespace: shop}}\nspec:\n  template:\n{template}"
            )
        }
    }
}

fn write(scratch: &Scratch, name: &str, text: &str) {
    fs::write(scratch.file(name), text).expect("a file");
}

#[test]
fn check_points_at_the_mistake_and_exits_with_one() {
    let scratch = Scratch::new();
    let text = "# who may read\nallow frontend to GET /orders/**\n";
    write(&scratch, "orders.yaml", &manifest("Deployment", &[("mantlet.dev/policy", text)]));
    let output = run(&scratch, &["policy", "check", "orders.yaml"]);
    let expected = "\
× orders.yaml: Deployment shop/orders
  mantlet.dev/policy:2:7: P011 peer \"frontend\" needs a namespace
    allow frontend to GET /orders/**
          ^^^^^^^^ write \"./frontend\" (this namespace) or \"web/frontend\"
1 error, 0 warnings
";
    assert_eq!(stdout(&output), expected, "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn check_reads_the_template_of_every_kind_of_workload() {
    for kind in ["Pod", "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob"] {
        let scratch = Scratch::new();
        write(&scratch, "a.yaml", &manifest(kind, &[("mantlet.dev/policy", POLICY)]));
        let output = run(&scratch, &["policy", "check", "a.yaml"]);
        assert_eq!(stdout(&output), format!("√ a.yaml: {kind} shop/orders\n"), "{}", stderr(&output));
        assert_eq!(output.status.code(), Some(0));
        write(&scratch, "b.yaml", &manifest(kind, &[("mantlet.dev/policy", "alow a/b to GET /")]));
        assert_eq!(run(&scratch, &["policy", "check", "b.yaml"]).status.code(), Some(1), "{kind}");
    }
}

#[test]
fn check_reads_lists_and_several_documents_and_standard_input() {
    let scratch = Scratch::new();
    let pod = manifest("Pod", &[("mantlet.dev/policy", POLICY)]);
    let bad = manifest("Job", &[("mantlet.dev/policy", "x")]);
    let text = format!("{pod}---\nkind: Service\nmetadata: {{name: s}}\n---\n{bad}");
    let mut child = mantlet(&scratch.0, &["policy", "check", "-", "-o", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("mantlet runs");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let document: Value = serde_json::from_str(&stdout(&output)).expect("one JSON document");
    assert_eq!((&document["errors"], &document["warnings"]), (&1.into(), &0.into()));
    let workloads = document["workloads"].as_array().expect("a list");
    assert_eq!(workloads.len(), 2);
    assert_eq!(workloads[1]["findings"][0]["code"], "P001");
    assert_eq!(workloads[1]["findings"][0]["line"], 1);
    assert_eq!(output.status.code(), Some(1));

    write(
        &scratch,
        "list.json",
        "{\"kind\": \"List\", \"items\": [{\"kind\": \"Pod\", \"metadata\": {\"name\": \"p\"}, \"spec\": {\"containers\": []}}]}",
    );
    let output = run(&scratch, &["policy", "check", "list.json"]);
    assert!(stdout(&output).contains("W210 no policy"), "{}", stdout(&output));
    assert_eq!(output.status.code(), Some(0), "a warning is no failure");
    assert_eq!(run(&scratch, &["policy", "check", "--strict", "list.json"]).status.code(), Some(1));
}

#[test]
fn check_looks_at_every_annotation_of_ours() {
    let scratch = Scratch::new();
    for (key, text, shown) in [
        ("mantlet.dev/polcy", "x", "P080 unknown annotation mantlet.dev/polcy"),
        ("mantlet.dev/mode", "audit", "P042 audit needs an end"),
        ("mantlet.dev/http-options", "8080: keep-params", "P080 option \"keep-params\" is not available yet"),
        ("mantlet.dev/upstreams", "*.shop:80 refuse", "U020 \"*.shop\" has a wildcard"),
        (
            "mantlet.dev/policy.platform",
            "deny mesh to * /x until 2026-12-01T18:00Z on 80",
            "mantlet.dev/policy.platform:1:",
        ),
    ] {
        write(&scratch, "a.yaml", &manifest("Pod", &[("mantlet.dev/policy", POLICY), (key, text)]));
        let output = run(&scratch, &["policy", "check", "a.yaml"]);
        assert!(stdout(&output).contains(shown), "{key}: {}", stdout(&output));
        assert_eq!(output.status.code(), Some(1), "{key}");
    }
    let host =
        manifest("Pod", &[("mantlet.dev/policy", POLICY)]).replace("spec:\n", "spec:\n  hostNetwork: true\n");
    write(&scratch, "host.yaml", &host);
    assert!(stdout(&run(&scratch, &["policy", "check", "host.yaml"])).contains("P090"));
}

/// The examples of docs/policy.md that are manifests: the text, and the message that it gets.
fn wrong_manifests() -> Vec<(&'static str, &'static str)> {
    let page = include_str!("../../docs/policy.md");
    let blocks = page.split("\n```wrong manifest\n").skip(1);
    blocks
        .map(|rest| {
            let (block, _) = rest.split_once("```").expect("it ends");
            block.split_once("---\n").expect("its message")
        })
        .collect()
}

#[test]
fn check_says_of_manifests_what_the_policy_page_shows() {
    let scratch = Scratch::new();
    for (number, (manifest, message)) in wrong_manifests().into_iter().enumerate() {
        let name = format!("{number}.yaml");
        write(&scratch, &name, manifest);
        let out = stdout(&run(&scratch, &["policy", "check", &name]));
        let indented: String = message.lines().map(|line| format!("  {line}\n")).collect();
        assert!(out.contains(&indented), "{manifest}---\n{out}");
    }
    assert!(wrong_manifests().len() >= 3);
}

#[test]
fn check_holds_guardrails() {
    let scratch = Scratch::new();
    write(&scratch, "rails", "forbid plaintext\n");
    write(&scratch, "p", "allow plaintext(any) to GET /healthz on 80\n");
    let output = run(&scratch, &["policy", "check", "p", "--guardrails", "rails"]);
    assert!(stdout(&output).contains("P070 guardrail: plaintext is forbidden here"), "{}", stdout(&output));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn test_runs_expectations_and_says_what_came_instead() {
    let scratch = Scratch::new();
    write(&scratch, "orders.policy", POLICY);
    write(
        &scratch,
        "orders.expect",
        "expect allow web/frontend GET /orders/42 on 8080 by orders-read\n\
         expect deny  web/frontend DELETE /orders/42 on 8080 by default\n\
         expect deny  ops/dev GET /Admin/users on 8080 by no-admin\n\
         expect bad   web/frontend GET /orders/../admin on 8080 because dot-segment\n\
         expect allow web/checkout POST /orders on 8080 header x-tenant = acme\n\
         expect allow data/etl tcp on 5432\n",
    );
    let output = run(&scratch, &["policy", "test", "orders.expect", "-f", "orders.policy"]);
    assert_eq!(stdout(&output), "√ 6 of 6 expectations hold\n", "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(0));

    write(&scratch, "wrong.expect", "# made up\nexpect allow web/frontend DELETE /orders/42 on 8080\n");
    let output = run(&scratch, &["policy", "test", "wrong.expect", "-f", "orders.policy"]);
    let expected = "\
× wrong.expect:2 expect allow web/frontend DELETE /orders/42 on 8080
  got deny by default
× 0 of 1 expectations hold
";
    assert_eq!(stdout(&output), expected);
    assert_eq!(output.status.code(), Some(1));
    let output = run(&scratch, &["policy", "test", "wrong.expect", "-f", "orders.policy", "-o", "json"]);
    let document: Value = serde_json::from_str(&stdout(&output)).expect("one JSON document");
    assert_eq!((&document["failed"], &document["results"][0]["got"]), (&1.into(), &"deny by default".into()));

    write(&scratch, "broken.expect", "expect alow web/frontend GET / on 8080\n");
    let output = run(&scratch, &["policy", "test", "broken.expect", "-f", "orders.policy"]);
    assert!(stdout(&output).contains("did you mean \"allow\"?"), "{}", stdout(&output));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn explain_names_the_nearest_rule_the_failing_clause_and_the_missing_line() {
    let scratch = Scratch::new();
    write(&scratch, "orders.policy", POLICY);
    let arguments = [
        "policy",
        "explain",
        "-f",
        "orders.policy",
        "--as",
        "web/frontend",
        "--on",
        "8080",
        "DELETE",
        "/orders/42?x=1",
    ];
    let output = run(&scratch, &arguments);
    let out = stdout(&output);
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("DENY  403  default (no rule matches)  policy "), "{out}");
    assert!(lines[0].ends_with(", mode enforce"), "{out}");
    assert_eq!(
        lines[1..],
        [
            "  nearest rule orders-read   (mantlet.dev/policy, line 2)",
            "    allow @readers to GET,HEAD /orders/{id} on 8080 as orders-read",
            "    √ port    8080                                       fits    8080",
            "    √ peer    spiffe://cluster.local/ns/web/sa/frontend  fits    @readers",
            "    √ path    /orders/42                                 fits    /orders/{id}",
            "    × method  DELETE                                     not in  GET,HEAD",
            "  to allow it  allow web/frontend to DELETE /orders/{id} on 8080",
        ]
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn explain_covers_denies_malformed_requests_connections_and_headers() {
    let scratch = Scratch::new();
    write(&scratch, "p", POLICY);
    let explain = |more: &[&str]| {
        let output = run(&scratch, &[&["policy", "explain", "-f", "p", "-o", "json"], more].concat());
        serde_json::from_str::<Value>(&stdout(&output)).unwrap_or_else(|_| panic!("{}", stderr(&output)))
    };
    let denied = explain(&["--as", "ops/dev", "--on", "8080", "GET", "/Admin"]);
    assert_eq!((&denied["reason"], &denied["rule"]["label"]), (&"deny_rule".into(), &"no-admin".into()));
    assert_eq!(denied["to_allow"], "deny mesh except ops/oncall, ops/dev to * /admin/** on 8080 as no-admin");
    let bad = explain(&["--as", "ops/dev", "--on", "8080", "GET", "/a/../b"]);
    assert_eq!((&bad["reason"], &bad["malformed"]), (&"malformed".into(), &"dot-segment".into()));
    let tcp = explain(&["--as", "data/etl", "--on", "5432", "tcp"]);
    assert_eq!((&tcp["decision"], &tcp["rule"]["label"]), (&"allow".into(), &"policy:6".into()));
    let header = ["--as", "web/checkout", "--on", "8080", "--header", "X-Tenant=acme", "POST", "/orders"];
    assert_eq!(explain(&header)["rule"]["decided"], true);
}

#[test]
fn show_prints_the_normal_form_and_what_ports_speak() {
    let scratch = Scratch::new();
    write(
        &scratch,
        "p",
        "allow   web/frontend  to GET,HEAD /orders/**,/x on 8080,8081 as r # reads\nallow data/etl to tcp on 5432\n",
    );
    let output = run(&scratch, &["policy", "show", "p"]);
    let out = stdout(&output);
    let lines: Vec<&str> = out.lines().skip(1).collect();
    let expected = [
        "  port 5432         tcp",
        "  port 8080-8081    http",
        "  mantlet.dev/policy",
        "    allow web/frontend to GET,HEAD /orders/**, /x on 8080,8081 as r",
        "    allow data/etl to tcp on 5432",
    ];
    assert_eq!(lines, expected);
    let document: Value =
        serde_json::from_str(&stdout(&run(&scratch, &["policy", "show", "p", "-o", "json"]))).expect("JSON");
    assert_eq!(document["workloads"][0]["rules"], serde_json::json!(["r", "policy:2"]));
}

#[test]
fn what_cannot_be_read_is_a_usage_error() {
    let scratch = Scratch::new();
    write(&scratch, "empty.yaml", "kind: Service\n");
    write(&scratch, "broken.yaml", "a: [");
    write(&scratch, "two.yaml", &format!("{}---\n{}", manifest("Pod", &[]), manifest("Job", &[])));
    for arguments in [
        &["policy", "check", "missing.yaml"][..],
        &["policy", "check", "empty.yaml"],
        &["policy", "check", "broken.yaml"],
        &["policy", "explain", "-f", "two.yaml", "--as", "a/b", "GET", "/"],
        &["policy", "chekc", "x"],
    ] {
        let output = run(&scratch, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stdout(&output));
        assert!(!stderr(&output).is_empty() && stdout(&output).is_empty());
    }
}
