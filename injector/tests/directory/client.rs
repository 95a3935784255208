//! A sidecar's side of the directory: one stream.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use hyper_util::rt::TokioIo;
use mantlet_proto::directory::{
    Address, Answer, Protocol, Question, answer::Says, directory_client::DirectoryClient, question::Kind,
};
use mantlet_testkit::Io;
use mantlet_testkit::wait::within;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// A stream that is open.
pub(crate) struct Client {
    questions: mpsc::Sender<Question>,
    answers: Streaming<Answer>,
    /// The last answer of each address.
    pub(crate) known: BTreeMap<SocketAddr, String>,
}

// === impl Client ===

impl Client {
    /// Opens a stream on a connection.
    ///
    /// # Errors
    /// What the server says to that, or what becomes of the connection.
    pub(crate) async fn over(io: Io) -> Result<Self, Status> {
        let io = std::sync::Mutex::new(Some(io));
        let connector = tower::service_fn(move |_: http::Uri| {
            let io = io.lock().unwrap().take();
            async move { io.map(TokioIo::new).ok_or_else(|| std::io::Error::other("there is one connection")) }
        });
        // Windows as a standard client has them: whoever does not read is felt.
        let endpoint = tonic::transport::Endpoint::from_static("http://directory")
            .initial_stream_window_size(65_535)
            .initial_connection_window_size(65_535);
        let channel = within("a connection", endpoint.connect_with_connector(connector)).await;
        let channel = channel.map_err(|error| Status::unavailable(format!("{error:?}")))?;
        let (questions, asked) = mpsc::channel(16);
        let mut directory = DirectoryClient::new(channel);
        let opened = directory.follow(ReceiverStream::new(asked));
        let answers = within("a stream", opened).await?.into_inner();
        Ok(Self { questions, answers, known: BTreeMap::new() })
    }

    pub(crate) async fn follow(&self, address: &str) {
        self.send(Kind::Follow(wire(address.parse().unwrap()))).await;
    }

    pub(crate) async fn forget(&self, address: &str) {
        self.send(Kind::Forget(wire(address.parse().unwrap()))).await;
    }

    pub(crate) async fn send(&self, kind: Kind) {
        let _ = within("room for a question", self.questions.send(Question { kind: Some(kind) })).await;
    }

    /// The next answer: the address and what holds for it, in words.
    ///
    /// # Errors
    /// Why the stream ended.
    pub(crate) async fn next(&mut self) -> Result<(SocketAddr, String), Status> {
        within("an answer", self.next_whenever()).await
    }

    /// The same, however long it takes.
    ///
    /// # Errors
    /// Why the stream ended.
    pub(crate) async fn next_whenever(&mut self) -> Result<(SocketAddr, String), Status> {
        let answer = self.answers.message().await?;
        let answer = answer.ok_or_else(|| Status::ok("ended"))?;
        let (address, says) = read(&answer);
        self.known.insert(address, says.clone());
        Ok((address, says))
    }

    /// Waits until this is what holds for an address.
    pub(crate) async fn until(&mut self, address: &str, says: &str) {
        let address: SocketAddr = address.parse().unwrap();
        while self.known.get(&address).is_none_or(|known| known != says) {
            let waits = format!("{address} is {says:?}, not {:?}", self.known.get(&address));
            within(waits, self.next()).await.unwrap();
        }
    }

    /// Follows an address, and gives what holds for it.
    pub(crate) async fn ask(&mut self, address: &str) -> String {
        self.follow(address).await;
        self.next().await.unwrap().1
    }

    /// Why the stream ends; answers until then do not matter.
    pub(crate) async fn ended(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

fn wire(address: SocketAddr) -> Address {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    Address { ip, port: u32::from(address.port()) }
}

fn socket(ip: &[u8], port: u32) -> SocketAddr {
    let ip: IpAddr = match ip.len() {
        4 => <[u8; 4]>::try_from(ip).unwrap().into(),
        _ => <[u8; 16]>::try_from(ip).unwrap().into(),
    };
    SocketAddr::new(ip, port.try_into().unwrap())
}

/// `meshed 10.1.0.1:8080 shop/orders http, ..`, `not meshed` or `unknown`.
fn read(answer: &Answer) -> (SocketAddr, String) {
    let address = answer.address.as_ref().unwrap();
    let says = match answer.says.as_ref().unwrap() {
        Says::NotMeshed(_) => "not meshed".to_owned(),
        Says::Unknown(_) => "unknown".to_owned(),
        Says::Meshed(meshed) => {
            let endpoints: Vec<String> = meshed
                .endpoints
                .iter()
                .map(|endpoint| {
                    let protocol = match endpoint.protocol() {
                        Protocol::AskPeer => "?",
                        Protocol::Http => "http",
                        Protocol::Opaque => "tcp",
                    };
                    let id = endpoint.spiffe_id.strip_prefix("spiffe://prod.test/ns/").unwrap();
                    format!("{} {} {protocol}", socket(&endpoint.ip, endpoint.port), id.replace("/sa/", "/"))
                })
                .collect();
            let keeps = if meshed.keep_address { " kept" } else { "" };
            format!("meshed{keeps} {}", endpoints.join(", ")).trim_end().to_owned()
        }
    };
    (socket(&address.ip, address.port), says)
}
