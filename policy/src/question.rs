//! A question to a policy, in the words of the command line and of test files.

use std::{net::IpAddr, time::SystemTime};

use mantlet_id::{PeerPattern, SpiffeId};

use crate::{
    ModeName, Policy, Workload,
    canonical::{Canonical, HostLines, Malformed, RequestHead, Version},
    decision::{Decision, HttpFacts, Peer, Target, Verdict},
    language::Time,
    latch::When,
};

/// Who asks for what on which port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Question {
    /// Who.
    pub caller: Caller,
    /// What.
    pub ask: Ask,
    /// On which container port.
    pub port: u16,
    /// The `Host`; `localhost` if not given.
    pub host: Option<String>,
    /// Header fields; names are lower case.
    pub headers: Vec<(String, String)>,
}

/// Who asks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Caller {
    /// A workload.
    Identity(SpiffeId),
    /// A caller without identity.
    Plaintext(IpAddr),
}

/// What for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ask {
    /// A request. The method may be `WEBSOCKET`.
    Http {
        /// The method.
        method: String,
        /// Path and query, as a client would send them.
        target: String,
    },
    /// A gRPC call of `package.Service/Method`.
    Grpc(String),
    /// A connection.
    Tcp,
}

// === impl Caller ===

impl Caller {
    /// Parses `ns/sa`, `./sa`, a full id, or `plaintext(address)`.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str, workload: &Workload) -> Result<Self, String> {
        if let Some(address) = text.strip_prefix("plaintext(").and_then(|rest| rest.strip_suffix(')')) {
            let parsed = address.parse().map_err(|_| format!("\"{address}\" is no address"))?;
            return Ok(Self::Plaintext(parsed));
        }
        let parsed = if text.starts_with("spiffe://") {
            PeerPattern::parse(text)
        } else {
            let full = text.strip_prefix("./").map(|account| format!("{}/{account}", workload.namespace));
            PeerPattern::short(&workload.trust_domain, full.as_deref().unwrap_or(text))
        };
        match parsed.as_ref().map(PeerPattern::exact) {
            Ok(Some(id)) => Ok(Self::Identity(id)),
            Ok(None) => Err(format!("\"{text}\" is a pattern; name one caller")),
            Err(error) => Err(format!("\"{text}\": {error}")),
        }
    }

    /// The caller, as the matcher takes it.
    #[must_use]
    pub fn peer(&self) -> Peer<'_> {
        match self {
            Self::Identity(id) => Peer::Identity(id),
            Self::Plaintext(ip) => Peer::Plaintext(*ip),
        }
    }
}

// === impl Question ===

impl Question {
    /// What `policy` answers, supposing it were `at`. Asking changes nothing: a grant that is over then
    /// goes on now.
    #[must_use]
    pub fn decide(&self, policy: &Policy, at: SystemTime) -> Decision {
        let view = policy.view(self.caller.peer(), self.port);
        let when = When::Supposed(Time::of(at));
        self.with_facts(policy, |facts| match facts {
            Ok(Some(facts)) => policy.judge_http(&view, &facts, when),
            Ok(None) => policy.judge_tcp(&view, when),
            Err(defect) => {
                let lenient = defect.is_path() && policy.mode(at) != ModeName::Enforce;
                Decision::malformed(if lenient { Verdict::WouldDeny } else { Verdict::Deny }, defect)
            }
        })
    }

    /// Gives `f` what the request is judged by: nothing for a connection, the defect for a request
    /// that has no single meaning.
    pub(crate) fn with_facts<T>(
        &self,
        policy: &Policy,
        f: impl FnOnce(Result<Option<HttpFacts<'_>>, Malformed>) -> T,
    ) -> T {
        let mut headers = self.headers.clone();
        let (version, method, target) = match &self.ask {
            Ask::Tcp => return f(Ok(None)),
            Ask::Grpc(method) => {
                headers.push(("content-type".into(), "application/grpc".into()));
                (Version::Http2, "POST", format!("/{method}"))
            }
            Ask::Http { method, target } if method == "WEBSOCKET" => {
                for (name, value) in
                    [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-key", "x")]
                {
                    headers.push((name.into(), value.into()));
                }
                (Version::Http11, "GET", target.clone())
            }
            Ask::Http { method, target } => (Version::Http11, method.as_str(), target.clone()),
        };
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target.as_str(), None),
        };
        let host = self.host.as_deref().unwrap_or("localhost");
        let head = RequestHead {
            version,
            method,
            scheme: None,
            authority: None,
            path,
            query,
            host: HostLines::One(host.as_bytes()),
        };
        for (name, value) in &self.headers {
            if let Err(defect) = policy.named_headers().check_field(name, value.as_bytes()) {
                return f(Err(defect));
            }
        }
        match Canonical::new(&head, &headers, policy.port_options(self.port).path) {
            Ok(canonical) => {
                f(Ok(Some(HttpFacts { target: Target::Canonical(&canonical), headers: &headers })))
            }
            Err(defect) => f(Err(defect)),
        }
    }
}
