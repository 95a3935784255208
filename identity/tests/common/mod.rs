//! Both ends of a handshake in memory: ours on one side, a peer that checks nothing on the other.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod supervised;

use std::sync::Arc;
use std::time::SystemTime;

use mantlet_id::{SpiffeId, TrustDomain};
use mantlet_identity::{
    Credentials, Endpoint, ExpectedPeer, Handshake, HandshakeReason, PeerIdentity, PeerRole, SourceConfig,
    provider,
};
use mantlet_testkit::pki::{Authority, TestSvid};
use mantlet_testkit::workload_api::Answer;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

pub const TD: &str = "one.test";

/// How a handshake ended on our side.
pub type Judged = Result<PeerIdentity, HandshakeReason>;

pub fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

pub fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

pub fn config() -> SourceConfig {
    SourceConfig::new(Endpoint::parse("unix:///unused.sock").unwrap())
}

/// What the agent's message makes of us.
pub fn credentials(answer: Answer) -> Arc<Credentials> {
    Credentials::from_update(&config(), answer.message(), SystemTime::now()).unwrap()
}

/// `ns/a/sa/us` of this authority, which trusts it and nobody else.
pub fn us(authority: &Authority) -> Arc<Credentials> {
    credentials(Answer::of(&authority.workload("a/us")))
}

/// Lets the peer in over a real handshake: as a client, then as a server.
pub fn judge(us: &Arc<Credentials>, peer: &TestSvid) -> [Judged; 2] {
    let expected = ExpectedPeer::AnyIn(domain(TD));
    [as_client(us, peer), as_server(us, peer, expected)]
}

/// The peer dials us.
pub fn as_client(us: &Arc<Credentials>, peer: &TestSvid) -> Judged {
    let (config, handshake) = us.server_handshake(&[]);
    let server = ServerConnection::new(config).unwrap();
    let client = client(raw_client(peer));
    let (ours, _) = run(client, server, Side::Server);
    judged(ours, handshake, PeerRole::Client)
}

/// We dial the peer.
pub fn as_server(us: &Arc<Credentials>, peer: &TestSvid, expected: ExpectedPeer) -> Judged {
    let (config, handshake) = us.client_handshake(expected, &[]);
    let server = ServerConnection::new(Arc::new(raw_server(peer))).unwrap();
    let (ours, _) = run(client(config), server, Side::Client);
    judged(ours, handshake, PeerRole::Server)
}

pub fn client(config: Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(config, ServerName::try_from("127.0.0.1").unwrap()).unwrap()
}

/// A client that presents this SVID, whatever it is, and accepts every server.
pub fn raw_client(svid: &TestSvid) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_client_cert_resolver(certified(svid));
    Arc::new(config)
}

/// A server that presents this SVID, whatever it is, and asks for no certificate.
pub fn raw_server(svid: &TestSvid) -> ServerConfig {
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(certified(svid))
}

fn certified(svid: &TestSvid) -> Arc<SingleCertAndKey> {
    let key =
        rustls::crypto::aws_lc_rs::sign::any_supported_type(&PrivateKeyDer::Pkcs8(svid.key.clone_key()));
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(svid.chain.clone(), key.unwrap())))
}

/// Which end is ours.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// How our end came out: its connection, or the reason.
pub type End = Result<Connected, HandshakeReason>;

pub enum Connected {
    Client(Box<ClientConnection>),
    Server(Box<ServerConnection>),
}

/// Carries bytes to and fro until both ends are quiet. First our end, then the other.
pub fn run(mut client: ClientConnection, mut server: ServerConnection, ours: Side) -> (End, End) {
    let (mut client_error, mut server_error) = (None, None);
    loop {
        let mut moved = false;
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        moved |= !wire.is_empty();
        feed(&wire, &mut server, &mut server_error);
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        moved |= !wire.is_empty();
        feed(&wire, &mut client, &mut client_error);
        if !moved {
            break;
        }
    }
    let client = match client_error {
        Some(reason) => Err(reason),
        None => Ok(Connected::Client(Box::new(client))),
    };
    let server = match server_error {
        Some(reason) => Err(reason),
        None => Ok(Connected::Server(Box::new(server))),
    };
    if ours == Side::Client { (client, server) } else { (server, client) }
}

fn feed<D>(
    mut wire: &[u8],
    to: &mut (impl std::ops::DerefMut<Target = rustls::ConnectionCommon<D>> + Sized),
    error: &mut Option<HandshakeReason>,
) {
    while !wire.is_empty() && error.is_none() {
        to.read_tls(&mut wire).unwrap();
        if let Err(refused) = to.process_new_packets() {
            *error = Some(HandshakeReason::of_tls(&refused));
        }
    }
}

fn judged(ours: End, handshake: Handshake, role: PeerRole) -> Judged {
    let peer = match ours? {
        Connected::Client(connection) => handshake.verified(&connection),
        Connected::Server(connection) => handshake.verified(&connection),
    };
    let peer = peer.expect("a completed handshake has a peer");
    assert_eq!(peer.role(), role);
    Ok(peer)
}

#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
