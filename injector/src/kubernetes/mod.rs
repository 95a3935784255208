//! What this program asks of the API server: one Secret, the bundles of two webhook configurations, Events, labels of
//! namespaces, and for the directory lists and watches of pods, Services and EndpointSlices. Nothing else; the role in
//! the chart says the same.

mod namespaces;
mod watch;

use std::{collections::BTreeMap, time::Duration};

use http::{Method, Request, header::CONTENT_TYPE};
use k8s_openapi::ByteString;
use kube::{Client, Config};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time;

pub(crate) use self::namespaces::Namespaces;

/// Longest that one request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What requests with a JSON patch say they have.
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const JSON: &str = "application/json";

/// The API server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
}

/// Why the API server did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no such object.
    #[error("there is no such object")]
    NotFound,
    /// Somebody else has changed or made it meanwhile.
    #[error("somebody else was quicker")]
    Conflict,
    /// No answer.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Timeout,
    /// It does not have what it should have.
    #[error("{0}")]
    Shape(String),
    /// What was asked about is too long ago: everything has to be listed again.
    #[error("too long ago")]
    Gone,
    /// Anything else.
    #[error("{}", chain(.0))]
    Kube(#[source] Box<kube::Error>),
    /// How to reach it is not known.
    #[error("how to reach the API server is not known: {0}")]
    Config(#[from] kube::config::InferConfigError),
}

/// A Secret, as far as it is ours.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Secret {
    pub(crate) metadata: Metadata,
    #[serde(default)]
    pub(crate) data: BTreeMap<String, ByteString>,
    /// What is in it besides, kept as it is.
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// The part of `metadata` that is read.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) resource_version: String,
    /// What is in it besides, kept as it is.
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// Which of the two kinds of configurations.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ConfigurationKind {
    Mutating,
    Validating,
}

/// The bundles in a webhook configuration.
#[derive(Clone, Debug)]
pub(crate) struct Bundles {
    resource_version: String,
    /// One of each webhook, in order; empty where there is none.
    pub(crate) of_webhooks: Vec<Vec<u8>>,
}

// === impl Cluster ===

impl Cluster {
    /// The API server that the environment names: the files of the service account in a pod, `KUBECONFIG` elsewhere.
    ///
    /// # Errors
    /// Neither is there, or it cannot be read.
    pub(crate) async fn infer() -> Result<Self, Error> {
        let mut config = Config::infer().await?;
        config.connect_timeout = Some(PATIENCE);
        let client = Client::try_from(config).map_err(Error::from)?;
        Ok(Self { client })
    }

    /// Major and minor number of the API server's version.
    pub(crate) async fn version(&self) -> Result<(u32, u32), Error> {
        #[derive(Deserialize)]
        struct Info {
            major: String,
            minor: String,
        }
        let info: Info = self.call(Method::GET, "/version", JSON, None).await?;
        // Some distributions write `30+`.
        let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok();
        let version = number(&info.major).zip(number(&info.minor));
        version.ok_or_else(|| Error::Shape(format!("its version is \"{}.{}\"", info.major, info.minor)))
    }

    /// A Secret; `None` if there is none.
    pub(crate) async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, Error> {
        match self.call(Method::GET, &secret_path(namespace, name), JSON, None).await {
            Ok(secret) => Ok(Some(secret)),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a Secret, unless there is one: that is a conflict.
    pub(crate) async fn create_secret(
        &self,
        namespace: &str,
        name: &str,
        data: BTreeMap<String, ByteString>,
    ) -> Result<(), Error> {
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/managed-by": "mantlet-injector"}},
            "type": "Opaque",
            "data": data,
        });
        let path = format!("/api/v1/namespaces/{namespace}/secrets");
        self.call::<Value>(Method::POST, &path, JSON, Some(&secret)).await.map(drop)
    }

    /// Replaces the content of a Secret, unless it has changed since it was read: that is a conflict.
    pub(crate) async fn replace_secret(
        &self,
        namespace: &str,
        secret: Secret,
        data: BTreeMap<String, ByteString>,
    ) -> Result<(), Error> {
        let path = secret_path(namespace, &secret.metadata.name);
        let secret = Secret { data, ..secret };
        self.call::<Value>(Method::PUT, &path, JSON, Some(&json!(secret))).await.map(drop)
    }

    /// The bundles of a webhook configuration.
    pub(crate) async fn bundles(&self, kind: ConfigurationKind, name: &str) -> Result<Bundles, Error> {
        #[derive(Deserialize)]
        struct Configuration {
            metadata: Metadata,
            #[serde(default)]
            webhooks: Vec<Hook>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Hook {
            client_config: ClientConfig,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct ClientConfig {
            #[serde(default)]
            ca_bundle: Option<ByteString>,
        }
        let found: Configuration = self.call(Method::GET, &kind.path(name), JSON, None).await?;
        let bundle = |hook: Hook| hook.client_config.ca_bundle.unwrap_or_default().0;
        Ok(Bundles {
            resource_version: found.metadata.resource_version,
            of_webhooks: found.webhooks.into_iter().map(bundle).collect(),
        })
    }

    /// Sets the bundle of every webhook in a configuration, and nothing else in it, unless it has changed since it was
    /// read: that is a conflict.
    pub(crate) async fn publish(
        &self,
        kind: ConfigurationKind,
        name: &str,
        seen: &Bundles,
        bundle: &[u8],
    ) -> Result<(), Error> {
        let bundle = json!(ByteString(bundle.to_vec()));
        let test = json!({"op": "test", "path": "/metadata/resourceVersion", "value": seen.resource_version});
        let set = |at: usize| json!({"op": "add", "path": format!("/webhooks/{at}/clientConfig/caBundle"), "value": bundle});
        let steps: Vec<Value> = [test].into_iter().chain((0..seen.of_webhooks.len()).map(set)).collect();
        match self.call::<Value>(Method::PATCH, &kind.path(name), JSON_PATCH, Some(&json!(steps))).await {
            // The test did not hold: 422 of the API server's patch handler.
            Err(Error::Kube(error)) if code(&error) == Some(422) => Err(Error::Conflict),
            done => done.map(drop),
        }
    }

    /// The labels of a namespace.
    pub(crate) async fn namespace_labels(&self, name: &str) -> Result<BTreeMap<String, String>, Error> {
        #[derive(Deserialize)]
        struct Namespace {
            metadata: Labels,
        }
        #[derive(Deserialize)]
        struct Labels {
            #[serde(default)]
            labels: Option<BTreeMap<String, String>>,
        }
        let found: Namespace =
            self.call(Method::GET, &format!("/api/v1/namespaces/{name}"), JSON, None).await?;
        Ok(found.metadata.labels.unwrap_or_default())
    }

    /// Makes an Event, or, where one of this name is, says that it happened again.
    pub(crate) async fn event(&self, namespace: &str, name: &str, event: &Value) -> Result<(), Error> {
        let all = format!("/api/v1/namespaces/{namespace}/events");
        match self.call::<Value>(Method::POST, &all, JSON, Some(event)).await {
            Err(Error::Conflict) => {
                let again = json!({"lastTimestamp": event.get("lastTimestamp")});
                let path = format!("{all}/{name}");
                self.call::<Value>(Method::PATCH, &path, MERGE_PATCH, Some(&again)).await.map(drop)
            }
            done => done.map(drop),
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        content: &str,
        body: Option<&Value>,
    ) -> Result<T, Error> {
        let body = body.map(Value::to_string).unwrap_or_default().into_bytes();
        let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, content).body(body);
        let request = request.map_err(|error| Error::Shape(format!("{path}: {error}")))?;
        time::timeout(PATIENCE, self.client.request(request))
            .await
            .map_err(|_| Error::Timeout)?
            .map_err(Error::from)
    }
}

// === impl ConfigurationKind ===

impl ConfigurationKind {
    /// As Kubernetes calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mutating => "MutatingWebhookConfiguration",
            Self::Validating => "ValidatingWebhookConfiguration",
        }
    }

    fn path(self, name: &str) -> String {
        let plural = match self {
            Self::Mutating => "mutatingwebhookconfigurations",
            Self::Validating => "validatingwebhookconfigurations",
        };
        format!("/apis/admissionregistration.k8s.io/v1/{plural}/{name}")
    }
}

// === impl Error ===

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        match code(&error) {
            Some(404) => Self::NotFound,
            Some(409) => Self::Conflict,
            Some(410) => Self::Gone,
            _ => Self::Kube(Box::new(error)),
        }
    }
}

fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// An error with its causes: the outermost alone says "client error".
fn chain(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}

fn secret_path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/secrets/{name}")
}
