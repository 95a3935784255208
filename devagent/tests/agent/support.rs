//! A running agent in a directory of its own, and the client side of the Workload API.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mantlet_devagent::{Config, Entry, Handle, RunError, Server};
use mantlet_id::{SpiffeId, TrustDomain};
use mantlet_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use mantlet_proto::workload::{X509svidRequest, X509svidResponse};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Longer than anything here takes; reaching it is a failure, never a way to go on.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Agent {
    pub(crate) directory: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), RunError>>,
}

impl Agent {
    pub(crate) fn start() -> Self {
        Self::start_with(scratch(), |_| {})
    }

    pub(crate) fn start_with(directory: PathBuf, change: impl FnOnce(&mut Config)) -> Self {
        let socket = directory.join("agent.sock");
        let mut config = Config::new(&socket, domain("a.test"));
        config.trust_domains.push(domain("b.test"));
        change(&mut config);
        let server = Server::bind(config).unwrap();
        let handle = server.handle();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(server.run(async move {
            let _ = stopped.await;
        }));
        Self { directory, socket, handle, stop: Some(stop), running }
    }

    pub(crate) async fn stop(mut self) -> PathBuf {
        self.stop.take().unwrap().send(()).unwrap();
        within(&mut self.running).await.unwrap().unwrap();
        self.directory.clone()
    }

    pub(crate) async fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        client(&self.socket).await
    }

    pub(crate) async fn svids(&self) -> Result<Svids, Status> {
        let stream = within(self.client().await.fetch_x509svid(signed(X509svidRequest {}))).await?;
        Ok(Svids(stream.into_inner()))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// An open stream of X.509-SVIDs.
pub(crate) struct Svids(pub(crate) Streaming<X509svidResponse>);

impl Svids {
    pub(crate) async fn next(&mut self) -> Result<X509svidResponse, Status> {
        within(self.0.message()).await.map(|message| message.expect("the stream ended without a status"))
    }

    pub(crate) async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

pub(crate) async fn client(socket: &Path) -> SpiffeWorkloadApiClient<Channel> {
    SpiffeWorkloadApiClient::new(channel(socket).await)
}

pub(crate) async fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    within(endpoint.connect_with_connector(connector)).await.unwrap()
}

/// A request with the header that the standard demands.
pub(crate) fn signed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it did not happen in time")
}

pub(crate) fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

pub(crate) fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

pub(crate) fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// An entry that this test process satisfies.
pub(crate) fn mine(text: &str) -> Entry {
    Entry::for_uid(id(text), own_uid())
}

pub(crate) fn scratch() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("mantlet-agent-{}-{number}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir(&path).unwrap();
    path
}

/// The certificates of a bundle or of a chain.
pub(crate) fn certificates(mut der: &[u8]) -> Vec<X509Certificate<'_>> {
    let mut found = Vec::new();
    while !der.is_empty() {
        let (rest, certificate) = X509Certificate::from_der(der).unwrap();
        found.push(certificate);
        der = rest;
    }
    found
}

/// Whether the first SVID of `message` was signed by an authority of its bundle; says which.
pub(crate) fn signer(message: &X509svidResponse) -> Option<usize> {
    let svid = &message.svids[0];
    let leaf = &certificates(&svid.x509_svid)[0];
    certificates(&svid.bundle).iter().position(|authority| authority.subject() == leaf.issuer())
}
