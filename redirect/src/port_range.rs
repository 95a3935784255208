//! Ports and ranges of ports.

use std::fmt;

use crate::{Problem, parse_list};

/// One port, or all from a first to a last.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct PortRange {
    first: u16,
    last: u16,
}

// === impl PortRange ===

impl PortRange {
    /// All ports from `first` to `last`.
    ///
    /// # Errors
    /// Port 0, and a range that runs backwards.
    pub fn new(first: u16, last: u16) -> Result<Self, Problem> {
        if first == 0 {
            return Err(Problem::NotAPort(Self { first, last }.to_string()));
        }
        if first > last {
            return Err(Problem::Backwards { first, last });
        }
        Ok(Self { first, last })
    }

    /// `8080` or `9000-9100`.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        // `parse` alone would take "+80" too.
        let number = |text: &str| match text.trim() {
            digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse::<u16>().ok(),
            _ => None,
        };
        match (number(first), number(last)) {
            (Some(first), Some(last)) => Self::new(first, last),
            _ => Err(Problem::NotAPort(text.to_owned())),
        }
    }

    /// A comma-separated list; empty is a list of none.
    ///
    /// # Errors
    /// One for every item that is no port and no range.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, Vec<Problem>> {
        parse_list(text, Self::parse)
    }

    /// The only port of a range of one.
    pub(crate) fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// Whether `port` is in it.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// As the kernel stores it: the first port, and the first one behind it, if there is one.
    pub(crate) fn interval(self) -> (Vec<u8>, Option<Vec<u8>>) {
        let bytes = |port: u16| port.to_be_bytes().to_vec();
        (bytes(self.first), self.last.checked_add(1).map(bytes))
    }

    /// The same ports in order, in the fewest ranges: the kernel refuses intervals that overlap.
    pub(crate) fn merge(mut ranges: Vec<Self>) -> Vec<Self> {
        ranges.sort_unstable();
        let mut merged: Vec<Self> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(before) if range.first <= before.last.saturating_add(1) => {
                    before.last = before.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        merged
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges_are_read() {
        let list = PortRange::parse_list("8080, 9000-9100 ,65535").unwrap();
        assert_eq!(list.iter().map(ToString::to_string).collect::<Vec<_>>(), ["8080", "9000-9100", "65535"]);
        assert_eq!(PortRange::parse_list(" ").unwrap(), []);
    }

    #[test]
    fn every_bad_item_is_reported() {
        let not = |text: &str| Problem::NotAPort(text.to_owned());
        let problems = PortRange::parse_list("http,80,0,65536,+1,,9-8,1-2-3,-5,5-").unwrap_err();
        let expected = [
            not("http"),
            not("0"),
            not("65536"),
            not("+1"),
            not(""),
            Problem::Backwards { first: 9, last: 8 },
            not("1-2-3"),
            not("-5"),
            not("5-"),
        ];
        assert_eq!(problems, expected);
    }

    #[test]
    fn ranges_that_touch_or_overlap_become_one() {
        let ranges = PortRange::parse_list("65535,9-12,1-3,4,10-11,65530-65535,12-14").unwrap();
        let merged: Vec<String> = PortRange::merge(ranges).iter().map(ToString::to_string).collect();
        assert_eq!(merged, ["1-4", "9-14", "65530-65535"]);
    }
}
