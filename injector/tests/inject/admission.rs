//! What the API server may send, and what comes back.

use mantlet_injector::inject::{Reason, Token, uninject};
use serde_json::{Value, json};

use crate::support::{Surroundings, pod};

fn reason(surroundings: &Surroundings, pod: &Value) -> Reason {
    surroundings.inject(pod).reason()
}

#[test]
fn a03_a04_a_patch_applies_whatever_is_missing_null_or_empty() {
    let here = Surroundings::default();
    let plain = here.injected(&pod(json!({})));
    for (at, values) in [
        ("/metadata/annotations", [json!(null), json!({})]),
        ("/metadata/labels", [json!(null), json!({})]),
        ("/spec/initContainers", [json!(null), json!([])]),
        ("/spec/volumes", [json!(null), json!([])]),
        ("/spec/imagePullSecrets", [json!(null), json!([])]),
    ] {
        for value in values {
            let mut odd = pod(json!({}));
            let (parent, name) = at.rsplit_once('/').unwrap();
            odd.pointer_mut(parent).unwrap()[name] = value.clone();
            let mut injected = here.injected(&odd);
            if at.ends_with("imagePullSecrets") {
                assert_eq!(injected["spec"]["imagePullSecrets"], value);
                injected["spec"].as_object_mut().unwrap().remove("imagePullSecrets");
            }
            assert_eq!(injected, plain, "{at}: {value}");
        }
    }
    for absent in ["labels", "annotations"] {
        let mut odd = pod(json!({}));
        odd["metadata"].as_object_mut().unwrap().remove(absent);
        assert_eq!(here.injected(&odd), plain);
    }
    let mut bare = pod(json!({}));
    bare.as_object_mut().unwrap().remove("metadata");
    let injected = here.injected(&bare);
    assert_eq!(injected["metadata"]["labels"], plain["metadata"]["labels"]);
    assert_eq!(injected["spec"], plain["spec"]);
}

#[test]
fn a10_a_second_call_changes_nothing_and_another_configuration_replaces_ours_wholly() {
    let here = Surroundings::default();
    let probed = pod(json!({"containers": [{
        "name": "app",
        "ports": [{"name": "http", "containerPort": 8080}],
        "livenessProbe": {"httpGet": {"port": "http"}},
    }]}));
    for pod in [pod(json!({})), probed] {
        let once = here.injected(&pod);
        // Another token, as every call has: the one in the pod is kept.
        let later = Surroundings { token: Token::new([1; 16]), ..here.clone() };
        assert_eq!(reason(&later, &once), Reason::AlreadyInjected);
        let mut other =
            Surroundings::with(|document| document.images.proxy.name = "mantlet-proxy:9".to_owned());
        other.token = Token::new([1; 16]);
        assert_eq!(reason(&other, &once), Reason::Updated);
        let updated = other.injected(&once);
        let fresh = Surroundings { token: here.token.clone(), ..other.clone() }.injected(&pod);
        assert_eq!(updated, fresh);
    }
}

#[test]
fn a10_a_sidecar_that_somebody_has_changed_is_replaced() {
    let here = Surroundings::default();
    let plain = here.injected(&pod(json!({})));
    let changes: [(&str, Value); 4] = [
        ("/spec/initContainers/1/image", json!("evil")),
        ("/spec/initContainers/0/args", json!([])),
        ("/spec/initContainers/1/env/17", json!({"name": "MANTLET_UNCONFIGURED", "value": "permissive"})),
        ("/spec/volumes/0", json!({"name": "mantlet-annotations", "emptyDir": {}})),
    ];
    for (at, value) in changes {
        let mut changed = plain.clone();
        *changed.pointer_mut(at).unwrap() = value;
        assert_eq!(reason(&here, &changed), Reason::Updated, "{at}");
        assert_eq!(here.injected(&changed), plain, "{at}");
    }
    // Half a sidecar, or one that nobody says is ours, is not put right but refused.
    let mut half = plain.clone();
    half["spec"]["initContainers"].as_array_mut().unwrap().remove(0);
    assert_eq!(reason(&here, &half), Reason::Tampered);
    let mut foreign = plain;
    foreign["metadata"]["annotations"].as_object_mut().unwrap().remove("mantlet.dev/injected-by");
    assert_eq!(reason(&here, &foreign), Reason::NameCollision);
}

#[test]
fn a11_what_other_mutators_fill_in_is_not_foreign_and_survives_reordering() {
    let here = Surroundings::default();
    let mut filled = here.injected(&pod(json!({})));
    for container in filled["spec"]["initContainers"].as_array_mut().unwrap() {
        container["resources"]["limits"]["cpu"] = json!("1");
        container["env"] = [
            container["env"].as_array().cloned().unwrap_or_default(),
            vec![json!({"name": "AWS_REGION", "value": "x"})],
        ]
        .concat()
        .into();
        container["volumeMounts"].as_array_mut().unwrap().push(
            json!({"name": "aws", "mountPath": "/var/run/secrets/eks.amazonaws.com/serviceaccount", "readOnly": true}),
        );
    }
    filled["spec"]["volumes"].as_array_mut().unwrap().push(json!({"name": "aws", "projected": {}}));
    assert_eq!(reason(&here, &filled), Reason::AlreadyInjected);
    // Another webhook has put its own container in front.
    filled["spec"]["initContainers"].as_array_mut().unwrap().insert(0, json!({"name": "theirs"}));
    assert_eq!(reason(&here, &filled), Reason::Reordered);
    let front = here.injected(&filled);
    let names: Vec<&str> = front["spec"]["initContainers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["mantlet-init", "mantlet-proxy", "theirs"]);
    assert_eq!(front["spec"]["initContainers"][1]["resources"]["limits"]["cpu"], "1");
    assert_eq!(reason(&here, &front), Reason::AlreadyInjected);
}

#[test]
fn a11_a_container_that_another_webhook_adds_later_gets_its_ports_and_probes_told() {
    let here = Surroundings::default();
    let mut more = here.injected(&pod(json!({})));
    more["spec"]["initContainers"][1]["resources"]["limits"]["cpu"] = json!("1");
    more["spec"]["containers"].as_array_mut().unwrap().push(json!({
        "name": "agent",
        "ports": [{"name": "agent", "containerPort": 9000}],
        "readinessProbe": {"tcpSocket": {"port": "agent"}},
    }));
    assert_eq!(reason(&here, &more), Reason::Updated);
    let updated = here.injected(&more);
    let env = &updated["spec"]["initContainers"][1]["env"];
    assert!(
        env.to_string().contains("agent=9000/tcp") && env.to_string().contains("MANTLET_PROBES"),
        "{env}"
    );
    assert!(updated["spec"]["containers"][1]["readinessProbe"]["httpGet"]["path"].is_string());
    assert_eq!(updated["spec"]["initContainers"][1]["resources"]["limits"]["cpu"], "1", "what was filled in");
    assert_eq!(reason(&here, &updated), Reason::AlreadyInjected);
}

#[test]
fn a12_a26_fields_that_are_not_ours_stay_as_they_are_known_or_not() {
    let spec = json!({
        "hostUsers": false,
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["10.0.0.1"]},
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a"]}],
        "hostname": "a",
        "subdomain": "b",
        "setHostnameAsFQDN": true,
        "terminationGracePeriodSeconds": 5,
        "fieldOfTheFuture": {"x": [1, 2.5, null, "ü"]},
        "containers": [{"name": "app", "image": "a", "fieldOfTheFuture": 1, "livenessProbe": {"exec": {"command": ["x"]}}}],
    });
    let pod = pod(spec.clone());
    let injected = Surroundings::default().injected(&pod);
    for (name, value) in spec.as_object().unwrap() {
        assert_eq!(&injected["spec"][name], value, "{name}");
    }
    assert_eq!(injected["kind"], pod["kind"]);
}

#[test]
fn a18_mirror_pods_are_never_touched() {
    let mut pod = pod(json!({}));
    pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x", "mantlet.dev/polcy": "x"});
    pod["metadata"]["labels"] = json!({"mantlet.dev/inject": "enabled"});
    assert_eq!(reason(&Surroundings::default(), &pod), Reason::MirrorPod);
}

#[test]
fn a19_names_and_ports_that_collide_with_ours_are_refused_by_name() {
    let here = Surroundings::default();
    let refused = |spec: Value, reason: Reason, name: &str| {
        let outcome = here.inject(&pod(spec));
        assert_eq!(outcome.reason(), reason, "{}", outcome.message());
        assert!(outcome.message().contains(name), "{}", outcome.message());
    };
    for name in ["mantlet-init", "mantlet-proxy"] {
        refused(json!({"containers": [{"name": name}]}), Reason::NameCollision, name);
        let spec = json!({"containers": [{"name": "app"}], "initContainers": [{"name": name}]});
        refused(spec, Reason::NameCollision, name);
    }
    for name in ["mantlet-annotations", "mantlet-admin", "mantlet-workload-api", "mantlet-no-token"] {
        let spec = json!({"containers": [{"name": "app"}], "volumes": [{"name": name, "emptyDir": {}}]});
        refused(spec, Reason::NameCollision, name);
    }
    for port in [24140, 24143, 24190, 24191] {
        let spec = json!({"containers": [{"name": "app", "ports": [{"containerPort": port}]}]});
        refused(spec, Reason::PortCollision, &port.to_string());
    }
    let spec =
        json!({"containers": [{"name": "app", "ports": [{"name": "mantlet-metrics", "containerPort": 1}]}]});
    refused(spec, Reason::NameCollision, "mantlet-metrics");
}

#[test]
fn a21_a_namespace_whose_pod_security_refuses_our_init_container_is_named_at_once() {
    for (level, refused) in [("privileged", false), ("baseline", true), ("restricted", true)] {
        let mut here = Surroundings::default();
        here.namespace.labels.insert("pod-security.kubernetes.io/enforce".to_owned(), level.to_owned());
        let outcome = here.inject(&pod(json!({})));
        assert_eq!(outcome.reason() == Reason::PodSecurity, refused, "{level}");
        if refused {
            let message = outcome.message();
            assert!(
                message.contains("\"shop\"") && message.contains("needs CNI mode, not available yet"),
                "{message}"
            );
        }
    }
}

#[test]
fn a22_a23_our_containers_have_requests_and_a_memory_limit_unless_the_pod_has_its_own() {
    let here = Surroundings::default();
    let injected = here.injected(&pod(json!({})));
    for container in injected["spec"]["initContainers"].as_array().unwrap() {
        let resources = &container["resources"];
        for at in ["/requests/cpu", "/requests/memory", "/limits/memory"] {
            assert!(resources.pointer(at).is_some_and(Value::is_string), "{container}");
        }
    }
    let mut whole = pod(json!({}));
    whole["spec"]["resources"] = json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1"}});
    let injected = here.injected(&whole);
    for container in injected["spec"]["initContainers"].as_array().unwrap() {
        assert_eq!(container.get("resources"), None);
    }
    assert_eq!(reason(&here, &injected), Reason::AlreadyInjected);
}

#[test]
fn a24_a_pod_without_a_service_account_token_is_injected_like_any_other_and_ours_get_none() {
    let here = Surroundings::default();
    let mut without = pod(json!({}));
    without["spec"]["automountServiceAccountToken"] = json!(false);
    assert_eq!(reason(&here, &without), Reason::Injected);
    for container in here.injected(&without)["spec"]["initContainers"].as_array().unwrap() {
        // Kubernetes mounts the token where nothing else is mounted.
        let covered = container["volumeMounts"].as_array().unwrap().iter().any(|mount| {
            mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
                && mount["name"] == "mantlet-no-token"
        });
        assert!(covered, "{container}");
    }
}

#[test]
fn a25_pods_for_another_system_or_sandbox_are_skipped_or_refused_with_the_reason() {
    let here = Surroundings::default();
    let windows =
        [json!({"os": {"name": "windows"}}), json!({"nodeSelector": {"kubernetes.io/os": "windows"}})];
    for spec in windows {
        let mut pod = pod(spec);
        assert_eq!(reason(&here, &pod), Reason::Windows);
        pod["metadata"]["labels"] = json!({"mantlet.dev/inject": "enabled"});
        let outcome = here.inject(&pod);
        assert_eq!(outcome.reason(), Reason::CannotInject);
        assert!(outcome.message().contains("(windows)"), "{}", outcome.message());
    }
    let outcome = here.inject(&pod(json!({"runtimeClassName": "gvisor"})));
    assert_eq!(outcome.reason(), Reason::Sandbox);
    assert!(outcome.message().contains("gvisor"));
    assert_eq!(reason(&here, &pod(json!({"runtimeClassName": "nvidia"}))), Reason::Injected);
}

#[test]
fn what_is_no_pod_is_refused_and_nothing_panics() {
    let here = Surroundings::default();
    for object in [
        json!(null),
        json!([]),
        json!({}),
        json!({"spec": []}),
        json!({"spec": {"containers": []}}),
        json!({"spec": {"containers": {}}}),
        json!({"spec": {"containers": [1]}}),
        json!({"spec": {"containers": [{"name": "a/b"}]}}),
        json!({"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}),
        json!({"spec": {"containers": [{"name": "a"}], "volumes": {}}}),
        json!({"metadata": [], "spec": {"containers": [{"name": "a"}]}}),
        json!({"metadata": {"annotations": {"a": 1}}, "spec": {"containers": [{"name": "a"}]}}),
        json!({"spec": {"containers": [{"name": "a", "livenessProbe": []}]}}),
    ] {
        assert_eq!(reason(&here, &object), Reason::Malformed, "{object}");
        assert!(uninject(&object).is_err(), "{object}");
    }
}
