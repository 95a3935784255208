//! Generated messages and stubs: the SPIFFE Workload API, and the directory of a cluster.
//!
//! The code under `src/generated/` comes from `proto/*.proto` and is committed: a build needs
//! neither protoc nor a build script. How to make it again stands in this crate's README.

/// The SPIFFE Workload API: messages, and behind the features `client` and
/// `server` the stubs. The method path is `/SpiffeWorkloadAPI/<Rpc>`.
///
/// A client sends the metadata [`SECURITY_HEADER`](crate::SECURITY_HEADER) with
/// every call.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod workload {
    include!("generated/workload.rs");

    /// The well-known types that the messages use.
    pub mod google {
        /// `google/protobuf/struct.proto`.
        pub mod protobuf {
            include!("generated/google_protobuf.rs");
        }
    }
}

/// The directory of a cluster: what a sidecar asks the injector about addresses. The meaning of each
/// field stands in `proto/directory.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod directory {
    include!("generated/directory.rs");
}

use std::fmt;

/// Name of the metadata that every Workload API call carries, with the value
/// [`SECURITY_HEADER_VALUE`]; a server refuses a call without it
/// (SPIFFE_Workload_Endpoint.md 3).
pub const SECURITY_HEADER: &str = "workload.spiffe.io";

/// The one accepted value of [`SECURITY_HEADER`], case-sensitive.
pub const SECURITY_HEADER_VALUE: &str = "true";

// === impl X509svid ===

/// By hand, so that no log line and no panic message ever holds the key.
impl fmt::Debug for workload::X509svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509svid")
            .field("spiffe_id", &self.spiffe_id)
            .field("x509_svid", &Bytes(&self.x509_svid))
            .field("x509_svid_key", &"<redacted>")
            .field("bundle", &Bytes(&self.bundle))
            .field("hint", &self.hint)
            .finish()
    }
}

// === impl Jwtsvid ===

/// By hand: the token is a bearer credential.
impl fmt::Debug for workload::Jwtsvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwtsvid")
            .field("spiffe_id", &self.spiffe_id)
            .field("svid", &"<redacted>")
            .field("hint", &self.hint)
            .finish()
    }
}

/// Prints the length: certificates as byte lists drown everything else.
struct Bytes<'a>(&'a [u8]);

// === impl Bytes ===

impl fmt::Debug for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::workload::{Jwtsvid, X509svid, X509svidResponse};

    #[test]
    fn debug_output_never_holds_a_private_key_or_a_token() {
        let svid = X509svid {
            spiffe_id: "spiffe://demo.local/ns/a/sa/b".into(),
            x509_svid_key: b"SECRETKEY".to_vec(),
            ..X509svid::default()
        };
        let response = X509svidResponse { svids: vec![svid], ..X509svidResponse::default() };
        let text = format!("{response:?}");
        assert!(text.contains("spiffe://demo.local/ns/a/sa/b"), "{text}");
        assert!(text.contains("<redacted>"), "{text}");
        assert!(!text.contains("83, 69, 67"), "{text}");
        let jwt = Jwtsvid { svid: "ey.SECRET.x".into(), ..Jwtsvid::default() };
        assert!(!format!("{jwt:?}").contains("SECRET"));
    }

    #[cfg(feature = "server")]
    #[test]
    fn the_service_has_the_name_that_the_standard_fixes() {
        use super::workload::spiffe_workload_api_server::SERVICE_NAME;
        assert_eq!(SERVICE_NAME, "SpiffeWorkloadAPI");
    }

    #[test]
    fn an_svid_message_keeps_the_field_numbers_of_the_standard() {
        use prost::Message;
        let svid = X509svid {
            spiffe_id: "a".into(),
            x509_svid: vec![1],
            x509_svid_key: vec![2],
            bundle: vec![3],
            hint: "h".into(),
        };
        let wire = [0x0a, 1, b'a', 0x12, 1, 1, 0x1a, 1, 2, 0x22, 1, 3, 0x2a, 1, b'h'];
        assert_eq!(svid.encode_to_vec(), wire);
    }
}
