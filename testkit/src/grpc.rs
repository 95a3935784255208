//! A gRPC service with one method of each kind, and its client, on tonic.
//!
//! Messages are `google.protobuf.StringValue`, as in the Go programs of `testkit/peers/grpcgo`: either
//! client speaks to either server.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::uri::PathAndQuery;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::client::Grpc as Client;
use tonic::server::Grpc as Server;
use tonic::transport::Channel;
pub use tonic::{Code, Status};
use tonic::{Request, Response, Streaming};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

use crate::wait::within;

/// `google.protobuf.StringValue`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Text {
    /// The text.
    #[prost(string, tag = "1")]
    pub value: String,
}

/// The server, on a port of its own.
#[derive(Debug)]
pub struct EchoServer {
    addr: SocketAddr,
    serving: AbortHandle,
}

/// A client with one connection.
#[derive(Debug)]
pub struct EchoClient(Client<Channel>);

/// An open call that streams both ways.
pub struct Chat {
    send: Option<mpsc::Sender<Text>>,
    receive: Streaming<Text>,
}

#[derive(Clone)]
struct Echo;

type Texts = Pin<Box<dyn Stream<Item = Result<Text, Status>> + Send>>;

fn text(value: impl Into<String>) -> Text {
    Text { value: value.into() }
}

fn codec() -> ProstCodec<Text, Text> {
    ProstCodec::default()
}

/// What was said, or the status that `fail:N` asks for.
async fn say(request: Request<Text>) -> Result<Response<Text>, Status> {
    let said = request.into_inner().value;
    match said.strip_prefix("fail:").map(str::parse) {
        Some(Ok(code)) => Err(Status::new(Code::from_i32(code), format!("asked for {code}: 100% sure"))),
        Some(Err(_)) => Err(Status::invalid_argument("no number")),
        None => Ok(Response::new(text(said))),
    }
}

/// Everything that was said, joined by commas.
async fn collect(request: Request<Streaming<Text>>) -> Result<Response<Text>, Status> {
    let (mut texts, mut all) = (request.into_inner(), Vec::new());
    while let Some(said) = texts.message().await? {
        all.push(said.value);
    }
    Ok(Response::new(text(all.join(","))))
}

/// The numbers from 1 to the one that was said.
async fn count(request: Request<Text>) -> Result<Response<Texts>, Status> {
    let last: u32 = request.into_inner().value.parse().map_err(|_| Status::invalid_argument("no number"))?;
    let numbers = tokio_stream::iter((1..=last).map(|n| Ok(text(n.to_string()))));
    Ok(Response::new(Box::pin(numbers)))
}

/// What is said, as it is said; `enough` ends it with RESOURCE_EXHAUSTED.
async fn chat(request: Request<Streaming<Text>>) -> Result<Response<Texts>, Status> {
    let answers = request.into_inner().map(|said| match said {
        Ok(said) if said.value == "enough" => Err(Status::resource_exhausted("enough")),
        said => said,
    });
    Ok(Response::new(Box::pin(answers)))
}

// === impl Echo ===

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = Server::new(codec());
            Ok(match request.uri().path() {
                "/mantlet.test.Echo/Say" => grpc.unary(service_fn(say), request).await,
                "/mantlet.test.Echo/Collect" => grpc.client_streaming(service_fn(collect), request).await,
                "/mantlet.test.Echo/Count" => grpc.server_streaming(service_fn(count), request).await,
                "/mantlet.test.Echo/Chat" => grpc.streaming(service_fn(chat), request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

// === impl EchoServer ===

impl EchoServer {
    /// Serves on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("free port");
        let addr = listener.local_addr().expect("bound");
        let serving =
            tonic::transport::Server::builder().serve_with_incoming(Echo, TcpListenerStream::new(listener));
        Self { addr, serving: tokio::spawn(serving).abort_handle() }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

// === impl EchoClient ===

impl EchoClient {
    /// A client that connects with its first call.
    pub fn new(addr: SocketAddr) -> Self {
        let endpoint = Channel::from_shared(format!("http://{addr}")).expect("a URI");
        Self(Client::new(endpoint.connect_lazy()))
    }

    async fn ready(&mut self, method: &str) -> PathAndQuery {
        within("the channel", self.0.ready()).await.expect("a channel that is never closed");
        PathAndQuery::try_from(format!("/mantlet.test.Echo/{method}")).expect("a path")
    }

    /// One text for one text, of any method: there may be none by this name.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn unary(&mut self, method: &str, said: &str) -> Result<String, Status> {
        let path = self.ready(method).await;
        let call = self.0.unary(Request::new(text(said)), path, codec());
        Ok(within("a unary call", call).await?.into_inner().value)
    }

    /// Many texts for one.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn collect(&mut self, said: &[&str]) -> Result<String, Status> {
        let path = self.ready("Collect").await;
        let said: Vec<Text> = said.iter().map(|said| text(*said)).collect();
        let call = self.0.client_streaming(Request::new(tokio_stream::iter(said)), path, codec());
        Ok(within("a client-streaming call", call).await?.into_inner().value)
    }

    /// Many texts for one number.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn count(&mut self, last: u32) -> Result<Vec<String>, Status> {
        let path = self.ready("Count").await;
        let call = self.0.server_streaming(Request::new(text(last.to_string())), path, codec());
        let mut answers = within("a server-streaming call", call).await?.into_inner();
        let mut all = Vec::new();
        while let Some(answer) = within("a message", answers.message()).await? {
            all.push(answer.value);
        }
        Ok(all)
    }

    /// Opens a call that streams both ways and says the first thing: some servers answer nothing, not
    /// even with a head, before they have something to say.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn chat(&mut self, first: &str) -> Result<Chat, Status> {
        let path = self.ready("Chat").await;
        let (send, said) = mpsc::channel(8);
        let _ = send.send(text(first)).await;
        let call = self.0.streaming(Request::new(ReceiverStream::new(said)), path, codec());
        let receive = within("a streaming call", call).await?.into_inner();
        Ok(Chat { send: Some(send), receive })
    }
}

// === impl Chat ===

impl Chat {
    /// Says something and waits for what is answered; `None` where the server has ended the call.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn say(&mut self, said: &str) -> Result<Option<String>, Status> {
        if let Some(send) = &self.send {
            // A call that is over says so when it is read.
            let _ = send.send(text(said)).await;
        }
        self.hear().await
    }

    /// Waits for what is answered next.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn hear(&mut self) -> Result<Option<String>, Status> {
        let answer = within("an answer", self.receive.message()).await?;
        Ok(answer.map(|answer| answer.value))
    }

    /// Has nothing more to say, and waits for the end of the call.
    ///
    /// # Errors
    /// The status of the call.
    pub async fn end(mut self) -> Result<(), Status> {
        self.send = None;
        match within("the end of the call", self.receive.message()).await? {
            Some(more) => Err(Status::internal(format!("after the end: {}", more.value))),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Chat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chat").field("open", &self.send.is_some()).finish_non_exhaustive()
    }
}
