//! Random policies and requests from small alphabets, so that they meet often.

use mantlet_policy::canonical::Version;
use proptest::{prelude::*, sample::select};

use super::Request;

/// Peers as rules write them.
pub const PEERS: &[&str] = &[
    "mesh",
    "mesh",
    "mesh",
    "spiffe://*/**",
    "web/*",
    "web/a",
    "web/b",
    "web/*",
    "*/a",
    "o*/a",
    "./orders",
    "@g",
    "spiffe://partner.test/ns/web/sa/a",
    "spiffe://*/ns/web/sa/a",
    "spiffe://partner.test/**",
    "spiffe://*/**",
    "spiffe://td.test/ns/**",
    "plaintext(any)",
    "plaintext(10.0.0.0/8)",
    "plaintext(10.1.0.0/16,fd00::/8)",
];

/// Callers.
pub const CALLERS: &[&str] = &[
    "web/a",
    "web/a",
    "web/a",
    "web/b",
    "ops/a",
    "web/a",
    "web/b",
    "ops/a",
    "o/a",
    "shop/orders",
    "spiffe://partner.test/ns/web/sa/a",
    "spiffe://td.test/ns",
    "spiffe://td.test/ns/x",
    "spiffe://other.test/ns/web/sa/a",
    "10.1.2.3",
    "10.2.0.1",
    "192.0.2.1",
    "fd00::1",
    "::ffff:10.1.0.1",
];

const PATTERN_SEGMENTS: &[&str] =
    &["a", "a", "A", "ab", "*", "*", "{id}", "a*", "*b", "x:y", "x%40", "@", "p.S"];
const TAILS: &[&str] = &["", "", "/", "/**", "/**", "/**"];
const METHODS: &[&str] =
    &["*", "*", "*", "GET", "POST", "GET,HEAD", "GET,WEBSOCKET", "WEBSOCKET", "TRACE,POST"];
const RPCS: &[&str] = &["p.S/M", "p.S/*", "p.*/*", "p.*/M", "S/M", "p.S/M, q.T/*"];
const HTTP_PORTS: &[&str] = &["8080", "8080", "8080,9090", "8000-9100", "http", "9000-9090,80"];
const CONDITIONS: &[&str] = &[
    "header x-a = v",
    "header x-a in (v, w*)",
    "header x-a present",
    "header x-b absent",
    "host = h.x",
    "host in (*.x, y)",
    "header x-b = \"a, b\"",
    "header x-a = V",
];
const UNTILS: &[&str] = &[
    "2020-01-01T00:00Z",
    "2030-01-01T00:00Z",
    "2031-01-01T00:00Z",
    "2026-09-21T14:13:20Z",
    "2030-01-01T00:00Z",
];

pub const PORTS: &[u16] = &[8080, 8080, 8080, 8080, 8080, 8080, 8080, 8080, 9090, 8500, 5432, 80, 1];

fn path_pattern() -> impl Strategy<Value = String> {
    let made = (prop::collection::vec(select(PATTERN_SEGMENTS), 0..3), select(TAILS)).prop_map(
        |(segments, tail)| {
            let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
            if path.is_empty() && tail != "/**" { "/".into() } else { format!("{path}{tail}") }
        },
    );
    prop_oneof![3 => made, 1 => Just("/**".to_owned())]
}

fn target() -> impl Strategy<Value = String> {
    let http = (select(METHODS), prop::collection::vec(path_pattern(), 1..3))
        .prop_map(|(methods, paths)| format!("{methods} {}", paths.join(", ")));
    prop_oneof![6 => http, 2 => select(RPCS).prop_map(|rpc| format!("grpc {rpc}"))]
}

/// One rule, as text.
pub fn rule() -> impl Strategy<Value = String> {
    let peers = prop::collection::vec(select(PEERS), 1..4).prop_map(|peers| peers.join(", "));
    let except = prop::option::weighted(0.15, select(PEERS));
    let when = prop::option::weighted(0.25, prop::collection::vec(select(CONDITIONS), 1..3));
    let ports = prop::option::weighted(0.8, select(HTTP_PORTS));
    let http = (target(), ports, when).prop_map(|(target, ports, when)| {
        let on = ports.map_or(String::new(), |ports| format!(" on {ports}"));
        format!("{target}{on}{}", when.map_or(String::new(), |when| format!(" when {}", when.join(" and "))))
    });
    let what = prop_oneof![9 => http, 1 => Just("tcp on 5432".to_owned())];
    let until = prop::option::weighted(0.2, select(UNTILS));
    (prop::bool::weighted(0.1), prop::bool::weighted(0.35), peers, except, what, until).prop_map(
        |(audit, deny, peers, except, what, until)| {
            let audit = if audit { "audit " } else { "" };
            let verb = if deny { "deny" } else { "allow" };
            let except = except.map_or(String::new(), |except| format!(" except {except}"));
            let until = until.filter(|_| !deny).map_or(String::new(), |until| format!(" until {until}"));
            format!("{audit}{verb} {peers}{except} to {what}{until}")
        },
    )
}

/// The rules of a policy; put [`GROUP`] in front.
pub fn rules(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(rule(), count)
}

pub const GROUP: &str = "group @g = web/b, ops/*\n";

pub fn text(rules: &[String]) -> String {
    format!("{GROUP}{}", rules.iter().map(|rule| format!("{rule}\n")).collect::<String>())
}

const SEGMENTS: &[&str] = &[
    "a", "a", "a", "A", "ab", "aB", "%61", "x:y", "x%3ay", "X%3AY", "@", "%40", "x%40", "p.S", "p.S", "p.s",
    "M", "M", "m", "%C3%A9",
];

pub fn path() -> impl Strategy<Value = String> {
    (prop::collection::vec(select(SEGMENTS), 0..3), prop::bool::weighted(0.2)).prop_map(
        |(segments, slash)| {
            let path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
            if path.is_empty() || slash { format!("{path}/") } else { path }
        },
    )
}

const VALUES: &[&str] =
    &["v", "v", "V", "w1", "x", "a, b", "v, x", "\"v\"", "\"a, v\"", " v ", "w\u{e9}", ""];

pub fn request() -> impl Strategy<Value = Request> {
    let method = select(&["GET", "POST", "HEAD", "OPTIONS", "TRACE", "get", "DELETE"][..]);
    let headers = prop::collection::vec((select(&["x-a", "x-b"][..]), select(VALUES)), 0..3);
    let host = select(&["h.x", "H.X.:80", "x", "a.b.x", "y", "localhost", ""][..]);
    let kind = select(&["plain", "plain", "plain", "websocket", "grpc", "grpc-web", "h2"][..]);
    (method, path(), headers, host, kind, prop::bool::weighted(0.05)).prop_map(
        |(method, path, headers, host, kind, asterisk)| {
            let mut request = super::request(method, &path);
            for (name, value) in headers {
                request = request.header(name, value);
            }
            request = match kind {
                "websocket" => {
                    request.method = "GET".into();
                    request.websocket()
                }
                "grpc" => {
                    request.method = "POST".into();
                    request.grpc()
                }
                "grpc-web" => request.h2().header("content-type", "application/grpc-web"),
                "h2" => request.h2(),
                _ => request,
            };
            if asterisk {
                request.method = "OPTIONS".into();
                request.target = "*".into();
            }
            match (host, request.version) {
                ("", Version::Http11) => request.no_host(),
                ("", _) => {
                    request.hosts.clear();
                    request
                }
                (host, _) => request.host(host),
            }
        },
    )
}

/// How many cases each property runs; CI sets more.
pub fn cases(default: u32) -> ProptestConfig {
    let cases =
        std::env::var("TEST_PROPTEST_CASES").ok().and_then(|count| count.parse().ok()).unwrap_or(default);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}
