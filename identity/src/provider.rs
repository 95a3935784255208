//! The cryptography of Mantlet: aws-lc-rs, passed explicitly and never through the process default, which
//! feature unification in a dependency could change under us.

use std::sync::{Arc, LazyLock};

use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        // Hybrid first (wire contract). The classical groups are for peers of another make.
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        ..aws_lc_rs::default_provider()
    })
});

/// The one provider: TLS 1.3 suites, X25519MLKEM768 first.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    PROVIDER.clone()
}

/// The signature algorithms of certificates and of the handshake.
pub(crate) fn signature_algorithms() -> WebPkiSupportedAlgorithms {
    PROVIDER.signature_verification_algorithms
}

/// SHA-256 of `data`.
pub(crate) fn sha256(data: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.field(data);
    hash.finish_raw()
}

/// SHA-256 over several fields, each preceded by its length, so that no two lists of fields collide.
pub(crate) fn fingerprint<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for field in fields {
        hash.field(&(field.len() as u64).to_be_bytes());
        hash.field(field);
    }
    hash.finish_raw()
}

/// A number in `0..=255`, for jitter only. Without random bytes there is no jitter and nothing else is lost.
pub(crate) fn jitter_byte() -> u8 {
    let mut byte = [0u8; 1];
    match PROVIDER.secure_random.fill(&mut byte) {
        Ok(()) => u8::from_be_bytes(byte),
        Err(_) => 0,
    }
}

struct Sha256(::aws_lc_rs::digest::Context);

// === impl Sha256 ===

impl Sha256 {
    fn new() -> Self {
        Self(::aws_lc_rs::digest::Context::new(&::aws_lc_rs::digest::SHA256))
    }

    fn field(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn finish_raw(self) -> [u8; 32] {
        let mut out = [0u8; 32];
        for (to, from) in out.iter_mut().zip(self.0.finish().as_ref()) {
            *to = *from;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hybrid_group_is_offered_first_and_only_tls13_suites_exist() {
        let provider = provider();
        assert_eq!(provider.kx_groups[0].name(), rustls::NamedGroup::X25519MLKEM768);
        assert!(provider.cipher_suites.iter().all(|suite| suite.tls13().is_some()));
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        assert_ne!(fingerprint([&b"ab"[..], b"c"]), fingerprint([&b"a"[..], b"bc"]));
        assert_eq!(sha256(b"")[..4], [0xe3, 0xb0, 0xc4, 0x42]);
    }
}
