//! What passes the sidecars: `mantlet edges` and `mantlet tail`.

pub(crate) mod edges;
pub(crate) mod tail;

use serde_json::Value;

/// Longest text of other people that is shown.
const LONGEST: usize = 120;

/// A text field of a document.
fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str)
}

/// An identity as people say it: `ns/sa` in the trust domain of whoever shows it, otherwise whole.
fn short(id: &str, own: Option<&str>) -> String {
    let domain = |id: &str| id.strip_prefix("spiffe://")?.split('/').next().map(str::to_owned);
    let same = own.is_none_or(|own| domain(own) == domain(id));
    match id.split('/').collect::<Vec<_>>().as_slice() {
        ["spiffe:", "", _, "ns", namespace, "sa", account] if same => {
            clean(&format!("{namespace}/{account}"))
        }
        _ => clean(id),
    }
}

/// Paths and identities are other people's text: nothing in it may move the cursor, change colours or turn the
/// direction of writing.
fn clean(text: &str) -> String {
    let turns =
        |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut shown = String::new();
    for (number, c) in text.chars().enumerate() {
        if number == LONGEST {
            shown.push_str("..");
            break;
        }
        match c.is_control() || turns(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_short_in_their_own_trust_domain_only() {
        let own = Some("spiffe://a.test/ns/shop/sa/api");
        assert_eq!(short("spiffe://a.test/ns/shop/sa/web", own), "shop/web");
        assert_eq!(short("spiffe://b.test/ns/shop/sa/web", own), "spiffe://b.test/ns/shop/sa/web");
        assert_eq!(short("spiffe://a.test/x", own), "spiffe://a.test/x");
    }

    #[test]
    fn what_a_caller_sends_cannot_move_the_cursor() {
        assert_eq!(clean("/a\x1b[2J\u{9b}1m\n\u{202e}b"), "/a\\u{1b}[2J\\u{9b}1m\\n\\u{202e}b");
        assert_eq!(clean(&"x".repeat(500)).len(), LONGEST + 2);
    }
}
