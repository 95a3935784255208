//! The fixture of the attack cases: pod shop/orders of `td.test`, and how to ask it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

pub mod generate;
pub mod naive;

use std::time::{Duration, SystemTime};

use mantlet_id::{SpiffeId, TrustDomain};
use mantlet_policy::{
    Config, Decision, Diagnostic, Guardrails, HttpFacts, HttpOptions, Latches, Limits, Mode, NamedPort, Peer,
    Policy, Source, Target, Workload,
    canonical::{Canonical, HostLines, Malformed, RequestHead, Version},
};

pub const FIXTURE: &str = "\
group @readers = web/frontend, web/bff
allow @readers     to GET,HEAD /orders/**, /public/**  on 8080 as read
allow web/checkout to POST /orders on 8080 when header x-tenant = acme as create
allow mesh         to GET /public/* on 8080 as public
allow ops/*        to * /** on 8080 as ops
deny  mesh except ops/oncall to * /admin/** on 8080 as no-admin
deny  mesh         to * /** on 8080 when header x-check = bad as no-bad
allow pay/ledger   to grpc shop.v1.Orders/Get on 9090 as rpc
allow data/etl     to tcp on 5432 as pg
allow spiffe://partner.test/ns/ful/sa/ship to GET /orders/{id} on 8080 as partner
";

/// A moment that all tests share.
pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

pub fn workload() -> Workload {
    Workload {
        trust_domain: TrustDomain::parse("td.test").unwrap(),
        namespace: "shop".into(),
        service_account: Some("orders".into()),
        ports: NamedPort::parse_list("http=8080,grpc=9090,pg=5432").unwrap(),
    }
}

/// Everything a compilation takes.
pub struct Setup {
    pub workload: Workload,
    pub limits: Limits,
    pub guardrails: Guardrails,
    pub mode: Mode,
    pub http_options: HttpOptions,
    pub latches: Latches,
    pub now: SystemTime,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            workload: workload(),
            limits: Limits::FILES,
            guardrails: Guardrails::default(),
            mode: Mode::Enforce,
            http_options: HttpOptions::default(),
            latches: Latches::new(),
            now: now(),
        }
    }
}

impl Setup {
    pub fn config(&self) -> Config<'_> {
        Config {
            workload: &self.workload,
            limits: self.limits,
            guardrails: &self.guardrails,
            mode: self.mode,
            http_options: &self.http_options,
            latches: &self.latches,
            now: self.now,
        }
    }

    pub fn compile(&self, text: &str) -> Result<Policy, Vec<Diagnostic>> {
        self.compile_all(&[("mantlet.dev/policy", text)])
    }

    pub fn compile_all(&self, texts: &[(&str, &str)]) -> Result<Policy, Vec<Diagnostic>> {
        let sources: Vec<Source<'_>> = texts.iter().map(|(key, text)| Source { key, text }).collect();
        Policy::compile(&sources, &self.config())
    }
}

pub fn compile(text: &str) -> Policy {
    Setup::default().compile(text).unwrap_or_else(|findings| panic!("{}", show(&findings)))
}

pub fn show(findings: &[Diagnostic]) -> String {
    findings.iter().map(|finding| format!("{finding}\n")).collect()
}

pub fn id(peer: &str) -> SpiffeId {
    if peer.starts_with("spiffe://") {
        return SpiffeId::parse(peer).unwrap();
    }
    let (namespace, account) = peer.split_once('/').unwrap();
    SpiffeId::workload(&TrustDomain::parse("td.test").unwrap(), namespace, account).unwrap()
}

/// A request in the making.
#[derive(Clone, Debug)]
pub struct Request {
    pub version: Version,
    pub method: String,
    pub target: String,
    pub authority: Option<String>,
    pub hosts: Vec<String>,
    pub headers: Vec<(String, String)>,
}

/// An HTTP/1.1 request with a host.
pub fn request(method: &str, target: &str) -> Request {
    Request {
        version: Version::Http11,
        method: method.into(),
        target: target.into(),
        authority: None,
        hosts: vec!["orders.shop".into()],
        headers: Vec::new(),
    }
}

impl Request {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn host(mut self, host: &str) -> Self {
        self.hosts = vec![host.into()];
        self
    }

    pub fn no_host(mut self) -> Self {
        self.version = Version::Http10;
        self.hosts.clear();
        self
    }

    pub fn h2(mut self) -> Self {
        self.version = Version::Http2;
        self
    }

    pub fn grpc(self) -> Self {
        self.h2().header("content-type", "application/grpc")
    }

    pub fn websocket(self) -> Self {
        self.header("connection", "Upgrade").header("upgrade", "websocket").header("sec-websocket-key", "x")
    }

    pub fn canonical(&self, policy: &Policy, port: u16) -> Result<Canonical<'_>, Malformed> {
        let (path, query) = match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.target.as_str(), None),
        };
        let head = RequestHead {
            version: self.version,
            method: &self.method,
            scheme: self.authority.as_ref().map(|_| "http"),
            authority: self.authority.as_deref(),
            path,
            query,
            host: match self.hosts.as_slice() {
                [] => HostLines::None,
                [one] => HostLines::One(one.as_bytes()),
                _ => HostLines::Many,
            },
        };
        Canonical::new(&head, &self.headers, policy.port_options(port).path)
    }
}

/// `allow read`, `deny default`, `bad dot-segment`: what the fixture's tests compare with.
pub fn verdict(policy: &Policy, peer: &str, request: &Request, port: u16) -> String {
    verdict_at(policy, peer, request, port, now())
}

pub fn verdict_at(policy: &Policy, peer: &str, request: &Request, port: u16, now: SystemTime) -> String {
    let peer_id;
    let peer = match peer.parse() {
        Ok(ip) => Peer::Plaintext(ip),
        Err(_) => {
            peer_id = id(peer);
            Peer::Identity(&peer_id)
        }
    };
    let canonical = match request.canonical(policy, port) {
        Ok(canonical) => canonical,
        Err(malformed) => return format!("bad {malformed}"),
    };
    let view = policy.view(peer, port);
    let facts = HttpFacts { target: Target::Canonical(&canonical), headers: &request.headers };
    told(&policy.decide_http(&view, &facts, now))
}

pub fn tcp(policy: &Policy, peer: &str, port: u16) -> String {
    tcp_at(policy, peer, port, now())
}

pub fn tcp_at(policy: &Policy, peer: &str, port: u16, now: SystemTime) -> String {
    let id = id(peer);
    told(&policy.decide_tcp(&policy.view(Peer::Identity(&id), port), now))
}

pub fn told(decision: &Decision) -> String {
    let why = decision.rule.as_deref().unwrap_or(decision.reason.as_str());
    format!("{} {why}", decision.verdict)
}
