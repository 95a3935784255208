use std::{ffi::OsString, fs, os::unix::fs::symlink};

use mantlet_identity::{Endpoint, IdentitySource, SourceConfig};
use mantlet_testkit::{temp::TempDir, wait::within};
use serde_json::json;

use super::*;
use crate::{config, readiness::Readiness};

const READ: &str = "allow shop/web to GET /orders/** as read\n";
const WRITE: &str = "allow shop/web to GET /orders/** as read\nallow shop/web to POST /orders as write\n";

struct Watched {
    handle: PolicyHandle,
    readiness: Readiness,
    version: watch::Receiver<u64>,
}

impl Watched {
    /// Starts to watch with these extra flags.
    fn start(flags: &[&str]) -> Self {
        let common = ["--workload-api", "unix:///nowhere.sock", "--inbound", "127.0.0.1:0=127.0.0.1:8080"];
        let arguments = common.iter().chain(flags).map(OsString::from);
        let config = match config::load("mantlet-proxy", arguments, []) {
            Ok(config::Loaded::Run(config)) => config,
            other => panic!("{other:?}"),
        };
        let identity =
            IdentitySource::new(SourceConfig::new(Endpoint::parse("unix:///nowhere.sock").unwrap()));
        let readiness = Readiness::new();
        let watching = PolicyWatch::new(&config, identity.handle(), readiness.blocker("policy"));
        let handle = watching.handle();
        let mut version = handle.subscribe();
        version.mark_unchanged();
        tokio::spawn(watching.run());
        Self { handle, readiness, version }
    }

    fn file(path: &std::path::Path) -> Self {
        Self::start(&[
            "--trust-domain",
            "prod.test",
            "--namespace",
            "shop",
            "--policy",
            path.to_str().unwrap(),
        ])
    }

    fn rules(&self) -> Vec<String> {
        self.handle.current().policy.rule_labels().map(|label| label.to_string()).collect()
    }

    async fn changed(&mut self) {
        within("a change of the policy", self.version.changed()).await.unwrap();
    }

    async fn status(&self, wanted: impl Fn(&PolicyStatus) -> bool) -> Arc<PolicyStatus> {
        mantlet_testkit::wait::eventually("a status of the policy", async || {
            Some(self.handle.status()).filter(|status| wanted(status))
        })
        .await
    }
}

#[tokio::test]
async fn a_good_policy_is_in_force_before_anything_listens() {
    let dir = TempDir::new();
    let watched = Watched::file(&dir.file("policy", READ));
    assert_eq!(watched.rules(), ["read"]);
    assert_eq!(watched.handle.current().generation, 1);
    assert!(watched.handle.status().last_reload_ok);
    assert!(watched.readiness.snapshot().is_ready());
}

#[tokio::test]
async fn a_renamed_and_a_rewritten_file_take_effect() {
    let dir = TempDir::new();
    let mut watched = Watched::file(&dir.file("policy", READ));
    let first = watched.handle.current().policy.hash();
    dir.replace("policy", WRITE);
    watched.changed().await;
    assert_eq!(watched.rules(), ["read", "write"]);
    assert_ne!(watched.handle.current().policy.hash(), first);
    // In place: truncated, then written.
    dir.file("policy", READ);
    watched.changed().await;
    assert_eq!(watched.rules(), ["read"]);
    assert_eq!(watched.handle.current().policy.hash(), first);
    assert_eq!(watched.handle.current().generation, 3);
}

#[tokio::test]
async fn a_swapped_volume_takes_effect() {
    // As the kubelet's AtomicWriter does it: a new directory, then one rename of the link to it.
    let dir = TempDir::new();
    let version = |name: &str, text: &str| {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("policy"), text).unwrap();
    };
    version("..2026_1", READ);
    symlink("..2026_1", dir.path().join("..data")).unwrap();
    symlink("..data/policy", dir.path().join("policy")).unwrap();
    let mut watched = Watched::file(&dir.path().join("policy"));
    assert_eq!(watched.rules(), ["read"]);
    for (name, old, text, rules) in [
        ("..2026_2", "..2026_1", WRITE, 2),
        ("..2026_3", "..2026_2", READ, 1),
        ("..2026_4", "..2026_3", WRITE, 2),
    ] {
        version(name, text);
        symlink(name, dir.path().join("..data_tmp")).unwrap();
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        fs::remove_dir_all(dir.path().join(old)).unwrap();
        watched.changed().await;
        assert_eq!(watched.rules().len(), rules);
    }
}

#[tokio::test]
async fn garbage_truncation_and_disappearance_keep_the_last_good_policy_and_show() {
    let dir = TempDir::new();
    let path = dir.file("policy", READ);
    let watched = Watched::file(&path);
    let spoilt: [(&dyn Fn(), &str); 4] = [
        (&|| drop(dir.replace("policy", "allow everybody to do anything\n")), ":1:"),
        (&|| drop(dir.replace("policy", [0xff, 0xfe])), "UTF-8"),
        (&|| drop(dir.file("policy", "")), "empty"),
        (&|| fs::remove_file(&path).unwrap(), "cannot read"),
    ];
    for (rejected, (spoil, told)) in (1..).zip(spoilt) {
        spoil();
        let status = watched.status(|status| status.rejected >= rejected).await;
        let error = status.error.clone().unwrap();
        assert!(error.contains(told) && error.contains(path.to_str().unwrap()), "{error}");
        assert!(!status.last_reload_ok);
        assert_eq!(watched.rules(), ["read"]);
        assert!(watched.readiness.snapshot().is_ready(), "readiness is unchanged");
    }
    // The same text again: confirmed, and nothing in flight is judged again.
    dir.replace("policy", READ);
    let status = watched.status(|status| status.last_reload_ok).await;
    assert_eq!((status.error.as_deref(), status.accepted), (None, 1));
    assert_eq!(watched.handle.current().generation, 1);
    assert!(!watched.version.has_changed().unwrap());
}

#[tokio::test]
async fn an_error_at_the_start_denies_everything_and_the_sidecar_is_not_ready_until_it_is_corrected() {
    let dir = TempDir::new();
    let mut watched = Watched::file(&dir.file("policy", "allow shop/web GET /orders\n"));
    let current = watched.handle.current();
    let id = mantlet_id::SpiffeId::parse("spiffe://prod.test/ns/shop/sa/web").unwrap();
    let view = current.policy.view(mantlet_policy::Peer::Identity(&id), 8080);
    let decision = current.policy.decide_tcp(&view, SystemTime::now());
    assert_eq!((decision.verdict.as_str(), decision.reason.as_str()), ("deny", "policy_invalid"));
    let snapshot = watched.readiness.snapshot();
    let told: Vec<String> = snapshot.conditions().map(ToString::to_string).collect();
    assert!(told[0].contains("policy:1:") && told[0].contains("mantlet policy check"), "{told:?}");
    dir.replace("policy", READ);
    watched.changed().await;
    assert_eq!(watched.rules(), ["read"]);
    assert!(watched.readiness.snapshot().is_ready());
}

#[tokio::test]
async fn a_policy_that_comes_after_the_start_takes_effect() {
    let dir = TempDir::new();
    let mut watched = Watched::file(&dir.path().join("mounted/policy"));
    assert!(!watched.readiness.snapshot().is_ready());
    fs::create_dir(dir.path().join("mounted")).unwrap();
    fs::write(dir.path().join("mounted/policy"), READ).unwrap();
    watched.changed().await;
    assert_eq!(watched.rules(), ["read"]);
}

#[tokio::test]
async fn without_a_policy_the_installation_s_mode_holds() {
    for (mode, shown, reason) in [
        ("deny", "enforce", "deny"),
        ("audit", "audit", "would_deny"),
        ("permissive", "permissive", "would_deny"),
    ] {
        let watched = Watched::start(&["--unconfigured", mode]);
        let current = watched.handle.current();
        let now = SystemTime::now();
        assert_eq!(current.mode(now), shown);
        let id = mantlet_id::SpiffeId::parse("spiffe://prod.test/ns/shop/sa/web").unwrap();
        let decision =
            current.policy.decide_tcp(&current.policy.view(mantlet_policy::Peer::Identity(&id), 1), now);
        assert_eq!((decision.verdict.as_str(), decision.reason.as_str()), (reason, "no_policy"));
        assert!(watched.readiness.snapshot().is_ready());
    }
}

#[tokio::test]
async fn before_the_own_trust_domain_is_known_nobody_is_admitted_and_readiness_says_why() {
    let dir = TempDir::new();
    let path = dir.file("policy", READ);
    let watched = Watched::start(&["--policy", path.to_str().unwrap()]);
    let snapshot = watched.readiness.snapshot();
    let told: Vec<String> = snapshot.conditions().map(ToString::to_string).collect();
    assert!(told[0].contains("trust domain"), "{told:?}");
    assert_eq!(watched.handle.current().generation, 0);
}

#[tokio::test]
async fn the_end_of_a_grant_is_told_like_a_change() {
    let dir = TempDir::new();
    let until = time::OffsetDateTime::now_utc() + Duration::from_secs(2);
    let until = until.format(&time::format_description::well_known::Rfc3339).unwrap();
    let until = format!("{}Z", until.split('.').next().unwrap());
    let mut watched =
        Watched::file(&dir.file("policy", format!("allow shop/web to tcp on 8080 until {until}\n")));
    let ask = || {
        let current = watched.handle.current();
        let id = mantlet_id::SpiffeId::parse("spiffe://prod.test/ns/shop/sa/web").unwrap();
        let view = current.policy.view(mantlet_policy::Peer::Identity(&id), 8080);
        current.policy.decide_tcp(&view, SystemTime::now()).reason.as_str()
    };
    assert_eq!(ask(), "rule");
    watched.changed().await;
    let current = watched.handle.current();
    let id = mantlet_id::SpiffeId::parse("spiffe://prod.test/ns/shop/sa/web").unwrap();
    let view = current.policy.view(mantlet_policy::Peer::Identity(&id), 8080);
    assert_eq!(current.policy.decide_tcp(&view, SystemTime::now()).reason.as_str(), "expired");
    assert_eq!(current.generation, 1);
}

#[tokio::test]
async fn loads_are_told_on_the_event_stream() {
    let dir = TempDir::new();
    let path = dir.file("policy", READ);
    let arguments = ["--workload-api", "unix:///nowhere.sock", "--inbound", "127.0.0.1:0=127.0.0.1:8080"];
    let arguments =
        arguments.into_iter().chain(["--trust-domain", "prod.test", "--policy", path.to_str().unwrap()]);
    let Ok(config::Loaded::Run(config)) = config::load("mantlet-proxy", arguments.map(OsString::from), [])
    else {
        panic!()
    };
    let identity = IdentitySource::new(SourceConfig::new(config.workload_api.clone()));
    let lines = dir.path().join("log");
    let (log, writer) =
        Log::start(fs::File::create(&lines).unwrap(), log::Access::Off, log::Origin::default()).unwrap();
    let blocker = Readiness::new().blocker("policy");
    let watching = PolicyWatch::new(&config, identity.handle(), blocker).logging(log);
    let handle = watching.handle();
    let mut version = handle.subscribe();
    let running = tokio::spawn(watching.run());
    // The first change may come before the watch runs; it is found by the second look.
    dir.replace("policy", WRITE);
    within("the new policy", version.changed()).await.unwrap();
    dir.replace("policy", "garbage\n");
    mantlet_testkit::wait::eventually("the refusal", async || {
        (!handle.status().last_reload_ok).then_some(())
    })
    .await;
    running.abort();
    let _ = running.await;
    assert!(writer.finish(Duration::from_secs(30)));
    let text = fs::read_to_string(lines).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last_loaded = events.iter().rfind(|event| event["event"] == "policy_loaded").unwrap();
    assert_eq!((&last_loaded["rules"], &last_loaded["mode"]), (&json!(2), &json!("enforce")));
    assert!(events.iter().any(|event| event["event"] == "policy_rejected" && event["kept_generation"] == 2));
}

#[tokio::test]
async fn the_running_sidecar_explains_what_it_would_decide() {
    let dir = TempDir::new();
    let watched = Watched::file(&dir.file("policy", READ));
    let ask = |question: Value| watched.handle.explain(&question);
    let request = |peer: &str, method: &str, path: &str| {
        ask(json!({"peer": peer, "port": 8080, "method": method, "path": path})).unwrap()
    };
    let allowed = request("spiffe://prod.test/ns/shop/sa/web", "GET", "/orders/42?x=1");
    assert_eq!((&allowed["decision"], &allowed["rule"]), (&json!("allow"), &json!("read")));
    let denied = request("./web", "DELETE", "/orders/42");
    assert_eq!((&denied["decision"], &denied["reason"]), (&json!("deny"), &json!("default")));
    let nearest = &denied["held_against"];
    assert_eq!(
        (&nearest["rule"], &nearest["line"], &nearest["decided"]),
        (&json!("read"), &json!(1), &json!(false))
    );
    let failing: Vec<&Value> =
        nearest["clauses"].as_array().unwrap().iter().filter(|clause| clause["holds"] == false).collect();
    assert_eq!(failing.len(), 1);
    assert_eq!(failing[0]["what"], "method");
    let line = denied["to_allow"].as_str().unwrap().to_owned();
    let malformed = request("shop/web", "GET", "/orders/../x");
    assert_eq!((&malformed["reason"], malformed["malformed"].is_string()), (&json!("malformed"), true));
    for question in [
        json!({}),
        json!({"peer": "web", "port": 8080}),
        json!({"peer": "shop/*", "port": 8080}),
        json!({"peer": "shop/web", "port": 8080, "method": "GET"}),
        json!({"peer": "shop/web", "port": 80800}),
        json!({"peer": "shop/web", "port": 8080, "methods": "GET"}),
    ] {
        assert!(ask(question.clone()).is_err(), "{question}");
    }
    // The line that it proposes does what it says.
    let mut version = watched.handle.subscribe();
    dir.replace("policy", format!("{READ}{line}\n"));
    within("the proposed line", version.changed()).await.unwrap();
    assert_eq!(request("./web", "DELETE", "/orders/42")["decision"], "allow");
    dir.replace("policy", READ);
    within("the old policy", version.changed()).await.unwrap();
    let described = watched.handle.describe();
    assert_eq!((&described["mode"], &described["rules"]), (&json!("enforce"), &json!(["read"])));
}

#[tokio::test]
async fn asking_about_a_time_to_come_ends_no_grant() {
    let dir = TempDir::new();
    let until = "allow shop/web to GET /orders/** on 8080 until 2099-01-01T00:00Z as read\n";
    let watched = Watched::file(&dir.file("policy", until));
    let reason = |at: Option<u32>| {
        let question =
            json!({"peer": "shop/web", "port": 8080, "method": "GET", "path": "/orders/1", "at": at});
        watched.handle.explain(&question).unwrap()["reason"].clone()
    };
    assert_eq!(
        (reason(None), reason(Some(u32::MAX)), reason(None)),
        ("rule".into(), "expired".into(), "rule".into())
    );
    assert!(
        watched.handle.current().policy.expire(SystemTime::now()).is_some(),
        "it still has an end to come"
    );
}

/// A downward-API file with these annotations.
fn annotations(pairs: &[(&str, &str)]) -> String {
    pairs.iter().map(|(key, value)| format!("{key}={value:?}\n")).collect()
}

fn annotated(path: &std::path::Path, more: &[&str]) -> Watched {
    let flags =
        ["--trust-domain", "prod.test", "--namespace", "shop", "--annotations", path.to_str().unwrap()];
    Watched::start(&[&flags, more].concat())
}

#[tokio::test]
async fn annotations_and_their_fragments_are_one_policy() {
    let dir = TempDir::new();
    let own = ("mantlet.dev/policy", READ);
    let fragment = ("mantlet.dev/policy.platform", "deny mesh to * /admin/** as no-admin\n");
    let foreign = ("kubernetes.io/config.seen", "2026-11-21T09:00:00Z");
    let path = dir.file("annotations", annotations(&[foreign, own, fragment]));
    let mut watched = annotated(&path, &[]);
    assert_eq!(watched.rules(), ["read", "platform.no-admin"]);
    assert_eq!(watched.handle.current().origin, Origin::Annotations);
    // Other people's annotations change all the time; nothing in flight is judged again for them.
    dir.replace("annotations", annotations(&[("kubernetes.io/config.seen", "later"), own, fragment]));
    dir.replace("annotations", annotations(&[own, ("mantlet.dev/mode", "audit until 2999-01-01T00:00Z")]));
    watched.changed().await;
    let current = watched.handle.current();
    assert_eq!((current.generation, current.mode(SystemTime::now())), (2, "audit"));
    assert_eq!(watched.rules(), ["read"]);
}

#[tokio::test]
async fn d52_all_policy_annotations_deleted_live_deny_everything_whatever_newcomers_get() {
    let dir = TempDir::new();
    let ours = ("mantlet.dev/injected-by", "0.1.0");
    let path = dir.file("annotations", annotations(&[ours]));
    let mut watched = annotated(&path, &["--unconfigured", "audit"]);
    let ask = |watched: &Watched| {
        let current = watched.handle.current();
        let id = mantlet_id::SpiffeId::parse("spiffe://prod.test/ns/shop/sa/web").unwrap();
        let view = current.policy.view(mantlet_policy::Peer::Identity(&id), 8080);
        let decision = current.policy.decide_tcp(&view, SystemTime::now());
        (decision.verdict.as_str(), decision.reason.as_str())
    };
    assert_eq!(ask(&watched), ("would_deny", "no_policy"));
    dir.replace("annotations", annotations(&[ours, ("mantlet.dev/policy", READ)]));
    watched.changed().await;
    assert_eq!(watched.rules(), ["read"]);
    dir.replace("annotations", annotations(&[ours]));
    watched.changed().await;
    assert_eq!(ask(&watched), ("deny", "no_policy"));
    assert!(watched.handle.status().last_reload_ok);
}

#[tokio::test]
async fn an_annotation_that_this_version_does_not_know_is_an_error_and_not_ignored() {
    let dir = TempDir::new();
    let own = ("mantlet.dev/policy", READ);
    let watched = annotated(&dir.file("annotations", annotations(&[own])), &[]);
    for (rejected, (pair, told)) in (1..).zip([
        (("mantlet.dev/polcy", READ), "mantlet.dev/polcy"),
        (("mantlet.dev/mode", "audit"), "audit needs an end"),
        (("mantlet.dev/policy.platform", "deny mesh to everything\n"), "mantlet.dev/policy.platform:1:"),
    ]) {
        dir.replace("annotations", annotations(&[own, pair]));
        let status = watched.status(|status| status.rejected >= rejected).await;
        assert!(status.error.as_deref().unwrap().contains(told), "{status:?}");
        assert_eq!(watched.rules(), ["read"]);
    }
    dir.replace("annotations", "garbage\n");
    let status = watched.status(|status| status.rejected >= 4).await;
    assert!(status.error.as_deref().unwrap().contains("line 1"), "{status:?}");
}
