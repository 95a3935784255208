//! What a Workload API message says, from the SVIDs and authorities of [`crate::pki`].

use mantlet_proto::workload::{X509svid, X509svidResponse};
use rustls_pki_types::CertificateDer;

use crate::pki::{Authority, TestSvid};

/// A full `FetchX509SVID` message, built step by step.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    message: X509svidResponse,
}

// === impl Answer ===

impl Answer {
    /// One SVID; its bundle is the root above it.
    pub fn of(svid: &TestSvid) -> Self {
        Self::default().and(svid)
    }

    /// The same with a further SVID after those that are there.
    pub fn and(mut self, svid: &TestSvid) -> Self {
        self.message.svids.push(X509svid {
            spiffe_id: svid.id.clone(),
            x509_svid: svid.chain_der(),
            x509_svid_key: svid.key_der(),
            bundle: svid.root.to_vec(),
            hint: String::new(),
        });
        self
    }

    /// The same with this hint at the last SVID.
    pub fn hint(mut self, hint: &str) -> Self {
        self.last().hint = hint.to_owned();
        self
    }

    /// The same with these roots as the bundle of the last SVID.
    pub fn bundle<'a>(mut self, roots: impl IntoIterator<Item = &'a Authority>) -> Self {
        self.last().bundle = concatenated(roots);
        self
    }

    /// The same with a federated bundle for this authority's trust domain; a second authority of the
    /// same domain is added to it.
    pub fn federated(mut self, authority: &Authority) -> Self {
        let key = format!("spiffe://{}", authority.trust_domain());
        let bundle = self.message.federated_bundles.entry(key).or_default();
        bundle.extend_from_slice(authority.root());
        self
    }

    /// The same with these bytes under this key of the bundle map, right or wrong.
    pub fn federated_raw(mut self, key: &str, bundle: &[u8]) -> Self {
        self.message.federated_bundles.insert(key.to_owned(), bundle.to_vec());
        self
    }

    /// The message, to be spoilt further.
    pub fn message(self) -> X509svidResponse {
        self.message
    }

    fn last(&mut self) -> &mut X509svid {
        self.message.svids.last_mut().expect("an SVID comes first")
    }
}

impl From<Answer> for X509svidResponse {
    fn from(answer: Answer) -> Self {
        answer.message
    }
}

fn concatenated<'a>(roots: impl IntoIterator<Item = &'a Authority>) -> Vec<u8> {
    let roots: Vec<CertificateDer<'_>> = roots.into_iter().map(|root| root.root().clone()).collect();
    roots.iter().flat_map(|root| root.to_vec()).collect()
}
