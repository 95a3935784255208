//! Points in time: RFC 3339 with a zone, seconds optional, no leap seconds and no fractions.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use crate::diagnostic::Code;

/// A second, counted from 1970 in UTC.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Time(i64);

const DAY: i64 = 86_400;

// === impl Time ===

impl Time {
    /// Parses `2026-12-01T18:00Z` or `2026-12-01T18:00:00+01:00`.
    ///
    /// # Errors
    /// [`Code::TimeNeedsZone`] where only the zone or the hour is missing, else [`Code::BadTime`].
    pub fn parse(text: &str) -> Result<Self, Code> {
        let (date, rest) = match text.split_at_checked(10) {
            Some(parts) => parts,
            None => return Err(Code::BadTime),
        };
        let days = parse_date(date).ok_or(Code::BadTime)?;
        if rest.is_empty() {
            return Err(Code::TimeNeedsZone);
        }
        let rest = rest.strip_prefix('T').ok_or(Code::BadTime)?;
        let zone_at = rest.find(['Z', '+', '-']).ok_or(match parse_clock(rest) {
            Some(_) => Code::TimeNeedsZone,
            None => Code::BadTime,
        })?;
        let (clock, zone) = rest.split_at(zone_at);
        let seconds = parse_clock(clock).ok_or(Code::BadTime)?;
        let offset = parse_zone(zone).ok_or(Code::BadTime)?;
        Ok(Self(days * DAY + seconds - offset))
    }

    /// The second in which `now` falls.
    #[must_use]
    pub fn of(now: SystemTime) -> Self {
        match now.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => Self(i64::try_from(since.as_secs()).unwrap_or(i64::MAX)),
            // Before 1970 every second counts downwards; the exact one does not matter.
            Err(before) => Self(-1 - i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX - 1)),
        }
    }

    /// From seconds since 1970.
    #[must_use]
    pub fn from_unix(seconds: i64) -> Self {
        Self(seconds)
    }

    /// Seconds since 1970.
    #[must_use]
    pub fn unix(self) -> i64 {
        self.0
    }

    /// The start of this second.
    #[must_use]
    pub fn system_time(self) -> SystemTime {
        let distance = Duration::from_secs(self.0.unsigned_abs());
        let time = if self.0 >= 0 {
            SystemTime::UNIX_EPOCH.checked_add(distance)
        } else {
            SystemTime::UNIX_EPOCH.checked_sub(distance)
        };
        time.unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0.div_euclid(DAY));
        let clock = self.0.rem_euclid(DAY);
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}", clock / 3600, clock / 60 % 60)?;
        if clock % 60 != 0 {
            write!(f, ":{:02}", clock % 60)?;
        }
        f.write_str("Z")
    }
}

/// Exactly `len` digits.
fn digits(text: &str, len: usize) -> Option<i64> {
    let all = text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
    if all { text.parse().ok() } else { None }
}

/// Days since 1970 of `YYYY-MM-DD`.
fn parse_date(text: &str) -> Option<i64> {
    let mut parts = text.split('-');
    let year = digits(parts.next()?, 4)?;
    let month = digits(parts.next()?, 2)?;
    let day = digits(parts.next()?, 2)?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if parts.next().is_some() || !(1..=length).contains(&day) {
        return None;
    }
    Some(days_from_civil(year, month, day))
}

/// Seconds since midnight of `HH:MM[:SS]`.
fn parse_clock(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let hour = digits(parts.next()?, 2)?;
    let minute = digits(parts.next()?, 2)?;
    let second = parts.next().map_or(Some(0), |s| digits(s, 2))?;
    let valid = parts.next().is_none() && hour < 24 && minute < 60 && second < 60;
    valid.then_some(hour * 3600 + minute * 60 + second)
}

/// Seconds east of UTC of `Z` or `+HH:MM`.
fn parse_zone(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hour, minute) = rest.split_once(':')?;
    let (hour, minute) = (digits(hour, 2)?, digits(minute, 2)?);
    (hour < 24 && minute < 60).then_some(sign * (hour * 3600 + minute * 60))
}

/// Howard Hinnant's algorithm: years start in March, so that the leap day comes last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let years = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * years + years / 4 - years / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (years + era * 400 + i64::from(month <= 2), month, of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_their_zone() {
        assert_eq!(Time::parse("1970-01-01T00:00Z"), Ok(Time(0)));
        assert_eq!(Time::parse("2026-12-01T18:00Z"), Ok(Time(1_796_148_000)));
        assert_eq!(Time::parse("2026-12-01T18:00:00+01:00"), Ok(Time(1_796_148_000 - 3600)));
        assert_eq!(Time::parse("2024-02-29T00:00:01-00:30"), Ok(Time(1_709_164_801 + 1800)));
    }

    #[test]
    fn a_time_without_hour_or_zone_is_told_apart_from_no_time() {
        assert_eq!(Time::parse("2026-12-01"), Err(Code::TimeNeedsZone));
        assert_eq!(Time::parse("2026-12-01T18:00"), Err(Code::TimeNeedsZone));
        for text in [
            "tomorrow",
            "2026-13-01T00:00Z",
            "2026-02-29T00:00Z",
            "2026-12-01T24:00Z",
            "2026-12-01T18:60Z",
            "2026-12-01T18:00:60Z",
            "2026-12-01t18:00Z",
            "2026-12-01T18:00+0100",
            "2026-12-01T18:00.5Z",
            "",
            "2026-12-1T18:00Z",
            "+026-12-01T18:00Z",
            "2026-12-0é",
            "2026-12-01TZ",
        ] {
            assert_eq!(Time::parse(text), Err(Code::BadTime), "{text}");
        }
    }

    #[test]
    fn a_time_prints_as_it_parses() {
        for seconds in [0, 1_796_148_000, 1_709_164_801, 253_402_300_799, -62_167_219_200] {
            assert_eq!(Time::parse(&Time(seconds).to_string()), Ok(Time(seconds)));
        }
    }
}
