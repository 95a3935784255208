//! Answers of the sidecar's own.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};

use super::Body;

/// How a request is told that it goes no further, in HTTP's way and in gRPC's.
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// The gRPC status for the same thing.
    pub grpc_status: u8,
    /// The header that says why, and under which id it is logged.
    pub header: (HeaderName, String),
    /// One line for a person. `None` for a caller that has no identity: it learns the status alone.
    pub text: Option<String>,
}

// === impl Refusal ===

impl Refusal {
    /// The answer.
    #[must_use]
    pub fn into_response(self, grpc: bool) -> Response<Body> {
        let Some(text) = self.text else {
            return status_only(self.status);
        };
        let mut response =
            if grpc { grpc_answer(self.grpc_status, &text) } else { http_answer(self.status, text) };
        let (name, value) = self.header;
        // Reasons and ids are ASCII by construction.
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

fn status_only(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = status;
    response
}

fn http_answer(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::text(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Trailers-Only: one header block that ends the stream (gRPC over HTTP/2, Responses).
fn grpc_answer(grpc_status: u8, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::default());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from(u16::from(grpc_status)));
    if let Ok(message) = HeaderValue::from_str(text.trim_end()) {
        headers.insert(HeaderName::from_static("grpc-message"), message);
    }
    response
}
