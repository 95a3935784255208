//! Both replicas are down.

use mantlet_testkit::eventually;
use mantlet_testkit::real_peers::RealPeers;
use serde_json::json;

use super::{Cluster, deployment, pod};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_injector_what_runs_goes_on_and_nothing_new_goes_without_a_sidecar() {
    let test = "without_an_injector_what_runs_goes_on_and_nothing_new_goes_without_a_sidecar";
    let Some(peers) = RealPeers::find(test) else { return };
    let cluster = Cluster::start(&peers).await;
    let server = &cluster.server;
    let mut injector = cluster.ready().await;
    server.create(&pod("shop", "api")).await.unwrap();
    server.create(&deployment("web", "allow shop/frontend to GET /orders on http")).await.unwrap();
    injector.terminate();
    assert_eq!(injector.exited().await.code(), Some(0));

    let error = eventually("a refusal", async || server.create(&pod("shop", "new")).await.err()).await;
    assert!(error.contains("failed calling webhook"), "{error}");
    let mut other = pod("bazaar", "other");
    other["metadata"]["annotations"] = json!({});
    server.create(&other).await.unwrap();

    let on_api = |args: &[&str]| {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let cluster = &cluster;
        async move {
            let mut all = vec!["--namespace", "shop"];
            all.extend(args.iter().map(String::as_str));
            cluster.kubectl(&all).await.unwrap_or_else(|error| panic!("{args:?}: {error}"))
        }
    };
    for ready in ["False", "True", "False"] {
        let status =
            json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
        on_api(&["patch", "pod", "api", "--subresource=status", "--patch", &status.to_string()]).await;
    }
    let ended = json!({"status": {"phase": "Succeeded"}});
    on_api(&["patch", "pod", "api", "--subresource=status", "--patch", &ended.to_string()]).await;
    on_api(&["annotate", "pod", "api", "example.org/note=yes"]).await;
    on_api(&["label", "pod", "api", "example.org/label=yes"]).await;
    on_api(&["scale", "deployment", "web", "--replicas=0"]).await;
    on_api(&["annotate", "deployment", "web", "example.org/note=yes"]).await;
    on_api(&["delete", "pod", "api", "--grace-period=0", "--force"]).await;

    // What only we can judge waits for us.
    let change =
        json!({"spec": {"template": {"metadata": {"annotations": {"mantlet.dev/policy": ""}}}}}).to_string();
    let changed =
        cluster.kubectl(&["--namespace", "shop", "patch", "deployment", "web", "--patch", &change]).await;
    assert!(changed.unwrap_err().contains("failed calling webhook"));

    // And when one is back, it all goes on, with the same authority: nobody has to learn anything.
    let bundle = server
        .get("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/mantlet-injector")
        .await;
    let _injector = cluster.ready().await;
    let now = server
        .get("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/mantlet-injector")
        .await;
    assert_eq!(now["webhooks"], bundle["webhooks"]);
    server.create(&pod("shop", "new")).await.unwrap();
}
