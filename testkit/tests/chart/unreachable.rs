//! The chart as it is installed, with no replica of the injector that answers.

use mantlet_testkit::eventually;
use mantlet_testkit::kubernetes::ApiServer;
use mantlet_testkit::real_peers::RealPeers;
use serde_json::{Value, json};

use crate::helm::{Helm, NAMESPACE, of_kind, the};
use crate::pods::{injected, plain, with};

/// An answer that never comes is not waited for long.
const VALUES: &str = "trustDomain: prod.test\ninjector: {timeoutSeconds: 1}";

/// What the API server says when it cannot ask.
const DOWN: &str = "failed calling webhook";

/// Installs the chart, once `before` is there: `shop` asks for sidecars, `bazaar` does not.
async fn install(peers: &RealPeers, before: &[Value]) -> (ApiServer, Helm, String) {
    let server = ApiServer::start(peers).await;
    for (namespace, labels) in
        [(NAMESPACE, &[][..]), ("shop", &[("mantlet.dev/inject", "enabled")]), ("bazaar", &[])]
    {
        server.namespace(namespace, labels).await;
    }
    for object in before {
        server.create(object).await.unwrap_or_else(|error| panic!("{error}"));
    }
    let helm = Helm::new(peers);
    let notes = helm.on(&server, "install", VALUES).await.unwrap_or_else(|error| panic!("{error}"));
    // Pods and annotations are two configurations, and each is seen when it is seen.
    for object in [plain("shop"), deployment("shop", Some("allow mesh to tcp on 1"), json!({}))] {
        eventually("the webhooks to be asked", async || {
            server.try_create(&object).await.err().filter(|error| error.contains(DOWN))
        })
        .await;
    }
    (server, helm, notes)
}

fn deployment(namespace: &str, policy: Option<&str>, labels: Value) -> Value {
    let mut template = json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    });
    if let Some(policy) = policy {
        template["metadata"]["annotations"] = json!({"mantlet.dev/policy": policy});
    }
    template["metadata"]["labels"].as_object_mut().unwrap().extend(labels.as_object().unwrap().clone());
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": namespace},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template},
    })
}

fn cron_job(namespace: &str, policy: Option<&str>, labels: Value) -> Value {
    let mut template = deployment(namespace, policy, labels)["spec"]["template"].take();
    template["spec"]["restartPolicy"] = json!("Never");
    json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "report", "namespace": namespace},
        "spec": {"schedule": "@daily", "jobTemplate": {"spec": {"template": template}}},
    })
}

/// What a Deployment's controller makes of it, or a CronJob's; `by`: whom it names as its controller.
fn copied(kind: &str, policy: Option<&str>, by: Option<[&str; 2]>) -> Value {
    let api = if kind == "Job" { "batch/v1" } else { "apps/v1" };
    let mut object = deployment("shop", policy, json!({}));
    let name = format!("web-{}", by.map_or("alone", |[_, kind]| kind).to_lowercase());
    (object["apiVersion"], object["kind"], object["metadata"]["name"]) =
        (json!(api), json!(kind), json!(name));
    if kind == "Job" {
        let mut template = object["spec"]["template"].take();
        template["spec"]["restartPolicy"] = json!("Never");
        object["spec"] = json!({"template": template});
    }
    if let Some([api, kind]) = by {
        let owner = json!({"apiVersion": api, "kind": kind, "name": "web", "uid": "1", "controller": true});
        object["metadata"]["ownerReferences"] = json!([owner]);
    }
    object
}

#[tokio::test]
async fn nothing_of_ours_stands_between_the_control_plane_and_what_runs() {
    let Some(peers) = RealPeers::find("nothing_of_ours_stands_between") else { return };
    let policy = Some("allow ./web to GET /** on 8080");
    let api = with(injected("shop"), &[("metadata.annotations.mantlet/dev~policy", json!(policy))]);
    let job = with(injected("shop"), &[("metadata.name", json!("job-1"))]);
    let before = [api, job, deployment("shop", policy, json!({})), cron_job("shop", policy, json!({}))];
    let (server, ..) = install(&peers, &before).await;

    let bound = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "api", "namespace": "shop"},
        "target": {"kind": "Node", "name": "n1"},
    });
    server.create(&bound).await.expect("a pod is bound to its node");
    let ready = |is: &str| json!({"status": {"conditions": [{"type": "Ready", "status": is}]}}).to_string();
    let status = ["--subresource=status", "--type=strategic", "--patch"];
    for (what, args) in [
        (
            "a pod turns unready",
            vec!["patch", "pod", "api", status[0], status[1], status[2], &ready("False")],
        ),
        ("and ready again", vec!["patch", "pod", "api", status[0], status[1], status[2], &ready("True")]),
        (
            "a pod of a Job ends",
            vec![
                "patch",
                "pod",
                "job-1",
                status[0],
                status[1],
                status[2],
                r#"{"status": {"phase": "Succeeded"}}"#,
            ],
        ),
        ("a Deployment scales down", vec!["scale", "deployment", "web", "--replicas=1"]),
        ("its pods get another image", vec!["set", "image", "deployment/web", "app=app:2"]),
        ("it is restarted", vec!["rollout", "restart", "deployment/web"]),
        (
            "a CronJob is suspended",
            vec!["patch", "cronjob", "report", "--patch", r#"{"spec": {"suspend": true}}"#],
        ),
        ("a controller marks a pod", vec!["annotate", "pod", "api", "controller.test/cost=1"]),
        ("and labels it", vec!["label", "pod", "api", "pod-template-hash=abc"]),
        ("a pod is deleted", vec!["delete", "pod", "api", "--wait=false"]),
        ("a Deployment too", vec!["delete", "deployment", "web", "--wait=false"]),
    ] {
        let mut all = vec!["--namespace", "shop"];
        all.extend(args);
        server.kubectl(&all).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    // A rollout goes on where it can: to the pods, which are refused until somebody can judge them.
    let of_deployment = copied("ReplicaSet", policy, Some(["apps/v1", "Deployment"]));
    let of_cron_job = copied("Job", policy, Some(["batch/v1", "CronJob"]));
    for object in [
        plain("bazaar"),
        deployment("bazaar", policy, json!({})),
        deployment("shop", None, json!({})),
        of_deployment,
        of_cron_job,
    ] {
        server.try_create(&object).await.unwrap_or_else(|error| panic!("{error}"));
    }
}

#[tokio::test]
async fn what_nobody_can_check_is_refused() {
    let Some(peers) = RealPeers::find("what_nobody_can_check_is_refused") else { return };
    let policy = Some("allow ./web to GET /** on 8080");
    let asks = || json!({"mantlet.dev/inject": "enabled"});
    let declines = || json!({"mantlet.dev/inject": "disabled"});
    let before =
        [injected("shop"), deployment("shop", policy, json!({})), cron_job("shop", policy, json!({}))];
    let (server, ..) = install(&peers, &before).await;
    for args in [
        ["annotate", "pod", "api", "mantlet.dev/policy=allow mesh to tcp on 1"],
        ["annotate", "pod", "api", "mantlet.dev/injected-by-"],
        [
            "patch",
            "deployment",
            "web",
            r#"--patch={"spec": {"template": {"metadata": {"annotations": {"mantlet.dev/policy": "x"}}}}}"#,
        ],
        [
            "patch",
            "deployment",
            "web",
            r#"--patch={"spec": {"template": {"metadata": {"annotations": {"mantlet.dev/policy": null}}}}}"#,
        ],
        [
            "patch",
            "cronjob",
            "report",
            r#"--patch={"spec": {"jobTemplate": {"spec": {"template": {"metadata": {"annotations": {"mantlet.dev/mode": "x"}}}}}}}"#,
        ],
    ] {
        let mut all = vec!["--namespace", "shop"];
        all.extend(args);
        let refusal = server.kubectl(&all).await.unwrap_err();
        assert!(refusal.contains(DOWN), "{args:?}: {refusal}");
    }
    for object in [
        with(plain("bazaar"), &[("metadata.labels.mantlet/dev~inject", json!("enabled"))]),
        deployment("bazaar", policy, asks()),
        cron_job("bazaar", policy, asks()),
        copied("ReplicaSet", policy, None),
        copied("ReplicaSet", policy, Some(["argoproj.io/v1alpha1", "Rollout"])),
        copied("ReplicaSet", policy, Some(["example.dev/v1", "Deployment"])),
        copied("Job", policy, None),
    ] {
        let refusal = server.try_create(&object).await.unwrap_err();
        assert!(refusal.contains(DOWN), "{object}: {refusal}");
    }
    let other = |object: Value| with(object, &[("metadata.name", json!("other"))]);
    for object in [other(deployment("shop", policy, declines())), other(cron_job("shop", policy, declines()))]
    {
        server.try_create(&object).await.unwrap_or_else(|error| panic!("{error}"));
    }
}

#[tokio::test]
async fn d63_leaving_the_scope_switches_no_check_of_a_running_pod_off() {
    let Some(peers) = RealPeers::find("d63_leaving_the_scope") else { return };
    let policy = Some("allow ./web to GET /** on 8080");
    let api = with(injected("shop"), &[("metadata.annotations.mantlet/dev~policy", json!(policy))]);
    let alone = with(plain("bazaar"), &[("metadata.name", json!("alone"))]);
    let (server, ..) = install(&peers, &[api, alone]).await;
    let wider = [
        "--namespace",
        "shop",
        "annotate",
        "--overwrite",
        "pod",
        "api",
        "mantlet.dev/policy=allow mesh to * /**",
    ];
    // Whoever owns the namespace says that it no longer takes part, and that the pod never did.
    for left in [
        ["label", "--overwrite", "namespace", "shop", "mantlet.dev/inject=disabled"],
        ["--namespace=shop", "label", "pod", "api", "mantlet.dev/inject=disabled"],
        ["--namespace=shop", "label", "pod", "api", "mantlet.dev/injected-"],
    ] {
        server.kubectl(&left).await.unwrap();
        // What the API server knows of the namespace is a moment old.
        let refusal = server.kubectl(&wider).await.unwrap_err();
        assert!(refusal.contains(DOWN), "{left:?}: {refusal}");
        let debugger = json!({"securityContext": {"runAsUser": 14021}});
        // The rules are not seen in the same moment as the webhooks. A dry run leaves nothing in the pod.
        eventually(format!("a refusal after {left:?}"), async || {
            let refusal = debug(&server, "shop", "api", &debugger, "?dryRun=All").await.err()?;
            (refusal.contains("mantlet: ") && refusal.contains("would run as")).then_some(())
        })
        .await;
    }
    // A pod that never had a sidecar is nobody's business here.
    let mighty = json!({"securityContext": {"runAsUser": 14021, "privileged": true}});
    debug(&server, "bazaar", "alone", &mighty, "").await.unwrap();
    server
        .kubectl(&["--namespace=bazaar", "annotate", "pod", "alone", "mantlet.dev/policy=x"])
        .await
        .unwrap();
    let harmless = json!({"securityContext": {"runAsUser": 1000}});
    debug(&server, "shop", "api", &harmless, "").await.unwrap();
}

/// Adds a container for debugging.
async fn debug(
    server: &ApiServer,
    namespace: &str,
    pod: &str,
    more: &Value,
    how: &str,
) -> Result<String, String> {
    let mut container = json!({"name": "debugger", "image": "debug:1", "terminationMessagePolicy": "File", "imagePullPolicy": "IfNotPresent"});
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}");
    let mut object = server.get(&path).await;
    object["spec"]["ephemeralContainers"] = json!([container]);
    let file = server.dir().file("debugger.json", object.to_string());
    let path = format!("{path}/ephemeralcontainers{how}");
    server.kubectl(&["replace", "--raw", &path, "--filename", file.to_str().unwrap()]).await
}

#[tokio::test]
async fn an_upgrade_keeps_the_authority_and_an_uninstall_leaves_nothing_in_the_way() {
    let Some(peers) = RealPeers::find("an_upgrade_keeps_the_authority") else { return };
    let (server, helm, notes) = install(&peers, &[]).await;

    let objects = helm.objects(VALUES).await;
    let notes = notes.split("NOTES:").nth(1).unwrap().to_lowercase();
    for kind in ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] {
        let name = the(&objects, kind)["metadata"]["name"].as_str().unwrap();
        assert!(notes.contains(&kind.to_lowercase()) && notes.contains(name), "{notes}");
    }
    for binding in of_kind(&objects, "ValidatingAdmissionPolicyBinding") {
        let name = binding["metadata"]["name"].as_str().unwrap();
        assert!(!name.contains("-pods-") || notes.contains(name), "{name}: {notes}");
    }

    // What the injector writes at run time is its own.
    let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/mantlet-injector";
    let authority = std::fs::read(server.dir().path().join("pki/apiserver.crt")).unwrap();
    let bundle = base64(&authority);
    let patch = json!([{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}]);
    let patch = format!("--patch={patch}");
    server
        .kubectl(&["patch", "mutatingwebhookconfiguration", "mantlet-injector", "--type=json", &patch])
        .await
        .unwrap();
    helm.on(&server, "upgrade", &format!("{VALUES}\nunconfigured: audit")).await.unwrap();
    let kept = server.get(path).await;
    assert_eq!(kept["webhooks"][0]["clientConfig"]["caBundle"], bundle.as_str());

    helm.on(&server, "uninstall", "").await.unwrap();
    eventually("pods to be let in again", async || server.try_create(&plain("shop")).await.ok()).await;
    for kinds in
        ["validatingadmissionpolicies,validatingadmissionpolicybindings", "clusterroles,clusterrolebindings"]
    {
        let left = server.kubectl(&["get", kinds, "--output=name"]).await.unwrap();
        assert!(!left.contains("mantlet"), "{left}");
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let number =
            three.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * place)) & 63];
            text.push(if place <= three.len() { char::from(digit) } else { '=' });
        }
    }
    text
}
