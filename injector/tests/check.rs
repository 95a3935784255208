//! What admission says about objects.

use std::time::{Duration, SystemTime};

use mantlet_id::TrustDomain;
use mantlet_injector::{Installation, Unreadable, check, templates};
use mantlet_policy::{Code, Guardrails, Position, Report};
use serde_json::{Value, json};

fn installation() -> Installation {
    Installation {
        trust_domain: TrustDomain::parse("example.org").unwrap(),
        namespace: "shop".to_owned(),
        guardrails: Guardrails::default(),
    }
}

fn checked(object: &Value) -> Report {
    check(object, &installation(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)).unwrap()
}

/// A pod template with these annotations and one port, `http`.
fn pod(annotations: &Value) -> Value {
    json!({
        "metadata": {"annotations": annotations},
        "spec": {"containers": [{"name": "app", "ports": [{"name": "http", "containerPort": 8080}]}]},
    })
}

/// `pod` in an object of each kind that has one.
fn in_every_kind(pod: &Value) -> Vec<Value> {
    let mut alone = pod.clone();
    alone["kind"] = json!("Pod");
    let mut objects = vec![
        alone,
        json!({"kind": "PodTemplate", "metadata": {"name": "x"}, "template": pod}),
        json!({"kind": "CronJob", "metadata": {"name": "x"}, "spec": {"jobTemplate": {"spec": {"template": pod}}}}),
    ];
    for kind in ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job"] {
        objects.push(json!({"kind": kind, "metadata": {"name": "x"}, "spec": {"template": pod}}));
    }
    objects.push(json!({"kind": "List", "items": [objects.last()]}));
    objects
}

#[test]
fn every_kind_of_workload_is_read_alike() {
    let good = pod(&json!({"mantlet.dev/policy": "allow shop/frontend to GET /orders on http"}));
    for object in in_every_kind(&good) {
        let report = checked(&object);
        assert!(report.errors.is_empty() && report.warnings.is_empty(), "{object}: {report:?}");
    }
    let bad = pod(&json!({"mantlet.dev/policy": "# orders\nallow shop/frontend to GET /orders on htp"}));
    for object in in_every_kind(&bad) {
        let report = checked(&object);
        let [finding] = report.errors.as_slice() else { panic!("{object}: {report:?}") };
        assert_eq!((finding.code, finding.source.as_str()), (Code::UnknownPort, "mantlet.dev/policy"));
        let Some(Position { line: 2, column: 39, .. }) = finding.position else { panic!("{finding:?}") };
        assert!(finding.help.contains("http"), "{finding}");
    }
}

#[test]
fn keys_that_are_wrong_are_errors_and_all_of_them_are_told() {
    let report = checked(
        &in_every_kind(&pod(&json!({
            "mantlet.dev/polcy": "",
            "mantlet.dev/mode": "enforced",
            "mantlet.dev/inject": "enabled",
            "example.org/else": "",
        })))[0],
    );
    let found: Vec<(&str, &str)> =
        report.errors.iter().map(|finding| (finding.source.as_str(), finding.help.as_str())).collect();
    let expected = [
        ("mantlet.dev/inject", "move it to metadata.labels"),
        ("mantlet.dev/mode", "did you mean \"enforce\"?"),
        ("mantlet.dev/polcy", "did you mean mantlet.dev/policy?"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn upstreams_and_the_guardrails_of_the_installation_are_checked() {
    let object = &in_every_kind(&pod(&json!({
        "mantlet.dev/policy": "allow plaintext(10.0.0.0/8) to GET /metrics on http",
        "mantlet.dev/upstreams": "db:5432 whatever",
    })))[0];
    let codes = |report: Report| report.errors.iter().map(|finding| finding.code).collect::<Vec<_>>();
    assert_eq!(codes(checked(object)), [Code::UpstreamVerb]);
    let guardrails = Guardrails { forbid_plaintext: true, ..Guardrails::default() };
    let strict = Installation { guardrails, ..installation() };
    let report = check(object, &strict, SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(codes(report), [Code::Guardrail, Code::UpstreamVerb]);
}

#[test]
fn what_cannot_be_captured_cannot_have_a_policy() {
    let mut object =
        in_every_kind(&pod(&json!({"mantlet.dev/policy": "allow shop/frontend to GET /"})))[0].clone();
    object["spec"]["hostNetwork"] = json!(true);
    assert_eq!(checked(&object).errors.iter().map(|f| f.code).collect::<Vec<_>>(), [Code::HostNetwork]);
}

#[test]
fn d74_a_container_that_can_become_the_proxy_s_user_is_warned_about() {
    let warned = |pod: Value, container: Value| {
        let mut object = in_every_kind(&good_pod())[3].clone();
        object["spec"]["template"]["spec"]["securityContext"] = pod;
        object["spec"]["template"]["spec"]["containers"][0]["securityContext"] = container;
        let report = checked(&object);
        assert!(report.errors.is_empty(), "{report:?}");
        report.warnings.iter().any(|finding| finding.code == Code::PastTheSidecar)
    };
    let dropped = |names: Value| json!({"runAsUser": 0, "capabilities": {"drop": names}});
    assert!(warned(json!({"runAsUser": 0}), json!({})));
    assert!(warned(json!(null), json!({"runAsUser": 0})));
    assert!(warned(json!({"runAsUser": 1000}), json!({"runAsUser": 0})));
    assert!(warned(json!({}), dropped(json!(["NET_RAW"]))));
    assert!(warned(
        json!({}),
        json!({"runAsUser": 0, "capabilities": {"drop": ["ALL"], "add": ["CAP_SETUID"]}})
    ));
    assert!(warned(
        json!({}),
        json!({"runAsUser": 0, "privileged": true, "capabilities": {"drop": ["ALL"]}})
    ));
    assert!(!warned(json!({"runAsUser": 0}), json!({"runAsUser": 1000})));
    assert!(!warned(json!({}), dropped(json!(["ALL"]))));
    assert!(warned(json!({}), dropped(json!(["CAP_SETUID"]))), "frames of its own go past the rules as well");
    assert!(!warned(json!({}), dropped(json!(["CAP_SETUID", "SETGID", "NET_RAW"]))));
    assert!(!warned(json!({}), json!({})), "what the image says is not known");
}

fn good_pod() -> Value {
    pod(&json!({"mantlet.dev/policy": "allow shop/frontend to GET /orders on http"}))
}

#[test]
fn warnings_are_no_errors() {
    let report = checked(&in_every_kind(&pod(&json!({})))[0]);
    assert!(report.errors.is_empty());
    assert_eq!(report.warnings.iter().map(|f| f.code).collect::<Vec<_>>(), [Code::NoPolicy]);
}

#[test]
fn objects_without_pods_are_none_of_our_business() {
    for object in [json!({"kind": "Service", "spec": {}}), json!({"kind": "List", "items": []}), json!(null)]
    {
        let report = checked(&object);
        assert!(report.errors.is_empty() && report.warnings.is_empty(), "{object}");
    }
}

#[test]
fn the_namespace_of_the_object_wins_over_that_of_the_request() {
    let mut object = in_every_kind(&pod(&json!({})))[3].clone();
    assert_eq!(templates(&object).unwrap()[0].namespace, None);
    object["metadata"]["namespace"] = json!("other");
    assert_eq!(templates(&object).unwrap()[0].namespace.as_deref(), Some("other"));
}

#[test]
fn an_annotation_that_is_no_string_is_an_error() {
    let object = &in_every_kind(&pod(&json!({"a": 1})))[3];
    let error = templates(object).unwrap_err();
    assert_eq!(error.to_string(), "Deployment x: annotation a is no string, quote it");
    assert!(check(object, &installation(), SystemTime::UNIX_EPOCH).is_err());
}

#[test]
fn lists_in_lists_come_to_an_end() {
    let mut object = json!({"kind": "List", "items": []});
    for _ in 0..5 {
        object = json!({"kind": "List", "items": [object]});
    }
    assert_eq!(templates(&object), Err(Unreadable::TooDeep));
}
