//! `mantlet inject` and `mantlet uninject`.

mod support;

use std::fs;
use std::time::{Duration, SystemTime};

use mantlet_injector::inject::{Config, Input, Namespace, Scope, Token, apply, inject};
use serde_json::{Value, json};
use support::{Scratch, mantlet, run, stderr, stdout};

const TOKEN: &str = "00112233445566778899aabbccddeeff";

/// A pod template with a probe.
fn template() -> Value {
    json!({
        "metadata": {"annotations": {"mantlet.dev/policy": "allow shop/web to GET /** on 8080\n"}},
        "spec": {"containers": [{
            "name": "app",
            "image": "app:1",
            "ports": [{"containerPort": 8080}],
            "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080}},
        }]},
    })
}

/// Every kind that has a pod in it, in a list and beside it.
fn manifests() -> Vec<Value> {
    let mut pod = template();
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!("p");
    let mut objects = vec![
        json!({"kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": []}}),
        json!({"kind": "PodTemplate", "metadata": {"name": "t"}, "template": template()}),
        json!({"kind": "CronJob", "metadata": {"name": "c"}, "spec": {"jobTemplate": {"spec": {"template": template()}}}}),
    ];
    for kind in ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job"] {
        objects.push(json!({"kind": kind, "metadata": {"name": "x", "namespace": "shop"}, "spec": {"template": template()}}));
    }
    vec![json!({"kind": "List", "apiVersion": "v1", "items": objects}), pod]
}

/// The pods and pod templates of `documents`.
fn pods(documents: &[Value]) -> Vec<Value> {
    let of = |document: &Value| {
        let places = mantlet_injector::places(document).expect("readable");
        places
            .iter()
            .map(|place| document.pointer(place.pointer.as_str()).expect("a pod").clone())
            .collect::<Vec<_>>()
    };
    documents.iter().flat_map(of).collect()
}

/// `documents` in a file, one behind the other.
fn write(scratch: &Scratch, name: &str, documents: &[Value]) {
    let text: Vec<String> = documents.iter().map(Value::to_string).collect();
    fs::write(scratch.file(name), text.join("\n---\n")).expect("a file");
}

fn yaml(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).expect("YAML")
}

#[test]
fn every_kind_in_lists_and_several_documents_becomes_what_the_webhook_makes_of_its_pods() {
    let scratch = Scratch::new();
    write(&scratch, "all.yaml", &manifests());
    let output = run(&scratch, &["inject", "-f", "all.yaml", "--probe-token", TOKEN]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let injected = yaml(&stdout(&output));
    let namespace = Namespace { name: "shop".to_owned(), labels: Default::default() };
    let (config, token) = (Config::embedded(), Token::parse(TOKEN).expect("a token"));
    let expected = |pod: &Value| {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let outcome = inject(&Input {
            object: pod,
            namespace: &namespace,
            config: &config,
            token: &token,
            now,
            scope: Scope::Asked,
        });
        let mut pod = pod.clone();
        apply(&mut pod, outcome.operations()).expect("the patch applies");
        pod
    };
    let (before, after) = (pods(&manifests()), pods(&injected));
    assert_eq!(before.len(), 9);
    assert_eq!(after, before.iter().map(expected).collect::<Vec<_>>());
    assert_eq!(injected[0]["items"][0], manifests()[0]["items"][0], "what has no pod stays");
    // JSON is the same.
    let output = run(&scratch, &["inject", "-f", "all.yaml", "--probe-token", TOKEN, "-o", "json"]);
    assert_eq!(yaml(&stdout(&output).replace("}\n{", "}\n---\n{")), injected);
}

#[test]
fn injected_twice_is_injected_once_and_taken_out_it_is_what_it_was() {
    let scratch = Scratch::new();
    write(&scratch, "all.yaml", &manifests());
    let once = stdout(&run(&scratch, &["inject", "-f", "all.yaml"]));
    fs::write(scratch.file("once.yaml"), &once).expect("a file");
    let again = run(&scratch, &["inject", "-f", "once.yaml"]);
    assert_eq!((again.status.code(), stdout(&again)), (Some(0), once));
    assert!(stderr(&again).contains("already_injected"), "{}", stderr(&again));
    let out = run(&scratch, &["uninject", "-f", "once.yaml"]);
    assert_eq!((out.status.code(), yaml(&stdout(&out))), (Some(0), manifests()));
    // Nothing to take out is no mistake.
    assert_eq!(yaml(&stdout(&run(&scratch, &["uninject", "-f", "all.yaml"]))), manifests());
}

#[test]
fn where_one_template_is_refused_nothing_is_written() {
    let scratch = Scratch::new();
    let mut bad = manifests().remove(1);
    bad["metadata"]["annotations"] =
        json!({"mantlet.dev/policy": "alow shop/web to GET /", "mantlet.dev/mode": "audit"});
    bad["spec"]["securityContext"] = json!({"runAsUser": 14021});
    write(&scratch, "some.yaml", &[manifests().remove(1), bad]);
    let output = run(&scratch, &["inject", "-f", "some.yaml"]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()));
    let told = stderr(&output);
    for part in [
        "Pod p: denied, policy_invalid",
        "mantlet.dev/policy:1:1: P001",
        "P042",
        "runAsUser 14021 of the pod",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn the_difference_shows_what_comes_and_what_goes_and_nothing_else() {
    let scratch = Scratch::new();
    write(&scratch, "all.yaml", &manifests());
    let out = stdout(&run(&scratch, &["inject", "-f", "all.yaml", "--diff", "--probe-token", TOKEN]));
    assert!(out.starts_with("# List (unnamed)\n@@\n"), "{out}");
    assert!(out.contains("\n-          path: /healthz\n") || out.contains("path: /healthz"), "{out}");
    assert!(out.contains(&format!("path: /app-health/{TOKEN}/app/live")), "{out}");
    let sign = |sign: char| out.lines().filter(|line| line.starts_with(sign)).count();
    assert!(sign('+') > 100 && sign('-') < 40, "{out}");
    write(&scratch, "service.yaml", &[json!({"kind": "Service"})]);
    assert_eq!(stdout(&run(&scratch, &["inject", "-f", "service.yaml", "--diff"])), "");
}

#[test]
fn explain_says_why_by_the_labels_of_pod_and_namespace() {
    let scratch = Scratch::new();
    write(&scratch, "all.yaml", &manifests());
    let mut namespace = json!({"kind": "Namespace", "metadata": {"name": "shop", "labels": {"mantlet.dev/inject": "enabled"}}});
    write(&scratch, "ns.yaml", &[namespace.clone()]);
    let explain = |namespace: &str| {
        run(&scratch, &["inject", "-f", "all.yaml", "--explain", "--namespace", namespace, "-o", "json"])
    };
    let reasons = |text: &str| {
        let document: Value = serde_json::from_str(text).expect("JSON");
        let templates = document["templates"].as_array().expect("templates").clone();
        templates.iter().map(|one| one["reason"].as_str().expect("a reason").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(reasons(&stdout(&explain("ns.yaml"))), ["injected"; 9]);
    namespace["metadata"]["labels"] = json!({});
    write(&scratch, "none.yaml", &[namespace.clone()]);
    assert_eq!(reasons(&stdout(&explain("none.yaml"))), ["not_enabled"; 9]);
    let table = run(&scratch, &["inject", "-f", "all.yaml", "--explain", "--namespace", "none.yaml"]);
    assert!(
        stdout(&table).contains("namespace shop says nothing, the pod says nothing"),
        "{}",
        stdout(&table)
    );
    namespace["metadata"]["labels"] =
        json!({"mantlet.dev/inject": "enabled", "pod-security.kubernetes.io/enforce": "baseline"});
    write(&scratch, "baseline.yaml", &[namespace.clone()]);
    let refused = explain("baseline.yaml");
    assert_eq!(
        (refused.status.code(), reasons(&stdout(&refused))),
        (Some(1), vec!["pod_security".to_owned(); 9])
    );
    // Labels of another namespace say nothing about these pods.
    namespace["metadata"]["name"] = json!("other");
    write(&scratch, "other.yaml", &[namespace]);
    let other = explain("other.yaml");
    assert_eq!(other.status.code(), Some(2));
    assert!(stderr(&other).contains("is in namespace shop"), "{}", stderr(&other));
}

#[test]
fn the_configuration_of_an_installation_is_what_is_injected() {
    let scratch = Scratch::new();
    write(&scratch, "all.yaml", &manifests());
    let config = "trustDomain: prod.example\nprofile: strict\nimages:\n  proxy: {name: \"registry.example/proxy:2\"}\n";
    fs::write(scratch.file("config.yaml"), config).expect("a file");
    let output = run(&scratch, &["inject", "-f", "all.yaml", "--config", "config.yaml"]);
    let out = stdout(&output);
    for part in
        ["value: prod.example", "image: registry.example/proxy:2", "--udp=reject-quic", "value: refuse"]
    {
        assert!(out.contains(part), "{part}: {out}");
    }
    for (text, part) in [("trustDomian: x\n", "trustDomian"), ("user: 0\nprofile: strict\n", "user 0")] {
        fs::write(scratch.file("config.yaml"), text).expect("a file");
        let output = run(&scratch, &["inject", "-f", "all.yaml", "--config", "config.yaml"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }
}

#[test]
fn what_the_sidecar_is_told_is_what_it_understands() {
    let scratch = Scratch::new();
    write(&scratch, "all.yaml", &manifests());
    let config = "guardrails: [forbid plaintext, max-until 30d]\nprofile: strict\n";
    fs::write(scratch.file("config.yaml"), config).expect("a file");
    let out = stdout(&run(&scratch, &["inject", "-f", "all.yaml", "--config", "config.yaml"]));
    let injected = pods(&yaml(&out));
    let pod = injected.last().expect("a pod");
    let mut command = mantlet(&scratch.0, &["proxy", "--print-config"]);
    let variables = pod["spec"]["initContainers"][1]["env"].as_array().expect("variables");
    for variable in variables {
        let name = variable["name"].as_str().expect("a name");
        let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some("status.podIPs") => "10.244.0.7,fd00:244::7".to_owned(),
            Some(_) => "shop".to_owned(),
            // As Kubernetes reads the value.
            None => variable["value"].as_str().expect("a value").replace("$$", "$"),
        };
        command.env(name, value);
    }
    let output = command.output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let printed = stdout(&output);
    for variable in variables {
        let name = variable["name"].as_str().expect("a name");
        let key = match name.strip_prefix("MANTLET_") {
            Some(name) => name.to_lowercase().replace('_', "-"),
            None => "workload-api".to_owned(),
        };
        let mut lines = printed.lines().filter(|line| line.split_whitespace().next() == Some(&key));
        assert!(lines.any(|line| line.ends_with("(environment)")), "{name}: {printed}");
    }
    assert!(printed.contains("/healthz") && printed.contains("max-until 30d"), "{printed}");
}

#[test]
fn what_cannot_be_read_or_is_no_token_is_a_usage_error() {
    let scratch = Scratch::new();
    write(&scratch, "all.yaml", &manifests());
    fs::write(scratch.file("bad.yaml"), "a: [").expect("a file");
    fs::write(scratch.file("empty.yaml"), "---\n").expect("a file");
    for arguments in [
        &["inject", "-f", "gone.yaml"][..],
        &["inject", "-f", "bad.yaml"],
        &["inject", "-f", "empty.yaml"],
        &["inject", "-f", "all.yaml", "--probe-token", "x"],
        &["inject", "-f", "all.yaml", "--namespace", "all.yaml"],
        &["inject", "-f", "all.yaml", "--diff", "--explain"],
        &["inject"],
        &["uninject", "-f", "bad.yaml"],
    ] {
        let output = run(&scratch, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stdout(&output).is_empty());
    }
}

#[test]
fn a_sidecar_that_was_not_injected_is_not_taken_out() {
    let scratch = Scratch::new();
    let mut pod = manifests().remove(1);
    pod["spec"]["containers"][0]["name"] = json!("mantlet-proxy");
    write(&scratch, "pod.yaml", &[pod]);
    let output = run(&scratch, &["uninject", "-f", "pod.yaml"]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()));
    assert!(stderr(&output).contains("was not injected"), "{}", stderr(&output));
}
