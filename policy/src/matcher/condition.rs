//! Evaluating `when`: an allow needs certainty, a deny needs only a possibility.

use crate::{
    headers::{HeaderValues, is_readable, quoted_elements, trim},
    language::ast::{Condition, HeaderTest, HostPattern, Value, Verb},
};

/// Whether all `conditions` of a rule with this verb hold.
pub(crate) fn all_hold(
    conditions: &[Condition],
    verb: Verb,
    host: Option<&str>,
    headers: &dyn HeaderValues,
) -> bool {
    conditions.iter().all(|condition| holds(condition, verb, host, headers))
}

/// Whether one condition holds.
pub(crate) fn holds(
    condition: &Condition,
    verb: Verb,
    host: Option<&str>,
    headers: &dyn HeaderValues,
) -> bool {
    match condition {
        Condition::Host(hosts) => match host {
            Some(host) => hosts.iter().any(|pattern| pattern.matches(host)),
            // A request that names no host may be for any.
            None => verb == Verb::Deny,
        },
        Condition::Header { name, .. } if !headers.kept(name) => verb == Verb::Deny,
        Condition::Header { name, test: HeaderTest::Present } => is_present(headers, name),
        Condition::Header { name, test: HeaderTest::Absent } => !is_present(headers, name),
        Condition::Header { name, test: HeaderTest::In(values) } => match verb {
            Verb::Allow => certainly(headers, name, values),
            Verb::Deny => possibly(headers, name, values),
        },
    }
}

fn is_present(headers: &dyn HeaderValues, name: &str) -> bool {
    let mut present = false;
    headers.each(name, &mut |_| present = true);
    present
}

/// One line, one element, and that is one of `values`. With two lines, applications disagree about
/// which one counts (CVE-2020-25017).
fn certainly(headers: &dyn HeaderValues, name: &str, values: &[Value]) -> bool {
    let (mut lines, mut matched) = (0, false);
    headers.each(name, &mut |line| {
        lines += 1;
        let mut elements = 0;
        quoted_elements(line, &mut |_| elements += 1);
        let value = trim(line);
        matched = elements == 1 && is_readable(line) && values.iter().any(|pattern| pattern.matches(value));
    });
    lines == 1 && matched
}

/// Any element of any line, however it is split, in any case; or a value that nobody can be sure of.
fn possibly(headers: &dyn HeaderValues, name: &str, values: &[Value]) -> bool {
    let mut matched = false;
    let hit = |element: &[u8]| values.iter().any(|pattern| pattern.matches_in_any_case(element));
    headers.each(name, &mut |line| {
        if matched {
            return;
        }
        matched = !is_readable(line) || line.split(|byte| *byte == b',').any(|element| hit(trim(element)));
        if !matched && line.contains(&b'"') {
            quoted_elements(line, &mut |element| matched |= hit(element));
        }
    });
    matched
}

// === impl Value ===

impl Value {
    fn matches(&self, value: &[u8]) -> bool {
        if self.prefix { value.starts_with(self.text.as_bytes()) } else { value == self.text.as_bytes() }
    }

    fn matches_in_any_case(&self, value: &[u8]) -> bool {
        let value = if self.prefix { value.get(..self.text.len()) } else { Some(value) };
        value.is_some_and(|value| value.eq_ignore_ascii_case(self.text.as_bytes()))
    }
}

// === impl HostPattern ===

impl HostPattern {
    /// Whether a canonical host is meant. `*.shop` is every name below `shop`, and not `shop`.
    pub(crate) fn matches(&self, host: &str) -> bool {
        if !self.below {
            return self.name == host;
        }
        let above = host.strip_suffix(self.name.as_str()).and_then(|rest| rest.strip_suffix('.'));
        above.is_some_and(|rest| !rest.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(verb: Verb, test: &str, lines: &[&[u8]]) -> bool {
        let text = format!("allow a/b to GET /x on 80 when header x-check {test}");
        let document = crate::language::parse("p", &text, &crate::Limits::FILES).unwrap();
        let headers: Vec<(&str, &[u8])> = lines.iter().map(|line| ("x-check", *line)).collect();
        holds(&document.rules[0].conditions[0], verb, None, &headers)
    }

    #[test]
    fn d16_an_allow_wants_one_line_with_one_value() {
        let allow = |lines: &[&[u8]]| condition(Verb::Allow, "= acme", lines);
        assert!(allow(&[b"acme"]));
        assert!(allow(&[b" acme\t"]));
        assert!(!allow(&[b"acme", b"evil"]));
        assert!(!allow(&[b"acme", b"acme"]));
        assert!(!allow(&[b"acme,acme"]));
        assert!(!allow(&[b"Acme"]));
        assert!(!allow(&[b"acm\xe9"]));
        assert!(!allow(&[]));
        assert!(condition(Verb::Allow, "= \"a\\\"b, c\\\"\"", &[b"a\"b, c\""]));
    }

    #[test]
    fn d17_a_deny_looks_at_every_element_of_every_line() {
        let deny = |lines: &[&[u8]]| condition(Verb::Deny, "= bad", lines);
        assert!(deny(&[b"ok", b"bad"]));
        assert!(deny(&[b"ok, BAD ,x"]));
        assert!(deny(&[b"\"x, bad"]));
        assert!(deny(&[b"b\xe9d"]));
        assert!(!deny(&[b"ok", b"badly"]));
        assert!(!deny(&[]));
        assert!(condition(Verb::Deny, "= \"\\\"a,b\\\"\"", &[b"\"a,b\""]));
    }

    #[test]
    fn present_and_absent_count_lines() {
        assert!(condition(Verb::Allow, "present", &[b""]));
        assert!(!condition(Verb::Allow, "present", &[]));
        assert!(condition(Verb::Allow, "absent", &[]));
        assert!(condition(Verb::Allow, "in (a, b*)", &[b"bc"]));
        assert!(!condition(Verb::Allow, "in (a, b*)", &[b"ac"]));
    }

    #[test]
    fn a_header_that_was_not_kept_holds_for_no_allow_and_every_deny() {
        struct Forgotten;
        impl HeaderValues for Forgotten {
            fn each(&self, _: &str, _: &mut dyn FnMut(&[u8])) {}
            fn kept(&self, _: &str) -> bool {
                false
            }
        }
        for test in [HeaderTest::Present, HeaderTest::Absent, HeaderTest::In(vec![])] {
            let condition = Condition::Header { name: "x".into(), test };
            assert!(!holds(&condition, Verb::Allow, None, &Forgotten));
            assert!(holds(&condition, Verb::Deny, None, &Forgotten));
        }
    }

    #[test]
    fn a_host_wildcard_is_below_and_not_the_name_itself() {
        let pattern = HostPattern { name: "shop".into(), below: true };
        assert!(pattern.matches("api.shop") && pattern.matches("a.b.shop"));
        assert!(!pattern.matches("shop") && !pattern.matches("evilshop") && !pattern.matches(".shop"));
    }
}
