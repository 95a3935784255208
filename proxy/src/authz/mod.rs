//! Deciding, and remembering what was decided for as long as it matters.
//!
//! An [`Authorizer`] belongs to one worker. It resolves a caller once per connection ([`Session`])
//! and decides each request on the policy of that moment; what it allows carries a [`Permit`], and
//! whatever carries a permit is judged again when the policy or a trust bundle changes.

mod in_flight;
mod nearest;
mod permit;
mod session;
mod show;
mod target;

use std::{borrow::Cow, sync::Arc, time::SystemTime};

use http::Request;
use mantlet_id::SpiffeId;
use mantlet_policy::{Decision, HttpFacts, ModeName, PortProtocol, Reason, Verdict};

use self::{in_flight::InFlight, nearest::Refused, session::Resolved};
pub use self::{
    permit::{Permit, Permitted, RequestKind},
    session::{Caller, Session},
    target::Facts,
};
use crate::{
    activity::{Activity, Outcome, Subject},
    addr::{ClientAddr, OrigDst},
    directory::Destination,
    log::{AuditRecord, DecisionId, FindNearest, Log},
    metrics::{CloseReason, Direction, Layer, Metrics, Text},
    policy_watch::{PolicyHandle, PolicySnapshot},
};

/// Judges callers and requests, for one worker.
pub struct Authorizer {
    policy: PolicyHandle,
    in_flight: Arc<InFlight>,
    metrics: Arc<Metrics>,
    activity: Activity,
    log: Log,
}

/// What the rules make of a port.
#[derive(Clone, Copy, Debug)]
pub struct PortRules {
    /// What is spoken on it.
    pub protocol: PortProtocol,
    /// Whether some callers may come without TLS.
    pub plaintext: bool,
    /// Whether all of them may, and are only counted.
    pub permissive: bool,
    /// Whether what is not allowed is refused; otherwise it is counted.
    pub enforced: bool,
}

/// A refusal.
#[derive(Debug)]
pub struct Denied {
    /// What was decided.
    pub decision: Decision,
    /// Under which it stands in the audit log.
    pub id: DecisionId,
}

/// What the audit log says of a request.
#[derive(Clone, Copy, Default)]
struct Asked<'a> {
    method: Option<&'a str>,
    path: Option<&'a str>,
}

// === impl Authorizer ===

impl Authorizer {
    /// A judge that follows `policy`.
    #[must_use]
    pub fn new(policy: PolicyHandle, metrics: Arc<Metrics>, activity: Activity, log: Log) -> Self {
        Self { policy, in_flight: Arc::default(), metrics, activity, log }
    }

    /// What the rules make of `port` right now.
    #[must_use]
    pub fn port(&self, port: u16) -> PortRules {
        let policy = &self.policy.current().policy;
        let mode = policy.mode(SystemTime::now());
        PortRules {
            protocol: policy.protocol(port),
            plaintext: policy.accepts_plaintext(port),
            permissive: mode == ModeName::Permissive,
            enforced: mode == ModeName::Enforce,
        }
    }

    /// Resolves a caller, once per connection. `orig_dst` is where it wanted to go, and what the policy
    /// is asked about; `label` is its metric label.
    #[must_use]
    pub fn session(
        &self,
        caller: Caller,
        client: ClientAddr,
        orig_dst: OrigDst,
        label: Text,
    ) -> Arc<Session> {
        Arc::new(Session::new(caller, client, orig_dst, label))
    }

    /// Decides a request. What is permitted carries the target that was matched, and no other.
    ///
    /// # Errors
    /// The request has no single meaning, or policy refuses it.
    pub fn authorize_request<B>(
        &self,
        session: &Arc<Session>,
        mut request: Request<B>,
    ) -> Result<Permitted<Request<B>>, Box<Denied>> {
        let Resolved { policy, view } = session.resolve(self.policy.current());
        let rules = &policy.policy;
        let facts = Facts::new(&request, rules.named_headers());
        let registration = self.in_flight.enter(Arc::clone(session), Some(facts));

        let now = SystemTime::now();
        let deciding = self.metrics.deciding(Layer::Http);
        let headers = target::Headers(request.headers());
        let meaning = target::meaning(&request, rules, session.port(), now);
        let judged = meaning.and_then(|meaning| {
            let facts = HttpFacts { target: meaning.target(), headers: &headers };
            let decision = rules.decide_http(&view, &facts, now);
            Ok((decision, meaning.forwarded(request.uri())?, meaning.is_websocket()))
        });
        let (decision, forwarded, websocket) = match judged {
            Ok(judged) => judged,
            Err(malformed) => (Decision::malformed(Verdict::Deny, malformed), None, false),
        };
        drop(deciding);
        self.account(session, Layer::Http, &decision, now);
        let asked = Asked { method: Some(request.method().as_str()), path: Some(request.uri().path()) };
        if decision.verdict == Verdict::Allow {
            self.show(session, Layer::Http.as_str(), &decision, asked, None, now);
        } else {
            let id = self.record(session, &policy, Layer::Http, &decision, asked, || {
                let facts = || Some(Facts::new(&request, rules.named_headers()).detached());
                Refused::by_no_rule(&decision, &policy, &view, facts, now)
            });
            self.show(session, Layer::Http.as_str(), &decision, asked, Some(id), now);
            if decision.verdict == Verdict::Deny {
                return Err(Box::new(Denied { decision, id }));
            }
        }
        if let Some(uri) = forwarded {
            *request.uri_mut() = uri;
        }
        let permit = Permit::new(rule_label(&decision), Some(registration)).matching(decision.route);
        let enforced = rules.mode(now) == ModeName::Enforce;
        let kind = RequestKind { h2c: rules.port_options(session.port()).h2c, websocket, enforced };
        Ok(Permitted::new(request, permit, kind))
    }

    /// Decides about the bytes of a connection.
    ///
    /// # Errors
    /// Policy refuses it.
    pub fn authorize_connection(&self, session: &Arc<Session>) -> Result<Permit, Box<Denied>> {
        let Resolved { policy, view } = session.resolve(self.policy.current());
        let registration = self.in_flight.enter(Arc::clone(session), None);
        let now = SystemTime::now();
        let deciding = self.metrics.deciding(Layer::Tcp);
        let decision = policy.policy.decide_tcp(&view, now);
        drop(deciding);
        self.account(session, Layer::Tcp, &decision, now);
        if decision.verdict == Verdict::Allow {
            self.show(session, Layer::Tcp.as_str(), &decision, Asked::default(), None, now);
        } else {
            let id = self.record(session, &policy, Layer::Tcp, &decision, Asked::default(), || {
                Refused::by_no_rule(&decision, &policy, &view, || None, now)
            });
            self.show(session, Layer::Tcp.as_str(), &decision, Asked::default(), Some(id), now);
            if decision.verdict == Verdict::Deny {
                return Err(Box::new(Denied { decision, id }));
            }
        }
        Ok(Permit::new(rule_label(&decision), Some(registration)))
    }

    /// The right to go to a destination: everywhere but where nobody may go. What may be done there
    /// is for the peer to judge.
    #[must_use]
    pub fn permit_destination(&self, destination: &Destination) -> Option<Permit> {
        match destination {
            Destination::Refuse => None,
            Destination::Mesh(_) | Destination::Passthrough { .. } => Some(Permit::new(Text::none(), None)),
        }
    }

    /// The right to send `request` to a destination.
    #[must_use]
    pub fn permit_request<B>(&self, to: &Destination, request: Request<B>) -> Option<Permitted<Request<B>>> {
        let websocket = target::asks_for_websocket(&request);
        let kind = RequestKind { h2c: false, websocket, enforced: false };
        Some(Permitted::new(request, self.permit_destination(to)?, kind))
    }

    /// The log, for what is no decision.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Counts per edge, and the watchers.
    #[must_use]
    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Judges all work in hand again, and ends what is no longer allowed. What another rule allows
    /// by now goes on undisturbed.
    pub fn rejudge(&self) {
        let current = self.policy.current();
        let now = SystemTime::now();
        self.in_flight.each(|work| {
            let decision = work.judge(&current, now);
            if decision.verdict == Verdict::Deny {
                work.revoke.revoke(match decision.reason {
                    Reason::Expired => CloseReason::Expired,
                    _ => CloseReason::Policy,
                });
            }
        });
    }

    /// Ends the requests of `session` that nobody has begun to answer.
    pub fn end_unanswered(&self, session: &Arc<Session>, reason: CloseReason) {
        self.in_flight.each(|work| {
            if Arc::ptr_eq(&work.session, session) {
                work.revoke.revoke_unanswered(reason);
            }
        });
    }

    fn account(&self, session: &Session, layer: Layer, decision: &Decision, now: SystemTime) {
        session.count(layer, decision, now, || {
            let Decision { verdict, reason, .. } = *decision;
            let peer = session.label.clone();
            let counters = self.metrics.decision(layer, decision, peer.clone());
            let outcome = Outcome::Decided(verdict, reason, decision.rule.clone());
            let mtls = session.caller.id().is_some();
            let subject =
                Subject { direction: Direction::Inbound, peer, mtls, layer: layer.as_str(), outcome };
            (counters, self.activity.edges.edge(subject))
        });
    }

    fn record(
        &self,
        session: &Session,
        policy: &PolicySnapshot,
        layer: Layer,
        decision: &Decision,
        asked: Asked<'_>,
        nearest: impl FnOnce() -> Option<Box<dyn FindNearest>>,
    ) -> DecisionId {
        let (reason, hash) = (reason_text(decision), policy.policy.hash());
        let record = AuditRecord {
            decision: decision.verdict.as_str(),
            mode: policy.mode(SystemTime::now()),
            reason: &reason,
            rule: decision.rule.as_deref(),
            layer: layer.as_str(),
            peer_id: session.caller.id().map(SpiffeId::as_str),
            peer_serial: session.caller.serial(),
            peer_addr: Some(session.client.0),
            method: asked.method,
            path: asked.path,
            route: decision.route.as_deref(),
            server_port: session.port(),
            policy_hash: Some(&hash),
            policy_generation: policy.generation,
            ..AuditRecord::default()
        };
        self.log.audit(&record, nearest)
    }
}

/// The reason of a decision with its detail, as header and log say it.
#[must_use]
pub fn reason_text(decision: &Decision) -> Cow<'static, str> {
    match decision.malformed {
        Some(malformed) => Cow::Owned(format!("malformed({})", malformed.as_str())),
        None => Cow::Borrowed(decision.reason.as_str()),
    }
}

fn rule_label(decision: &Decision) -> Text {
    decision.rule.clone().map_or_else(Text::none, Text::from)
}
