//! Times as the user writes them: `100ms`, `3s`, `10m`, `1h`, or `off`.
//!
//! One whole number with one unit; no sums, no fractions, no number without a unit.

use std::time::Duration;

use super::number_and_unit;

/// The text is no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not a whole number with a unit behind it.
    #[error("a time is a whole number and a unit (ms, s, m or h), as in 500ms or 3s")]
    Form,
    /// Nothing can be done in no time.
    #[error("a time of 0 would let nothing happen; write `off` for no limit")]
    Zero,
    /// Something cannot be done all the time.
    #[error("this time must be above 0; write a time, as in 30s")]
    Nothing,
    /// `off` where a time is needed.
    #[error("this time cannot be off; write a time, as in 30s")]
    Off,
}

/// Parses a time limit, where `off` is none.
///
/// # Errors
///
/// Where `text` is not `off` and not a time above 0.
pub fn parse_limit(text: &str) -> Result<Option<Duration>, DurationError> {
    match text {
        "off" => Ok(None),
        _ => match parse_duration(text)? {
            Duration::ZERO => Err(DurationError::Zero),
            limit => Ok(Some(limit)),
        },
    }
}

/// Parses a time that may be 0 and may not be `off`.
///
/// # Errors
///
/// Where `text` is not a time.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    if text == "off" {
        return Err(DurationError::Off);
    }
    let (number, unit) = number_and_unit(text).ok_or(DurationError::Form)?;
    // A number of 32 bits, so that the longest time in milliseconds is far from overflow.
    let number = u64::from(number.parse::<u32>().map_err(|_| DurationError::Form)?);
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 60 * 60)),
        _ => Err(DurationError::Form),
    }
}

/// Parses a time above 0 that may not be `off`.
///
/// # Errors
///
/// Where `text` is not such a time.
pub fn parse_positive(text: &str) -> Result<Duration, DurationError> {
    match parse_duration(text)? {
        Duration::ZERO => Err(DurationError::Nothing),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_unit() {
        let table = [
            ("100ms", Duration::from_millis(100)),
            ("3s", Duration::from_secs(3)),
            ("10m", Duration::from_secs(600)),
            ("2h", Duration::from_secs(7_200)),
            ("0s", Duration::ZERO),
        ];
        for (text, duration) in table {
            assert_eq!(parse_duration(text), Ok(duration), "{text}");
        }
    }

    #[test]
    fn what_is_no_time() {
        for text in [
            "",
            "3",
            "s",
            "1.5s",
            "-1s",
            "+1s",
            "3 s",
            "3d",
            "3S",
            "1m30s",
            "4294967296s",
        ] {
            assert_eq!(parse_duration(text), Err(DurationError::Form), "{text}");
        }
        assert_eq!(parse_duration("off"), Err(DurationError::Off));
    }

    #[test]
    fn a_limit_may_be_off_but_not_zero() {
        assert_eq!(parse_limit("off"), Ok(None));
        assert_eq!(parse_limit("1s"), Ok(Some(Duration::from_secs(1))));
        assert_eq!(parse_limit("0ms"), Err(DurationError::Zero));
    }

    proptest! {
        #[test]
        fn milliseconds_come_back(number in any::<u32>()) {
            let duration = Duration::from_millis(number.into());
            prop_assert_eq!(parse_duration(&format!("{number}ms")), Ok(duration));
        }
    }
}
