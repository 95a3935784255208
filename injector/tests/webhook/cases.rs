//! The corner cases of admission, over real HTTPS, one test for each.

use serde_json::{Value, json};

use crate::client::{NAME, patch, review};
use crate::pods::{create, deployment, pod, request, update};
use crate::stage::{Stage, has_sidecar, message, ours, set};

#[tokio::test]
async fn a01_a02_an_answer_repeats_uid_version_and_kind_and_has_a_patch_with_its_type_or_neither() {
    let mut stage = Stage::new().await;
    // The client checks version, kind, uid, and that both or none are there, in each answer of each test.
    for uid in ["705ab4f5-6393-11e8-b7cc-42010a800002", "x", &"ü".repeat(100)] {
        let mut request = create(&pod());
        request["uid"] = json!(uid);
        let response = stage.caller.review("/mutate", &request).await;
        assert_eq!(response["allowed"], true);
        assert_eq!(response["patchType"], "JSONPatch");
        let response = stage.caller.review("/validate", &request).await;
        assert_eq!(response["allowed"], true);
        assert!(
            response.get("patch").is_none() && response.get("patchType").is_none(),
            "validation changes nothing"
        );
    }
}

#[tokio::test]
async fn a03_a04_a_patch_applies_whatever_is_absent_null_or_empty() {
    let mut stage = Stage::new().await;
    let without = |pointers: &[&str]| {
        let mut pod = pod();
        for pointer in pointers {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            pod.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key);
        }
        pod
    };
    let mut shapes = vec![pod(), without(&["/metadata/annotations", "/metadata/labels"])];
    for value in [json!(null), json!({})] {
        let bare = set(&pod(), "/metadata/annotations", value.clone());
        shapes.push(set(&set(&bare, "/metadata/labels", value.clone()), "/spec/securityContext", value));
    }
    for value in [json!(null), json!([])] {
        let bare = set(&pod(), "/spec/initContainers", value.clone());
        shapes.push(set(&set(&bare, "/spec/volumes", value.clone()), "/spec/imagePullSecrets", value));
    }
    for shape in shapes {
        let injected = stage.injected(&shape).await;
        assert!(has_sidecar(&injected), "{injected}");
        assert_eq!(injected["metadata"]["labels"]["mantlet.dev/injected"], "true");
        assert!(
            injected["metadata"]["annotations"]["mantlet.dev/injected-by"].is_string(),
            "escaped as a key"
        );
    }
}

#[tokio::test]
async fn a05_a_pod_without_name_and_namespace_is_known_by_what_its_request_says() {
    let mut stage = Stage::new().await;
    let mut bad = pod();
    bad["metadata"]["annotations"] = json!({"mantlet.dev/policy": "allow nobody"});
    stage.refused(&bad).await;
    let uid = create(&bad)["uid"].as_str().unwrap().to_owned();
    let line = stage.injector.admission(&uid).await;
    assert_eq!((&line["namespace"], &line["name"]), (&json!("shop"), &json!("web-5d4-*")));
}

#[tokio::test]
async fn a07_what_is_not_created_is_allowed_as_it_is() {
    let mut stage = Stage::new().await;
    for operation in ["UPDATE", "DELETE", "CONNECT"] {
        let mut request = request(operation, &pod());
        request["oldObject"] = pod();
        if operation == "DELETE" {
            request["object"] = json!(null);
        }
        for path in ["/mutate", "/validate"] {
            let response = stage.caller.review(path, &request).await;
            assert_eq!((&response["allowed"], patch(&response)), (&json!(true), None), "{operation} {path}");
        }
    }
    let mut absent = request("DELETE", &pod());
    absent.as_object_mut().unwrap().remove("object");
    assert_eq!(stage.caller.review("/mutate", &absent).await["allowed"], true);
}

#[tokio::test]
async fn a08_a_debug_container_is_only_looked_at_and_must_not_go_around_the_sidecar() {
    let mut stage = Stage::new().await;
    let injected = stage.injected(&pod()).await;
    let with = |container: Value| set(&injected, "/spec/ephemeralContainers", json!([container]));
    let ask = |object: Value| {
        let mut request = update(&injected, &object);
        request["subResource"] = json!("ephemeralcontainers");
        request
    };
    let plain = ask(with(json!({"name": "debug", "image": "busybox:1"})));
    for path in ["/mutate", "/validate"] {
        let response = stage.caller.review(path, &plain).await;
        assert_eq!((&response["allowed"], patch(&response)), (&json!(true), None), "{path}");
    }
    for (context, part) in [
        (json!({"runAsUser": 14021}), "runAsUser"),
        (json!({"runAsGroup": 14021}), "runAsGroup"),
        (json!({"privileged": true}), "privileged"),
        (json!({"capabilities": {"add": ["NET_ADMIN"]}}), "NET_ADMIN"),
    ] {
        let hostile = ask(with(json!({"name": "debug", "image": "busybox:1", "securityContext": context})));
        let response = stage.caller.review("/validate", &hostile).await;
        assert_eq!(response["allowed"], false, "{part}");
        assert!(message(&response).contains(part), "{response}");
        assert_eq!(response["status"]["code"], 403);
    }
}

#[tokio::test]
async fn a09_what_an_object_is_decides_and_not_what_was_asked_for() {
    let mut stage = Stage::new().await;
    let mut converted = create(&pod());
    converted["requestKind"] = json!({"group": "example.org", "version": "v9", "kind": "Gadget"});
    assert!(stage.caller.review("/mutate", &converted).await["patch"].is_string());
    let mut other = create(&pod());
    other["kind"] = json!({"group": "example.org", "version": "v1", "kind": "Pod"});
    assert_eq!(patch(&stage.caller.review("/mutate", &other).await), None, "a Pod of somebody else");
    let response = stage.caller.review("/mutate", &create(&deployment())).await;
    assert_eq!((&response["allowed"], patch(&response)), (&json!(true), None), "templates are never changed");
}

#[tokio::test]
async fn a10_a_second_call_changes_nothing_and_another_configuration_replaces_ours_alone() {
    let mut stage = Stage::new().await;
    let once = stage.injected(&pod()).await;
    let response = stage.mutate(&once).await;
    assert_eq!((&response["allowed"], patch(&response)), (&json!(true), None));

    let document = json!({"images": {"proxy": {"name": "mantlet-proxy:other"}}}).to_string();
    let mut other = Stage::with(&document).await;
    let replaced = other.injected(&once).await;
    let (before, after) = (ours(&once), ours(&replaced));
    assert_eq!((before.len(), after.len()), (2, 2), "not four");
    assert_eq!(after[1]["image"], "mantlet-proxy:other");
    assert_eq!(replaced["spec"]["containers"], once["spec"]["containers"], "the probes keep their token");
    let response = other.mutate(&replaced).await;
    assert_eq!(patch(&response), None);
}

#[tokio::test]
async fn a11_what_the_api_server_fills_into_our_containers_is_not_taken_for_meddling() {
    let mut stage = Stage::new().await;
    let mut filled = stage.injected(&pod()).await;
    for container in filled["spec"]["initContainers"].as_array_mut().unwrap() {
        container["resources"]["limits"]["cpu"] = json!("500m");
    }
    let token =
        json!({"name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"});
    filled["spec"]["containers"][0]["volumeMounts"] = json!([token]);
    filled["spec"]["volumes"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "kube-api-access", "projected": {}}));
    filled["spec"]["tolerations"] = json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]);
    filled["spec"]["serviceAccountName"] = json!("default");
    let response = stage.mutate(&filled).await;
    assert_eq!((&response["allowed"], patch(&response)), (&json!(true), None), "{response}");
}

#[tokio::test]
async fn a12_a26_what_nobody_here_knows_stays_as_it_is() {
    let mut stage = Stage::new().await;
    let mut future = pod();
    future["spec"]["fieldOf2030"] = json!({"deep": [1.50, null, {"ä": "\u{1f980}"}]});
    future["spec"]["hostUsers"] = json!(false);
    future["spec"]["dnsPolicy"] = json!("None");
    future["spec"]["dnsConfig"] = json!({"nameservers": ["192.0.2.1"]});
    future["spec"]["hostAliases"] = json!([{"ip": "192.0.2.2", "hostnames": ["a"]}]);
    future["spec"]["subdomain"] = json!("web");
    future["spec"]["setHostnameAsFQDN"] = json!(true);
    future["spec"]["containers"][0]["fieldOf2031"] = json!([]);
    let mut after = stage.injected(&future).await;
    assert!(has_sidecar(&after));
    let before = future.clone();
    for field in [
        "fieldOf2030",
        "hostUsers",
        "dnsPolicy",
        "dnsConfig",
        "hostAliases",
        "subdomain",
        "setHostnameAsFQDN",
    ] {
        assert_eq!(after["spec"][field], before["spec"][field], "{field}");
    }
    after["spec"]["containers"][0]["readinessProbe"] =
        before["spec"]["containers"][0]["readinessProbe"].clone();
    assert_eq!(after["spec"]["containers"], before["spec"]["containers"], "but for its probe");
}

#[tokio::test]
async fn a16_a_refusal_arrives_in_full_with_every_mistake_and_the_code_says_what_kind_it_is() {
    let mut stage = Stage::new().await;
    let mut bad = deployment();
    bad["spec"]["template"]["metadata"]["annotations"] = json!({
        "mantlet.dev/policy": "# orders\nallow nobody to GET /orders on http",
        "mantlet.dev/polcy": "",
        "mantlet.dev/mode": "enforced",
    });
    let response = stage.caller.review("/validate", &create(&bad)).await;
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(422)));
    assert_eq!(response["status"]["reason"], "Invalid");
    let message = message(&response);
    for part in [
        "Deployment web: ",
        "3 mistakes",
        "mantlet.dev/policy:2:7: P011",
        "did you mean \"enforce\"?",
        "did you mean mantlet.dev/policy?",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let mut unsaid = deployment();
    unsaid["spec"]["template"]["metadata"]["annotations"] = json!({});
    let response = stage.caller.review("/validate", &create(&unsaid)).await;
    let warnings = response["warnings"].as_array().unwrap();
    assert_eq!(response["allowed"], true);
    assert!(warnings.iter().all(|warning| warning.as_str().unwrap().len() <= 256) && !warnings.is_empty());
}

#[tokio::test]
async fn a17_what_is_no_review_is_answered_with_400_and_words() {
    let mut stage = Stage::new().await;
    let good = review(&create(&pod()));
    let json_of = |value: Value| value.to_string();
    let old = good.replace("admission.k8s.io/v1", "admission.k8s.io/v1beta1");
    for (body, words) in [
        (String::new(), "the body is empty"),
        ("{".to_owned(), "not one JSON document"),
        (format!("{good}{good}"), "not one JSON document"),
        (old, "expected AdmissionReview of admission.k8s.io/v1"),
        (json_of(json!([])), "not an admission review"),
        (json_of(json!({})), "expected AdmissionReview"),
        (good.replace("\"uid\":\"705ab4f5-6393-11e8-b7cc-42010a800002\"", "\"uid\":\"\""), "uid"),
        (good.replace("\"operation\":\"CREATE\"", "\"operation\":\"PATCH\""), "PATCH"),
        ("\u{fffd}".to_owned(), "not one JSON document"),
    ] {
        for path in ["/mutate", "/validate"] {
            let reply = stage.caller.post(path, body.clone()).await;
            assert_eq!(reply.status, 400, "{words}");
            assert!(reply.text().contains(words), "{words}: {}", reply.text());
            assert!(reply.content_type.starts_with("text/plain"), "{}", reply.content_type);
        }
    }
    let head = |method: &str, path: &str, content: &str| {
        let request = http::Request::builder().method(method).uri(format!("https://{NAME}{path}"));
        request.header("content-type", content).body(http_body_util::Full::from(good.clone())).unwrap()
    };
    for (method, path, content, words) in [
        ("GET", "/mutate", "application/json", "POST"),
        ("PUT", "/mutate", "application/json", "POST"),
        ("POST", "/mutate", "application/yaml", "application/json"),
        ("POST", "/", "application/json", "there are /mutate and /validate"),
        ("POST", "/mutate/", "application/json", "there are /mutate and /validate"),
    ] {
        let reply = stage.caller.send(head(method, path, content)).await.unwrap();
        assert_eq!(reply.status, 400, "{method} {path} {content}");
        assert!(reply.text().contains(words), "{}", reply.text());
    }
    let reply = stage.caller.send(head("POST", "/mutate", "Application/JSON; charset=utf-8")).await.unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(stage.injector.metric("mantlet_injector_bad_requests_total", &[]).await, 23.0);
    assert!(stage.injector.stderr().iter().all(|line| !line.contains("panicked")));
}

#[tokio::test]
async fn a18_a_pod_that_the_kubelet_has_made_is_never_touched() {
    let mut stage = Stage::new().await;
    let mut mirror = pod();
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "abc"});
    let response = stage.mutate(&mirror).await;
    assert_eq!((&response["allowed"], patch(&response)), (&json!(true), None));
    assert_eq!(response["auditAnnotations"]["reason"], "mirror_pod");
}

#[tokio::test]
async fn a19_names_and_ports_that_are_ours_are_refused_by_name() {
    let mut stage = Stage::new().await;
    let mut named = pod();
    named["spec"]["containers"][0]["name"] = json!("mantlet-proxy");
    assert!(stage.refused(&named).await.contains("\"mantlet-proxy\""));
    let mut volume = pod();
    volume["spec"]["volumes"] = json!([{"name": "mantlet-workload-api", "emptyDir": {}}]);
    assert!(stage.refused(&volume).await.contains("\"mantlet-workload-api\""));
    for port in [24140, 24143, 24190, 24191] {
        let mut taken = pod();
        taken["spec"]["containers"][0]["ports"] = json!([{"containerPort": port}]);
        assert!(stage.refused(&taken).await.contains(&port.to_string()));
    }
}

#[tokio::test]
async fn a20_an_injected_pod_may_be_changed_later() {
    let mut stage = Stage::new().await;
    let injected = stage.injected(&pod()).await;
    let mut changed = injected.clone();
    changed["spec"]["initContainers"][1]["image"] = json!("nop:1");
    for path in ["/mutate", "/validate"] {
        let response = stage.caller.review(path, &update(&injected, &changed)).await;
        assert_eq!((&response["allowed"], patch(&response)), (&json!(true), None), "{path}");
    }
}

#[tokio::test]
async fn a21_a_namespace_whose_pod_security_refuses_us_is_named_at_once() {
    let mut stage = Stage::new().await;
    for level in ["baseline", "restricted"] {
        let labels = json!({"mantlet.dev/inject": "enabled", "pod-security.kubernetes.io/enforce": level});
        stage.api.namespace(level, labels);
        let mut request = create(&pod());
        request["namespace"] = json!(level);
        let response = stage.caller.review("/mutate", &request).await;
        assert_eq!(response["allowed"], false);
        let message = message(&response);
        assert!(message.contains(level) && message.contains("CNI"), "{message}");
        assert_eq!(response["auditAnnotations"]["reason"], "pod_security");
    }
}

#[tokio::test]
async fn a22_a23_our_containers_say_what_they_need_unless_the_pod_says_it_for_all() {
    let mut stage = Stage::new().await;
    for container in ours(&stage.injected(&pod()).await) {
        let resources = &container["resources"];
        for field in ["/requests/cpu", "/requests/memory", "/limits/memory"] {
            assert!(resources.pointer(field).is_some(), "{field}: {container}");
        }
    }
    let mut whole = pod();
    whole["spec"]["resources"] =
        json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}});
    let injected = stage.injected(&whole).await;
    assert_eq!(injected["spec"]["resources"], whole["spec"]["resources"]);
    for container in ours(&injected) {
        let requests = &container["resources"]["requests"];
        assert!(
            requests.is_null() || requests == &json!({}),
            "more than the pod's would be refused: {container}"
        );
    }
}

#[tokio::test]
async fn a24_a_pod_without_a_token_is_injected_like_any_other() {
    let mut stage = Stage::new().await;
    let mut tokenless = pod();
    tokenless["spec"]["automountServiceAccountToken"] = json!(false);
    let injected = stage.injected(&tokenless).await;
    assert!(has_sidecar(&injected));
    assert_eq!(injected["spec"]["automountServiceAccountToken"], false);
}

#[tokio::test]
async fn a25_another_system_is_left_alone_and_a_sandbox_without_interception_refused() {
    let mut stage = Stage::with(&json!({"refusedRuntimeClasses": ["gvisor"]}).to_string()).await;
    for spec in [json!({"os": {"name": "windows"}}), json!({"nodeSelector": {"kubernetes.io/os": "windows"}})]
    {
        let mut windows = pod();
        windows["metadata"]["annotations"] = json!({});
        windows["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let response = stage.mutate(&windows).await;
        assert_eq!((&response["allowed"], patch(&response)), (&json!(true), None), "{response}");
        assert_eq!(response["auditAnnotations"]["reason"], "windows");
    }
    let sandboxed = set(&pod(), "/spec/runtimeClassName", json!("gvisor"));
    assert!(stage.refused(&sandboxed).await.contains("gvisor"));
}
