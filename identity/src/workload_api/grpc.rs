//! The Workload API over gRPC (WE 3): plaintext HTTP/2 on a Unix or TCP socket.

use std::{io, time::Duration};

use hyper_util::rt::TokioIo;
use mantlet_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use mantlet_proto::workload::{X509svidRequest, X509svidResponse};
use mantlet_proto::{SECURITY_HEADER, SECURITY_HEADER_VALUE};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Uri};
use tonic::{Code, Request, Status, Streaming};
use zeroize::Zeroizing;

use super::{ApiError, SvidEntry, Updates, WorkloadApi, X509Update};
use crate::Endpoint;

/// The largest message that is taken. Three hundred authorities of 2 kB in each of 20 domains are 12 MB.
const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// A socket that does not take a connection in this time counts as unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The Workload API at an [`Endpoint`].
#[derive(Clone, Debug)]
pub struct GrpcWorkloadApi {
    endpoint: Endpoint,
}

/// One open `FetchX509SVID` call.
pub struct GrpcUpdates {
    stream: Streaming<X509svidResponse>,
    /// The connection lives as long as the call.
    _channel: SpiffeWorkloadApiClient<Channel>,
}

/// Both kinds of socket as one type: the client is compiled for each type of connection that it meets.
trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl Socket for UnixStream {}
impl Socket for TcpStream {}

async fn dial(endpoint: Endpoint) -> io::Result<Box<dyn Socket>> {
    Ok(match endpoint {
        Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await?),
        Endpoint::Tcp(address) => Box::new(TcpStream::connect(address).await?),
    })
}

// === impl GrpcWorkloadApi ===

impl GrpcWorkloadApi {
    /// Does not connect yet.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint }
    }

    async fn connect(&self) -> Result<Channel, ApiError> {
        let unreachable = |cause: String| ApiError::Unreachable { address: self.endpoint.to_string(), cause };
        // The name is only for the `:authority` of HTTP/2; the connector decides where to go. A new connector
        // each time looks the path of a Unix socket up anew: the agent recreates it when it restarts.
        let to = tonic::transport::Endpoint::from_static("http://localhost").connect_timeout(CONNECT_TIMEOUT);
        let endpoint = self.endpoint.clone();
        let connected = to
            .connect_with_connector(tower::service_fn(move |_: Uri| {
                let endpoint = endpoint.clone();
                async move { dial(endpoint).await.map(TokioIo::new) }
            }))
            .await;
        connected.map_err(|error| unreachable(deepest(&error)))
    }
}

impl WorkloadApi for GrpcWorkloadApi {
    type Updates = GrpcUpdates;

    async fn open(&self) -> Result<GrpcUpdates, ApiError> {
        let channel = self.connect().await?;
        let mut client = SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let mut request = Request::new(X509svidRequest {});
        // WE 6: every call carries it, and a server refuses those without.
        request.metadata_mut().insert(SECURITY_HEADER, MetadataValue::from_static(SECURITY_HEADER_VALUE));
        let answer = client.fetch_x509svid(request).await.map_err(of_status)?;
        Ok(GrpcUpdates { stream: answer.into_inner(), _channel: client })
    }
}

// === impl GrpcUpdates ===

impl Updates for GrpcUpdates {
    async fn next(&mut self) -> Result<Option<X509Update>, ApiError> {
        let message = self.stream.message().await.map_err(of_status)?;
        Ok(message.map(X509Update::from))
    }
}

// === impl X509Update ===

/// The key changes its owner and is wiped from then on. What cannot be wiped is the buffer that the message
/// was read into: it belongs to the HTTP/2 library.
impl From<X509svidResponse> for X509Update {
    fn from(message: X509svidResponse) -> Self {
        let svids = message.svids.into_iter().map(|svid| SvidEntry {
            spiffe_id: svid.spiffe_id,
            chain: svid.x509_svid,
            key: Zeroizing::new(svid.x509_svid_key),
            bundle: svid.bundle,
            hint: svid.hint,
        });
        Self {
            svids: svids.collect(),
            federated_bundles: message.federated_bundles.into_iter().collect(),
            revocation_lists: message.crl.len(),
        }
    }
}

/// WE 6 and appendix A: four codes mean something, the others are `Unavailable`.
fn of_status(status: Status) -> ApiError {
    let text = || printable(status.message(), status.code());
    match status.code() {
        Code::PermissionDenied => ApiError::PermissionDenied(text()),
        Code::InvalidArgument => ApiError::InvalidArgument(text()),
        Code::Unimplemented => ApiError::Unimplemented(text()),
        Code::OutOfRange => ApiError::TooLarge(text()),
        _ => ApiError::Unavailable(text()),
    }
}

/// The message of a status, fit for one line of a log: the other side chose it.
fn printable(message: &str, code: Code) -> String {
    let clean: String = message.chars().filter(|c| !c.is_control()).take(200).collect();
    if clean.is_empty() { code.description().to_owned() } else { clean }
}

/// The innermost cause: tonic's own text is "transport error".
fn deepest(error: &tonic::transport::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
