//! The certificate that is shown, exchanged while connections come in.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
    version::TLS13,
};

use super::authority::{CertificateError, Pair};

/// What is shown; nothing, before there is something.
#[derive(Debug, Default)]
pub(crate) struct Shown(ArcSwapOption<CertifiedKey>);

// === impl Shown ===

impl Shown {
    /// Shows this from now on; handshakes that have begun end with what they began with.
    pub(super) fn set(&self, pair: &Pair, provider: &CryptoProvider) -> Result<(), CertificateError> {
        let (certificate, key) = pair.for_rustls()?;
        let key = CertifiedKey::from_der(vec![certificate], key, provider)
            .map_err(|error| CertificateError::Unreadable(error.to_string()))?;
        self.0.store(Some(Arc::new(key)));
        Ok(())
    }

    /// Whether a handshake can succeed.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load().is_some()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// TLS as the webhook's port speaks it: 1.3, HTTP/2 or 1.1, nothing resumed.
///
/// # Errors
/// The provider lacks what TLS 1.3 needs.
pub(crate) fn server_config(
    shown: Arc<Shown>,
    provider: Arc<CryptoProvider>,
) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13])?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(shown);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
