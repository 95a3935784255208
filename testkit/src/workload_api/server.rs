//! The gRPC side: one thread, one runtime, gone without a trace when it stops.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use mantlet_proto::workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use mantlet_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};
use mantlet_proto::{SECURITY_HEADER, SECURITY_HEADER_VALUE};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{UnboundedReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::{Call, CallRecord, Mode, Running, State, Step};

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

struct Service(Arc<State>);

/// Binds before it returns: who is told the endpoint can connect.
pub(super) fn start(socket: &Path, state: Arc<State>) -> Running {
    let listener = std::os::unix::net::UnixListener::bind(socket).expect("socket of the Workload API");
    listener.set_nonblocking(true).expect("non-blocking socket");
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        // Dropping the runtime drops every connection: a stop is a kill.
        runtime.expect("runtime").block_on(async move {
            let listener = tokio::net::UnixListener::from_std(listener).expect("socket");
            let incoming = UnixListenerStream::new(listener);
            let service = SpiffeWorkloadApiServer::new(Service(state));
            tokio::select! {
                served = Server::builder().serve_with_incoming(service, incoming) => {
                    served.expect("the Workload API serves");
                }
                _ = stopped => {}
            }
        });
    });
    Running { stop: Some(stop), thread: Some(thread) }
}

/// SPIFFE_Workload_Endpoint.md 3: exactly one value, `true`, checked before anything else.
fn check_header<T>(request: &Request<T>) -> Result<(), Status> {
    match &security_header(request)[..] {
        [value] if value == SECURITY_HEADER_VALUE => Ok(()),
        _ => Err(Status::invalid_argument("security header missing from request")),
    }
}

fn security_header<T>(request: &Request<T>) -> Vec<String> {
    let values = request.metadata().get_all(SECURITY_HEADER);
    values.iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
}

/// Follows the mode for as long as the caller listens.
fn automatic(state: &State) -> Messages<X509svidResponse> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut mode = state.mode.subscribe();
    mode.mark_changed();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                changed = mode.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
            let now = mode.borrow_and_update().clone();
            let sent = match now {
                Mode::Scripted => Ok(()),
                Mode::Serving(message) => sender.send(Ok(*message)),
                Mode::Refusing(status) => {
                    let _ = sender.send(Err(status));
                    return;
                }
            };
            if sent.is_err() {
                return;
            }
        }
    });
    Box::pin(UnboundedReceiverStream::new(receiver))
}

/// Hands the call to the test and does its first step: an error then is trailers-only.
async fn scripted(state: &State) -> Result<Messages<X509svidResponse>, Status> {
    let (steps, mut receiver) = mpsc::unbounded_channel();
    let _ = state.script.send(Call { steps });
    let first = match receiver.recv().await {
        Some(Step::Accept) => None,
        Some(Step::Message(message)) => Some(Ok(*message)),
        Some(Step::Fail(status)) => return Err(status),
        Some(Step::End) | None => return Ok(Box::pin(tokio_stream::empty())),
    };
    let rest = UnboundedReceiverStream::new(receiver)
        .take_while(|step| !matches!(step, Step::End))
        .filter_map(|step| match step {
            Step::Accept | Step::End => None,
            Step::Message(message) => Some(Ok(*message)),
            Step::Fail(status) => Some(Err(status)),
        });
    Ok(Box::pin(tokio_stream::iter(first).chain(rest)))
}

// === impl Service ===

#[tonic::async_trait]
impl SpiffeWorkloadApi for Service {
    type FetchX509SVIDStream = Messages<X509svidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let record = CallRecord { at: Instant::now(), header: security_header(&request) };
        self.0.calls.send_modify(|calls| calls.push(record));
        check_header(&request)?;
        let mode = self.0.mode.borrow().clone();
        match mode {
            Mode::Scripted => scripted(&self.0).await.map(Response::new),
            Mode::Serving(_) => Ok(Response::new(automatic(&self.0))),
            Mode::Refusing(status) => Err(status),
        }
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        check_header(&request)?;
        Err(Status::unimplemented("X.509 bundles come with the SVIDs"))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        check_header(&request)?;
        Err(Status::unimplemented("no JWT-SVIDs"))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        check_header(&request)?;
        Err(Status::unimplemented("no JWT-SVIDs"))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        check_header(&request)?;
        Err(Status::unimplemented("no JWT-SVIDs"))
    }
}
