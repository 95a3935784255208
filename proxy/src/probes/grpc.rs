//! `grpc.health.v1.Health/Check`, asked once: one message out, one in, and a status behind it.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use h2::{RecvStream, client};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use tokio::net::TcpStream;

use super::{Answer, ask::Failure};

/// Largest answer that is looked at; a health answer has seven bytes.
const LARGEST_ANSWER: usize = 1 << 10;
/// A gRPC message begins with a byte that says whether it is compressed, and its length in four.
const MESSAGE_HEADER: usize = 5;
/// `service` is field 1 of the question, and of bytes; `status` is field 1 of the answer, and a number.
const SERVICE_FIELD: u8 = 1 << 3 | 2;
const STATUS_FIELD: u8 = 1 << 3;

/// What a server says of a service (`grpc.health.v1.HealthCheckResponse`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Health {
    /// 0, or nothing said.
    Unknown,
    /// 1: the only one that is healthy.
    Serving,
    /// 2.
    NotServing,
    /// 3.
    ServiceUnknown,
    /// None that is defined.
    Other,
}

/// Asks the server at `to`, over a connection to it.
pub(super) async fn check(
    to: SocketAddr,
    tcp: TcpStream,
    service: &str,
    agent: Option<&HeaderValue>,
) -> Result<Answer, Failure> {
    let broken = |problem: String| Failure::Protocol { to, protocol: "gRPC", problem };
    let request = request(to, agent).ok_or_else(|| broken("the address is no authority".to_owned()))?;
    let (sender, connection) = client::Builder::new()
        .max_header_list_size(LARGEST_ANSWER as u32)
        .initial_window_size(1 << 16)
        .handshake::<_, Bytes>(tcp)
        .await
        .map_err(|error| broken(error.to_string()))?;
    let exchange = async {
        let mut sender = sender.ready().await?;
        let (response, mut stream) = sender.send_request(request, false)?;
        stream.send_data(question(service), true)?;
        let (head, body) = response.await?.into_parts();
        let (message, trailers) = read(body).await?;
        Ok::<_, h2::Error>((head.status, head.headers, message, trailers))
    };
    let mut exchange = Box::pin(exchange);
    // Nobody else drives the connection: it lives as long as this.
    let answered = tokio::select! {
        biased;
        answered = &mut exchange => answered,
        _ = connection => exchange.await,
    };
    let (http, head, message, trailers) = answered.map_err(|error| broken(error.to_string()))?;
    let status = trailers.get("grpc-status").or_else(|| head.get("grpc-status"));
    match (http, status.map(HeaderValue::as_bytes)) {
        (StatusCode::OK, Some(b"0")) => {}
        (StatusCode::OK, Some(code)) => {
            let text =
                |name| trailers.get(name).or_else(|| head.get(name)).and_then(|value| value.to_str().ok());
            let message = text("grpc-message").unwrap_or("no message");
            let code = String::from_utf8_lossy(code);
            return Ok(unhealthy(format!("gRPC status {code}: {message}\n")));
        }
        (status, _) => return Err(broken(format!("HTTP status {status}, and no gRPC status"))),
    }
    Ok(
        match Health::read(&message)
            .ok_or_else(|| broken("the answer is no HealthCheckResponse".to_owned()))?
        {
            Health::Serving => Answer { status: StatusCode::OK, body: Bytes::from_static(b"SERVING\n") },
            health => unhealthy(format!("{health:?}\n")),
        },
    )
}

fn unhealthy(text: String) -> Answer {
    Answer { status: StatusCode::SERVICE_UNAVAILABLE, body: text.into() }
}

fn request(to: SocketAddr, agent: Option<&HeaderValue>) -> Option<Request<()>> {
    let uri = Uri::builder()
        .scheme("http")
        .authority(to.to_string())
        .path_and_query("/grpc.health.v1.Health/Check")
        .build()
        .ok()?;
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    if let Some(agent) = agent {
        headers.insert(header::USER_AGENT, agent.clone());
    }
    Some(request)
}

/// `HealthCheckRequest { service }` as a message of a gRPC body.
fn question(service: &str) -> Bytes {
    let mut field = BytesMut::new();
    if !service.is_empty() {
        field.put_u8(SERVICE_FIELD);
        let mut length = service.len();
        while length > 0x7f {
            field.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        field.put_u8(length as u8);
        field.put_slice(service.as_bytes());
    }
    let mut message = BytesMut::with_capacity(MESSAGE_HEADER + field.len());
    message.put_u8(0);
    message.put_u32(field.len() as u32);
    message.put_slice(&field);
    message.freeze()
}

async fn read(mut body: RecvStream) -> Result<(BytesMut, HeaderMap), h2::Error> {
    let mut message = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        let room = LARGEST_ANSWER.saturating_sub(message.len());
        message.extend_from_slice(data.get(..room).unwrap_or(&data));
    }
    Ok((message, body.trailers().await?.unwrap_or_default()))
}

// === impl Health ===

impl Health {
    /// The status in a gRPC message, uncompressed; `None` where it is no such message. A field that is left out
    /// has its default, 0.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        let (header, message) = message.split_at_checked(MESSAGE_HEADER)?;
        let (&compressed, length) = header.split_first()?;
        let length = u32::from_be_bytes(length.try_into().ok()?);
        if compressed != 0 || message.len() != usize::try_from(length).ok()? {
            return None;
        }
        match *message {
            [] => Some(Self::Unknown),
            [STATUS_FIELD, status @ ..=0x7f, ..] => Some(match status {
                0 => Self::Unknown,
                1 => Self::Serving,
                2 => Self::NotServing,
                3 => Self::ServiceUnknown,
                _ => Self::Other,
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_the_message_that_protobuf_makes_of_it() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("a.B")[..], b"\0\0\0\0\x05\x0a\x03a.B");
        let long = question(&"x".repeat(300));
        assert_eq!(&long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
        assert_eq!(long.len(), 5 + 303);
    }

    #[test]
    fn only_serving_is_healthy() {
        assert_eq!(Health::read(&[0, 0, 0, 0, 2, 8, 1]), Some(Health::Serving));
        assert_eq!(Health::read(&[0, 0, 0, 0, 2, 8, 2]), Some(Health::NotServing));
        assert_eq!(Health::read(&[0, 0, 0, 0, 2, 8, 3]), Some(Health::ServiceUnknown));
        assert_eq!(Health::read(&[0, 0, 0, 0, 2, 8, 9]), Some(Health::Other));
        assert_eq!(Health::read(&[0, 0, 0, 0, 0]), Some(Health::Unknown));
        for broken in
            [&[][..], &[0, 0, 0, 0], &[1, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 3, 8, 1], &[0, 0, 0, 0, 2, 9, 1]]
        {
            assert_eq!(Health::read(broken), None, "{broken:?}");
        }
    }
}
