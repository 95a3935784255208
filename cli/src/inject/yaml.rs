//! Manifests as YAML, in the form that kubectl gives them. Comments are not kept.

use serde_json::Value;

/// A value as lines: one that stands behind its key, or several below it.
enum Lines {
    /// Behind the key.
    One(String),
    /// A list, whose items may stand as far left as its key.
    List(Vec<String>),
    /// A map.
    Map(Vec<String>),
    /// A text of several lines, and the sign in front of it.
    Text(&'static str, Vec<String>),
}

/// `value` as one document.
pub(super) fn text(value: &Value) -> String {
    let mut text = match lines(value) {
        Lines::One(line) => line,
        Lines::List(lines) | Lines::Map(lines) => lines.join("\n"),
        Lines::Text(sign, lines) => format!("{sign}\n{}", indented(lines).join("\n")),
    };
    text.push('\n');
    text
}

fn lines(value: &Value) -> Lines {
    match value {
        Value::Null => Lines::One("null".to_owned()),
        Value::Bool(_) | Value::Number(_) => Lines::One(value.to_string()),
        Value::String(text) => string(text),
        Value::Array(items) if items.is_empty() => Lines::One("[]".to_owned()),
        Value::Object(members) if members.is_empty() => Lines::One("{}".to_owned()),
        Value::Array(items) => Lines::List(items.iter().flat_map(item).collect()),
        Value::Object(members) => {
            Lines::Map(members.iter().flat_map(|(name, value)| member(name, value)).collect())
        }
    }
}

fn member(name: &str, value: &Value) -> Vec<String> {
    let name = scalar(name);
    let (first, rest) = match lines(value) {
        Lines::One(line) => (format!("{name}: {line}"), Vec::new()),
        Lines::List(lines) => (format!("{name}:"), lines),
        Lines::Map(lines) => (format!("{name}:"), indented(lines)),
        Lines::Text(sign, lines) => (format!("{name}: {sign}"), indented(lines)),
    };
    std::iter::once(first).chain(rest).collect()
}

fn item(value: &Value) -> Vec<String> {
    let (first, rest) = match lines(value) {
        Lines::One(line) => (line, Vec::new()),
        Lines::Text(sign, lines) => (sign.to_owned(), lines),
        Lines::List(lines) | Lines::Map(lines) => {
            let mut lines = lines.into_iter();
            (lines.next().unwrap_or_default(), lines.collect())
        }
    };
    std::iter::once(format!("- {first}")).chain(indented(rest)).collect()
}

fn indented(lines: Vec<String>) -> Vec<String> {
    lines.into_iter().map(|line| if line.is_empty() { line } else { format!("  {line}") }).collect()
}

/// Text of several lines as it is, where YAML can say it so; any other quoted.
fn string(text: &str) -> Lines {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let readable = |c: char| {
        c == '\n' || (!c.is_control() && !matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}'))
    };
    // A first line that begins with a blank would need its indentation said; one that is empty at the end
    // would be lost.
    let as_it_is = body.contains('\n')
        && text.chars().all(readable)
        && !body.starts_with([' ', '\n'])
        && !body.ends_with('\n')
        && body.lines().all(|line| line.trim_end_matches(' ') == line || !line.trim().is_empty());
    if !as_it_is {
        return Lines::One(scalar(text));
    }
    let sign = if text.ends_with('\n') { "|" } else { "|-" };
    Lines::Text(sign, body.split('\n').map(str::to_owned).collect())
}

/// A text on one line: plain, where no reader of YAML takes it for something else; a JSON string otherwise,
/// which is one of YAML's as well.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let plain = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-' | ' ' | ',' | '@' | '+' | ':')
    };
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '/'))
        && text.chars().all(plain)
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if is_plain { text.to_owned() } else { escaped(text) }
}

/// As JSON, and without what YAML takes for the end of a line.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    for c in Value::from(text).to_string().chars() {
        match c {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Value {
        let mut documents: Vec<Value> =
            serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{text}\n{error}"));
        documents.pop().unwrap_or(Value::Null)
    }

    #[test]
    fn manifests_look_as_kubectl_writes_them() {
        let value = json!({
            "apiVersion": "v1",
            "metadata": {"annotations": {"mantlet.dev/policy": "allow shop/web to GET /a\nallow shop/x to GET /b\n"}, "labels": {}},
            "spec": {"containers": [{"name": "app", "args": ["--a=b", "yes", "1"], "ports": [{"containerPort": 80}]}], "list": [[1, 2], []]},
        });
        let expected = "\
apiVersion: v1
metadata:
  annotations:
    mantlet.dev/policy: |
      allow shop/web to GET /a
      allow shop/x to GET /b
  labels: {}
spec:
  containers:
  - args:
    - \"--a=b\"
    - \"yes\"
    - \"1\"
    name: app
    ports:
    - containerPort: 80
  list:
  - - 1
    - 2
  - []
";
        assert_eq!(text(&value), expected);
        assert_eq!(read(expected), value);
    }

    #[test]
    fn what_looks_like_something_else_is_quoted() {
        for text in [
            "",
            " ",
            "true",
            "No",
            "~",
            "null",
            "1",
            "1e3",
            "0x10",
            "-",
            "- a",
            "a: b",
            "a:",
            "a #b",
            "#",
            "&a",
            "*a",
            "!a",
            "|",
            ">",
            "%",
            "@a",
            "`",
            "2026-01-01",
            ".inf",
            "'",
            "\"",
            "\\",
            "\t",
            "a\tb",
            "\u{85}",
            "\u{2028}",
            "\u{feff}a",
            "\u{7f}",
            "ü",
            "😀",
            "a\r\nb",
            "\n",
            "a\n",
            "a\n\n",
            " a\nb",
            "a\n b\n",
            "a\n\nb",
            "a \nb",
            "a\n   \nb",
            "---",
            "...",
            "a\n---\nb",
            "y",
            "=",
            "<<",
        ] {
            let value = json!({"k": text, text: [text, {"x": text}]});
            assert_eq!(read(&super::text(&value)), value, "{text:?}: {}", super::text(&value));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read_again(lines in prop::collection::vec("[ -~üλ\u{85}\u{2028}\t]{0,8}", 0..4), end in "\n{0,2}") {
            let text = lines.join("\n") + &end;
            let value = json!({"a": {"b": text, "c": [text, [text], {"d": text}]}});
            prop_assert_eq!(read(&super::text(&value)), value);
        }
    }
}
