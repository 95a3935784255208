//! What the two programs share: flags, the identity, and how a peer is named.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use spiffe::X509Source;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// How long the Workload API may take for the first identity.
const PATIENCE: Duration = Duration::from_secs(30);

/// Ends the program with `ERROR <what>: <cause>`.
pub fn fail(what: &str, cause: impl Display) -> ! {
    println!("ERROR {what}: {cause}");
    std::process::exit(1)
}

/// The value, or the end of the program.
pub fn must<T, E: Display>(what: &str, result: Result<T, E>) -> T {
    result.unwrap_or_else(|cause| fail(what, cause))
}

/// Flags of the form `-name value`.
pub struct Flags(HashMap<String, String>);

impl Flags {
    /// Those of the command line.
    pub fn parse() -> Self {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let pairs = arguments.chunks(2).map(|pair| match pair {
            [name, value] if name.starts_with('-') => {
                (name.trim_start_matches('-').to_owned(), value.clone())
            }
            odd => fail("flags", format!("{odd:?} is no `-name value`")),
        });
        Self(pairs.collect())
    }

    /// The value of a flag, or this.
    pub fn get<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.0.get(name).map_or(default, String::as_str)
    }

    /// The ALPN protocols to offer.
    pub fn alpn(&self) -> Vec<Vec<u8>> {
        let list = self.get("alpn", "").split(',').filter(|name| !name.is_empty());
        list.map(|name| name.as_bytes().to_vec()).collect()
    }

    /// The identity that the Workload API gives.
    pub async fn identity(&self) -> X509Source {
        let source = X509Source::builder().endpoint(self.get("workload-api", "")).build();
        let source = must("no identity", tokio::time::timeout(PATIENCE, source).await);
        must("no identity", source)
    }
}

/// The SPIFFE ID in the certificate that a peer has shown.
pub fn peer(certificates: Option<&[CertificateDer<'_>]>) -> Option<String> {
    let leaf = certificates?.first()?;
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    let names = leaf.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    })
}

/// The ALPN protocol that was agreed to; empty without one.
pub fn agreed(alpn: Option<&[u8]>) -> String {
    String::from_utf8_lossy(alpn.unwrap_or_default()).into_owned()
}
