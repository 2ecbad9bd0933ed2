//! Sizes as the user writes them: `512B`, `64KiB`, `10MiB`, `1GiB`, or `off`.
//!
//! One whole number with one unit of powers of 1024; no sums, no fractions, no number without a
//! unit.

use super::number_and_unit;

/// The text is no size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a whole number with a unit behind it.
    #[error("a size is a whole number and a unit (B, KiB, MiB or GiB), as in 512B or 10MiB")]
    Form,
    /// Elsewhere 0 means no limit, so it is not guessed what it means here.
    #[error("a size of 0 is no limit; write `off` where none is meant")]
    Zero,
    /// More than 64 bits hold.
    #[error("a size is at most 16 EiB; write `off` for no limit")]
    TooLarge,
}

/// Parses a limit in bytes, where `off` is none.
///
/// # Errors
///
/// Where `text` is not `off` and not a size above 0.
pub fn parse_size_limit(text: &str) -> Result<Option<u64>, SizeError> {
    if text == "off" {
        return Ok(None);
    }
    let parts = number_and_unit(text).filter(|(number, _)| !number.is_empty());
    let (number, unit) = parts.ok_or(SizeError::Form)?;
    let shift = match unit {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(SizeError::Form),
    };
    let number = number.parse::<u64>().map_err(|_| SizeError::TooLarge)?;
    match number.checked_mul(1 << shift).ok_or(SizeError::TooLarge)? {
        0 => Err(SizeError::Zero),
        bytes => Ok(Some(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::{SizeError, parse_size_limit};

    #[test]
    fn every_unit() {
        let table = [
            ("off", None),
            ("1B", Some(1)),
            ("64KiB", Some(64 * 1024)),
            ("10MiB", Some(10 * 1024 * 1024)),
            ("2GiB", Some(2 * 1024 * 1024 * 1024)),
        ];
        for (text, bytes) in table {
            assert_eq!(parse_size_limit(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size() {
        for text in [
            "", "10", "10m", "10MB", "10mib", "B", "1.5MiB", "-1B", "+1B", "1 B",
        ] {
            assert_eq!(parse_size_limit(text), Err(SizeError::Form), "{text}");
        }
        for text in ["18446744073709551615KiB", "18446744073709551616B"] {
            assert_eq!(parse_size_limit(text), Err(SizeError::TooLarge), "{text}");
        }
        assert_eq!(parse_size_limit("0MiB"), Err(SizeError::Zero));
    }
}
