//! Another mutating webhook beside ours.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mantlet_testkit::eventually;
use mantlet_testkit::real_peers::RealPeers;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{Cluster, init_containers, pod};
use crate::api::base64;

/// A webhook that puts an init container and a container of its own in front of all others.
struct Neighbour {
    url: String,
    bundle: String,
    called: Arc<AtomicUsize>,
}

impl Neighbour {
    async fn start() -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let called = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&called);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, counter) = (acceptor.clone(), Arc::clone(&counter));
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let service = service_fn(move |request| answer(request, Arc::clone(&counter)));
                    let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = http.serve_connection(TokioIo::new(tls), service).await;
                });
            }
        });
        Self { url, bundle: base64(certificate.pem().as_bytes()), called }
    }
}

async fn answer(
    request: Request<Incoming>,
    called: Arc<AtomicUsize>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let review: Value = serde_json::from_slice(&body).unwrap();
    called.fetch_add(1, Ordering::Relaxed);
    let mut steps = Vec::new();
    for list in ["initContainers", "containers"] {
        let there = review["request"]["object"]["spec"][list].as_array().cloned().unwrap_or_default();
        let name = format!("vault-{}", list.to_lowercase());
        let container = json!({"name": name, "image": "vault:1"});
        if there.is_empty() {
            steps.push(json!({"op": "add", "path": format!("/spec/{list}"), "value": [container]}));
        } else if !there.iter().any(|known| known["name"] == name.as_str()) {
            steps.push(json!({"op": "add", "path": format!("/spec/{list}/0"), "value": container}));
        }
    }
    let patch = base64(json!(steps).to_string().as_bytes());
    let response =
        json!({"uid": review["request"]["uid"], "allowed": true, "patchType": "JSONPatch", "patch": patch});
    let answer =
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
    let mut response = Response::new(Full::from(answer.to_string()));
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    Ok(response)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_webhook_s_containers_come_after_ours_whoever_is_called_first() {
    let test = "another_webhook_s_containers_come_after_ours_whoever_is_called_first";
    let Some(peers) = RealPeers::find(test) else { return };
    let cluster = Cluster::start(&peers).await;
    let server = &cluster.server;
    let _injector = cluster.ready().await;
    // Webhooks are called in the order of their configurations' names.
    for name in ["aaa-before-ours", "zzz-after-ours"] {
        let neighbour = Neighbour::start().await;
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [{
                "name": "vault.example.org",
                "clientConfig": {"url": neighbour.url, "caBundle": neighbour.bundle},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "reinvocationPolicy": "IfNeeded",
            }],
        });
        server.create(&configuration).await.unwrap();
        let created = eventually("a pod of both", async || {
            let created = server.try_create(&pod("shop", name)).await.unwrap();
            (init_containers(&created).len() == 3).then_some(created)
        })
        .await;
        assert_eq!(
            init_containers(&created),
            ["mantlet-init", "mantlet-proxy", "vault-initcontainers"],
            "{name}"
        );
        let names: Vec<&str> = created["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|c| c["name"].as_str())
            .collect();
        assert_eq!(names, ["vault-containers", "app"], "theirs stay where they put them");
        assert!(neighbour.called.load(Ordering::Relaxed) > 0);
        let path = ["delete", "mutatingwebhookconfiguration", name];
        cluster.kubectl(&path).await.unwrap();
        eventually("the neighbour to be gone", async || {
            let created = server.try_create(&pod("shop", "alone")).await.unwrap();
            (init_containers(&created).len() == 2).then_some(())
        })
        .await;
    }
}
