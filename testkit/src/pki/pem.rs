//! PEM, for the peers that read and write files.

use std::path::Path;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::{Authority, TestSvid, now};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

impl Authority {
    /// Its own certificate.
    pub fn certificate_pem(&self) -> String {
        block("CERTIFICATE", self.certificate())
    }

    /// Its private key, for a program that issues in its name.
    pub fn key_pem(&self) -> String {
        self.0.key.serialize_pem()
    }
}

impl TestSvid {
    /// The chain, leaf first.
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(|certificate| block("CERTIFICATE", certificate)).collect()
    }

    /// The private key.
    pub fn key_pem(&self) -> String {
        block("PRIVATE KEY", &self.key_der())
    }

    /// The root above the leaf.
    pub fn root_pem(&self) -> String {
        block("CERTIFICATE", &self.root)
    }

    /// An SVID that another program wrote: chain, key and trust bundle. Its expiry is not read.
    ///
    /// # Panics
    /// When a file is missing or holds something else.
    pub fn from_pem(id: &str, chain: &Path, key: &Path, bundle: &Path) -> Self {
        let certificates = |file: &Path| -> Vec<CertificateDer<'static>> {
            let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
            read.unwrap_or_else(|error| panic!("{}: {error}", file.display()))
        };
        Self {
            id: id.to_owned(),
            chain: certificates(chain),
            key: PrivatePkcs8KeyDer::from_pem_file(key)
                .unwrap_or_else(|error| panic!("{}: {error}", key.display())),
            root: certificates(bundle).remove(0),
            not_after: now(),
        }
    }
}

fn block(label: &str, der: &[u8]) -> String {
    let text = base64(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem + &format!("-----END {label}-----\n")
}

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().enumerate().fold(0, |word, (at, byte)| word | u32::from(*byte) << (16 - 8 * at));
        for at in 0..4 {
            let index = (word >> (18 - 6 * at)) & 63;
            text.push(if at <= chunk.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_padded() {
        assert_eq!(base64(b"a"), "YQ==");
        assert_eq!(base64(b"ab"), "YWI=");
        assert_eq!(base64(b"abc"), "YWJj");
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }
}
