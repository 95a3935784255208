//! The commands on the pages of the repository do what the pages say.
//!
//! Every fenced block marked `console` in README.md and docs/ is run, in order, in one empty folder
//! per page: a line that begins with `$ ` is a command for bash, lines that begin with `> ` continue
//! it, everything else is what it prints (both streams). In the expected output `[..]` stands for
//! anything within a line and a line `...` for any number of lines. A block marked `console varying`
//! is a recording: numbers that no two runs have in common (times, ports, process ids, counts) and the
//! width of columns may differ. `mantlet` and `mantlet-proxy` are the built ones. A block marked
//! `policy` is a policy that compiles.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

use mantlet_id::TrustDomain;
use mantlet_policy::{Config, Guardrails, HttpOptions, Latches, Limits, Mode, Policy, Source, Workload};

/// One command of a page and what the page shows.
struct Step {
    line: usize,
    command: String,
    expected: Vec<String>,
    varying: bool,
}

#[test]
fn the_pages_show_what_the_commands_print() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = vec![root.join("README.md")];
    let docs = fs::read_dir(root.join("docs")).expect("docs/");
    pages.extend(docs.map(|entry| entry.expect("a page").path()));
    pages.sort();
    // Pages name fixed addresses: one run at a time on a machine.
    let lock = fs::File::create(env::temp_dir().join("mantlet-pages.lock")).expect("a lock file");
    lock.lock().expect("the lock");
    let mut wrong = Vec::new();
    for page in pages.iter().filter(|page| page.extension().is_some_and(|e| e == "md")) {
        let text = fs::read_to_string(page).expect("a page");
        let steps = steps(&text);
        if steps.is_empty() {
            continue;
        }
        let name = page.file_stem().unwrap_or_default().to_string_lossy();
        let folder = env::temp_dir().join(format!("mantlet-pages-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder to run in");
        for step in steps {
            let printed = run(&step.command, &folder);
            let lines: Vec<&str> = printed.lines().map(str::trim_end).collect();
            let same = match step.varying {
                true => recording(&step.expected).eq(&recording(&lines)),
                false => matches(&step.expected, &lines),
            };
            if !same {
                let expected = step.expected.join("\n");
                let at = format!("{}:{}", page.display(), step.line);
                wrong
                    .push(format!("{at}: $ {}\n-- shown:\n{expected}\n-- printed:\n{printed}", step.command));
            }
        }
        let _ = fs::remove_dir_all(&folder);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn the_policies_on_the_pages_compile() {
    let domain = TrustDomain::parse("td.test").expect("a trust domain");
    let workload = Workload::new(domain, "shop");
    let mut compiled = 0;
    for page in &pages() {
        let text = fs::read_to_string(page).expect("a page");
        let blocks = text.split("```policy\n").skip(1);
        for block in blocks.filter_map(|block| block.split("```").next()) {
            let config = Config {
                workload: &workload,
                limits: Limits::default(),
                guardrails: &Guardrails::default(),
                mode: Mode::Enforce,
                http_options: &HttpOptions::default(),
                latches: &Latches::default(),
                now: SystemTime::now(),
            };
            let key = page.display().to_string();
            let policy = Policy::compile(&[Source { key: &key, text: block }], &config);
            assert!(policy.is_ok_and(|policy| policy.rule_count() > 0), "{key}:\n{block}");
            compiled += 1;
        }
    }
    assert!(compiled > 0, "the README shows a policy");
}

#[test]
fn a_recording_differs_in_numbers_only() {
    let same = |a: &str, b: &str| recording(&[a]) == recording(&[b]);
    assert!(same("web GET /orders/42  200 allow  3.3 ms", "web GET /orders/42 200 allow 12.0 ms"));
    assert!(same("pid 634, 6 ms", "pid 20117, 11 ms"));
    assert!(same("id 01M7YS95XTBJBNWJCP00000000", "id 01M7YS8YYMMG3RG08K00000001"));
    assert!(!same("web 200 allow", "web 403 allow"));
    assert!(!same("all 4 checks passed", "all 3 checks passed"));
}

#[test]
fn expected_output_may_leave_things_open() {
    let check = |expected: &[&str], printed: &[&str]| {
        let expected: Vec<String> = expected.iter().map(|line| (*line).to_owned()).collect();
        matches(&expected, printed)
    };
    assert!(check(&["a", "b"], &["a", "b"]));
    assert!(check(&["took [..] ms [..]"], &["took 12 ms in all"]));
    assert!(check(&["a", "...", "z"], &["a", "b", "c", "z"]));
    assert!(check(&["..."], &[]));
    assert!(!check(&["a"], &["a", "b"]));
    assert!(!check(&["a [..] c"], &["a b d"]));
    let page = "x\n```console\n$ cat <<E\n> hi\n> E\nhi\n$ true\n```\n```\n$ no\n```\n";
    let steps = steps(page);
    assert_eq!(steps.len(), 2);
    assert_eq!(steps[0].command, "cat <<E\nhi\nE");
    assert_eq!(steps[0].expected, ["hi"]);
}

/// README.md and the pages of docs/, decisions included.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = vec![root.join("README.md")];
    for folder in ["docs", "docs/adr"] {
        let entries = fs::read_dir(root.join(folder)).expect("a folder of pages");
        pages.extend(entries.map(|entry| entry.expect("a page").path()));
    }
    pages.retain(|page| page.extension().is_some_and(|e| e == "md"));
    pages.sort();
    pages
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    let mut varying = false;
    let mut fenced = false;
    for (at, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            fenced = !fenced;
            varying = line.trim() == "```console varying";
            inside = fenced && (varying || line.trim() == "```console");
        } else if inside {
            if let Some(command) = line.strip_prefix("$ ") {
                let (line, command) = (at + 1, command.to_owned());
                steps.push(Step { line, command, expected: Vec::new(), varying });
            } else if let Some(step) = steps.last_mut() {
                match line.strip_prefix("> ") {
                    Some(more) if step.expected.is_empty() => step.command += &format!("\n{more}"),
                    _ => step.expected.push(line.trim_end().to_owned()),
                }
            }
        }
    }
    steps
}

fn run(command: &str, folder: &Path) -> String {
    let built = PathBuf::from(env!("CARGO_BIN_EXE_mantlet"));
    let binaries = built.parent().expect("a binary stands in a folder").to_path_buf();
    let paths = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([binaries].into_iter().chain(env::split_paths(&paths))).expect("a PATH");
    // A command that waits for ever would hide which one it was.
    let output = Command::new("timeout")
        .args(["60", "bash", "-c", &format!("exec 2>&1; {command}")])
        .current_dir(folder)
        .env_clear()
        .env("PATH", path)
        .env("HOME", folder)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .expect("timeout and bash run");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What two recordings of one command have in common.
fn recording<S: AsRef<str>>(lines: &[S]) -> Vec<String> {
    const BEFORE: [&str; 2] = ["pid", "on"];
    const AFTER: [&str; 4] = ["ms", "s", "requests", "of"];
    let number = |word: &str| word.trim_end_matches([',', ')']).parse::<f64>().is_ok();
    let varies = |words: &[&str], at: usize| {
        let next_to = |at: Option<usize>, list: &[&str]| {
            at.and_then(|at| words.get(at)).is_some_and(|word| list.contains(word))
        };
        let decision = words[at].len() == 26 && words[at].bytes().all(|b| b.is_ascii_alphanumeric());
        let counted = next_to(at.checked_sub(1), &BEFORE) || next_to(Some(at + 1), &AFTER);
        decision || words[at].contains("/mantlet-demo-") || number(words[at]) && counted
    };
    let shown = lines.iter().map(|line| {
        let words: Vec<&str> = line.as_ref().split_whitespace().collect();
        let same = (0..words.len()).map(|at| if varies(&words, at) { "#" } else { words[at] });
        same.collect::<Vec<_>>().join(" ")
    });
    shown.collect()
}

/// Whether the printed lines are what was expected, wildcards considered.
fn matches(expected: &[String], printed: &[&str]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((first, rest)) if first == "..." => {
            (0..=printed.len()).any(|skipped| matches(rest, &printed[skipped..]))
        }
        Some((first, rest)) => match printed.split_first() {
            Some((line, others)) => line_matches(first, line) && matches(rest, others),
            None => false,
        },
    }
}

fn line_matches(expected: &str, line: &str) -> bool {
    let mut parts = expected.split("[..]");
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}
