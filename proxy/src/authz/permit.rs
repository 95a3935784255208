//! Authority as a value.

use std::sync::Arc;

use http::{HeaderMap, Request, Version};

use super::in_flight::Registration;
use crate::metrics::Text;

/// The right to move bytes or a request upstream. Only the authorizer makes one, and it lives as
/// long as what it entitles to: while it exists the work can be found and ended when the right is
/// taken away.
#[must_use]
pub struct Permit {
    /// The rule that gave it.
    rule: Text,
    /// The pattern that matched.
    route: Option<Text>,
    /// Its place among the work in hand; an outbound permit has none, because the peer judges.
    _registration: Option<Registration>,
}

/// Something that may go upstream.
///
/// Forwarding takes nothing else, so forwarding what nobody permitted does not compile:
///
/// ```compile_fail,E0451
/// # fn example(permit: mantlet_proxy::authz::Permit, kind: mantlet_proxy::authz::RequestKind) {
/// let request = http::Request::new(mantlet_proxy::http::Body::default());
/// let permitted = mantlet_proxy::authz::Permitted { content: request, permit, kind };
/// # }
/// ```
///
/// ```compile_fail,E0308
/// # async fn example(host: &std::sync::Arc<mantlet_proxy::http::client::Host>) {
/// let request = http::Request::new(mantlet_proxy::http::Body::default());
/// let _ = host.send(request).await;
/// # }
/// ```
#[must_use]
pub struct Permitted<T> {
    content: T,
    permit: Permit,
    kind: RequestKind,
}

/// What the decision found out about a request that its forwarding depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestKind {
    /// The port is declared to speak HTTP/2 in clear.
    pub h2c: bool,
    /// It asks for the WebSocket protocol, and that is what was permitted.
    pub websocket: bool,
    /// The answer is held to what was permitted. Not in audit, and not where the peer judges.
    pub enforced: bool,
}

// === impl Permit ===

impl Permit {
    pub(super) fn new(rule: Text, registration: Option<Registration>) -> Self {
        Self { rule, route: None, _registration: registration }
    }

    /// The same for a request that matched this pattern.
    pub(super) fn matching(self, route: Option<Arc<str>>) -> Self {
        Self { route: route.map(Text::from), ..self }
    }

    /// The rule that gave it.
    #[must_use]
    pub fn rule(&self) -> &Text {
        &self.rule
    }
}

// === impl Permitted ===

impl<T> Permitted<T> {
    pub(super) fn new(content: T, permit: Permit, kind: RequestKind) -> Self {
        Self { content, permit, kind }
    }

    /// The rule that permitted it.
    #[must_use]
    pub fn rule(&self) -> &Text {
        &self.permit.rule
    }

    /// The pattern of the policy that it matched: never a path, hence a label.
    #[must_use]
    pub fn route(&self) -> Option<&Text> {
        self.permit.route.as_ref()
    }

    /// What its forwarding depends on.
    #[must_use]
    pub fn kind(&self) -> RequestKind {
        self.kind
    }

    pub(crate) fn into_parts(self) -> (T, Permit) {
        (self.content, self.permit)
    }
}

impl<B> Permitted<Request<B>> {
    /// Fields that describe the hop may change after the decision; method and target may not.
    pub(crate) fn headers_mut(&mut self) -> &mut HeaderMap {
        self.content.headers_mut()
    }

    /// The stream under the request, once its response has said that protocols are switched.
    pub(crate) fn upgrade(&mut self) -> hyper::upgrade::OnUpgrade
    where
        B: Send,
    {
        hyper::upgrade::on(&mut self.content)
    }

    pub(crate) fn version(&self) -> Version {
        self.content.version()
    }

    pub(crate) fn set_version(&mut self, version: Version) {
        *self.content.version_mut() = version;
    }
}
