//! Who may change the policy of a pod that runs.

use mantlet_testkit::eventually;
use mantlet_testkit::kubernetes::ApiServer;
use mantlet_testkit::real_peers::RealPeers;
use serde_json::{Value, json};

use crate::pods::{injected, plain, with};
use crate::policy::start;

const RESTRICTED: &str = "trustDomain: prod.test\nadmissionPolicy: {liveEdits: {restricted: true, groups: [oncall, 'it''s \"us\"']}}";

/// kubectl as a user of this group, who may do everything that a role can allow.
async fn as_member(server: &ApiServer, group: &str, args: &[&str]) -> Result<String, String> {
    let mut all = vec!["--namespace", "shop", "--as", "ada", "--as-group", group];
    all.extend(args);
    server.kubectl(&all).await
}

#[tokio::test]
async fn where_edits_are_restricted_only_the_named_groups_change_a_running_pod_s_policy() {
    let Some(peers) = RealPeers::find("where_edits_are_restricted") else { return };
    let server = start(&peers, RESTRICTED).await;
    let everybody = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "all"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:authenticated"}],
    });
    server.create(&everybody).await.unwrap();
    let policy = ("metadata.annotations.mantlet/dev~policy", json!("allow a/b to tcp on 1"));
    server.create(&with(injected("shop"), &[policy])).await.unwrap();
    let said = ("metadata.labels.mantlet/dev~inject", json!("disabled"));
    server.create(&with(plain("shop"), &[("metadata.name", json!("alone")), said])).await.unwrap();
    let wider = "mantlet.dev/policy=allow mesh to tcp on 1";
    // A dry run: what is let in before that must not stay.
    eventually("the restriction to hold", async || {
        let edit = ["annotate", "--dry-run=server", "--overwrite", "pod", "api", wider];
        as_member(&server, "dev", &edit).await.err()
    })
    .await;

    for edit in [
        &["annotate", "--overwrite", "pod", "api", wider][..],
        &["annotate", "pod", "api", "mantlet.dev/policy-"],
        &["annotate", "pod", "api", "mantlet.dev/mode=audit until 2030-01-01"],
        &["annotate", "pod", "api", "mantlet.dev/injected-by-"],
        // Without the label nobody would look any longer.
        &["label", "pod", "api", "mantlet.dev/injected-"],
        &["label", "pod", "api", "mantlet.dev/inject=disabled"],
    ] {
        let refusal = as_member(&server, "dev", edit).await.unwrap_err();
        assert!(refusal.contains("mantlet: ada may not change"), "{edit:?}: {refusal}");
        // An administrator is in no group that is named either.
        let args: Vec<&str> = ["--namespace", "shop"].into_iter().chain(edit.iter().copied()).collect();
        let refusal = server.kubectl(&args).await.unwrap_err();
        assert!(refusal.contains("mantlet: admin may not change"), "{edit:?}: {refusal}");
    }
    let kept = server.get("/api/v1/namespaces/shop/pods/api").await["metadata"].clone();
    assert_eq!(kept["annotations"]["mantlet.dev/policy"], "allow a/b to tcp on 1");
    assert_eq!(kept["labels"]["mantlet.dev/injected"], "true");

    for group in ["oncall", "it's \"us\""] {
        let note = format!("mantlet.dev/policy=allow a/b to tcp on {}", group.len());
        as_member(&server, group, &["annotate", "--overwrite", "pod", "api", &note]).await.unwrap();
    }
    // What is not ours, and what makes a pod live and end, is nobody's business here.
    for ordinary in [
        &["annotate", "pod", "api", "other.test/mantlet.dev=x"][..],
        &["label", "pod", "api", "app=other", "--overwrite"],
        &["annotate", "pod", "alone", "mantlet.dev/policy=allow mesh to tcp on 1"],
        &["set", "image", "pod/api", "app=app:2"],
        &["patch", "pod", "api", "--subresource=status", "--patch", r#"{"status": {"phase": "Running"}}"#],
        &["delete", "pod", "api", "--wait=false"],
    ] {
        as_member(&server, "dev", ordinary).await.unwrap_or_else(|error| panic!("{ordinary:?}: {error}"));
    }
}

#[tokio::test]
async fn where_nothing_is_said_whoever_may_change_a_pod_may_change_its_policy() {
    let Some(peers) = RealPeers::find("where_nothing_is_said") else { return };
    let server = start(&peers, crate::helm::LEAST).await;
    server.create(&injected("shop")).await.unwrap();
    let edit = ["--namespace", "shop", "annotate", "pod", "api", "mantlet.dev/policy=allow mesh to tcp on 1"];
    server.kubectl(&edit).await.unwrap();
    let pod: Value = server.get("/api/v1/namespaces/shop/pods/api").await;
    assert_eq!(pod["metadata"]["annotations"]["mantlet.dev/policy"], "allow mesh to tcp on 1");
}
