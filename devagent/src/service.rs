//! The gRPC service: header check, attestation, streams.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use mantlet_proto::workload::spiffe_workload_api_server::SpiffeWorkloadApi;
use mantlet_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};
use mantlet_proto::{SECURITY_HEADER, SECURITY_HEADER_VALUE};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

use crate::caller::Caller;
use crate::core::{Answer, Core, Refusal, chain};

/// Longest and shortest time between two looks at an answer. The clock that counts is the wall
/// clock, which a suspended laptop moves while timers stand still.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));

/// Refused callers that are remembered.
const MAX_TOLD: usize = 1_024;

type StreamOf<T> = ReceiverStream<Result<T, Status>>;
type Build<T> = fn(&Core, &Caller, SystemTime) -> Result<Answer<T>, Refusal>;

/// The Workload API over a [`Core`].
pub(crate) struct Service {
    core: Arc<Core>,
    stopping: watch::Receiver<bool>,
    /// Callers whose refusal stands in the log: a sidecar that waits for its entry asks for ever.
    told: Mutex<BTreeSet<(u32, Option<u32>)>>,
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = StreamOf<X509svidResponse>;
    type FetchX509BundlesStream = StreamOf<X509BundlesResponse>;
    type FetchJWTBundlesStream = StreamOf<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        check_header(&request)?;
        self.stream(attest(&request)?, Core::x509_svids)
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        check_header(&request)?;
        self.stream(attest(&request)?, Core::x509_bundles)
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        check_header(&request)?;
        Err(no_jwt())
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        check_header(&request)?;
        Err(no_jwt())
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        check_header(&request)?;
        Err(no_jwt())
    }
}

// === impl Service ===

impl Service {
    pub(crate) fn new(core: Arc<Core>, stopping: watch::Receiver<bool>) -> Self {
        Self { core, stopping, told: Mutex::new(BTreeSet::new()) }
    }

    /// Says once per process that no entry matches it.
    fn tell(&self, refusal: &Refusal, caller: &Caller) {
        if !matches!(refusal, Refusal::NoIdentity) {
            return;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= MAX_TOLD {
            told.clear();
        }
        if told.insert((caller.uid, caller.pid)) {
            tracing::info!(%caller, "no entry matches; the selectors of one must fit this caller");
        }
    }

    /// Answers at once, then after each change that concerns the caller, with the full state each
    /// time (Workload API 4.3, 4.4).
    fn stream<T>(&self, caller: Caller, build: Build<T>) -> Result<Response<StreamOf<T>>, Status>
    where
        T: Clone + PartialEq + Send + 'static,
    {
        let core = Arc::clone(&self.core);
        // Subscribed before the first answer is built: no change between the two is lost.
        let changes = core.subscribe();
        let answer = build(&core, &caller, SystemTime::now()).map_err(|refusal| {
            self.tell(&refusal, &caller);
            refuse(&refusal, &caller)
        })?;
        let (sender, receiver) = mpsc::channel(1);
        let stopping = self.stopping.clone();
        tokio::spawn(async move {
            // It ends when the caller leaves, when the agent stops, or with a status.
            let _ = follow(core, caller, build, answer, changes, stopping, sender).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

async fn follow<T: Clone + PartialEq>(
    core: Arc<Core>,
    caller: Caller,
    build: Build<T>,
    first: Answer<T>,
    mut changes: watch::Receiver<u64>,
    mut stopping: watch::Receiver<bool>,
    sender: mpsc::Sender<Result<T, Status>>,
) -> Result<(), mpsc::error::SendError<Result<T, Status>>> {
    let Answer { message: mut last, mut renew_at } = first;
    sender.send(Ok(last.clone())).await?;
    loop {
        let left = renew_at.duration_since(SystemTime::now()).unwrap_or_default();
        tokio::select! {
            () = sender.closed() => return Ok(()),
            () = stop(&mut stopping) => {
                return sender.send(Err(Status::unavailable("the agent is stopping"))).await;
            }
            _ = changes.changed() => {}
            () = tokio::time::sleep(left.clamp(LOOK.0, LOOK.1)) => {}
        }
        match build(&core, &caller, SystemTime::now()) {
            Ok(answer) => {
                renew_at = answer.renew_at;
                if answer.message != last {
                    last = answer.message;
                    sender.send(Ok(last.clone())).await?;
                }
            }
            Err(refusal) => return sender.send(Err(refuse(&refusal, &caller))).await,
        }
    }
}

/// A function of its own: what `wait_for` returns is a lock and must not live across an await.
async fn stop(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// Exactly one header, with exactly this value, before anything is known about the caller
/// (Workload Endpoint 3 and 6): it keeps away requests that a browser or a proxy was tricked into.
fn check_header<T>(request: &Request<T>) -> Result<(), Status> {
    let mut values = request.metadata().get_all(SECURITY_HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value.as_encoded_bytes() == SECURITY_HEADER_VALUE.as_bytes() => Ok(()),
        _ => Err(Status::invalid_argument("security header missing from request")),
    }
}

fn attest<T>(request: &Request<T>) -> Result<Caller, Status> {
    request
        .extensions()
        .get::<UdsConnectInfo>()
        .and_then(|info| info.peer_cred.as_ref())
        .map(Caller::attest)
        .ok_or_else(|| Status::unavailable("workload attestation failed: the kernel names no peer"))
}

fn refuse(refusal: &Refusal, caller: &Caller) -> Status {
    match refusal {
        Refusal::NoIdentity => Status::permission_denied(refusal.to_string()),
        Refusal::Certificate(_) => {
            let cause = chain(refusal);
            tracing::error!(%caller, cause, "cannot sign");
            Status::unavailable(cause)
        }
    }
}

fn no_jwt() -> Status {
    Status::unimplemented("this development agent serves X.509-SVIDs only")
}
