//! Pods and workloads, from their creation on.

use mantlet_testkit::eventually;
use mantlet_testkit::real_peers::RealPeers;
use serde_json::{Value, json};

use super::{Cluster, deployment, has_sidecar, init_containers, pod};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_api_server_calls_for_whom_it_should_and_takes_what_it_gets() {
    let test = "the_real_api_server_calls_for_whom_it_should_and_takes_what_it_gets";
    let Some(peers) = RealPeers::find(test) else { return };
    let cluster = Cluster::start(&peers).await;
    let server = &cluster.server;
    let injector = cluster.ready().await;

    // Who asks gets a sidecar; who does not is not even asked about.
    let created = server.create(&pod("shop", "api")).await.unwrap();
    assert!(has_sidecar(&created), "{created}");
    assert_eq!(
        created["spec"]["initContainers"][1]["restartPolicy"], "Always",
        "it is a sidecar to this server"
    );
    assert_eq!(created["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"], 24190);
    let told = created["spec"]["initContainers"][1].to_string();
    assert!(told.contains("mantlet-injector.mantlet-system.svc:8444"), "where the directory is: {told}");
    // The chart's role lets the directory read what it watches.
    for kind in ["pods", "services", "endpointslices"] {
        injector.metric_reaches("mantlet_injector_directory_relists_total", &[("kind", kind)], 1.0).await;
    }
    assert_eq!(injector.metric("mantlet_injector_directory_watch_errors_total", &[]).await, 0.0);
    let mut plain = pod("bazaar", "plain");
    plain["metadata"]["annotations"] = json!({});
    assert!(!has_sidecar(&server.create(&plain).await.unwrap()));
    let mut asks = pod("bazaar", "asks");
    asks["metadata"]["labels"] = json!({"mantlet.dev/inject": "enabled"});
    assert!(has_sidecar(&server.create(&asks).await.unwrap()));
    let mut says_no = pod("shop", "says-no");
    says_no["metadata"] =
        json!({"name": "says-no", "namespace": "shop", "labels": {"mantlet.dev/inject": "disabled"}});
    assert!(!has_sidecar(&server.create(&says_no).await.unwrap()));

    // The API server's own word for it.
    let called = |name: &str| {
        let annotations = cluster.audited(name);
        let ours = annotations.as_object().into_iter().flatten();
        ours.filter(|(key, _)| {
            key.contains("webhook.admission.k8s.io/") || key.contains("inject.mantlet.dev")
        })
        .map(|(key, value)| format!("{key} {}", value.as_str().unwrap()))
        .collect::<Vec<String>>()
        .join("\n")
    };
    let api = called("api");
    for part in [
        "patch.webhook.admission.k8s.io/round_0_index_0",
        "\"mutated\":true",
        "namespace.inject.mantlet.dev/result injected",
        "namespace.inject.mantlet.dev/reason injected",
    ] {
        assert!(api.contains(part), "{part}: {api}");
    }
    assert!(called("asks").contains("pod.inject.mantlet.dev/result injected"));
    assert_eq!((called("plain").as_str(), called("says-no").as_str()), ("", ""), "nobody was asked");

    // Its own YAML, sent again under another name, is what it was.
    let mut again = server.get("/api/v1/namespaces/shop/pods/api").await;
    let before = again["spec"].clone();
    again["metadata"] = json!({
        "name": "again", "namespace": "shop",
        "labels": again["metadata"]["labels"], "annotations": again["metadata"]["annotations"],
    });
    again.as_object_mut().unwrap().remove("status");
    let again = server.create(&again).await.unwrap();
    assert_eq!(again["spec"], before);

    // As a controller makes it: no name, an owner. A dry run tells the owner nothing, a creation does.
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4", "uid": "7f9d", "controller": true});
    let mut owned = pod("shop", "x");
    owned["metadata"].as_object_mut().unwrap().remove("name");
    owned["metadata"]["generateName"] = json!("web-5d4-");
    owned["metadata"]["ownerReferences"] = json!([owner]);
    assert!(has_sidecar(&server.try_create(&owned).await.unwrap()));
    assert!(has_sidecar(&server.create(&owned).await.unwrap()));
    injector.metric_reaches("mantlet_injector_events_total", &[("result", "sent")], 1.0).await;
    let events = server.get("/api/v1/namespaces/shop/events").await;
    let events: Vec<&Value> = events["items"].as_array().unwrap().iter().collect();
    assert_eq!(events.len(), 1, "{events:#?}");
    assert_eq!(
        (&events[0]["reason"], &events[0]["involvedObject"]["name"]),
        (&json!("Injected"), &json!("web-5d4"))
    );

    // Every mistake of a Deployment, where it is written; word for word.
    let error = server.create(&deployment("bad", "allow nobody")).await.unwrap_err();
    for part in ["denied the request: mantlet: Deployment bad: ", "mantlet.dev/policy:1:7: P011", "./nobody"]
    {
        assert!(error.contains(part), "{part}: {error}");
    }
    server.create(&deployment("good", "allow shop/frontend to GET /orders on http")).await.unwrap();
    let patch = |policy: &str| {
        json!({"spec": {"template": {"metadata": {"annotations": {"mantlet.dev/policy": policy}}}}})
            .to_string()
    };
    let change = async |policy: &str| {
        cluster
            .kubectl(&["patch", "deployment", "good", "--namespace", "shop", "--patch", &patch(policy)])
            .await
    };
    assert!(change("allow nobody").await.unwrap_err().contains("mantlet: Deployment good"));
    change("allow shop/other to GET /orders on http").await.unwrap();

    // A live pod: its annotations are its policy.
    let annotate = async |policy: &str| {
        let annotation = format!("mantlet.dev/policy={policy}");
        cluster.kubectl(&["annotate", "pod", "api", "--namespace", "shop", "--overwrite", &annotation]).await
    };
    assert!(annotate("allow nobody").await.unwrap_err().contains("mantlet"));
    annotate("allow shop/other to GET /orders on http").await.unwrap();
    assert!(injector.stderr().iter().all(|line| !line.contains("panicked") && !line.contains("\"ERROR\"")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_every_shape_are_taken_by_the_real_api_server_or_refused_in_words() {
    let test = "pods_of_every_shape_are_taken_by_the_real_api_server_or_refused_in_words";
    let Some(peers) = RealPeers::find(test) else { return };
    let cluster = Cluster::start(&peers).await;
    let server = &cluster.server;
    let _injector = cluster.ready().await;
    let spec = |field: &str, value: Value| {
        let mut pod = pod("shop", "shape");
        pod["spec"][field] = value;
        pod
    };
    let app = |field: &str, value: Value| {
        let mut pod = pod("shop", "shape");
        pod["spec"]["containers"][0][field] = value;
        pod
    };
    let mut bare = pod("shop", "shape");
    bare["metadata"]["annotations"] = json!(null);
    bare["metadata"]["labels"] = json!(null);
    let mut large = pod("shop", "shape");
    large["metadata"]["annotations"]["example.org/large"] = json!("x".repeat(200 << 10));
    let probe = json!({"grpc": {"port": 8080}, "periodSeconds": 3});
    for (name, pod) in [
        ("null maps", bare),
        ("empty lists", spec("initContainers", json!([]))),
        (
            "an init container of its own",
            spec("initContainers", json!([{"name": "first", "image": "first:1"}])),
        ),
        (
            "a sidecar of its own",
            spec("initContainers", json!([{"name": "side", "image": "s:1", "restartPolicy": "Always"}])),
        ),
        ("large annotations", large),
        ("no token", spec("automountServiceAccountToken", json!(false))),
        ("another DNS", spec("dnsPolicy", json!("Default"))),
        ("host aliases", spec("hostAliases", json!([{"ip": "192.0.2.1", "hostnames": ["a"]}]))),
        ("a long grace", spec("terminationGracePeriodSeconds", json!(1800))),
        ("a job's pod", spec("restartPolicy", json!("Never"))),
        ("processes that see each other", spec("shareProcessNamespace", json!(true))),
        ("a user namespace", spec("hostUsers", json!(false))),
        ("a gRPC probe", app("livenessProbe", probe)),
        ("a TCP probe", app("livenessProbe", json!({"tcpSocket": {"port": "http"}}))),
        ("a hook", app("lifecycle", json!({"preStop": {"httpGet": {"path": "/bye", "port": 8080}}}))),
        (
            "many ports",
            app(
                "ports",
                json!([{"name": "http", "containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]),
            ),
        ),
    ] {
        let created = server.try_create(&pod).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(has_sidecar(&created), "{name}: {created}");
    }
    let level = json!({"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}});
    let created = server.try_create(&spec("resources", level)).await.unwrap();
    assert!(has_sidecar(&created), "resources of the whole pod: {created}");
    for (name, words, pod) in [
        ("our name", "mantlet-proxy", app("name", json!("mantlet-proxy"))),
        (
            "our port",
            "24190",
            app("ports", json!([{"name": "http", "containerPort": 8080}, {"containerPort": 24190}])),
        ),
        ("our user", "14021", spec("securityContext", json!({"runAsUser": 14021}))),
        ("privileged", "privileged", app("securityContext", json!({"privileged": true}))),
        (
            "a port that is not there",
            "nowhere",
            app("livenessProbe", json!({"httpGet": {"port": "nowhere"}})),
        ),
    ] {
        let error = server.try_create(&pod).await.unwrap_err();
        assert!(error.contains("mantlet: ") && error.contains(words), "{name}: {error}");
    }

    // Later changes: an image, a debug container, and one that would go around the sidecar.
    server.create(&pod("shop", "live")).await.unwrap();
    cluster
        .kubectl(&["--namespace", "shop", "set", "image", "pod/live", "mantlet-proxy=nop:1"])
        .await
        .unwrap();
    let debug = async |security: Value| {
        let mut live = server.get("/api/v1/namespaces/shop/pods/live").await;
        live["spec"]["ephemeralContainers"] = json!([{
            "name": "debug", "image": "busybox:1", "securityContext": security,
        }]);
        let file = server.dir().file("debug.json", live.to_string());
        let path = "/api/v1/namespaces/shop/pods/live/ephemeralcontainers";
        cluster.kubectl(&["replace", "--raw", path, "--filename", file.to_str().unwrap()]).await
    };
    for hostile in [
        json!({"runAsUser": 14021}),
        json!({"privileged": true}),
        json!({"capabilities": {"add": ["NET_ADMIN"]}}),
    ] {
        assert!(debug(hostile).await.unwrap_err().contains("mantlet: "));
    }
    debug(json!({})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_quotas_and_pod_security_of_the_real_api_server_go_with_the_sidecar() {
    let test = "limits_quotas_and_pod_security_of_the_real_api_server_go_with_the_sidecar";
    let Some(peers) = RealPeers::find(test) else { return };
    let cluster = Cluster::start(&peers).await;
    let server = &cluster.server;
    let _injector = cluster.ready().await;
    let enforce = "pod-security.kubernetes.io/enforce";
    for level in ["baseline", "restricted"] {
        server.namespace(level, &[("mantlet.dev/inject", "enabled"), (enforce, level)]).await;
        let error = server.create(&pod(level, "api")).await.unwrap_err();
        assert!(error.contains("mantlet: ") && error.contains("CNI"), "by us, before pod security: {error}");
    }
    server.namespace("free", &[("mantlet.dev/inject", "enabled"), (enforce, "privileged")]).await;
    assert!(has_sidecar(&server.create(&pod("free", "api")).await.unwrap()));

    // A quota counts what our containers ask for, and refuses nothing for want of a word.
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "shop"},
        "spec": {"hard": {"requests.cpu": "1", "requests.memory": "1Gi", "limits.memory": "2Gi"}},
    });
    server.create(&quota).await.unwrap();
    let mut sized = pod("shop", "sized");
    sized["spec"]["containers"][0]["resources"] =
        json!({"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}});
    // The quota holds once a controller has counted, and there is none here: its status is what it would say.
    let status = json!({"status": {"hard": quota["spec"]["hard"], "used": {"requests.cpu": "0", "requests.memory": "0", "limits.memory": "0"}}});
    cluster
        .kubectl(&[
            "patch",
            "resourcequota",
            "q",
            "--namespace",
            "shop",
            "--subresource=status",
            "--type=merge",
            "--patch",
            &status.to_string(),
        ])
        .await
        .unwrap();
    eventually("the quota to hold", async || {
        server.try_create(&pod("shop", "unsized")).await.err().filter(|error| error.contains("must specify"))
    })
    .await;
    let created = server.create(&sized).await.unwrap();
    assert!(has_sidecar(&created));
    let used = server.get("/api/v1/namespaces/shop/resourcequotas/q").await["status"]["used"].clone();
    assert_eq!(used["requests.cpu"], "150m", "the app's 100m and the sidecar's 50m: {used}");

    // Defaults of a LimitRange come into our containers after us, and are not taken for meddling.
    server.namespace("ranged", &[("mantlet.dev/inject", "enabled")]).await;
    let range = json!({
        "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "r", "namespace": "ranged"},
        "spec": {"limits": [{"type": "Container", "default": {"cpu": "250m", "memory": "300Mi"}}]},
    });
    server.create(&range).await.unwrap();
    let created = eventually("a container with a default", async || {
        let created = server.try_create(&pod("ranged", "api")).await.unwrap();
        let limit = created["spec"]["containers"][0]["resources"]["limits"]["cpu"].clone();
        (limit == "250m").then_some(created)
    })
    .await;
    assert_eq!(init_containers(&created), ["mantlet-init", "mantlet-proxy"]);
    let mut again = created.clone();
    again["metadata"] = json!({
        "name": "again", "namespace": "ranged",
        "labels": created["metadata"]["labels"], "annotations": created["metadata"]["annotations"],
    });
    assert_eq!(server.create(&again).await.unwrap()["spec"], created["spec"]);
}
