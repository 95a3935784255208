//! Asking servers: UDP first, TCP where an answer does not fit, the next server where one fails.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use rustls::crypto::aws_lc_rs;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time,
};

use super::{
    Answer, LookupError,
    conf::ResolvConf,
    message::{Question, Reply},
};

/// Largest answer over UDP without an extension that asks for more (RFC 1035, 4.2.1), and room for
/// servers that do not care.
const DATAGRAM: usize = 4096;
/// Datagrams that are looked at for one question: whoever guesses has so many guesses.
const MOST_DATAGRAMS: usize = 16;

/// The addresses of one family of `name`, from the first server that knows.
pub(super) async fn ask(conf: &ResolvConf, name: &str, v6: bool) -> Result<Answer, LookupError> {
    let mut last = LookupError::Timeout;
    for _ in 0..conf.attempts {
        for server in &conf.servers {
            let question = Question::new(random_id()?, name, v6)?;
            match time::timeout(conf.timeout, one(*server, &question, conf.tcp)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => last = error,
                Err(_) => last = LookupError::Timeout,
            }
        }
    }
    Err(last)
}

async fn one(server: SocketAddr, question: &Question, tcp: bool) -> Result<Answer, LookupError> {
    if !tcp && let Reply::Answer(answer) = datagram(server, question).await? {
        return Ok(answer);
    }
    match stream(server, question).await? {
        Reply::Answer(answer) => Ok(answer),
        // There is nothing larger to fall back to.
        Reply::Truncated => Err(LookupError::Malformed),
    }
}

async fn datagram(server: SocketAddr, question: &Question) -> Result<Reply, LookupError> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // The kernel chooses a random port, and delivers nothing that comes from elsewhere.
    let socket = UdpSocket::bind(any).await.map_err(LookupError::Io)?;
    socket.connect(server).await.map_err(LookupError::Io)?;
    socket.send(question.as_bytes()).await.map_err(LookupError::Io)?;
    let mut buffer = vec![0; DATAGRAM];
    for _ in 0..MOST_DATAGRAMS {
        let length = socket.recv(&mut buffer).await.map_err(LookupError::Io)?;
        if let Some(reply) = question.reply(buffer.get(..length).unwrap_or_default()) {
            return reply;
        }
    }
    Err(LookupError::Malformed)
}

async fn stream(server: SocketAddr, question: &Question) -> Result<Reply, LookupError> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        let length = u16::try_from(question.as_bytes().len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        stream.write_all(&[&length.to_be_bytes(), question.as_bytes()].concat()).await?;
        let mut answer = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    };
    let answer = exchange.await.map_err(LookupError::Io)?;
    question.reply(&answer).unwrap_or(Err(LookupError::Malformed))
}

/// From the same source as the keys: an id that can be guessed is half of a forged answer.
fn random_id() -> Result<u16, LookupError> {
    let mut id = [0; 2];
    let random = aws_lc_rs::default_provider().secure_random.fill(&mut id);
    random.map_err(|_| LookupError::Io(io::Error::other("no random numbers")))?;
    Ok(u16::from_be_bytes(id))
}
