//! `docs/connection-map.md` is generated from the comments that mark the phases of a connection in
//! the sidecar's code, so the map cannot describe code that is not there.
//!
//! A marker stands above the line that begins its phase:
//! ```text
//! // phase: inbound 4 "TLS handshake" | fails: no certificate | close: tls | metric: mantlet_...
//! ```
//! A line that begins with `// |` continues it; `-` stands for nothing. After a change, run
//! `TEST_BLESS=1 cargo test -p mantlet-proxy --test connection_map` and look at the diff.

use mantlet_proxy::metrics::{CloseReason, Metrics, Options};
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

const HEADER: &str = "\
<!-- Generated from the `// phase:` comments in proxy/src; proxy/tests/connection_map.rs checks it. -->

# The life of a connection

One row per phase, in the order of the code. *Ends as* is the `close` reason in the metrics, in the
log and in the `x-mantlet-error` header; *counted in* is the metric to look at. A phase without a
reason cannot end the connection.

Before the first phase [`Listener::accept`](../proxy/src/listener.rs) has reserved a place under the
limit and accepted the connection. After the last one
[`ConnectionGuard::finish`](../proxy/src/metrics/connection.rs) counts its end, once, also when it was
revoked ([`revocable`](../proxy/src/revoke.rs)) or its task panicked.
";

/// One phase of a connection's life, as its marker tells it.
#[derive(Debug)]
struct Phase {
    direction: String,
    number: u32,
    title: String,
    fails: String,
    closes: Vec<String>,
    metrics: Vec<String>,
    function: String,
    file: String,
    line: usize,
}

#[test]
fn the_connection_map_is_what_the_code_says() {
    let src = crate_dir().join("src");
    let mut phases = Vec::new();
    for path in rust_files(&src) {
        let text = fs::read_to_string(&path).expect("a source file");
        let file = path.strip_prefix(&src).expect("below src");
        phases.extend(phases_of(&text, &file.display().to_string()));
    }
    phases.sort_by(|a, b| {
        (&a.direction, a.number, &a.file, a.line).cmp(&(&b.direction, b.number, &b.file, b.line))
    });

    let metrics = Metrics::new(Options::default());
    let registers = |name: &str| metrics.describe().iter().any(|family| family.name == name);
    let closes: BTreeSet<_> = CloseReason::ALL.iter().map(|reason| reason.as_str()).collect();
    for phase in &phases {
        let at = format!("{}:{}", phase.file, phase.line);
        for close in &phase.closes {
            assert!(closes.contains(close.as_str()), "{at}: no CloseReason is called {close}");
        }
        for metric in &phase.metrics {
            assert!(registers(metric), "{at}: no metric is called {metric}");
        }
    }
    for direction in ["inbound", "outbound"] {
        let numbers: BTreeSet<_> =
            phases.iter().filter(|phase| phase.direction == direction).map(|phase| phase.number).collect();
        let whole = numbers.iter().copied().eq(1..=numbers.len() as u32);
        assert!(whole && !numbers.is_empty(), "{direction}: phases {numbers:?}");
    }

    let expected = render(&phases);
    let page = crate_dir().join("../docs/connection-map.md");
    if std::env::var_os("TEST_BLESS").is_some() {
        fs::write(&page, &expected).expect("docs/connection-map.md is writable");
    }
    let actual = fs::read_to_string(&page).unwrap_or_default();
    assert!(
        actual == expected,
        "docs/connection-map.md differs from the code:\n\
         TEST_BLESS=1 cargo test -p mantlet-proxy --test connection_map\n{expected}"
    );
}

#[test]
fn a_marker_is_read_with_its_function() {
    let text = "\
impl Listener {
    pub async fn accept(&self) {
        // phase: inbound 1 \"Accept\" | fails: no descriptor left
        // | close: limit, reset | metric: -
        let x = 1;
    }
}
";
    let phases = phases_of(text, "listener.rs");
    assert_eq!(phases.len(), 1);
    assert_eq!(phases[0].title, "Accept");
    assert_eq!(phases[0].fails, "no descriptor left");
    assert_eq!(phases[0].closes, ["limit", "reset"]);
    assert!(phases[0].metrics.is_empty());
    assert_eq!(phases[0].function, "listener::Listener::accept");
}

fn crate_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a source folder") {
            let path = entry.expect("a folder entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Every marker of a file.
fn phases_of(text: &str, file: &str) -> Vec<Phase> {
    let lines: Vec<&str> = text.lines().collect();
    let mut phases = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(first) = line.trim_start().strip_prefix("// phase: ") else {
            continue;
        };
        let mut marker = first.to_owned();
        for more in &lines[at + 1..] {
            let Some(more) = more.trim_start().strip_prefix("// |") else {
                break;
            };
            marker.push_str(" |");
            marker.push_str(more);
        }
        let parsed = parse(&marker);
        let mut phase = parsed.unwrap_or_else(|| panic!("{file}:{}: {marker}", at + 1));
        let module = file.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
        phase.function = format!("{module}::{}", function_above(&lines[..at]));
        phase.file = file.to_owned();
        phase.line = at + 1;
        phases.push(phase);
    }
    phases
}

fn parse(marker: &str) -> Option<Phase> {
    let mut fields = marker.split('|').map(str::trim);
    let mut head = fields.next()?.splitn(3, ' ');
    let direction = head.next()?.to_owned();
    let number = head.next()?.parse().ok()?;
    let title = head.next()?.trim_matches('"').to_owned();
    if !matches!(direction.as_str(), "inbound" | "outbound") {
        return None;
    }
    let mut phase = Phase {
        direction,
        number,
        title,
        fails: String::new(),
        closes: Vec::new(),
        metrics: Vec::new(),
        function: String::new(),
        file: String::new(),
        line: 0,
    };
    for field in fields {
        let (key, value) = field.split_once(':')?;
        let values = value.split(',').map(|v| v.trim().to_owned());
        let values = values.filter(|v| v != "-" && !v.is_empty()).collect();
        match key.trim() {
            "fails" => phase.fails = value.trim().to_owned(),
            "close" => phase.closes = values,
            "metric" => phase.metrics = values,
            _ => return None,
        }
    }
    Some(phase)
}

/// The function that a marker stands in, with the type that an `impl` gives it.
fn function_above(lines: &[&str]) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut depth = usize::MAX;
    let mut function = None;
    for line in lines.iter().rev() {
        if line.trim().is_empty() || line.trim_start().starts_with("//") || indent(line) >= depth {
            continue;
        }
        match &function {
            None => {
                if let Some(name) = function_name(line) {
                    function = Some(name);
                }
                if function.is_some() {
                    depth = indent(line);
                }
            }
            Some(name) => {
                depth = indent(line);
                if let Some(of) = impl_type(line) {
                    return format!("{of}::{name}");
                }
            }
        }
    }
    function.unwrap_or_default()
}

fn function_name(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "fn")?;
    let plain = words[..at]
        .iter()
        .all(|word| word.starts_with("pub") || matches!(*word, "async" | "const" | "in" | "unsafe"));
    let name = words.get(at + 1)?.split(['(', '<']).next()?;
    plain.then(|| name.to_owned())
}

fn impl_type(line: &str) -> Option<String> {
    let rest = line.trim_start().strip_prefix("impl")?;
    let name = rest.rsplit(" for ").next()?;
    let name = name.trim_start_matches(|c: char| c != ' ' && c != '<').trim();
    let name = name.split(['<', ' ', '{']).find(|part| !part.is_empty())?;
    Some(name.to_owned())
}

fn render(phases: &[Phase]) -> String {
    let mut page = HEADER.to_owned();
    for (direction, title) in [("inbound", "Inbound"), ("outbound", "Outbound")] {
        let _ = write!(
            page,
            "\n## {title}\n\n| # | phase | function | what can go wrong | ends as | counted in |\n\
             |---|---|---|---|---|---|\n"
        );
        for phase in phases.iter().filter(|phase| phase.direction == direction) {
            let _ = writeln!(
                page,
                "| {} | {} | [`{}`](../proxy/src/{}) | {} | {} | {} |",
                phase.number,
                phase.title,
                phase.function,
                phase.file,
                phase.fails,
                code(&phase.closes),
                code(&phase.metrics),
            );
        }
    }
    page
}

fn code(names: &[String]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}
