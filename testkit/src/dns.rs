//! A DNS server whose answers the test writes, over UDP and TCP on one port. Its messages are put
//! together here by hand, so a resolver is not tested against its own idea of the format.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::AbortHandle;

use crate::temp::TempDir;

/// A running server.
#[derive(Debug)]
pub struct DnsServer {
    addr: SocketAddr,
    dir: TempDir,
    script: Arc<Mutex<Script>>,
    tasks: Vec<AbortHandle>,
}

/// What a server does with a question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// Answers.
    #[default]
    Answers,
    /// Says nothing at all.
    Silent,
    /// Says that it failed (SERVFAIL).
    Fails,
    /// Over UDP says that the answer does not fit.
    Truncates,
    /// Says something else first: a forged answer with another id, and one to another question.
    Forged,
}

/// A question as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The name, in lower case.
    pub name: String,
    /// 1 for A, 28 for AAAA.
    pub rtype: u16,
    /// Whether it came over TCP.
    pub tcp: bool,
}

#[derive(Debug, Default)]
struct Script {
    manner: Manner,
    records: HashMap<String, Record>,
    asked: Vec<Asked>,
}

#[derive(Clone, Debug)]
struct Record {
    /// Names that the name is an alias of, one after the other.
    aliases: Vec<String>,
    addresses: Vec<IpAddr>,
    ttl: u32,
}

const A: u16 = 1;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const AAAA: u16 = 28;

// === impl DnsServer ===

impl DnsServer {
    /// Listens on a free port of the loopback address and knows no name.
    ///
    /// # Panics
    /// When there is no port that is free for both transports.
    pub async fn start() -> Self {
        let mut both = None;
        for _ in 0..50 {
            let tcp = TcpListener::bind("127.0.0.1:0").await.expect("free port");
            let addr = tcp.local_addr().expect("bound");
            if let Ok(udp) = UdpSocket::bind(addr).await {
                both = Some((tcp, udp, addr));
                break;
            }
        }
        let (tcp, udp, addr) = both.expect("a port that is free for UDP and TCP");
        let script = Arc::new(Mutex::new(Script::default()));
        let tasks = vec![
            tokio::spawn(serve_udp(udp, Arc::clone(&script))).abort_handle(),
            tokio::spawn(serve_tcp(tcp, Arc::clone(&script))).abort_handle(),
        ];
        Self { addr, dir: TempDir::new(), script, tasks }
    }

    /// The path of a `resolv.conf` that names this server, with further lines.
    ///
    /// # Panics
    /// When the path is not text.
    pub fn resolv_conf(&self, more: &str) -> String {
        let path = self.dir.file("resolv.conf", format!("nameserver {}\n{more}\n", self.addr));
        path.to_str().expect("a text path").to_owned()
    }

    /// From now on the name has these addresses; none: the name exists without one.
    pub fn set(&self, name: &str, addresses: &[IpAddr], ttl: u32) {
        let record = Record { aliases: Vec::new(), addresses: addresses.to_vec(), ttl };
        self.lock().records.insert(name.to_owned(), record);
    }

    /// From now on the name is an alias of the last of these through the others, which has these addresses.
    pub fn alias(&self, name: &str, aliases: &[&str], addresses: &[IpAddr], ttl: u32) {
        let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
        self.lock().records.insert(name.to_owned(), Record { aliases, addresses: addresses.to_vec(), ttl });
    }

    /// From now on questions are treated so.
    pub fn manner(&self, manner: Manner) {
        self.lock().manner = manner;
    }

    /// Every question so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.lock().asked.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().expect("no test panics while it holds the script")
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

async fn serve_udp(socket: UdpSocket, script: Arc<Mutex<Script>>) {
    let mut buffer = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        for answer in answers(&buffer[..length], false, &script) {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, script: Arc<Mutex<Script>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve_stream(stream, Arc::clone(&script)));
    }
}

async fn serve_stream(mut stream: TcpStream, script: Arc<Mutex<Script>>) {
    while let Ok(length) = stream.read_u16().await {
        let mut question = vec![0; length.into()];
        if stream.read_exact(&mut question).await.is_err() {
            return;
        }
        for answer in answers(&question, true, &script) {
            let _ = stream.write_u16(answer.len() as u16).await;
            let _ = stream.write_all(&answer).await;
        }
    }
}

/// The datagrams that a question is answered with, in this order.
fn answers(question: &[u8], tcp: bool, script: &Mutex<Script>) -> Vec<Vec<u8>> {
    let Some((name, rtype)) = read_question(question) else { return Vec::new() };
    let mut script = script.lock().expect("no test panics while it holds the script");
    script.asked.push(Asked { name: name.clone(), rtype, tcp });
    let record = script.records.get(&name).cloned();
    match script.manner {
        Manner::Silent => Vec::new(),
        Manner::Fails => vec![message(question, &name, 2, false, &[])],
        Manner::Truncates if !tcp => vec![message(question, &name, 0, true, &[])],
        Manner::Forged => {
            let evil = Record { aliases: Vec::new(), addresses: vec![IpAddr::from([127, 6, 6, 6])], ttl: 60 };
            let evil = records(&name, A, &evil);
            let mut other_id = message(question, &name, 0, false, &evil);
            other_id[0] ^= 0xff;
            let mut other_question = message(question, &name, 0, false, &evil);
            other_question[13] ^= 1;
            vec![other_id, other_question, answer(question, &name, rtype, record.as_ref())]
        }
        Manner::Answers | Manner::Truncates => vec![answer(question, &name, rtype, record.as_ref())],
    }
}

fn answer(question: &[u8], name: &str, rtype: u16, record: Option<&Record>) -> Vec<u8> {
    match record {
        Some(record) => message(question, name, 0, false, &records(name, rtype, record)),
        None => message(question, name, 3, false, &[]),
    }
}

/// Name, type, TTL and data of each record of an answer.
fn records(name: &str, rtype: u16, record: &Record) -> Vec<(String, u16, u32, Vec<u8>)> {
    let mut all = Vec::new();
    let mut owner = name.to_owned();
    for alias in &record.aliases {
        all.push((owner, CNAME, record.ttl, encode(alias)));
        owner = alias.clone();
    }
    for address in &record.addresses {
        match address {
            IpAddr::V4(v4) if rtype == A => all.push((owner.clone(), A, record.ttl, v4.octets().to_vec())),
            IpAddr::V6(v6) if rtype == AAAA => {
                all.push((owner.clone(), AAAA, record.ttl, v6.octets().to_vec()));
            }
            _ => {}
        }
    }
    all
}

fn message(
    question: &[u8],
    name: &str,
    rcode: u8,
    truncated: bool,
    records: &[(String, u16, u32, Vec<u8>)],
) -> Vec<u8> {
    let end = 12 + encode(name).len() + 4;
    let negative = records.is_empty() && (rcode == 0 || rcode == 3) && !truncated;
    let mut out = vec![question[0], question[1], 0x81 | if truncated { 2 } else { 0 }, 0x80 | rcode, 0, 1];
    out.extend((records.len() as u16).to_be_bytes());
    out.extend([0, u8::from(negative), 0, 0]);
    out.extend(&question[12..end]);
    for (owner, rtype, ttl, data) in records {
        out.extend(encode(owner));
        push_record(&mut out, *rtype, *ttl, data);
    }
    if negative {
        // The zone says: one second. RFC 2308, 5.
        let mut data = [encode("ns.test"), encode("admin.test")].concat();
        data.extend([1u32, 60, 60, 60, 1].iter().flat_map(|number| number.to_be_bytes()));
        out.extend(encode("test"));
        push_record(&mut out, SOA, 1, &data);
    }
    out
}

fn push_record(out: &mut Vec<u8>, rtype: u16, ttl: u32, data: &[u8]) {
    out.extend(rtype.to_be_bytes());
    out.extend([0, 1]);
    out.extend(ttl.to_be_bytes());
    out.extend((data.len() as u16).to_be_bytes());
    out.extend(data);
}

fn encode(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut out: Vec<u8> =
        labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    out.push(0);
    out
}

fn read_question(message: &[u8]) -> Option<(String, u16)> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*message.get(at)?);
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(message.get(at + 1..at + 1 + length)?).to_ascii_lowercase());
        at += 1 + length;
    }
    let rtype = u16::from_be_bytes([*message.get(at + 1)?, *message.get(at + 2)?]);
    Some((labels.join("."), rtype))
}
