//! Durations as people write them: `8s`, `5m`, `1h`.

use std::time::Duration;

use thiserror::Error;

/// Why a string is not a duration.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
#[error("{0:?} is not a duration; write a whole number and a unit: 8s, 5m, 1h, 2d")]
pub struct DurationError(String);

/// Parses `8s`, `5m`, `1h` or `2d`. A number without a unit is refused: nobody knows what it means.
///
/// # Errors
/// [`DurationError`] when the text is anything else.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let error = || DurationError(text.to_owned());
    let unit = text.chars().last().ok_or_else(error)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(error()),
    };
    let digits = text.strip_suffix(unit).ok_or_else(error)?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(error());
    }
    let number: u64 = digits.parse().map_err(|_| error())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        assert_eq!(parse_duration("8s"), Ok(Duration::from_secs(8)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3_600)));
        assert_eq!(parse_duration("2d"), Ok(Duration::from_secs(172_800)));
    }

    #[test]
    fn anything_else_is_refused_with_the_accepted_form() {
        for text in ["", "8", "s", "8 s", "-8s", "1.5h", "8ms", "８s", "99999999999999999999s", "8é"] {
            let error = parse_duration(text).unwrap_err().to_string();
            assert!(error.contains("8s, 5m, 1h"), "{text}: {error}");
        }
    }
}
