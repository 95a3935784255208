//! How long the caller waits.

use std::time::Duration;

/// When nobody says anything, and at most: the API server's own limit is 30 s.
const LONGEST: Duration = Duration::from_secs(30);
const DEFAULT: Duration = Duration::from_secs(10);

/// The deadline of a query such as `timeout=5s`; `None` if it cannot be read.
pub(super) fn of_query(query: Option<&str>) -> Option<Duration> {
    let pairs = query.unwrap_or_default().split('&');
    match pairs.filter_map(|pair| pair.strip_prefix("timeout=")).next() {
        Some(text) => parse(text).map(|timeout| timeout.min(LONGEST)),
        None => Some(DEFAULT),
    }
}

/// A duration as Go writes it: `5s`, `1m30s`, `1.5s`, `500ms`. More than nothing.
fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit)?;
        let number: f64 = number.parse().ok()?;
        seconds += number
            * match unit {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = tail;
    }
    // `try_from` refuses what is not finite or too large; zero is no time to answer in.
    Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_the_api_server_writes_them() {
        let millis = |text: &str| parse(text).map(|duration| duration.as_millis());
        for (text, expected) in [
            ("5s", 5000),
            ("1m0s", 60_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("1.5s", 1500),
            ("1h", 3_600_000),
        ] {
            assert_eq!(millis(text), Some(expected), "{text}");
        }
        for text in ["", "5", "s", "5x", "-5s", "5s5", "0s", "1e9s", "..s", "99999999999999999999h"] {
            assert_eq!(millis(text), None, "{text}");
        }
    }

    #[test]
    fn a_query_without_a_deadline_has_one_and_none_is_longer_than_the_api_server_waits() {
        assert_eq!(of_query(None), Some(DEFAULT));
        assert_eq!(of_query(Some("a=b&c")), Some(DEFAULT));
        assert_eq!(of_query(Some("a=b&timeout=5s")), Some(Duration::from_secs(5)));
        assert_eq!(of_query(Some("timeout=10m")), Some(LONGEST));
        assert_eq!(of_query(Some("timeout=soon")), None);
    }
}
