//! How `fastlb worker` and `fastlb demo` read their flags. What the flags mean is not said here.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::config::parse_duration;
use crate::limits;

/// Longest average delay of a demo worker.
const AVG_DELAY_MAX: Duration = Duration::from_millis(limits::DEMO_AVG_DELAY_MAX_MS);

/// A probability, written in percent: 0 is never, 100 is always.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percent(f64);

impl Percent {
    /// Whether the event happens, given a number drawn evenly from 0 up to but not including 1.
    pub fn happens(self, drawn: f64) -> bool {
        drawn * 100.0 < self.0
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Self(percent)),
            _ => Err("a percentage is a number from 0 to 100".to_owned()),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Reads an average delay, which may be 0.
///
/// # Errors
/// Where the text is no duration, or one beyond an hour.
pub(super) fn avg_delay(text: &str) -> Result<Duration, String> {
    let delay = parse_duration(text).map_err(|error| error.to_string())?;
    if delay > AVG_DELAY_MAX {
        return Err(format!(
            "the longest average delay is {} s",
            AVG_DELAY_MAX.as_secs()
        ));
    }
    Ok(delay)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{AVG_DELAY_MAX, Percent, avg_delay};

    #[test]
    fn a_percentage_is_between_0_and_100() {
        for good in ["0", "1", "0.5", "99.9", "100"] {
            assert!(good.parse::<Percent>().is_ok(), "{good}");
        }
        for bad in ["", "-1", "100.1", "NaN", "inf", "1%", "one"] {
            assert!(bad.parse::<Percent>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_percentage_reads_back_as_it_is_written() {
        for text in ["0", "2", "12.5", "100"] {
            assert_eq!(text.parse::<Percent>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn never_and_always_hold_at_the_ends_of_the_draw() {
        let [never, half, always] = ["0", "50", "100"].map(|text| text.parse::<Percent>().unwrap());
        let last = 1.0 - f64::EPSILON;
        assert!(!never.happens(0.0) && !never.happens(last));
        assert!(half.happens(0.499) && !half.happens(0.5));
        assert!(always.happens(0.0) && always.happens(last));
    }

    #[test]
    fn a_delay_may_be_nothing_and_has_an_end() {
        assert_eq!(avg_delay("0ms"), Ok(Duration::ZERO));
        assert_eq!(avg_delay("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(avg_delay("1h"), Ok(AVG_DELAY_MAX));
        assert!(avg_delay("3601s").is_err());
        assert!(avg_delay("soon").is_err());
    }
}
