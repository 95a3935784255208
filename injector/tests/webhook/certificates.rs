//! The serving certificate: shared without a race, trusted before it is shown, exchanged without a dropped request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mantlet_testkit::wait::eventually;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::json;
use time::OffsetDateTime;

use crate::api::Api;
use crate::client::{Caller, NAME};
use crate::injector::Injector;
use crate::pods::{create, pod};

const DAY: time::Duration = time::Duration::DAY;

/// A certificate and its key, as PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    key: String,
}

/// An authority and a certificate of it; each given by how long ago it was issued and how long it lives on.
fn made(
    authority: (time::Duration, time::Duration),
    serving: (time::Duration, time::Duration),
) -> (Pair, Pair) {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "mantlet-injector of the test");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params.not_before, params.not_after) = (now - authority.0, now + authority.1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    let root = Pair { certificate, key: key.serialize_pem() };
    let issuer = Issuer::new(params, key);
    let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    (params.not_before, params.not_after) = (now - serving.0, now + serving.1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap().pem();
    (root, Pair { certificate, key: key.serialize_pem() })
}

/// An authority that is to be followed by the next one, and a certificate of it.
pub(crate) fn due_authority() -> (Pair, Pair) {
    made((DAY * 300, DAY * 30), (time::Duration::HOUR, time::Duration::HOUR * 23))
}

pub(crate) fn data((root, serving): &(Pair, Pair)) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("authority.crt", root.certificate.clone()),
        ("authority.key", root.key.clone()),
        ("tls.crt", serving.certificate.clone()),
        ("tls.key", serving.key.clone()),
    ])
}

fn count(bundle: &str) -> usize {
    bundle.matches("BEGIN CERTIFICATE").count()
}

#[tokio::test]
async fn two_replicas_that_start_at_once_share_one_certificate() {
    let api = Api::start().await;
    let (one, two, three) = tokio::join!(Injector::start(&api), Injector::start(&api), Injector::start(&api));
    let bundles: BTreeSet<String> = api.bundles().into_iter().collect();
    assert_eq!(bundles.len(), 1, "every webhook has the same bundle");
    assert_eq!(count(bundles.first().unwrap()), 1);
    let writes: Vec<_> = api.writes_to("/secrets/").into_iter().map(|write| write.method).collect();
    assert_eq!(writes, ["POST"], "whoever lost the race has read");
    let mut shown = BTreeSet::new();
    for injector in [&one, &two, &three] {
        shown.insert(injector.caller(&api).await.certificate);
    }
    assert_eq!(shown.len(), 1);
}

#[tokio::test]
async fn only_the_bundle_is_ever_written_in_a_webhook_configuration() {
    let api = Api::start().await;
    let before = api.configurations();
    let injector = Injector::start(&api).await;
    assert_eq!(api.configurations(), before);
    for write in api.writes_to("webhookconfigurations") {
        assert_eq!(write.method, "PATCH");
        for step in write.body.as_array().unwrap() {
            let path = step["path"].as_str().unwrap();
            let bundle = step["op"] == "add" && path.ends_with("/clientConfig/caBundle");
            let guard = step["op"] == "test" && path == "/metadata/resourceVersion";
            assert!(bundle || guard, "{step}");
        }
    }
    // Somebody else changes a selector and takes the bundles away, as an upgrade of the chart does.
    api.clear_bundles();
    eventually("the bundles to be back", async || {
        api.bundles().iter().all(|bundle| count(bundle) == 1).then_some(())
    })
    .await;
    assert_eq!(api.configurations(), before);
    injector.caller(&api).await;
}

#[tokio::test]
async fn nobody_is_ready_before_the_api_server_can_trust_it_and_the_reason_is_told() {
    let api = Api::start().await;
    api.delete_validating();
    let injector = Injector::spawn(&api, "{}", &[]).await;
    let not_ready = eventually("the reason", async || {
        let response = injector.get("/readyz").await;
        response.text().contains("ValidatingWebhookConfiguration").then_some(response)
    })
    .await;
    assert_eq!(not_ready.status, 503);
    assert_eq!(
        not_ready.text(),
        "not ready: certificate: ValidatingWebhookConfiguration mantlet-injector: there is no such object\n"
    );
    assert_eq!(injector.get("/livez").await.status, 200);
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/mantlet-injector";
    let hook = json!({"name": "v.mantlet.dev", "clientConfig": {"url": "https://x"}});
    api.put(path, json!({"metadata": {"name": "mantlet-injector"}, "webhooks": [hook]}));
    injector.event("ready").await;
    assert_eq!(injector.get("/readyz").await.text(), "ready\n");
    assert_eq!(injector.metric("mantlet_injector_ready", &[]).await, 1.0);
    // An API server that is away says nothing about what it trusts.
    api.set_down(true);
    injector.metric_reaches("mantlet_injector_kubernetes_errors_total", &[("call", "secret")], 2.0).await;
    assert_eq!(injector.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_secret_that_is_gone_comes_back_as_it_was_and_a_damaged_one_is_replaced() {
    let api = Api::start().await;
    let injector = Injector::start(&api).await;
    let first = api.secret().unwrap();
    api.delete_secret();
    eventually("the Secret to be back", async || api.secret()).await;
    assert_eq!(api.secret().unwrap(), first, "nobody has to trust anew");

    let mut damaged: BTreeMap<&str, String> =
        BTreeMap::from([("authority.crt", "no certificate".to_owned())]);
    damaged.insert("tls.key", "no key".to_owned());
    api.set_secret(&damaged);
    eventually("the Secret to be repaired", async || (api.secret()? == first).then_some(())).await;
    assert_eq!(api.secret_object()["metadata"]["labels"]["of"], "somebody", "what is not ours stays");
    injector.caller(&api).await;
    injector.metric_reaches("mantlet_injector_rotations_total", &[("step", "repaired")], 1.0).await;
}

/// Calls a webhook the way API servers do, one with a connection for each call that trusts what the configuration says
/// at that moment, one with a connection that it keeps, until told to stop.
struct Calls {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Calls {
    fn begin(api: &Api, injectors: &[&Injector]) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = Vec::new();
        for addr in injectors.iter().map(|injector| injector.addr) {
            for keeps in [false, true] {
                let (api, stop, answered) = (api.clone(), Arc::clone(&stop), Arc::clone(&answered));
                tasks.push(tokio::spawn(async move {
                    let mut kept: Option<Caller> = None;
                    while !stop.load(Ordering::Relaxed) {
                        let bundle = api.bundles().remove(0);
                        let mut caller = match kept.take() {
                            Some(caller) => caller,
                            None => Caller::try_connect(addr, &bundle).await.expect("a handshake"),
                        };
                        let response = caller.review("/mutate", &create(&pod())).await;
                        assert_eq!(response["allowed"], true, "{response}");
                        answered.fetch_add(1, Ordering::Relaxed);
                        kept = keeps.then_some(caller);
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }));
            }
        }
        Self { stop, answered, tasks }
    }

    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("no call fails");
        }
        self.answered.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_under_load_and_no_call_fails() {
    let api = Api::start().await;
    let due = made((DAY, DAY * 300), (DAY, time::Duration::HOUR));
    api.set_secret(&data(&due));
    let (one, two) = tokio::join!(Injector::start(&api), Injector::start(&api));
    let calls = Calls::begin(&api, &[&one, &two]);
    eventually("a renewed certificate", async || {
        let renewed = api.secret()?["tls.crt"] != due.1.certificate;
        renewed.then_some(())
    })
    .await;
    let bundle = api.bundles().remove(0);
    for injector in [&one, &two] {
        eventually("the renewed certificate to be shown", async || {
            let shown = Caller::try_connect(injector.addr, &bundle).await.ok()?.certificate;
            (shown == der_of(&api.secret()?["tls.crt"])).then_some(())
        })
        .await;
    }
    assert_eq!(api.secret().unwrap()["authority.crt"], due.0.certificate, "of the same authority");
    let renewed = |injector| async move {
        Injector::metric(injector, "mantlet_injector_rotations_total", &[("step", "renewed")]).await
    };
    assert_eq!(renewed(&one).await + renewed(&two).await, 1.0, "by one of them");
    assert!(calls.end().await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_is_published_beside_the_old_one_before_anything_of_it_is_shown() {
    let api = Api::start().await;
    let due = due_authority();
    api.set_secret(&data(&due));
    let (one, two) = tokio::join!(Injector::start(&api), Injector::start(&api));
    let calls = Calls::begin(&api, &[&one, &two]);
    eventually("the next authority to sign", async || {
        (api.secret()?["authority.crt"] != due.0.certificate).then_some(())
    })
    .await;
    let settled = api.secret().unwrap();
    for injector in [&one, &two] {
        eventually("the certificate of the next authority to be shown", async || {
            // Only the new authority is trusted here.
            Caller::try_connect(injector.addr, &settled["authority.crt"]).await.ok()
        })
        .await;
    }
    assert!(calls.end().await > 0);
    // Both are trusted until the last certificate of the old one is over.
    eventually("both in the bundle", async || {
        api.bundles().iter().all(|bundle| count(bundle) == 2).then_some(())
    })
    .await;
    assert!(api.bundles()[0].contains(&settled["authority.crt"]));
    assert!(api.bundles()[0].contains(due.0.certificate.trim()), "{}", api.bundles()[0]);

    // Seen from outside, in the order of the writes: prepared, published in both configurations, promoted.
    let writes = api.writes();
    let place = |what: &str, found: &dyn Fn(&str, &str) -> bool| {
        let at = writes.iter().position(|write| found(&write.path, &write.body.to_string()));
        at.unwrap_or_else(|| panic!("{what} in {writes:#?}"))
    };
    let next = crate::api::base64(settled["authority.crt"].as_bytes());
    let prepared =
        place("prepared", &|path, body| path.contains("/secrets/") && body.contains("next-authority.crt"));
    let promoted = place("promoted", &|path, body| {
        path.contains("/secrets/") && body.contains(&format!("\"authority.crt\":\"{next}\""))
    });
    for kind in ["mutatingwebhook", "validatingwebhook"] {
        let both = place(kind, &|path, body| {
            let bundle = body.split("caBundle\",\"value\":\"").nth(1).and_then(|rest| rest.split('"').next());
            let bundle = bundle.map(|text| String::from_utf8(crate::api::unbase64(text)).unwrap());
            path.contains(kind) && bundle.is_some_and(|bundle| count(&bundle) == 2)
        });
        assert!(prepared < both && both < promoted, "{prepared} {both} {promoted}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_leaves_the_bundle_when_its_last_certificate_is_over_and_no_call_fails() {
    let api = Api::start().await;
    // What the old authority has signed lives a few seconds, and so does what the next one signs.
    let due = made((DAY * 300, DAY * 30), (time::Duration::SECOND * 10, time::Duration::SECOND * 9));
    api.set_secret(&data(&due));
    let flags = ["--certificate-life", "9s"];
    let (one, two) = tokio::join!(Injector::with(&api, "{}", &flags), Injector::with(&api, "{}", &flags));
    let calls = Calls::begin(&api, &[&one, &two]);
    let old = due.0.certificate.trim();
    eventually("both authorities in every bundle", async || {
        api.bundles().iter().all(|bundle| count(bundle) == 2 && bundle.contains(old)).then_some(())
    })
    .await;
    eventually("the old authority in no bundle", async || {
        api.bundles().iter().all(|bundle| count(bundle) == 1 && !bundle.contains(old)).then_some(())
    })
    .await;
    // Of the old authority nothing is left that somebody might still be shown.
    let shown_until = CertificateDer::from_pem_slice(due.1.certificate.as_bytes()).unwrap();
    let (_, shown_until) = x509_parser::parse_x509_certificate(&shown_until).unwrap();
    let now = OffsetDateTime::now_utc().unix_timestamp();
    assert!(shown_until.validity().not_after.timestamp() <= now + 1, "its certificate was not over");

    let secret = api.secret().unwrap();
    assert!(!secret.keys().any(|key| key.starts_with("previous-")), "{:?}", secret.keys());
    let authority = api.bundles().remove(0);
    assert_eq!(authority.trim(), secret["authority.crt"].trim());
    for injector in [&one, &two] {
        assert!(
            Caller::try_connect(injector.addr, old).await.is_err(),
            "of the old authority nothing is shown"
        );
        Caller::try_connect(injector.addr, &authority).await.unwrap();
    }
    for step in ["prepared", "promoted", "retired"] {
        let labels = [("step", step)];
        let all = one.metric("mantlet_injector_rotations_total", &labels).await
            + two.metric("mantlet_injector_rotations_total", &labels).await;
        assert_eq!(all, 1.0, "{step}, by one of them");
    }
    assert!(calls.end().await > 0);
}

fn der_of(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}
