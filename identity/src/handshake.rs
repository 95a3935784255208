//! One TLS handshake: the rustls configuration for it, and the peer that came out of it.
//!
//! Each connection has a configuration of its own, because rustls' verifier cannot tell connections apart
//! and the verified peer has to come out somewhere: here in a slot that this connection alone owns. It costs
//! about 0.4 us (`cargo bench -p mantlet-identity`), next to some 60 us for each signature of the chain.
//!
//! No tickets and no resumption in either role: a resumed connection restores the peer's chain from the ticket
//! and never asks the verifier, so it would outlive a revoked bundle. No 0-RTT, which is replayable. TLS 1.3
//! alone; no SNI, because a name says nothing about a SPIFFE peer and leaks where we go.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::{
    CommonState, ConfigBuilder, DigitallySignedStruct, DistinguishedName, SignatureScheme, WantsVerifier,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::{Credentials, ExpectedPeer, HandshakeReason, PeerIdentity, PeerRole, provider};

/// The place where one connection's verified peer comes out.
#[derive(Debug)]
pub struct Handshake {
    slot: Slot,
}

/// What is the same for every connection: protocol version and provider, checked once.
pub(crate) struct Templates {
    server: ConfigBuilder<ServerConfig, WantsVerifier>,
    client: ConfigBuilder<ClientConfig, WantsVerifier>,
}

type Slot = Arc<OnceLock<PeerIdentity>>;

/// Verifies the peer of one connection, with one snapshot of the credentials.
struct PeerVerifier {
    credentials: Arc<Credentials>,
    role: PeerRole,
    expected: Option<ExpectedPeer>,
    slot: Slot,
}

// === impl Credentials ===

impl Credentials {
    /// What accepting one connection takes. Any authenticated workload of a known trust domain passes; what
    /// it may do is the policy's matter. `alpn` in order of preference; without any, none is negotiated.
    #[must_use]
    pub fn server_handshake(self: &Arc<Self>, alpn: &[&[u8]]) -> (Arc<ServerConfig>, Handshake) {
        let (verifier, handshake) = self.verifier(PeerRole::Client, None);
        let mut config = self
            .svid()
            .templates
            .server
            .clone()
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(self.resolver());
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        (Arc::new(config), handshake)
    }

    /// What dialling one peer takes. The server name given to rustls has no meaning and is not sent.
    #[must_use]
    pub fn client_handshake(
        self: &Arc<Self>,
        expected: ExpectedPeer,
        alpn: &[&[u8]],
    ) -> (Arc<ClientConfig>, Handshake) {
        let (verifier, handshake) = self.verifier(PeerRole::Server, Some(expected));
        let mut config = self
            .svid()
            .templates
            .client
            .clone()
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(self.resolver());
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        (Arc::new(config), handshake)
    }

    fn verifier(
        self: &Arc<Self>,
        role: PeerRole,
        expected: Option<ExpectedPeer>,
    ) -> (Arc<PeerVerifier>, Handshake) {
        let slot = Slot::default();
        let verifier = PeerVerifier { credentials: self.clone(), role, expected, slot: slot.clone() };
        (Arc::new(verifier), Handshake { slot })
    }
}

// === impl Handshake ===

impl Handshake {
    /// The peer, once the handshake has completed: its chain was verified and it has shown that it holds the
    /// key. `None` before that, and for a connection that this handshake does not belong to.
    #[must_use]
    pub fn verified(self, connection: &CommonState) -> Option<PeerIdentity> {
        if connection.is_handshaking() {
            return None;
        }
        let peer = self.slot.get()?;
        (connection.peer_certificates()?.first()? == peer.chain().first()?).then(|| peer.clone())
    }
}

// === impl Templates ===

impl Templates {
    pub(crate) fn new() -> Result<Self, rustls::Error> {
        let versions = &[&rustls::version::TLS13];
        Ok(Self {
            server: ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?,
            client: ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions)?,
        })
    }
}

// === impl PeerVerifier ===

impl PeerVerifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), HandshakeReason> {
        let now = SystemTime::UNIX_EPOCH
            .checked_add(std::time::Duration::from_secs(now.as_secs()))
            .ok_or(HandshakeReason::Expired)?;
        let verified = self.credentials.verify(leaf, intermediates, self.role, now)?;
        // Whether the peer is the right one is asked only once it is certain who it is.
        if let Some(expected) = &self.expected {
            expected.check(&verified.id)?;
        }
        let chain = std::iter::once(leaf).chain(intermediates).map(|der| der.clone().into_owned()).collect();
        let peer = PeerIdentity::new(verified, self.role, chain, now);
        // A second certificate message on one connection is no TLS 1.3.
        self.slot.set(peer).map_err(|_| HandshakeReason::Protocol)
    }

    fn verify_signature(
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &provider::signature_algorithms())
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now).map_err(HandshakeReason::into_tls)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider::signature_algorithms().supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now).map_err(HandshakeReason::into_tls)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider::signature_algorithms().supported_schemes()
    }
}

impl std::fmt::Debug for PeerVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerVerifier")
            .field("role", &self.role)
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}

fn no_tls12() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not spoken".into())
}
