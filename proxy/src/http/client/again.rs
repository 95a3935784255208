//! Which requests are sent again, and how often.
//!
//! One that the upstream has not touched may be: nothing of it was written, or the upstream says itself that
//! it has not processed it (RFC 9113, 6.8 and 8.7). One that it may have processed is not, unless sending it
//! twice is the same as sending it once.

use std::error::Error;

use http::{HeaderMap, Method, Request, Uri, Version};

use super::{Body, SendError};
use crate::{detect::HttpVersion, http::tape::Tape};

/// Most that one request is sent.
const MOST: usize = 3;

/// What it takes to send a request again.
pub(super) struct Kept {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    /// None for a request without a body.
    tape: Option<Tape>,
    /// Sending it twice is the same as sending it once, and the connection may have been closing.
    harmless: bool,
}

/// A request that got no response.
pub(super) struct Failed {
    pub(super) error: SendError,
    /// None where it must not be sent again.
    pub(super) again: Option<Again>,
}

/// A request that may be sent again.
pub(super) struct Again {
    request: Box<Request<Body>>,
    /// The upstream has done nothing with it.
    untouched: bool,
}

/// How often a request was sent.
#[derive(Default)]
pub(super) struct Attempts {
    sent: usize,
    repeated: bool,
}

/// How a connection is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// One that stands, or a new one.
    Any,
    /// A new one: what stood has just failed.
    Fresh,
    /// A new one that is going to leave HTTP.
    Upgrade,
}

/// Whether the upstream says of a request that it has not processed it: its stream is above the last one
/// that a GOAWAY names, or was refused. The library gives a GOAWAY as the error of such streams alone; those
/// below end with the connection.
fn is_unprocessed(error: &SendError) -> bool {
    h2_error(error).is_some_and(|error| {
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        error.is_remote() && (error.is_go_away() || refused)
    })
}

fn h2_error(error: &SendError) -> Option<&h2::Error> {
    let SendError::Http(error) = error else { return None };
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref() {
            return Some(error);
        }
        source = cause.source();
    }
    None
}

// === impl Kept ===

impl Kept {
    /// What is needed of a request that goes out over a connection of this version, which may be `reused`.
    /// `None` where whatever may happen to it is no reason to send it again.
    pub(super) fn of(request: &mut Request<Body>, reused: bool, version: HttpVersion) -> Option<Self> {
        let empty = http_body::Body::is_end_stream(request.body());
        let idempotent = matches!(
            *request.method(),
            Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
        );
        let harmless = reused && idempotent && empty;
        if !harmless && version == HttpVersion::H1 {
            return None;
        }
        Some(Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: request.headers().clone(),
            tape: (!empty).then(|| request.body_mut().taped()),
            harmless,
        })
    }

    /// There is an answer: the body has only one reader from here on.
    pub(super) fn forget(self) {
        if let Some(tape) = self.tape {
            tape.forget();
        }
    }

    fn request(self) -> Option<Request<Body>> {
        let body = match &self.tape {
            Some(tape) => Body::from(tape.rewind()?),
            None => Body::default(),
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers;
        Some(request)
    }
}

// === impl Failed ===

impl Failed {
    /// `unsent` is the request itself where nothing of it was written.
    pub(super) fn new(error: SendError, unsent: Option<Box<Request<Body>>>, kept: Option<Kept>) -> Self {
        if let Some(request) = unsent {
            return Self { error, again: Some(Again { request, untouched: true }) };
        }
        // Whoever had a minute for an answer and gave none does not get another.
        if matches!(error, SendError::PeerExpired) {
            return Self { error, again: None };
        }
        let untouched = is_unprocessed(&error);
        // A peer that no longer may answer is no peer to ask again.
        let broke = matches!(error, SendError::Http(_));
        let again = kept
            .filter(|kept| untouched || (kept.harmless && broke))
            .and_then(Kept::request)
            .map(|request| Again { request: Box::new(request), untouched });
        Self { error, again }
    }

    /// The upstream wants no further request on the connection. One that refuses a single stream does not
    /// say so.
    pub(super) fn is_farewell(&self) -> bool {
        let refused = |error: &h2::Error| error.is_reset();
        self.again.as_ref().is_some_and(|again| again.untouched)
            && !h2_error(&self.error).is_some_and(refused)
    }
}

impl From<Failed> for SendError {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

// === impl Attempts ===

impl Attempts {
    /// The request to send once more, and over which connection.
    ///
    /// # Errors
    /// It is not sent again.
    pub(super) fn next(&mut self, failed: Failed) -> Result<(Box<Request<Body>>, Wanted), SendError> {
        self.sent += 1;
        match failed.again {
            Some(Again { request, untouched }) if self.sent < MOST && (untouched || !self.repeated) => {
                self.repeated |= !untouched;
                // The last time, nothing that stood before is trusted.
                let any = untouched && self.sent + 1 < MOST;
                Ok((request, if any { Wanted::Any } else { Wanted::Fresh }))
            }
            _ => Err(failed.error),
        }
    }
}
